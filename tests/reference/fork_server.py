"""Commands run in forks of a process that has imported everything, killed when one likes.

A command so starts in milliseconds, and its duration is that of its work: moments of death fall on
the work and not on the imports. The fork is a process like any other: it leads a session of its
own, and the SIGKILL meets it alone, not the workers it has started.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import glob
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

REPO = Path(__file__).resolve().parent.parent.parent
HANG_S = 120.0

_START = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(REPO)!r}, {str(REPO / "tests")!r}]
from reference.fork_server import serve
serve(Path(sys.argv[1]), sys.argv[2])
"""


@dataclass(frozen=True)
class Run:
    """How a command ended.

    Attributes:
        code: exit code; negative for a signal.
        seconds: from the fork to the end.
        output: stdout and stderr.
        calls: what `FailingCalls` counted, empty without it.
        pid: also the number of its session.
    """

    code: int
    seconds: float
    output: str
    calls: tuple[str, ...]
    pid: int


class ForkServer:
    """Use as a context manager; the first command waits for the imports.

    Args:
        setup: Python source that is run once, before the first fork: what is to be imported.
    """

    def __init__(self, setup: str) -> None:
        self._files = tempfile.TemporaryDirectory(prefix="fork-server-")
        environment = {"CUTSWAP_CACHE": self._files.name, **os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, self._files.name, setup],
            cwd=REPO,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._files.cleanup()

    def run(
        self,
        command: list | str,
        *,
        kill_after: float | None = None,
        kill_when: str | None = None,
        fault: dict | None = None,
    ) -> Run:
        """One command.

        Args:
            command: module and arguments for its `main`, or Python source.
            kill_after: seconds after which it gets SIGKILL.
            kill_when: pattern; it gets SIGKILL when there is a file of that name.
            fault: arguments of `FailingCalls`.
        """
        request = {"kill_after": kill_after, "kill_when": kill_when, "fault": fault}
        return self.run_together([{"command": command, **request}])[0]

    def run_together(self, requests: list[dict]) -> list[Run]:
        """Several commands, started at one moment; each is a table of the arguments of `run`."""
        for request in requests:
            if not isinstance(request["command"], str):
                request["command"] = [str(part) for part in request["command"]]
        self._process.stdin.write(json.dumps(requests) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        assert reply, "the fork server has died"
        return [Run(**{**row, "calls": tuple(row["calls"])}) for row in json.loads(reply)]


def session_members(session: int) -> list[int]:
    """Processes of a session, zombies left out: what a killed command has left running."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(path.parent.name))
    return found


def serve(files: Path, setup: str) -> NoReturn:
    """The other process: forks a child per command until its input ends."""
    exec(compile(setup, "setup", "exec"), {})
    gc.freeze()  # so that a child's collector does not touch, and so copy, all that was imported
    # Only from here on, so that a child that is killed at once still is known to have been there.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    replies, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        requests = json.loads(line)
        gate = os.pipe()
        pids = []
        for number, request in enumerate(requests):
            pid = os.fork()
            if pid == 0:
                _child(request, files / str(number), gate)
            pids.append(pid)
        os.close(gate[0])
        ends = _wait(requests, pids, gate[1])
        rows = []
        for number, (pid, (code, seconds)) in enumerate(zip(pids, ends, strict=True)):
            output = (files / f"{number}.out").read_text(errors="replace")
            calls = files / f"{number}.calls"
            names = json.loads(calls.read_text()) if calls.exists() else []
            calls.unlink(missing_ok=True)
            rows.append(
                {"code": code, "seconds": seconds, "output": output, "calls": names, "pid": pid}
            )
        replies.write(json.dumps(rows) + "\n")
        replies.flush()
    os._exit(0)  # without taking apart all that was imported


def _wait(requests: list[dict], pids: list[int], gate: int) -> list[tuple[int, float]]:
    """Open the gate, kill each child at its time, and wait for all of them."""
    os.close(gate)
    started = time.monotonic()
    due = {
        pid: started + (HANG_S if request.get("kill_after") is None else request["kill_after"])
        for pid, request in zip(pids, requests, strict=True)
    }
    when = {
        pid: request["kill_when"]
        for pid, request in zip(pids, requests, strict=True)
        if request.get("kill_when")
    }
    ends: dict[int, tuple[int, float]] = {}
    while len(ends) < len(pids):
        for pid in set(pids) - ends.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ends[pid] = (os.waitstatus_to_exitcode(status), time.monotonic() - started)
        alive = [pid for pid in pids if pid not in ends]
        if not alive:
            break
        first = min(alive, key=due.__getitem__)
        left = due[first] - time.monotonic()
        for pid in when.keys() & alive:
            left = min(left, 0.005)
            if glob.glob(when[pid]):
                first, left = pid, 0.0
        if left > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
        else:
            os.kill(first, signal.SIGKILL)
            when.pop(first, None)
            due[first] = time.monotonic() + HANG_S
    return [ends[pid] for pid in pids]


def _child(request: dict, files: Path, gate: tuple[int, int]) -> NoReturn:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    random.seed()
    output = os.open(files.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    os.close(gate[1])
    os.read(gate[0], 1)
    fault, code = request.get("fault"), 70
    try:
        if fault is None:
            code = _command(request["command"])
        else:
            from reference.faults import FailingCalls

            with FailingCalls(**fault) as failing:
                code = _command(request["command"])
            files.with_suffix(".calls").write_text(json.dumps(failing.calls))
    except BaseException:
        traceback.print_exc()
    # What happens at the end of any process (a pool of workers is shut down), but without taking
    # apart all that was imported.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def _command(command: list | str) -> int:
    from manifests.command_line import domain_errors

    try:
        if isinstance(command, str):
            domain_errors(lambda: exec(compile(command, "command", "exec"), {}))()
        else:
            module, *arguments = command
            importlib.import_module(module).main(arguments, prog_name=module)
    except SystemExit as error:
        return error.code or 0
    return 0
