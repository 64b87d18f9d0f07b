"""Paths that others have written, kept inside the folder they are meant for."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from manifests.errors import SetError

ON_WINDOWS = os.name == "nt"
# Windows reads these as devices in every folder, whatever follows the first dot.
_DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³]) *(?:\..*)?", re.I)
# Separators and drives that POSIX does not know, and what no Windows file name can hold. A colon
# also names a drive or a stream of a file.
_NOT_ON_WINDOWS = re.compile(r'[\\:<>"|?*\x00-\x1f]')


def confined_path(
    root: str | os.PathLike[str],
    source: str,
    *,
    windows: bool = os.name == "nt",
    base: Path | None = None,
) -> Path | None:
    """Where `source` lies below `root`, or None where it does not surely lie there.

    Nothing is expanded: `~` and `$` are letters like others. Whether the file exists is another
    question; links on the way are followed, and must not lead out.

    Args:
        root: a folder of the user's own.
        source: from a manifest, a shard or a recipe: a relative path with `/`.
        windows: whether Windows' rules for names hold as well.
        base: `root.resolve()`, for callers with many sources below one root.

    Source: ours.
    """
    if not isinstance(source, str) or not _is_plain(source):
        return None
    if windows and not all(map(_is_windows_name, PurePosixPath(source).parts)):
        return None
    path = Path(root) / source
    try:
        base = Path(root).resolve() if base is None else base
        target = path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, names that are too long
        return None
    return path if base in target.parents else None


def is_file_name(name: str, *, windows: bool | None = None) -> bool:
    """Whether a name from others is a plain one, which leads to nothing else than is meant.

    Args:
        name: of a file or a folder, without its place.
        windows: whether Windows' rules for names hold as well; None for those of this system.
    """
    windows = ON_WINDOWS if windows is None else windows
    is_plain = isinstance(name, str) and _is_plain(name) and "/" not in name
    return is_plain and (not windows or _is_windows_name(name))


def category_folder(
    out: str | os.PathLike[str],
    category: str,
    *,
    path: str | os.PathLike[str] | None = None,
    windows: bool | None = None,
) -> Path:
    """`out/<category>`, which may be a link: it is a place of the user's own.

    Args:
        out: where the user wants it.
        category: from a manifest, a recipe or the name of a data folder.
        path: where that lies, for the error.
        windows: as for `is_file_name`.

    Raises:
        SetError: the category is no name for a folder, such as `con` on Windows.
    """
    if not is_file_name(category, windows=windows):
        raise SetError(
            "its category is no name for a folder here",
            path=path,
            got=ascii(category)[:80],
            hint="use it on another system, or make it anew from a data folder of another name",
        )
    return Path(out) / category


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
