"""How far a long command is, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from manifests.durations import duration

ProgressMaker = Callable[[str, str], Callable[..., None]]
"""From a label and the name of a unit to a function of how many are done and how many there are; it
may take a note as a third. The unit "bytes" is shown as KB, MB or GB."""


class Progress:
    """One line on stderr: what, how far, how fast, how long still.

    On a terminal the line is rewritten; elsewhere a new one is printed every ten seconds, so that
    logs stay short. Durations go nowhere else: they belong to no digest.
    """

    def __init__(self, label: str, unit: str, *, quiet: bool = False) -> None:
        self.label, self.unit, self.quiet = label, unit, quiet
        self.is_terminal = sys.stderr.isatty()
        self.started = time.monotonic()
        self.first_done: int | None = None
        self.last_shown = -1e9
        self.width = 0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if self.quiet:
            return
        now = time.monotonic()
        if self.first_done is None:
            # Work that an earlier run had finished must not count as speed.
            self.first_done, self.started = done, now
        is_last = done >= total
        if now - self.last_shown < (0.1 if self.is_terminal else 10.0) and not is_last:
            return
        self.last_shown = now
        elapsed = now - self.started
        fresh = done - self.first_done
        is_bytes = self.unit == "bytes"
        far = f"{amount(done)} of {amount(total)}" if is_bytes else f"{done}/{total} {self.unit}"
        text = f"{self.label}  {far}"
        if fresh > 0 and elapsed > 0:
            rate = fresh / elapsed
            if is_bytes:
                text += f"  {amount(rate)}/s"
            else:
                text += f"  {rate:.1f}/s" if rate >= 1 else f"  {1 / rate:.1f} s each"
            text += f"  {duration(elapsed)} so far" if is_last else ""
            text += "" if is_last else f"  {duration((total - done) / rate)} left"
        text += f"  {note}" if note else ""
        if self.is_terminal:
            end = "\n" if is_last else ""
            print("\r" + text.ljust(self.width), end=end, file=sys.stderr, flush=True)
            self.width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)


def amount(n_bytes: float) -> str:
    """A number of bytes in words, in steps of 1000."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def progress_maker(*, quiet: bool) -> ProgressMaker:
    """What a pipeline asks for a line on stderr per step."""
    return lambda label, unit: Progress(label, unit, quiet=quiet)


def quiet_progress(_label: str, _unit: str) -> Callable[..., None]:
    """Progress for callers that want none."""
    return lambda *_: None
