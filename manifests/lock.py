"""One writer per output folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from manifests.errors import OutputError

LOCK_NAME = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds a folder for writing; the operating system lets go of it when the process dies.

    The folder must exist. Its `.lock` is removed at the end; one that a killed run left behind
    holds nobody up.

    Raises:
        OutputError: another process is writing there, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    path = Path(folder) / LOCK_NAME
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            "another run is writing here", path=folder, hint="wait for it, or pass another --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"cannot be locked ({error})", path=folder) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()
