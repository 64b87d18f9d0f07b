"""The tree of an export: what it holds of ours, so that replacing it takes nothing of anybody's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from manifests.atomic import write_atomic
from manifests.bounded_file import read_bounded
from manifests.errors import OutputError, SetError
from manifests.strict_json import dump_json, load_json

RECORD = "export.json"
VERSION = 1
_MAX_RECORD_BYTES = 256 << 20


def write_record(tree: Path, files: Iterable[str], *, layout: str, set_digest: str) -> None:
    """Writes `export.json`, which names all files of an export, itself left out.

    Args:
        tree: the export's folder.
        files: relative to it, with `/`.
        layout, set_digest: what was exported and how.

    Raises:
        OutputError: it cannot be written.
    """
    record = {
        "export_version": VERSION,
        "files": sorted(files),
        "layout": layout,
        "set_digest": set_digest,
    }
    write_atomic(tree / RECORD, dump_json(record, indent=1))


def check_target(target: Path, *, overwrite: bool) -> None:
    """Lets nothing be replaced but an export as it was written: `--out` may be the data's folder.

    Raises:
        OutputError: the folder is there and is no export, holds files that are not the export's,
            or `overwrite` is not given.
    """
    if not os.path.lexists(target) or (_is_folder(target) and not any(target.iterdir())):
        return
    files = _recorded_files(target)
    if not overwrite:
        raise OutputError(
            "already holds an export",
            path=target,
            hint="pass --overwrite to replace it, or another --out",
        )
    ours = files | {RECORD}
    foreign = sorted(
        name for name, is_plain in _files_below(target) if not is_plain or name not in ours
    )
    if foreign:
        raise OutputError(
            "is not of the export that would be replaced"
            + (f", nor are {len(foreign) - 1} other files" if len(foreign) > 1 else ""),
            path=target / foreign[0],
            hint="move it away, or pass another --out",
        )


def _recorded_files(target: Path) -> frozenset[str]:
    """The files that an export wrote. Raises OutputError where a folder is none."""
    path = target / RECORD
    try:
        if not _is_folder(target):
            raise FileNotFoundError
        record = load_json(
            read_bounded(path, _MAX_RECORD_BYTES, error=SetError), max_bytes=_MAX_RECORD_BYTES
        )
        if not isinstance(record, dict) or record.get("export_version") != VERSION:
            raise SetError("is of another version, or no export's")
        files = record.get("files")
        if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
            raise SetError("is malformed")
    except FileNotFoundError:
        raise OutputError(
            "is there and is no export",
            path=target,
            expected=f"{RECORD} in it",
            hint="pass another --out",
        ) from None
    except SetError as error:
        raise OutputError(
            f"does not say what the export wrote: {error.what}",
            path=path,
            hint="pass another --out",
        ) from None
    return frozenset(files)


def _files_below(folder: Path, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """All that is no folder: its relative name with `/`, and whether it is a plain file.

    Links are not followed.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(Path(entry.path), f"{name}/")
            else:
                yield name, entry.is_file(follow_symlinks=False)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
