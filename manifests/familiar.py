"""Which sets this user's programs have parsed before, so that nobody waits for it twice."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from manifests.digest import bytes_digest
from manifests.shard_entry import is_shard_name
from manifests.strict_json import dump_json

CACHE_VARIABLE = "CUTSWAP_CACHE"


def cache_folder() -> Path | None:
    """Folder for what can be made again: `$CUTSWAP_CACHE`, else the platform's; None without one.

    It need not exist.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).absolute()
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "cutswap" if base.is_absolute() else None


def shard_files(folder: Path) -> list[Path]:
    """The plain files in a folder that are named like shards, sorted."""
    return sorted(
        path
        for path in Path(folder).glob("shard-*.h5")
        if is_shard_name(path.name) and path.is_file() and not path.is_symlink()
    )


def is_familiar(paths: Iterable[Path]) -> bool:
    """Whether exactly these files, none changed since, were marked by `remember`."""
    marker = _marker(paths)
    try:
        return marker is not None and marker.is_file()
    except OSError:
        return False


def remember(paths: Iterable[Path]) -> None:
    """Note that these files can be parsed. Where nothing can be noted, nothing is."""
    marker = _marker(paths)
    if marker is not None:
        with contextlib.suppress(OSError):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


def mark_familiar(folder: Path) -> None:
    """Note that the shards of a folder can be parsed, because this process has written them.

    Args:
        folder: of a finished set.
    """
    remember(shard_files(folder))


def _marker(paths: Iterable[Path]) -> Path | None:
    """The marker's place: a name that changes when a file is written, moved or replaced."""
    cache = cache_folder()
    rows = []
    try:
        for path in paths:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino, status.st_size)
            times = (status.st_mtime_ns, status.st_ctime_ns)
            rows.append([ascii(os.path.realpath(path)), *identity, *times])
    except OSError:
        return None
    if cache is None or not rows:
        return None
    return cache / "parsed" / bytes_digest(dump_json(sorted(rows)))
