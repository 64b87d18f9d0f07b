"""A run under torchrun: from its environment to its processes, and how all of them end together.

One line says what went wrong, whichever process it happened in, and no process is left waiting: the
one that fails leaves a note in the run's key-value store and closes its connections, which wakes
whoever waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from detector.stop_signals import ignore_stops
from manifests.errors import ConfigError, CutswapError, WorkerError

if TYPE_CHECKING:
    from detector.processes import Processes

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_NOTE, _TOLD = "cutswap/failure", "cutswap/told"
_MOMENT_S = 5.0  # for the first process to say what happened
_POLL_S = 0.05
_AGAIN = "run the same command again to go on"


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which torchrun ends the processes that are left when one has failed."""


class FailedElsewhere(CutswapError):
    """What went wrong in another process of the run, in its own words."""

    def __init__(self, what: str, exit_code: int = 1) -> None:
        super().__init__(what)
        self.exit_code = exit_code


@contextlib.contextmanager
def torchrun_processes(environment: Mapping[str, str] = os.environ) -> Iterator[Any]:
    """The `detector.processes.Processes` of this run, connected; just this one without torchrun.

    An error in any of them ends all of them. On the first process it is raised, whosever it was;
    the others raise SystemExit and say nothing. SIGTERM interrupts as Ctrl-C does.

    Raises:
        ConfigError: torchrun's variables are no numbers.
        PeerLost, WorkerError: another process has gone without a word, or SIGTERM came.
        FailedElsewhere: what another process had to say.
    """
    from detector.processes import ALONE, Processes

    rank, count, rank_here, count_here = _places(environment)
    if count == 1:
        yield ALONE
        return
    processes = Processes(rank, count, rank_here=rank_here, count_here=count_here)
    before = signal.signal(signal.SIGTERM, _interrupt)
    with warnings.catch_warnings():
        if not processes.is_first:
            warnings.simplefilter("ignore")  # the first one warns of the same
        try:
            processes.connect()
            yield processes
            # Whoever is ready first stays until the others are: they may still need it.
            processes.wait()
        except BaseException as error:
            ignore_stops()
            outcome = _outcome(error, processes)
            if outcome is error:
                raise
            raise outcome from error
        finally:
            processes.disconnect()
    signal.signal(signal.SIGTERM, before)


def _places(environment: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Rank and number of processes, of all and of this machine."""
    if not all(environment.get(name) for name in _NAMES):
        return 0, 1, 0, 1
    values = [environment[name] for name in _NAMES[:4]]
    if not all(value.isascii() and value.isdecimal() for value in values):
        raise ConfigError(
            "torchrun's variables cannot be used",
            expected="whole numbers",
            got=", ".join(f"{name}={environment[name]}" for name in _NAMES[:4]),
            hint=f"start with torchrun, or unset {_NAMES[0]} to fit in one process",
        )
    rank, count, rank_here, count_here = map(int, values)
    if not (rank < count and rank_here < count_here <= count):
        raise ConfigError(
            "torchrun's variables contradict each other",
            got=", ".join(f"{name}={environment[name]}" for name in _NAMES[:4]),
        )
    return rank, count, rank_here, count_here


def _interrupt(_number: int, _frame: object) -> None:
    ignore_stops()
    raise Terminated


def _outcome(error: BaseException, processes: Processes) -> BaseException:
    """What this process raises in place of `error`, once it is settled who says what."""
    from detector.processes import PeerLost

    board = _Board()
    is_second_hand = isinstance(error, PeerLost | Terminated)
    line: BaseException
    if isinstance(error, Terminated):
        line = WorkerError(
            "ended by SIGTERM: another process of this run has ended, or the run was stopped",
            hint=_AGAIN,
        )
    else:
        line = error
    if processes.is_first:
        note = board.read() if is_second_hand else None
        board.tell()
        return line if note is None else FailedElsewhere(*note)
    if isinstance(error, KeyboardInterrupt) and not isinstance(error, Terminated):
        return SystemExit(130)  # the first one says so
    if not is_second_hand:
        board.write(f"process {processes.rank} of {processes.count}: {_words(error)}", _code(error))
        # A fault of ours is to be seen whole; of all others the first one speaks.
        return SystemExit(_code(error)) if isinstance(error, CutswapError | OSError) else error
    if board.is_told_within(_MOMENT_S):
        return SystemExit(_code(error))
    note = board.read()  # for the first one, which has been killed
    return line if note is None else FailedElsewhere(*note)


class _Board:
    """Where processes leave notes for each other; kept by torchrun, or by the first of them."""

    def __init__(self) -> None:
        from torch.distributed import distributed_c10d, is_initialized

        self._store = distributed_c10d._get_default_store() if is_initialized() else None

    def write(self, words: str, code: int) -> None:
        with contextlib.suppress(RuntimeError):
            if self._store is not None and self._store.add(f"{_NOTE}/n", 1) == 1:
                self._store.set(_NOTE, json.dumps([words, code]))

    def read(self) -> tuple[str, int] | None:
        with contextlib.suppress(RuntimeError):
            if self._store is not None and self._store.check([_NOTE]):
                words, code = json.loads(self._store.get(_NOTE))
                return words, code
        return None

    def tell(self) -> bool:
        """Claim to be the one that speaks; False where another already is."""
        with contextlib.suppress(RuntimeError):
            return self._store is None or self._store.add(_TOLD, 1) == 1
        return True

    def is_told_within(self, seconds: float) -> bool:
        """Wait for another to speak; False where none did and this one now has to."""
        deadline = time.monotonic() + seconds
        while self._store is not None and time.monotonic() < deadline:
            try:
                if self._store.check([_TOLD]):
                    return True
            except RuntimeError:  # it went with the first process
                break
            time.sleep(_POLL_S)
        return not self.tell()


def _code(error: BaseException) -> int:
    if isinstance(error, CutswapError):
        return 2 if isinstance(error, ConfigError) else error.exit_code
    return 1


def _words(error: BaseException) -> str:
    if isinstance(error, CutswapError):
        return str(error)
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror or error}"
    return f"{type(error).__name__}: {error}"
