"""The bytes of one file on disk, for readers in several threads and processes."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path
from typing import cast

from manifests.errors import DigestError, SetError

_Signature = tuple[int, int, int, int]


class ShardFile:
    """A file that is opened at the first read, and again in every process that reads it.

    It is the same file for as long as it is used: device, inode, size and time of change are
    compared at every opening.

    Args:
        path: the file; a link is refused, because a set lies in its own folder.
        expected_sha256: digest to check the whole file against when it is first opened.
    """

    def __init__(self, path: Path, *, expected_sha256: str | None = None) -> None:
        self.path = Path(path)
        self._expected_sha256 = expected_sha256
        self._signature: _Signature | None = None
        self._open: tuple[int, io.FileIO, threading.Lock] | None = None

    def __getstate__(self) -> dict:
        # The signature travels, so that a worker does not hash a file that was hashed already.
        return {**self.__dict__, "_open": None}

    def __del__(self) -> None:
        if getattr(self, "_open", None) is not None:
            self.close()

    def close(self) -> None:
        """Close the file. A later read opens it again."""
        handle, self._open = self._open, None
        if handle is None:
            return
        pid, file, lock = handle
        if pid != os.getpid():  # inherited by fork, and so may be a lock that nobody releases
            file.close()
            return
        with lock:
            file.close()

    @property
    def file_bytes(self) -> int:
        """Size of the file. Raises SetError where it cannot be opened."""
        self._file()
        return cast(_Signature, self._signature)[2]

    def check_unchanged(self) -> None:
        """Raise SetError where the path no longer leads to the file that is being read."""
        try:
            is_same = _signature(os.stat(self.path)) == self._signature
        except OSError:
            is_same = False
        if not is_same:
            raise SetError("has changed since it was opened", path=self.path)

    def _file(self) -> tuple[io.FileIO, threading.Lock]:
        """The open file of this process, and the lock that keeps seek and read together."""
        handle = self._open
        if handle is not None and handle[0] == os.getpid():
            return handle[1], handle[2]
        if handle is not None:
            # Opened by the parent process: not shared, because it has one position for both.
            handle[1].close()
        try:
            if self.path.is_symlink() or not self.path.is_file():
                raise SetError("there is no such file", path=self.path)
            file = open(self.path, "rb", buffering=0)  # noqa: SIM115 (kept open, see close)
        except OSError as error:
            raise SetError(f"cannot be read ({error.strerror})", path=self.path) from error
        signature = _signature(os.fstat(file.fileno()))
        try:
            if self._signature is None and self._expected_sha256 is not None:
                self._check_sha256(file)
            elif self._signature not in (None, signature):
                raise SetError("has changed since it was opened", path=self.path)
        except BaseException:
            file.close()
            raise
        self._signature = signature
        if hasattr(os, "posix_fadvise"):
            # Rows are read in any order and hold a whole image each: what the system would read
            # ahead of them is read for nothing, three times as much as was asked for.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        lock = threading.Lock()
        # One assignment, so that another thread sees all of it or nothing. It may close the file
        # at once, so what was assigned is not read again.
        self._open = (os.getpid(), file, lock)
        return file, lock

    def _check_sha256(self, file: io.FileIO) -> None:
        try:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SetError(f"cannot be read ({error.strerror})", path=self.path) from error
        if got != self._expected_sha256:
            raise DigestError(
                "is not the file that was recorded",
                path=self.path,
                expected=self._expected_sha256,
                got=got,
                hint="fetch or build it again",
            )

    def read_at(self, offset: int, size: int) -> bytearray:
        """`size` bytes from `offset`. Raises SetError where the file has not that many."""
        # Checked before it is allocated: offsets and sizes come from the file.
        if offset < 0 or size < 0 or offset + size > self.file_bytes:
            raise SetError("lies outside the file", path=self.path)
        data = bytearray(size)
        try:
            while not self._filled(data, offset):
                pass
        except OSError as error:
            raise SetError(f"cannot be read ({error.strerror})", path=self.path) from error
        return data

    def _filled(self, data: bytearray, offset: int) -> bool:
        """Fill `data` from `offset`; False where another thread closed the file meanwhile."""
        file, lock = self._file()
        view, done = memoryview(data), 0
        with lock:
            if file.closed:
                return False
            file.seek(offset)
            while done < len(data):
                count = file.readinto(view[done:])
                if not count:
                    raise SetError("ends early", path=self.path)
                done += count
        return True


def _signature(status: os.stat_result) -> _Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
