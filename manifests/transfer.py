"""Bytes from a URL: taken up where an earlier try stopped, bounded, and checked on arrival."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from manifests.digest import file_digest
from manifests.errors import DigestError, OutputError, SetError
from manifests.location import Location, RemoteError
from manifests.pace import SMALL_FILE_S, Pace

RETRIES = 5
PIECE_BYTES = 4 << 20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
_FETCHES = 3
"""Times a file is fetched whose bytes turn out to be damaged."""


class Stopped(Exception):
    """This transfer ends because another one failed."""


class Patience:
    """How long transfers of one command go on, and how far they are. Safe to share by threads.

    Args:
        retries: tries in a row that get no further before a transfer is given up.
        show: called with the bytes done and in all, and with a note where a try has failed.
        total_bytes, done_bytes: what there is to do, and what an earlier run has done of it.
    """

    def __init__(
        self,
        retries: int = RETRIES,
        *,
        show: Callable[..., None] | None = None,
        total_bytes: int = 0,
        done_bytes: int = 0,
    ) -> None:
        self.retries = retries
        self.stop = threading.Event()
        self._show = show
        self._total, self._done = total_bytes, done_bytes
        self._lock = threading.Lock()
        self.moved(0)

    def moved(self, count: int) -> None:
        """So many more bytes are there; fewer, where some must be fetched again."""
        with self._lock:
            self._done += count
            if self._show is not None:
                self._show(min(self._done, self._total), self._total)

    def check(self) -> None:
        """Raises Stopped where another transfer has failed."""
        if self.stop.is_set():
            raise Stopped

    def pause(self, failures: int, because: RemoteError | None = None) -> None:
        """Wait after so many failures in a row. Raises Stopped as `check` does."""
        if because is not None and self._show is not None:
            with self._lock:
                if self._done < self._total:  # else it would end the line a second time
                    self._show(self._done, self._total, f"{because.what}, trying again")
        self.stop.wait(min(FIRST_PAUSE_S * 2 ** max(0, failures - 1), LONGEST_PAUSE_S))
        self.check()

    def persist(self, action: Callable[[], None]) -> None:
        """Do something remote again as long as what it raises may pass."""
        for failures in range(1, self.retries + 2):
            self.check()
            try:
                return action()
            except RemoteError as error:
                if not error.is_passing or failures > self.retries:
                    raise
                cause = error
            self.pause(failures, cause)


class Sink(Protocol):
    """Takes bytes in order. `size` is how many it has."""

    @property
    def size(self) -> int: ...

    def write(self, data: bytes) -> None: ...

    def restart(self) -> None: ...


def fetch_bytes(source: Location, max_bytes: int, patience: Patience) -> bytes:
    """A small file whose size nobody knows.

    Raises:
        SetError: larger than `max_bytes`.
        RemoteError: not there, or it does not come.
    """
    sink = _Memory()
    _receive(source, sink, max_bytes, patience, is_exact=False)
    return bytes(sink.data)


def fetch_file(
    source: Location, part: Path, *, file_bytes: int, sha256: str, patience: Patience
) -> None:
    """Fill `part`, which may hold the beginning, and see that it is what it should be.

    Not a byte beyond `file_bytes` is kept. What has arrived stays where the transfer fails.

    Raises:
        DigestError: the bytes were wrong each time they were fetched; `part` is removed.
        RemoteError: not there, or it does not come.
        OutputError: `part` cannot be written.
    """
    got = None
    for _ in range(_FETCHES):
        try:
            with _PartFile(part) as sink:
                if sink.size > file_bytes:
                    patience.moved(-file_bytes)
                    sink.restart()
                _receive(source, sink, file_bytes, patience, is_exact=True)
            got = file_digest(part)
            if got == sha256:
                return
            # Also where an earlier run left the beginning of another file.
            part.unlink()
        except OSError as error:
            raise _output_error(error, part) from error
        patience.moved(-file_bytes)
    raise DigestError(
        f"is damaged, {_FETCHES} times in a row",
        path=source.name,
        expected=sha256,
        got=got,
        hint="fetch the set from another place, or tell whoever put it there",
    )


def remote_digest(source: Location, file_bytes: int, patience: Patience) -> str:
    """SHA-256 of a file of a known size, without keeping it. Raises RemoteError."""
    sink = _Hasher()
    _receive(source, sink, file_bytes, patience, is_exact=True)
    return sink.hasher.hexdigest()


def put_bytes(target: Location, data: bytes, patience: Patience) -> None:
    """Upload a small file, as a whole or not at all.

    Raises:
        RemoteError: it fails for good.
        OutputError: there is no room for it here.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="cutswap-") as folder:
            file = Path(folder, "data")
            file.write_bytes(data)
            patience.persist(partial(target.put, file))
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})", path=tempfile.gettempdir()
        ) from error


def run_all(actions: Iterable[Callable[[], None]], jobs: int, patience: Patience) -> None:
    """Do all of it, `jobs` at a time; the first failure ends the others and is raised."""
    errors: list[BaseException] = []

    def attempt(action: Callable[[], None]) -> None:
        try:
            patience.check()
            action()
        except Stopped:
            pass
        except BaseException as error:
            patience.stop.set()
            errors.append(error)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(attempt, action) for action in actions]
        try:
            wait(futures)
        except BaseException:  # interrupted: the threads end at their next piece
            patience.stop.set()
            raise
    if errors:
        raise errors[0]


def _receive(
    source: Location, sink: Sink, limit: int, patience: Patience, *, is_exact: bool
) -> None:
    """Fill `sink` up to `limit` bytes, or to the file's end unless that `is_exact`."""
    furthest, failures = sink.size, 0
    pace = Pace(source.name, deadline_s=None if is_exact else SMALL_FILE_S)
    while not (is_exact and sink.size >= limit):
        patience.check()
        try:
            pace.check_deadline(sink.size)
            if _read_on(source, sink, limit, patience, pace, is_exact=is_exact):
                return
            cause = RemoteError("ends early", path=source.name)
        except RemoteError as error:
            if not error.is_passing:
                raise
            cause = error
        # A server without ranges starts anew each time, which alone is no progress.
        failures = 0 if sink.size > furthest else failures + 1
        furthest = max(furthest, sink.size)
        # Bytes alone are no progress either, where they come drop by drop.
        tries = max(failures, pace.slow_windows)
        if cause.is_unreachable and not is_exact and not furthest and tries > 1:
            raise cause  # the first that is asked of a server: it is down, and not just busy
        if tries > patience.retries:
            far = f"{furthest} of {limit} bytes" if is_exact else f"{furthest} bytes"
            goes_on = "run the same command again, it goes on where this one stopped"
            raise RemoteError(
                f"{cause.what} after {far}, {tries} times in a row",
                path=cause.path,
                expected=cause.expected,
                got=cause.got,
                hint=goes_on if is_exact and furthest else cause.hint or "try again later",
            )
        patience.pause(tries, cause)


def _read_on(
    source: Location,
    sink: Sink,
    limit: int,
    patience: Patience,
    pace: Pace,
    *,
    is_exact: bool,
) -> bool:
    """Read from one connection; False where it ends too early."""
    with source.open_at(sink.size, end=limit if is_exact else None) as reader:
        if reader.offset != sink.size:
            patience.moved(-sink.size if is_exact else 0)
            sink.restart()
        while sink.size < limit:
            patience.check()
            data = reader.read(min(PIECE_BYTES, limit - sink.size))
            if not data:
                return not is_exact
            sink.write(data)
            if is_exact:
                patience.moved(len(data))
            pace.moved(len(data), sink.size)
        if not is_exact and reader.read(1):
            raise SetError("is too large", path=source.name, expected=f"at most {limit} bytes")
    return True


class _Memory:
    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()


class _Hasher:
    def __init__(self) -> None:
        self.restart()

    def write(self, data: bytes) -> None:
        self.hasher.update(data)
        self.size += len(data)

    def restart(self) -> None:
        self.hasher, self.size = hashlib.sha256(), 0


class _PartFile:
    """A file that is filled from where it ends, on the disk when it is closed in good order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO

    def __enter__(self) -> _PartFile:
        self._file = open(self.path, "ab")
        self.size = os.fstat(self._file.fileno()).st_size
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)

    def restart(self) -> None:
        self._file.flush()
        os.truncate(self.path, 0)
        self.size = 0


def _output_error(error: OSError, path: Path) -> OutputError:
    return OutputError(
        f"cannot be written ({error.strerror or error})",
        path=path,
        hint="free some space or pass another --out; what has arrived is kept",
    )
