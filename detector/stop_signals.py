"""Signals that ask a process to end."""

from __future__ import annotations

import select
import signal
import socket
from types import FrameType
from typing import Any, Self

_STOPS = (signal.SIGTERM, signal.SIGINT)


def ignore_stops() -> None:
    """From now on leave SIGTERM and SIGINT unheeded, because the end has begun.

    When one process of a run fails, torchrun sends SIGTERM to the others, which know by then and
    are saving what they have; it kills them if they take longer than half a minute.

    Source: ours.
    """
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


class StopSignals:
    """While it is open, a first SIGTERM or SIGINT is noted; a second one does what it always did.

    Only for the main thread, as all handlers of signals are.

    Attributes:
        is_set: whether one has come.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python goes on sleeping after a signal; a socket that can be read ends the wait. (A lock
        # taken in a handler could be the one that the interrupted code holds.)
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        for number in _STOPS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_failure: object) -> None:
        self._restore()
        self._woken.close()
        self._waker.close()

    def wait(self, seconds: float) -> None:
        """Returns after so many seconds, or once a signal has come."""
        if not self.is_set:
            select.select([self._woken], [], [], max(0.0, seconds))

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True
        self._restore()
        self._waker.send(b"\0")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
