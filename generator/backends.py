"""What shards are made by: worker processes, threads of this one, or a cluster; all joblib's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from generator.threads import in_threads
from generator.workers import in_workers
from manifests.errors import ConfigError

Item = TypeVar("Item")
Task = TypeVar("Task")
Result = TypeVar("Result")

BACKENDS = ("loky", "threading", "dask", "ray")
_PACKAGES = {"dask": "distributed", "ray": "ray"}


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Which of joblib's backends makes the shards.

    Attributes:
        name: one of `BACKENDS`.
        scheduler: address of Dask's scheduler or of a Ray cluster; None for a Ray of this machine.

    Raises:
        ConfigError: unknown, not installed, or an address too many or too few.
    """

    name: str = "loky"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.name not in BACKENDS:
            raise ConfigError("--backend is unknown", expected=" | ".join(BACKENDS), got=self.name)
        if self.scheduler is not None and not self.is_cluster:
            raise ConfigError(
                f"--scheduler: --backend {self.name} works on this machine alone",
                got=self.scheduler,
                hint="pass --backend dask (or ray), or leave --scheduler out",
            )
        package = _PACKAGES.get(self.name)
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"--backend {self.name} needs {package}, which is not installed",
                hint=f'pip install "cutswap[{self.name}]"',
            )
        if self.name == "dask" and self.scheduler is None:
            raise ConfigError(
                "--backend dask needs --scheduler",
                expected="an address such as tcp://10.0.0.1:8786",
                hint="start one with dask scheduler, it prints its address",
            )

    @property
    def is_cluster(self) -> bool:
        """Whether its workers may be on other machines, and outlive the process that asks."""
        return self.name in _PACKAGES

    def run(
        self,
        make: Callable[[Task], Result],
        items: Sequence[Item],
        task_of: Callable[[Item], Task],
        *,
        jobs: int | None,
        is_large: bool = False,
    ) -> AbstractContextManager[Iterator[Result]]:
        """Makes something of every item.

        Args:
            make: a function that workers can import.
            items: what is to be made, kept here.
            task_of: what `make` needs for an item, made when it is about to be sent.
            jobs: tasks at once; None for as many as the cluster has room for.
            is_large: tasks are megabytes, so that few are to be on their way.

        Yields:
            The results as they come, or what went wrong. When the block ends early, what has not
            begun is not begun any more.
        """
        if self.name == "dask" and self.scheduler is not None:
            from generator.dask_backend import in_dask

            return in_dask(
                make, items, task_of, scheduler=self.scheduler, jobs=jobs, is_large=is_large
            )
        tasks = map(task_of, items)
        if self.name == "ray":
            from generator.ray_backend import in_ray

            return in_ray(make, tasks, address=self.scheduler, jobs=jobs)
        workers = max(1, min(jobs or 1, len(items)))
        if self.name == "threading":
            return in_threads(make, tasks, workers=workers)
        return in_workers(make, tasks, workers=workers)
