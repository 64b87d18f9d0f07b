"""Files that arrive in a folder: which are complete, which were judged already.

A folder is looked at again and again rather than subscribed to: that works on network shares, whose
servers tell nobody of what other machines write, and needs no library.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from manifests.errors import DataError
from manifests.images import IMAGE_SUFFIXES

SETTLE_S = 0.5
PATIENCE_S = 10.0
SHORTEST_LOOK_S = 0.1
"""Time between two looks at the folder, unless a look takes long."""

# A look at 100,000 files takes a third of a second of the processor: it rests for nine times that,
# so that an idle watch needs a tenth of a core at most. A server far away takes its time without
# needing the processor, and is left alone for as long again.
_REST_OF_CPU, _REST = 9.0, 1.0
_LOST_S = 1.0

Version = tuple[int, int, int, int]
"""Inode, size, times of the last change of content and of the entry, in ns: another version of a
file has another one."""

# A file whose content is judged stays judged when its name or rights change; one that could not be
# read is tried again then.
_OF_CONTENT, _OF_ALL = 3, 4


@dataclass(slots=True)
class Arrival:
    """A version of a file that was not judged yet.

    Attributes:
        version: as it was last seen.
        since: when it was first seen so, in seconds of the clock.
        due: when it is to be looked at again; None while it waits to be taken, or is taken.
    """

    name: str
    version: Version
    since: float
    due: float | None


@dataclass
class Arrivals:
    """The image files of one folder, without those in folders below.

    What is remembered are the files that lie there, and nothing of those that have gone.

    Args:
        settle_s: a file that has not changed for so long is complete.
        patience_s: one that cannot be read is given up when it has not changed for so long.
        is_old_wanted: whether the files of the first look count.
        clock: seconds, ascending.
        cpu_clock: seconds that this thread has had of the processor.
        on_note: takes what an operator should know, a line each.
    """

    folder: Path
    settle_s: float = SETTLE_S
    patience_s: float = PATIENCE_S
    is_old_wanted: bool = True
    clock: Callable[[], float] = time.monotonic
    cpu_clock: Callable[[], float] = time.thread_time
    on_note: Callable[[str], None] = lambda line: None
    _judged: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False)
    _waiting: dict[str, Arrival] = field(default_factory=dict, init=False)
    _ready: list[tuple[int, str, int, Arrival]] = field(default_factory=list, init=False)
    _next_look: float = field(default=-1e9, init=False)
    _number: int = field(default=0, init=False)
    _has_looked: bool = field(default=False, init=False)
    _is_lost: bool = field(default=False, init=False)

    def look(self) -> None:
        """Looks at the folder and at files that may have settled, as far as it is time to.

        Raises:
            DataError: the folder cannot be read at the first look; later ones wait for it.
        """
        if self.clock() >= self._next_look:
            self._look_at_folder()
        now = self.clock()
        for arrival in list(self._waiting.values()):
            if arrival.due is not None and arrival.due <= now:
                self._look_at(arrival)

    def take(self, most: int) -> list[Arrival]:
        """Up to so many complete files, the oldest first; `judged` or `failed` gives each back."""
        taken: list[Arrival] = []
        while self._ready and len(taken) < most:
            arrival = heapq.heappop(self._ready)[-1]
            if self._waiting.get(arrival.name) is arrival:  # no newer version since
                taken.append(arrival)
        return taken

    def path(self, arrival: Arrival) -> Path:
        """Where it lies."""
        return self.folder / arrival.name

    def judged(self, arrival: Arrival) -> bool:
        """Whether the verdict on a file that was taken counts: False where it has changed since.

        A file that has gone since was complete when it was read.
        """
        version = self._version(arrival.name)
        if version is not None and version[:_OF_CONTENT] != arrival.version[:_OF_CONTENT]:
            self._wait(arrival.name, version)
            return False
        self._end(arrival, _OF_CONTENT)
        return True

    def failed(self, arrival: Arrival) -> bool:
        """Whether a file that was taken and could not be read is given up.

        False where it has gone or changed, or where whoever writes it may only be slow: then it is
        offered again.
        """
        version = self._unjudged_version(arrival.name)
        if version is None:
            self._waiting.pop(arrival.name, None)
            return False
        if version[:_OF_CONTENT] != arrival.version[:_OF_CONTENT]:
            self._wait(arrival.name, version)
            return False
        if self.clock() < arrival.since + self.patience_s:
            arrival.due = arrival.since + self.patience_s
            return False
        arrival.version = version
        self._end(arrival, _OF_ALL)
        return True

    def rest_s(self) -> float:
        """Seconds until there is something to look at."""
        due = [one.due for one in self._waiting.values() if one.due is not None]
        return max(0.0, min([self._next_look, *due]) - self.clock())

    @property
    def is_drained(self) -> bool:
        """Whether every file that lay there was judged or given up."""
        return self._has_looked and not self._waiting and not self._is_lost

    def __len__(self) -> int:
        """How many files are remembered."""
        return len(self._judged) + len(self._waiting)

    def _look_at_folder(self) -> None:
        began, cpu_began = self.clock(), self.cpu_clock()
        try:
            with os.scandir(self.folder) as entries:
                listed = [entry for entry in entries if _is_image_name(entry.name)]
        except OSError as error:
            self._lose(error)
            return
        if self._is_lost:
            self._is_lost = False
            self.on_note(f"{self.folder}: is back")
        judged: dict[str, tuple[int, ...]] = {}
        waiting: dict[str, Arrival] = {}
        for entry in listed:
            name = entry.name
            known = self._judged.get(name)
            try:
                info = entry.stat()
            except OSError:  # gone since, a broken link, or a share that fails for a moment
                if known is not None and os.path.lexists(entry.path):
                    judged[name] = known
                elif (broken := self._unjudged_version(name)) is not None:
                    waiting[name] = self._seen(name, broken)
                continue
            if not stat.S_ISREG(info.st_mode):
                continue
            version = _version_of(info)
            if known is not None and version[: len(known)] == known:
                judged[name] = known
            elif not self._has_looked and not self.is_old_wanted:
                judged[name] = version[:_OF_CONTENT]
            else:
                waiting[name] = self._seen(name, version)
        self._judged, self._waiting = judged, waiting
        self._has_looked = True
        now = self.clock()
        rest = max(_REST * (now - began), _REST_OF_CPU * (self.cpu_clock() - cpu_began))
        self._next_look = now + max(SHORTEST_LOOK_S, rest)

    def _lose(self, error: OSError) -> None:
        if not self._has_looked:
            raise DataError(
                f"cannot be read: {error.strerror or error}",
                path=self.folder,
                hint="name the folder that the images arrive in",
            ) from error
        if not self._is_lost:
            self._is_lost = True
            self.on_note(
                f"{self.folder}: cannot be read ({error.strerror or error}); waiting for it"
            )
        self._next_look = self.clock() + _LOST_S

    def _seen(self, name: str, version: Version) -> Arrival:
        arrival = self._waiting.get(name)
        if arrival is not None and arrival.version[:_OF_CONTENT] == version[:_OF_CONTENT]:
            return arrival
        now = self.clock()
        return Arrival(name, version, since=now, due=now + self.settle_s)

    def _look_at(self, arrival: Arrival) -> None:
        version = self._unjudged_version(arrival.name)
        if version is None:
            del self._waiting[arrival.name]
        elif version[:_OF_CONTENT] != arrival.version[:_OF_CONTENT]:
            self._wait(arrival.name, version)
        else:
            arrival.due = None
            self._number += 1  # no two of them are compared any further
            modified_ns = arrival.version[2]
            heapq.heappush(self._ready, (modified_ns, arrival.name, self._number, arrival))

    def _wait(self, name: str, version: Version) -> None:
        now = self.clock()
        self._waiting[name] = Arrival(name, version, since=now, due=now + self.settle_s)

    def _end(self, arrival: Arrival, fields: int) -> None:
        self._waiting.pop(arrival.name, None)
        self._judged[arrival.name] = arrival.version[:fields]

    def _version(self, name: str) -> Version | None:
        """None where there is no such file."""
        try:
            info = os.stat(self.folder / name)
        except OSError:
            return None
        return _version_of(info) if stat.S_ISREG(info.st_mode) else None

    def _unjudged_version(self, name: str) -> Version | None:
        """The same, but of a link that leads nowhere its own: no image will come of it."""
        version = self._version(name)
        if version is None:
            path = self.folder / name
            with contextlib.suppress(OSError):
                info = os.lstat(path)
                if stat.S_ISLNK(info.st_mode) and not os.path.exists(path):
                    return _version_of(info)
        return version


def _version_of(info: os.stat_result) -> Version:
    return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
