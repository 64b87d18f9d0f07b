"""One maker per set and extractor of a study: a second run waits and then finds what it needs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from manifests.errors import OutputError

LOCK_NAME = ".study.lock"
_POLL_S = 0.5


@contextlib.contextmanager
def waiting_lock(folder: Path, *, what: str) -> Iterator[None]:
    """Holds a folder until the block ends, after waiting for whoever holds it.

    The operating system lets go of it when a process dies. What another run has made in the
    meantime is there afterwards, so look before working.

    Args:
        folder: made where it is missing.
        what: is being made there, for the note on stderr while waiting.

    Raises:
        OutputError: the folder cannot be written or locked.

    Source: ours.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME, poll_interval=_POLL_S)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another run: {what} ({folder})", file=sys.stderr, flush=True)
            lock.acquire(timeout=-1)
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot be locked: {reason}", path=folder, hint="choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()
