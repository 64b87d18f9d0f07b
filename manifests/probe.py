"""Unfamiliar shards, parsed in a process of its own before this one lets libhdf5 near them.

libhdf5 is C and was not written for hostile files: one that was tampered with can keep it busy for
minutes, take all memory or bring the process down. A child process with limits goes first.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from manifests.errors import SetError
from manifests.familiar import is_familiar, mark_familiar, remember, shard_files

__all__ = [
    "HostileShard",
    "familiarise",
    "mark_familiar",
    "probe_problems",
    "probe_shards",
]

TIMEOUT_S = 10.0
MAX_BYTES = 1 << 30
# Python, NumPy and h5py from a cold network disk; none of it depends on the file.
_START_TIMEOUT_S = 120.0
_MAX_LINE_BYTES = 16 << 10
# A set whose files all hang must not hold a reader up for hours.
_MAX_CHILDREN = 5
_CHILD = Path(__file__).with_name("probe_child.py")
_FIELDS = ("what", "expected", "got", "hint")


class HostileShard(SetError):
    """A shard that the child process did not survive."""


def probe_shards(
    paths: Iterable[Path], *, timeout_s: float = TIMEOUT_S, max_bytes: int = MAX_BYTES
) -> None:
    """Parse shard files in one child process and refuse the first that is not in order.

    Args: as those of `probe_problems`.

    Raises:
        SetError: a file is not a valid shard.
        HostileShard: parsing it took too long or too much memory, or killed the child.
    """
    problems = probe_problems(paths, timeout_s=timeout_s, max_bytes=max_bytes)
    if problems:
        raise next(iter(problems.values()))


def probe_problems(
    paths: Iterable[Path], *, timeout_s: float = TIMEOUT_S, max_bytes: int = MAX_BYTES
) -> dict[Path, SetError]:
    """What is wrong with the structure of shard files, found out in a child process.

    The child starts once; after a file that it does not survive, another goes on with the rest.

    Args:
        paths: shard files.
        timeout_s: for one file, wall clock and processor time alike.
        max_bytes: memory for all of them, above what the child has when it starts.

    Returns:
        The error of every file that has one, in the order given. None of them should be parsed by
        this process: without the child's limits, what it refused in an orderly way may be hostile.

    Raises:
        SetError: no child process can be started.
    """
    left = [Path(path) for path in paths]
    problems: dict[Path, SetError] = {}
    children = 0
    while left:
        if children == _MAX_CHILDREN:
            for path in left:
                problems[path] = HostileShard(
                    f"is not parsed, because {children} others could not be", path=path
                )
            break
        children += 1
        with _Child(timeout_s, max_bytes) as child:
            while left:
                path = left.pop(0)
                problem = child.problem(path)
                if problem is not None:
                    problems[path] = problem
                if isinstance(problem, HostileShard):
                    break
    return problems


def familiarise(folder: Path, names: Sequence[str]) -> dict[Path, SetError]:
    """`probe_problems` of a set's shards, unless they have been parsed before and are unchanged.

    Args:
        folder: of the set.
        names: of the shards in its manifest; what is not there is no concern of this.
    """
    wanted = set(names)
    paths = [path for path in shard_files(folder) if path.name in wanted]
    if is_familiar(paths):
        return {}
    problems = probe_problems(paths)
    if paths and not problems:
        remember(paths)
    return problems


class _Child:
    """The child process, asked for one file after the other."""

    def __init__(self, timeout_s: float, max_bytes: int) -> None:
        self.timeout_s = timeout_s
        self.max_bytes = max_bytes

    def __enter__(self) -> _Child:
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [sys.executable or "", "-I", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # Threads of a BLAS would each reserve memory, and nothing here multiplies.
                env={**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            self._errors.close()
            raise _no_child(error.strerror or str(error)) from error
        self._lines: queue.Queue[bytes] = queue.Queue()
        reader = threading.Thread(target=_read, args=(self._process.stdout, self._lines))
        reader.daemon = True
        reader.start()
        try:
            is_sent = self._send(
                {
                    # Without the current folder, where the files may well lie.
                    "path": [os.path.abspath(entry) for entry in sys.path if entry],
                    "timeout_s": self.timeout_s,
                    "max_bytes": self.max_bytes,
                }
            )
            if not is_sent or self._answer(_START_TIMEOUT_S) != {"ready": True}:
                raise _no_child(self._last_words())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()

    def problem(self, path: Path) -> SetError | None:
        """What is wrong with one file."""
        started = time.monotonic()
        answer = None
        if self._send({"file": os.path.abspath(path)}):
            answer = self._answer(self.timeout_s)
        if answer == {"error": None}:
            return None
        fields = answer.get("error") if isinstance(answer, dict) else None
        if (
            isinstance(fields, dict)
            and fields.keys() == set(_FIELDS)
            and all(value is None or isinstance(value, str) for value in fields.values())
            and fields["what"]
        ):
            # The child may be no longer ours: nothing of what it says steers a terminal.
            what, expected, got, hint = (_printable(fields[name]) for name in _FIELDS)
            return SetError(str(what), path=path, expected=expected, got=got, hint=hint)
        if time.monotonic() - started >= self.timeout_s:
            how = f"took more than {self.timeout_s:g} s"
        elif answer == {"memory": True}:
            how = f"took more than {self.max_bytes >> 20} MiB of memory"
        else:
            how = "failed"
        return HostileShard(
            f"parsing it {how} in a process of its own; it is damaged or hostile",
            path=path,
            hint="fetch or build it again",
        )

    def _send(self, message: dict) -> bool:
        line = json.dumps(message).encode("ascii") + b"\n"
        stream = self._process.stdin
        if stream is None:
            return False
        try:
            stream.write(line)
            stream.flush()
        except OSError:
            return False
        return True

    def _answer(self, timeout_s: float) -> object:
        """The next line as JSON; None where none comes in time, or no JSON."""
        try:
            return json.loads(self._lines.get(timeout=timeout_s))
        except (queue.Empty, ValueError, RecursionError):
            return None

    def _last_words(self) -> str:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        text = self._errors.read()[-400:].decode("utf-8", "replace")
        return (text.strip().splitlines() or ["it ended without a word"])[-1]


def _read(stream: IO[bytes], lines: queue.Queue[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while line := stream.readline(_MAX_LINE_BYTES):
            lines.put(line)
            if lines.qsize() > 2:  # one question, one answer: more is garbage
                return
    lines.put(b"")


def _printable(text: str | None) -> str | None:
    return text and "".join(letter if letter.isprintable() else "?" for letter in text)


def _no_child(reason: str) -> SetError:
    return SetError(
        "the process that parses unfamiliar shards cannot be started",
        got=ascii(reason)[:200],
        hint="check that this Python can start processes",
    )
