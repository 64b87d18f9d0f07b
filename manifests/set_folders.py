"""Where sets lie: which folders below a path are one."""

from __future__ import annotations

from pathlib import Path

from manifests.errors import SetError
from manifests.schema import MANIFEST_NAME


def find_sets(path: Path) -> list[Path]:
    """The set folders below a path: itself, or the categories of a root, sorted.

    A folder with shards but no manifest counts, so that an unfinished build is named when it is
    opened and not passed over in silence.

    Raises:
        SetError: there are none.
    """
    root = Path(path)
    if not root.is_dir():
        raise SetError("there is no such folder", path=root)
    if _looks_like_set(root):
        return [root]
    found = sorted(child for child in root.iterdir() if child.is_dir() and _looks_like_set(child))
    if not found:
        raise SetError(
            "no negative set here",
            path=root,
            expected=f"{MANIFEST_NAME} in it or in a folder directly below",
            hint="make one with cutswap-gen build",
        )
    return found


def _looks_like_set(folder: Path) -> bool:
    return (folder / MANIFEST_NAME).exists() or any(folder.glob("shard-*.h5"))
