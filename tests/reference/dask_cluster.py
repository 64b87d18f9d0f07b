"""A Dask scheduler and workers as processes of their own, on loopback or in network namespaces."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import REPO

STARTED_S = 120


def need_dask():
    """Skips where Dask is not installed."""
    pytest.importorskip("distributed", reason="dask and distributed are not installed")


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as one:
        one.bind((host, 0))
        return one.getsockname()[1]


@dataclass
class Cluster:
    """Processes that are ended with the block.

    Args:
        scratch: folder for their logs and temporary files.
        host: address of the scheduler.
        environment: more variables for all of them.
        inside: words before the scheduler's command, such as those that enter a namespace.
    """

    scratch: Path
    host: str = "127.0.0.1"
    environment: dict[str, str] = field(default_factory=dict)
    inside: Sequence[str] = ()
    port: int = 0
    scheduler: subprocess.Popen | None = None
    workers: list[subprocess.Popen] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    def __enter__(self) -> Cluster:
        self.port = free_port() if not self.inside else 8786
        self.start_scheduler()
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.workers, self.scheduler]:
            end(process)

    def start_scheduler(self) -> None:
        self.scheduler = self._start(
            "scheduler", "dask_scheduler", "--host", self.host, "--port", self.port,
            inside=self.inside,
        )  # fmt: skip

    def start_worker(
        self, *more: object, inside: Sequence[str] = (), nanny: bool = False
    ) -> subprocess.Popen:
        """One process more; with a nanny it is started anew when it dies."""
        options = ["--nanny" if nanny else "--no-nanny", *more]
        process = self._start(
            f"worker-{len(self.workers)}", "dask_worker", self.address, "--nthreads", 1,
            "--death-timeout", STARTED_S, "--local-directory", self.scratch / "local", *options,
            inside=inside,
        )  # fmt: skip
        self.workers.append(process)
        return process

    def wait_for(self, count: int) -> None:
        """Until so many workers are there."""
        from distributed import Client

        with Client(self.address, timeout=STARTED_S, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=STARTED_S)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.scratch.glob("*.log")))

    def _start(self, name, module, *arguments, inside) -> subprocess.Popen:
        paths = os.pathsep.join([str(REPO), str(REPO / "tests")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        command = [*inside, sys.executable, "-m", f"distributed.cli.{module}", "--no-dashboard"]
        # Not in the checkout, which would be found there without a PYTHONPATH too.
        with open(self.scratch / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [*command, *map(str, arguments)],
                cwd=self.scratch,
                env={**environment, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def end(process: subprocess.Popen) -> None:
    """Kills a process and those that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(is_so, *, seconds: float = 300) -> None:
    """Fails the test where it does not become so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail("waited in vain")
        time.sleep(0.02)
