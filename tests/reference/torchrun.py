"""Starts torchrun the way a user does, or processes as torchrun does: what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import REPO

from reference.machines import Machines


def start(*program: object, processes: int = 2, **environment: str) -> subprocess.Popen:
    """torchrun on a free port, one thread per process."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "1",
        "--nproc-per-node", str(processes), "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "localhost:0", *map(str, program),
    ]  # fmt: skip
    return _popen(command, environment)


def start_on(machines: Machines, name: str, *program: object, hidden: Path) -> subprocess.Popen:
    """torchrun with one process on one of several machines; the first holds the rendezvous.

    Args:
        hidden: a folder that the other machines have empty.
    """
    first = machines.names[0]
    command = [
        *machines.enter(name, hidden=[hidden] if name != first else []),
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(machines.names)),
        "--nproc-per-node", "1", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"{machines.address(first)}:29500",
        "--rdzv-conf", f"is_host={int(name == first)}", "--local-addr", machines.address(name),
        *map(str, program),
    ]  # fmt: skip
    return _popen(command, {"GLOO_SOCKET_IFNAME": machines.interface(name)})


def run_without_agent(*program: object, processes: int = 2) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of every process, started with the environment that torchrun's
    agent gives its workers. It saves the agent, and takes a free port that nobody else can take.
    """
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    started = [
        _popen(
            [sys.executable, *map(str, program)],
            {
                "RANK": str(rank), "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            },
        )
        for rank in range(processes)
    ]  # fmt: skip
    said = [finish(process) for process in started]
    return [(one.returncode, *text) for one, text in zip(started, said, strict=True)]


def _popen(command: list[str], environment: dict[str, str]) -> subprocess.Popen:
    path = os.pathsep.join([str(REPO), str(REPO / "tests")])
    return subprocess.Popen(
        command,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, *, timeout_s: float = 300.0) -> tuple[str, str]:
    """What it printed on stdout and stderr, with torchrun's own words about failures."""
    try:
        return process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"torchrun did not end\n{out}\n{err}") from None


def own_lines(err: str) -> list[str]:
    """What cutswap said on stderr."""
    starts = ("error: ", "interrupted", "warning: ", "note: ", "Usage")
    return [line for line in err.splitlines() if line.startswith(starts)]


SCENARIO = Path(__file__).with_name("two_processes.py")
FAULTY_FIT = Path(__file__).with_name("faulty_fit.py")
