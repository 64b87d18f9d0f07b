"""Whether a file comes fast enough to be waited for, over connections that follow each other."""

from __future__ import annotations

import time

from manifests.location import RemoteError

MIN_BYTES_PER_S = 1000
"""Rate below which a transfer counts as failed, averaged over `RATE_WINDOW_S`."""
RATE_WINDOW_S = 60.0
SMALL_FILE_S = 120.0
"""Time in which a small file (a manifest, its digest) must be there, all tries together."""


class Pace:
    """The rate of one file. A server that sends a byte a second never falls silent.

    Args:
        name: of the file, as it may be shown.
        deadline_s: time in which all of it must be there; None for none.

    Attributes:
        slow_windows: spans of `RATE_WINDOW_S` in a row that were too slow.
    """

    def __init__(self, name: str, *, deadline_s: float | None = None) -> None:
        self.slow_windows = 0
        self._name, self._deadline_s = name, deadline_s
        self._began = self._since = time.monotonic()
        self._bytes = 0

    def moved(self, count: int, size: int) -> None:
        """So many more bytes are there, `size` in all.

        Raises:
            RemoteError: they come too slowly, which another connection may mend; or too late.
        """
        self.check_deadline(size)
        self._bytes += count
        now = time.monotonic()
        seconds = now - self._since
        if seconds < RATE_WINDOW_S:
            return
        rate = self._bytes / seconds
        self._since, self._bytes = now, 0
        if rate >= MIN_BYTES_PER_S:
            self.slow_windows = 0
            return
        self.slow_windows += 1
        error = RemoteError(
            "comes too slowly",
            path=self._name,
            expected=f"{MIN_BYTES_PER_S} bytes/s over {RATE_WINDOW_S:g} s",
            got=f"{rate:.0f} bytes/s",
        )
        error.is_passing = True
        raise error

    def check_deadline(self, size: int) -> None:
        """Raises RemoteError, for good, where the time for a small file is over."""
        if self._deadline_s is not None and time.monotonic() - self._began > self._deadline_s:
            raise RemoteError(
                "does not come in time",
                path=self._name,
                expected=f"within {self._deadline_s:g} s",
                got=f"{size} bytes",
                hint="try again later, or fetch the set from another place",
            )
