"""Worker processes: started, kept from Ctrl-C, and ended with whoever asked for them."""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from typing import Generic, Protocol, TypeVar

from manifests.errors import WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

# As long as a person takes for the next command of a notebook.
_IDLE_S = 300
_WATCH_S = 0.1
_FLUSH_S = 1.0
# A worker never waits for its next item, and few are on their way when a run is interrupted.
_SENT_PER_WORKER = 2
# The workers are the parallelism: threads below them only fight over the cores.
_LIBRARIES = ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM")
_ONE_THREAD = dict.fromkeys([f"{name}_THREADS" for name in _LIBRARIES], "1")


@contextmanager
def in_workers(
    make: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    in_order: bool = False,
    take_part: bool = False,
) -> Iterator[Iterator[Result]]:
    """Runs `make` on every item, in other processes where there are to be several.

    Args:
        make: with several workers it, the items and its results must survive pickling.
        items: taken as they are needed.
        workers: how many; one makes everything here, without a process.
        in_order: yield the results in the order of the items and not as they are made.
        take_part: this process is one of the workers, and needs no start. For items that all take
            about as long: until its own is made, no other result is yielded, and the others have
            one in hand and one more. Not `in_order`.

    Yields:
        The results, or what `make` raised. When the body raises, Ctrl-C included, the workers are
        killed: what they were writing stays unfinished.

    Raises:
        WorkerError: a worker was killed.
        ValueError: `in_order` and `take_part`.
    """
    if in_order and take_part:
        raise ValueError("a process that takes part cannot keep the order")
    if workers == 1:
        yield map(make, items)
        return
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    others = workers - take_part
    executor = _executor(others)
    sent: deque[Future] = deque()
    submit = partial(executor.submit, _Tied(make))
    own = make if take_part else None
    try:
        yield _results(submit, own, iter(items), sent, others, in_order)
    except BaseException as error:
        try:
            _wait_until_sent(sent)
        finally:
            executor.shutdown(wait=True, kill_workers=True)
        if isinstance(error, TerminatedWorkerError):
            raise WorkerError(
                "a worker process was ended from outside",
                hint="most often that is the system, where memory runs out: run again with fewer "
                "--jobs",
            ) from error
        raise


def start_workers(workers: int, make: Callable, *, take_part: bool = False) -> None:
    """Has workers import what `make` needs while this process does something else first.

    Where one would be enough, this does nothing.
    """
    if workers > 1:
        executor = _executor(workers - take_part)
        for _ in range(workers - take_part):
            _apart(lambda: _importing.append(executor.submit(_import, _Tied(make))))


_importing: list[Future] = []


def _import(tied: _Tied) -> None:
    """Nothing is left to do for a worker that knows this function and its argument."""
    _end_with(tied.parent)


class _Executor(Protocol):
    """What of loky's executors is used."""

    def submit(self, call: Callable[..., Result], /, *items: object) -> Future[Result]: ...

    def shutdown(self, wait: bool = True, kill_workers: bool = False) -> None: ...


def _executor(workers: int) -> _Executor:
    # joblib's kind of executor, not loky's plain one: a later joblib.Parallel may take it over.
    from joblib.executor import get_memmapping_executor

    # Workers that are still starting cannot be made fewer without a warning.
    wait(_importing)
    _importing.clear()
    executor: _Executor = _apart(
        lambda: get_memmapping_executor(workers, timeout=_IDLE_S, env=_ONE_THREAD)
    )
    return executor


def _wait_until_sent(sent: Iterable[Future]) -> None:
    """loky's own thread dies of an item that is taken from it while it is about to be sent."""
    deadline = time.monotonic() + _FLUSH_S
    while not all(future.running() or future.done() for future in sent):
        if time.monotonic() > deadline:
            return
        time.sleep(0.001)


def _results(
    submit: Callable[[Item], Future],
    own: Callable[[Item], Result] | None,
    coming: Iterator[Item],
    sent: deque[Future],
    others: int,
    in_order: bool,
) -> Iterator[Result]:
    """Sends items ahead to the `others`; `sent` holds those whose results are still to come."""

    def send_one(item: Item) -> None:
        sent.append(submit(item))

    def send(at_once: int) -> None:
        for item in islice(coming, max(0, at_once - len(sent))):
            # Any of them may be the one that starts the workers, or a new one.
            _apart(partial(send_one, item))

    mine: list[Item] = []
    while True:
        # Of few items this process gets one before the others get their second.
        send(others)
        if own is not None and not mine:
            mine = list(islice(coming, 1))
        send(others * _SENT_PER_WORKER)
        if own is not None and mine and not any(future.done() for future in sent):
            # One item at a time, for the workers are not to run out of theirs meanwhile.
            yield own(mine.pop())
            continue
        if not sent:
            return
        next_one = sent[0] if in_order else wait(sent, return_when=FIRST_COMPLETED).done.pop()
        result = next_one.result()
        sent.remove(next_one)
        yield result


def _apart(start: Callable[[], Result]) -> Result:
    """Runs what may start processes in a thread that does not see Ctrl-C, and so neither do they.

    A terminal sends it to all processes of a command. Workers would each print where they were,
    in whatever they or joblib did just then; the process that asked for them ends them anyway. The
    thread is not interrupted halfway either, so that no worker is started and forgotten.
    """
    return _starter().submit(_blocked, start).result()


def _blocked(start: Callable[[], Result]) -> Result:
    if hasattr(signal, "pthread_sigmask"):
        # Python's own helper process unblocks the signal when it is started, so it goes first.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return start()


@functools.cache  # one thread per process
def _starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


class _Tied(Generic[Item, Result]):
    """A `make` for worker processes, which end when the process that asked them has ended.

    A worker that lives on after a kill would go on writing into a folder that nobody holds any
    more, at the side of the next run.
    """

    def __init__(self, make: Callable[[Item], Result]) -> None:
        self.make = make
        self.parent = os.getpid()

    def __call__(self, item: Item) -> Result:
        _end_with(self.parent)
        return self.make(item)


@functools.cache  # once per process
def _end_with(parent: int) -> None:
    from joblib.externals.loky import process_executor

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    # Workers that keep their freed memory grow by more than loky allows (300 MB), who would start
    # them anew, with all their imports, and warn of a leak.
    process_executor._MAX_MEMORY_LEAK_SIZE = math.inf
    if os.name == "posix":  # elsewhere a process does not learn that its parent has ended
        threading.Thread(target=watch, daemon=True).start()
