"""One writer per output folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from manifests.atomic import output_error
from manifests.errors import OutputError

LOCK_NAME = ".lock"

# A run that ends removes the file that another may be locking at that moment; that other one looks
# again. Whoever is really at work is still at work after so long.
_PATIENCE_S = 0.1
_POLL_S = 0.02


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds a folder for writing; the operating system lets go of it when the process dies.

    The folder must exist. Its `.lock` is removed at the end; one that a killed run left behind
    holds nobody up.

    Raises:
        OutputError: another run is writing there, or the folder is missing or cannot be written.
    """
    from filelock import FileLock, Timeout

    if not Path(folder).is_dir():  # else the lock would make it
        raise OutputError("there is no such folder", path=folder)
    path = Path(folder) / LOCK_NAME
    lock = FileLock(path, timeout=_PATIENCE_S, poll_interval=_POLL_S)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            "another run is writing here", path=folder, hint="wait for it, or pass another --out"
        ) from None
    except NotImplementedError as error:
        raise OutputError(
            "cannot be locked, its file system has no locks",
            path=folder,
            hint="pass another --out",
        ) from error
    except OSError as error:
        raise output_error(path, error, action="locked") from error
    try:
        yield
    finally:
        # Removed while it is held: afterwards it could be another run's.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()
