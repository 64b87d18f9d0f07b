"""Interruptions between two shards."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

# The second shard is never begun, so that the kill comes in time however slow its sender is.
_BUILD = """
import sys, time
import generator.unit
from generator.cli import main
write, written = generator.unit.write_shard, []
def write_one_and_wait(*arguments, **options):
    if written:
        time.sleep(3600)
    written.append(write(*arguments, **options))
    return written[0]
generator.unit.write_shard = write_one_and_wait
main(sys.argv[1:])
"""


def kill_build_after_one_shard(arguments, folder):
    """Runs `cutswap-gen build` by one worker, and kills it when `folder` has its first shard."""
    command = [sys.executable, "-c", _BUILD, "build", *map(str, arguments), "--jobs", "1"]
    repo = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(command, cwd=repo, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not (folder / "shard-00000.h5").exists():
            assert process.poll() is None, "the build ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert [path.name for path in folder.glob("shard-*")] == ["shard-00000.h5"]
    assert not (folder / "manifest.json").exists()


@contextmanager
def stopped_after_one_shard(monkeypatch, module):
    """While it lasts, the first shard that `module` writes is its last: the second is interrupted.

    Gives the list of the names that were written.
    """
    write, written = module.write_shard, []

    def write_one_and_stop(path, *arguments, **options):
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", write_one_and_stop)
        yield written
