"""JSON lines that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from manifests.atomic import output_error
from manifests.errors import OutputError

STDOUT = "stdout"


class LineOutput:
    """Where lines go, one write each, past any buffer: what a reader sees is never half a line.

    Args:
        descriptor: open for writing; closing it is the caller's.
        name: of the file, for errors.
    """

    def __init__(self, descriptor: int, name: Path) -> None:
        self._descriptor = descriptor
        self._name = name
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line of ASCII.

        Of a file, the part of a line that still fitted onto a full disk is taken back. A pipe has
        handed on what it took.

        Raises:
            OutputError: the disk is full, the reader has gone, or the like.
        """
        line = (json.dumps(record) + "\n").encode("ascii")
        done = 0
        try:
            while done < len(line):
                done += self._write_some(line[done:])
        except OSError as error:
            self._take_back(done)
            if error.errno == errno.EPIPE:
                raise OutputError("its reader has gone", path=self._name) from error
            raise output_error(self._name, error) from error

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # someone who shares our stdout has made it so
            select.select([], [self._descriptor], [])
            return 0

    def _take_back(self, done: int) -> None:
        if done and self._is_file:
            with contextlib.suppress(OSError):
                end = os.lseek(self._descriptor, 0, os.SEEK_CUR) - done
                os.ftruncate(self._descriptor, end)
                os.lseek(self._descriptor, end, os.SEEK_SET)


@contextlib.contextmanager
def appended(path: Path) -> Iterator[LineOutput]:
    """The lines of a file, new ones at its end.

    Where a power cut has left half a line, it is ended first, so that only that one is lost.

    Raises:
        OutputError: the file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _CLOSE, 0o666)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        _end_last_line(descriptor, path)
        yield LineOutput(descriptor, path)
    finally:
        os.close(descriptor)


def _end_last_line(descriptor: int, path: Path) -> None:
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode) or not info.st_size:
        return
    try:
        os.lseek(descriptor, -1, os.SEEK_END)
        if os.read(descriptor, 1) != b"\n":
            os.write(descriptor, b"\n")
    except OSError as error:
        raise output_error(path, error) from error


_CLOSE = getattr(os, "O_CLOEXEC", 0)
