"""Paths that others have written, kept inside the folder they are meant for."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

# Windows reads these as devices in every folder, whatever follows the first dot.
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³]) *(?:\..*)?", re.I)
# Separators and drives that POSIX does not know, and what no Windows file name can hold. A colon
# also names a drive or a stream of a file.
_NOT_ON_WINDOWS = re.compile(r'[\\:<>"|?*\x00-\x1f]')


def confined_path(
    root: str | os.PathLike[str], source: str, *, windows: bool = os.name == "nt"
) -> Path | None:
    """Where `source` lies below `root`, or None where it does not surely lie there.

    Nothing is expanded: `~` and `$` are letters like others. Whether the file exists is another
    question; links on the way are followed, and must not lead out.

    Args:
        root: a folder of the user's own.
        source: from a manifest, a shard or a recipe: a relative path with `/`.
        windows: whether Windows' rules for names hold as well.

    Source: ours.
    """
    if not isinstance(source, str) or not _is_plain(source):
        return None
    if windows and not all(map(_is_windows_name, PurePosixPath(source).parts)):
        return None
    path = Path(root) / source
    try:
        base, target = Path(root).resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, names that are too long
        return None
    return path if base in target.parents else None


def _is_plain(source: str) -> bool:
    try:
        os.fsencode(source)
        source.encode("utf-8")
    except UnicodeEncodeError:
        return False
    path = PurePosixPath(source)
    is_relative = bool(path.parts) and not path.is_absolute()
    return is_relative and ".." not in path.parts and "\0" not in source


def _is_windows_name(name: str) -> bool:
    return (
        _NOT_ON_WINDOWS.search(name) is None
        and _DEVICE.fullmatch(name) is None
        and not name.endswith((".", " "))
    )
