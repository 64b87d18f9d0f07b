"""Signals that ask a process of several to end."""

from __future__ import annotations

import signal


def ignore_stops() -> None:
    """From now on leave SIGTERM and SIGINT unheeded, because the end has begun.

    When one process of a run fails, torchrun sends SIGTERM to the others, which know by then and
    are saving what they have; it kills them if they take longer than half a minute.

    Source: ours.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
