"""A disk that fails: calls that write, counted, and made to fail or to be the last ones."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class FailingCalls:
    """Counts what a process writes below some folders and lets one call fail.

    Counted are: opening to write, write, fsync, replace, rename, mkdir, unlink. Meant for a
    process of its own: it changes the standard library's functions.

    Args:
        folders: what lies elsewhere is left alone.
        at: number of the call that fails; None to count only.
        error: name of an errno, or "KILL" for a SIGKILL instead of the call.
        is_lasting: whether all later calls fail too, as on a full disk (removing still works).

    A write that fails has written half of its data by then.

    Attributes:
        calls: their names, as "write manifest.json".
    """

    def __init__(
        self,
        folders: list[str],
        *,
        at: int | None = None,
        error: str = "ENOSPC",
        is_lasting: bool = False,
    ) -> None:
        self.folders = tuple(os.path.realpath(folder) for folder in folders)
        self.at = at
        self.error = error
        self.is_lasting = is_lasting
        self.calls: list[str] = []
        self._before: list[tuple[object, str, Callable]] = []

    def __enter__(self) -> FailingCalls:
        self._open = io.open
        for module in (builtins, io):
            self._replace(module, "open", self._opened)
        self._replace(os, "open", self._os_opened)
        for name in ("write", "fsync", "fdatasync", "ftruncate"):
            if hasattr(os, name):
                self._replace(os, name, self._on_descriptor(name, getattr(os, name)))
        for name in ("replace", "rename", "link", "symlink"):
            self._replace(os, name, self._on_paths(name, getattr(os, name)))
        for name in ("mkdir", "unlink", "remove", "rmdir", "truncate"):
            self._replace(os, name, self._on_path(name, getattr(os, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for module, name, function in reversed(self._before):
            setattr(module, name, function)

    def meet(self, name: str, path: object, partly: Callable[[], object] | None = None) -> None:
        """Count a call, and let it fail where its turn has come."""
        try:
            text = os.fsdecode(os.path.realpath(path))
        except (TypeError, ValueError):
            return
        if not any(text == one or text.startswith(one + os.sep) for one in self.folders):
            return
        number = len(self.calls)
        self.calls.append(f"{name} {os.path.basename(text)}")
        if self.at is None or number < self.at or (number > self.at and not self.is_lasting):
            return
        if name in ("unlink", "remove", "rmdir") and number > self.at:
            return
        if partly is not None:
            partly()
        if self.error == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, self.error)
        raise OSError(code, os.strerror(code), text)

    def _replace(self, module: object, name: str, function: Callable) -> None:
        self._before.append((module, name, getattr(module, name)))
        setattr(module, name, function)

    def _opened(self, file, mode="r", *rest, **named):
        is_writing = isinstance(mode, str) and set(mode) & set("wax+")
        if not is_writing or isinstance(file, int):
            return self._open(file, mode, *rest, **named)
        self.meet("open", file)
        return _File(self._open(file, mode, *rest, **named), os.path.realpath(file), self)

    def _os_opened(self, path, flags, *rest, **named):
        if flags & _WRITING:
            self.meet("open", path)
        return self._before_of(os, "open")(path, flags, *rest, **named)

    def _before_of(self, module: object, name: str) -> Callable:
        return next(old for owner, key, old in self._before if (owner, key) == (module, name))

    def _on_descriptor(self, name: str, function: Callable) -> Callable:
        def call(descriptor, *rest):
            try:
                path = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:
                path = self.folders[0]  # not Linux: rather one too many than one forgotten
            self.meet(name, path)
            return function(descriptor, *rest)

        return call

    def _on_path(self, name: str, function: Callable) -> Callable:
        def call(path, *rest, **named):
            self.meet(name, path)
            return function(path, *rest, **named)

        return call

    def _on_paths(self, name: str, function: Callable) -> Callable:
        def call(source, target, **named):
            self.meet(name, target)
            return function(source, target, **named)

        return call


class _File:
    """A file whose writes are counted."""

    def __init__(self, file, path: str, failing: FailingCalls) -> None:
        self._file = file
        self._path = path
        self._failing = failing

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._failing.meet("write", self._path, half)
        return self._file.write(data)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def __iter__(self):
        return iter(self._file)

    def __getattr__(self, name):
        return getattr(self._file, name)


def contents(folder: Path) -> dict[str, bytes]:
    """Name below the folder -> bytes of everything in it; logs, which belong to no digest, not."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.suffix != ".log"
    }


def flip_bit(path: Path, bit: int) -> None:
    """Turns over one bit of a file in place; doing it again brings the file back."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(bit // 8)
        value = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([value ^ (1 << bit % 8)]))
