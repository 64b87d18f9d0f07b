"""Tasks on a Ray cluster, by way of the backend that Ray gives to joblib."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import ray
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from ray.util.joblib import register_ray

from manifests.errors import ConfigError, WorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")

_CALLS_PER_WORKER = 4


@contextmanager
def in_ray(
    make: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    address: str | None = None,
    jobs: int | None = None,
) -> Iterator[Iterator[Result]]:
    """Runs `make` on every task, on a Ray cluster.

    Args:
        make: a function that workers can import.
        tasks: taken as they are needed.
        address: of the cluster; None for the one that `RAY_ADDRESS` names, else for a Ray of this
            machine that ends with the block.
        jobs: workers; None for one per CPU of the cluster.

    Raises:
        ConfigError: there is no cluster at that address.
        WorkerError: a worker ended.
        Whatever `make` raises.
    """
    is_own = not ray.is_initialized()
    if is_own:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                "no Ray cluster answers", path=address, got=error, hint="check --scheduler"
            ) from None
    try:
        register_ray()
        with parallel_config(backend="ray", n_jobs=jobs or -1), Parallel(batch_size=1) as parallel:
            yield _results(parallel, make, iter(tasks), jobs)
    finally:
        if is_own:
            ray.shutdown()


def _results(
    parallel: Parallel,
    make: Callable[[Task], Result],
    coming: Iterator[Task],
    jobs: int | None,
) -> Iterator[Result]:
    # Ray's backend gives all results of a call at its end, so that a call is a few tasks a worker.
    at_once = _CALLS_PER_WORKER * effective_n_jobs(jobs or -1)
    try:
        while tasks := list(islice(coming, at_once)):
            yield from parallel(delayed(make)(task) for task in tasks)
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"a Ray worker ended before its work was done: {type(error).__name__}",
            hint="most often that is the system, where memory runs out: run again with fewer "
            "--jobs, it goes on where this run stopped",
        ) from error
