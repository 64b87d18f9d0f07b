"""Files that are either there, whole, or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from manifests.errors import OutputError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` when the block ends well.

    The temporary file `.<name>.tmp-<pid>` lies in the same folder, is flushed to the disk before
    it is renamed, and is removed whatever goes wrong.

    Raises:
        OutputError: any OSError, inside the block too: folder missing or read-only, disk full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` as a whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def drop_from_memory(descriptor: int) -> None:
    """Tell the system that a file's bytes need not stay in memory; what is not yet on the disk, it
    begins to write.

    A set is often larger than the memory. What is kept of it drives out the images that are still
    to be read, and every page of it is one more to be fetched from the host of a virtual machine:
    that made writing four times as long as the same pages used again.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # it is advice, and some file systems take none
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def output_error(path: Path, error: OSError, *, action: str = "written") -> OutputError:
    """What a user is told of an OSError while `path` was to be written (locked, ...)."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"cannot be {action}, the disk is full ({reason})",
            path=path,
            hint="free some space or pass another --out",
        )
    return OutputError(
        f"cannot be {action} ({reason})",
        path=path,
        hint="check that the folder exists and may be written to, or pass another --out",
    )


def sync_folder(folder: Path) -> None:
    """Make the name of a file that is complete survive a power cut, where that is offered."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
