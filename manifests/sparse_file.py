"""A file in memory of which only what was written takes memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_PAGE_BYTES = 1 << 12


class SparseFile(io.RawIOBase):
    """A file for HDF5 to write to; what is never written reads as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, bytearray] = {}
        self._place = 0
        self.size = 0

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As any file's."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = start + offset
        return self._place

    def write(self, buffer: ReadableBuffer) -> int:
        """As any file's; all of `buffer` is taken."""
        data = memoryview(buffer).cast("B")
        for start, page, part in self._parts(self._place, len(data)):
            self._pages.setdefault(page, bytearray(_PAGE_BYTES))[part] = data[
                start : start + part.stop - part.start
            ]
        self._place += len(data)
        self.size = max(self.size, self._place)
        return len(data)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """As any file's."""
        room = memoryview(buffer)
        count = max(0, min(len(room), self.size - self._place))
        room[:count] = self.read_at(self._place, count)
        self._place += count
        return count

    def truncate(self, size: int | None = None) -> int:
        """As any file's."""
        size = self._place if size is None else size
        for page in [page for page in self._pages if page * _PAGE_BYTES >= size]:
            del self._pages[page]
        last, kept = divmod(size, _PAGE_BYTES)
        if last in self._pages:
            self._pages[last][kept:] = bytes(_PAGE_BYTES - kept)
        self.size = size
        return size

    def read_at(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, zeros where nothing was written."""
        zeros = bytes(_PAGE_BYTES)
        return b"".join(
            self._pages.get(page, zeros)[part] for _, page, part in self._parts(offset, count)
        )

    @staticmethod
    def _parts(offset: int, count: int) -> Iterator[tuple[int, int, slice]]:
        """A stretch of the file by pages: where in the stretch, which page, which part of it."""
        start = 0
        while start < count:
            page, first = divmod(offset + start, _PAGE_BYTES)
            size = min(_PAGE_BYTES - first, count - start)
            yield start, page, slice(first, first + size)
            start += size
