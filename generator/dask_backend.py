"""Tasks on a Dask cluster, by way of joblib's backend for it.

Dask gives the tasks of a worker that is lost to others by itself. What it does not outlive is the
scheduler: then all that has not come back is sent again, to the one that takes its place.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import dask
from distributed import Client, KilledWorker
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.registry import get_backend
from joblib import Parallel, delayed
from joblib._dask import DaskDistributedBackend

from generator.threads import close_quietly
from manifests.errors import ConfigError, WorkerError

Item = TypeVar("Item")
Task = TypeVar("Task")
Result = TypeVar("Result")

FIRST_S = 15.0
"""Time in which the scheduler must answer at first."""
BACK_S = 180.0
"""Time in which a scheduler that is lost must be back, and a cluster without workers have one."""
_WATCH_S = 1.0
_WARN_S = 5.0
_ANSWER_S = 10.0
_MOST_LOSSES = 20  # of the scheduler, without a result between them
_LEAST_SENT = 8
_LARGE_GRAPH = {"distributed.admin.large-graph-warning-threshold": "10 GiB"}
_TALKERS = ("distributed", "tornado", "asyncio")
GOES_ON = "run the same command again, it goes on where this run stopped"


class _SchedulerLost(Exception):
    """The connection is gone, and with it all that was on its way."""


@contextmanager
def in_dask(
    make: Callable[[Task], Result],
    items: Sequence[Item],
    task_of: Callable[[Item], Task],
    *,
    scheduler: str,
    jobs: int | None = None,
    is_large: bool = False,
) -> Iterator[Iterator[Result]]:
    """Runs `make` on a task of every item, on a cluster.

    Args:
        make, items, task_of, is_large: see `generator.backends.Backend.run`.
        scheduler: its address.
        jobs: tasks given to the cluster at once; None for all, or for twice as many as it has
            threads where they are large.

    Yields:
        The results as they come, or what `make` raised.

    Raises:
        ConfigError: `scheduler` is no address.
        WorkerError: no scheduler answers; a task ended its workers several times; the scheduler or
            all workers are gone and do not come back; a worker cannot run it.

    Warns:
        UserWarning: it waits for a scheduler or for workers.
    """
    _check_address(scheduler)
    if not items:
        yield iter(())
        return
    with _quiet(), dask.config.set(_LARGE_GRAPH):
        results = _results(make, items, task_of, scheduler, jobs, is_large)
        try:
            yield results
        finally:
            results.close()


def _results(
    make: Callable[[Task], Result],
    items: Sequence[Item],
    task_of: Callable[[Item], Task],
    scheduler: str,
    jobs: int | None,
    is_large: bool,
) -> Generator[Result]:
    todo = dict(enumerate(items))
    client = _connect(scheduler, FIRST_S)
    if client is None:
        raise WorkerError(
            "no scheduler answers",
            path=scheduler,
            expected=f"one within {FIRST_S:.0f} s",
            hint="check --scheduler, and that dask scheduler runs there",
        )
    losses = 0
    while True:
        try:
            with _closing(client):
                for number, result in _sent(client, scheduler, make, todo, task_of, jobs, is_large):
                    del todo[number]
                    losses = 0
                    yield result
        except _SchedulerLost:
            losses += 1
        else:
            return
        warnings.warn(
            f"{scheduler}: the scheduler is gone, waiting up to {BACK_S:.0f} s for it to come back "
            f"({len(todo)} shards still to be made)",
            stacklevel=2,
        )
        client = _connect(scheduler, BACK_S) if losses <= _MOST_LOSSES else None
        if client is None:
            raise WorkerError(
                "the scheduler is gone",
                path=scheduler,
                expected=f"it to come back within {BACK_S:.0f} s",
                hint=f"start it and {GOES_ON}",
            )


def _sent(
    client: Client,
    scheduler: str,
    make: Callable[[Task], Result],
    todo: dict[int, Item],
    task_of: Callable[[Item], Task],
    jobs: int | None,
    is_large: bool,
) -> Iterator[tuple[int, Result]]:
    """The results of one connection, each with its item's number."""
    stop = threading.Event()
    backend = _Backend(client, scheduler)
    watch = threading.Thread(target=_watch, args=(backend, client, stop), daemon=True)
    at_once = jobs or ("all" if not is_large else max(_LEAST_SENT, 2 * _threads(client)))
    parallel = Parallel(
        backend=backend,
        n_jobs=2,
        batch_size=1,
        pre_dispatch=at_once,
        return_as="generator_unordered",
    )
    results = parallel(
        delayed(_numbered)(make, number, task_of(item)) for number, item in list(todo.items())
    )
    watch.start()
    try:
        yield from results
    finally:
        stop.set()
        close_quietly(results)
        watch.join()


def _numbered(make: Callable[[Task], Result], number: int, task: Task) -> tuple[int, Result]:
    return number, make(task)


class _Backend(DaskDistributedBackend):
    """joblib's backend for Dask, which also hears of tasks that Dask gives up."""

    def __init__(self, client: Client, scheduler: str) -> None:
        super().__init__(client=client)
        self.scheduler = scheduler
        self._open: dict[Future, Callable[[Any], None]] = {}
        self._open_lock = threading.Lock()

    def effective_n_jobs(self, n_jobs: int) -> int:
        # With one, joblib would do the work in this process; and it looks so many tasks ahead.
        return 2

    def submit(self, func: Any, callback: Callable[[Any], None]) -> Future:
        future: Future = super().submit(func, callback)
        with self._open_lock:
            self._open[future] = callback
        future.add_done_callback(partial(self._done, func.items[0], callback))
        return future

    def _done(self, call: tuple, callback: Callable[[Any], None], future: Future) -> None:
        with self._open_lock:
            self._open.pop(future, None)
        error = future.exception()
        if error is not None:  # which joblib's own backend tells nobody
            callback(_given_up(error, call))

    def fail(self, error: Exception) -> None:
        """Ends the call with an error, as if one of its tasks had raised it."""
        with self._open_lock:
            callback = next(iter(self._open.values()), None)
        if callback is not None:
            callback(error)

    def retrieve_result_callback(self, out: Any) -> Any:
        if isinstance(out, CancelledError | asyncio.CancelledError):
            raise _SchedulerLost from None
        if isinstance(out, BaseException):
            raise out
        return super().retrieve_result_callback(out)


def _given_up(error: BaseException, call: tuple) -> Exception:
    """What Dask says of a task that it gives up, in our words."""
    _, (_, _, task), _ = call
    if isinstance(error, KilledWorker):
        worker = getattr(error.last_worker, "address", error.last_worker)
        return WorkerError(
            f"each worker that made it was ended, {error.allowed_failures + 1} in a row, "
            f"the last one {worker}",
            path=str(task),
            hint="most often that is the system, where memory runs out: give the workers more of "
            f"it, or fewer threads each (--nthreads); then {GOES_ON}",
        )
    return WorkerError(
        f"the cluster cannot run it: {type(error).__name__}: {error}",
        path=str(task),
        hint="install the same cutswap for the scheduler and all workers",
    )


def _watch(backend: _Backend, client: Client, stop: threading.Event) -> None:
    """Ends a wait that nobody would end: for workers that do not come, or a silent scheduler."""
    seen = time.monotonic()
    is_told = False
    first = client.scheduler_comm
    # It says so until it is heard: there may be no task yet that could fail.
    while not stop.wait(_WATCH_S):
        # A client that connects anew has dropped its tasks, and does not say so of one whose result
        # it was just fetching.
        if client.scheduler_comm is not first:
            backend.fail(_SchedulerLost())
            continue
        if _threads(client):
            seen, is_told = time.monotonic(), False
            continue
        silent_s = time.monotonic() - seen
        if silent_s > _WARN_S and not is_told:
            is_told = True
            # Shown by whoever shows warnings; this is no place to raise one.
            with suppress(UserWarning):
                warnings.warn(
                    f"{backend.scheduler}: no workers, waiting up to {BACK_S:.0f} s for one",
                    stacklevel=1,
                )
        if silent_s > BACK_S:
            backend.fail(
                WorkerError(
                    "there are no workers",
                    path=backend.scheduler,
                    expected=f"one within {BACK_S:.0f} s",
                    hint=f"start some (dask worker), then {GOES_ON}",
                )
            )


def _threads(client: Client) -> int:
    """Threads of all workers; 0 where the scheduler does not answer."""
    if client.scheduler is None:  # it is not connected
        return 0
    try:
        return sum(client.sync(client.scheduler.ncores, callback_timeout=_ANSWER_S).values())
    except Exception:  # whatever the connection raises; what it means is decided by time
        return 0


def _connect(scheduler: str, patience_s: float) -> Client | None:
    """A client; None where nobody answers in time."""
    deadline = time.monotonic() + patience_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            return Client(scheduler, timeout=min(left, _ANSWER_S), set_as_default=False)
        except (OSError, TimeoutError):
            time.sleep(min(0.5, left))
    return None


def _check_address(scheduler: str) -> None:
    """Raises ConfigError where this is no address; Dask itself tries for a long time."""
    try:
        scheme, place = parse_address(scheduler)
        get_backend(scheme)
        if scheme in ("tcp", "tls"):
            parse_host_port(place)
    except ValueError as error:
        raise ConfigError(
            "--scheduler is no address",
            expected="as dask scheduler prints it, such as tcp://10.0.0.1:8786",
            got=f"{scheduler} ({error})",
        ) from None


@contextmanager
def _closing(client: Client) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(Exception):  # of a connection that is gone
            client.close(timeout=_ANSWER_S)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Dask's own words of connections that come and go from the terminal."""
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _TALKERS]
    loggers = [logging.getLogger(name) for name in {*known, *_TALKERS}]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)
