"""`kill -9` at any moment, and runs that meet in one folder: whole sets and equal bytes, always."""

from __future__ import annotations

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from manifests.errors import SetError
from manifests.negative_set import NegativeSet
from manifests.shard import negative_digest
from manifests.verify import verify_set
from reference.faults import contents
from reference.fork_server import ForkServer, session_members
from reference.writers import FREE, NAME, SETUP_TORCH, WRITERS, Workshop, build

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with ForkServer(SETUP_TORCH) as server:
        yield Workshop(server, tmp_path_factory.mktemp("shop"))


KILLED = (
    "build", "build with saliency", "build by two workers", "build --overwrite", "build --add",
    "replay", "merge", "pull",
)  # fmt: skip
# Its processes start anew each time, which takes seconds.
FEW = [name for name in KILLED if name != "build by two workers"]


@pytest.mark.parametrize(
    ("name", "times"),
    [*((name, 3) for name in FEW)]
    + [pytest.param(name, 50, marks=pytest.mark.slow) for name in KILLED],
)
def test_killed_at_random_moments(shop, tmp_path, name, times):
    writer = WRITERS[name]
    seconds = shop.undisturbed(writer).seconds
    rng = np.random.default_rng(0)
    killed = 0
    for number in range(times):
        out = writer.prepare(shop.world, tmp_path / str(number))
        # One moment in every part of the command's duration.
        moment = (number + rng.random()) / times * seconds
        run = shop.server.run(writer.command(shop.world, out), kill_after=moment)
        assert run.code in (0, -9), run.output
        killed += run.code == -9
        shop.check_goes_on(writer, out)
        shutil.rmtree(out)
    print(f"{name}: killed {killed} of {times} times; {times} of {times} went on to equal bytes")
    assert killed >= times // 3


@pytest.mark.parametrize(
    ("name", "step"),
    [("build --add", 19), ("pull", 19)]
    + [pytest.param(name, 1, marks=pytest.mark.slow) for name in FEW if "saliency" not in name],
)
def test_killed_at_every_call_that_writes(shop, tmp_path, name, step):
    writer = WRITERS[name]
    calls = shop.undisturbed(writer).calls
    assert len(calls) > 15
    chosen = range(len(calls) - 2, -1, -step)  # from the end, where a set becomes one
    for number in chosen:
        out = writer.prepare(shop.world, tmp_path / str(number))
        fault = {"folders": [str(out)], "at": number, "error": "KILL"}
        run = shop.server.run(writer.command(shop.world, out), fault=fault)
        assert run.code == -9, (calls[number], run.output)
        shop.check_goes_on(writer, out)
        shutil.rmtree(out)
    print(f"{name}: {len(chosen)} of {len(calls)} calls were the last; all went on to equal bytes")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_die_with_the_command(shop, tmp_path):
    # One that lives on would write into a folder that the next run takes for its own.
    out = tmp_path / "out"
    command = build(shop.world.photos, out, *FREE, "--repeats", 30, jobs=2)
    run = shop.server.run(command, kill_when=str(out / NAME / "shard-*.h5"))
    assert run.code == -9
    deadline = time.monotonic() + 10
    while (left := session_members(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    files = contents(out)
    assert f"{NAME}/manifest.json" not in files
    run = shop.server.run(command)
    assert run.code == 0, run.output
    assert verify_set(out / NAME) == []
    assert all("tmp" not in name and "lock" not in name for name in contents(out))


def read_whole(folder: Path) -> str | None:
    """The digest of the set that a reader finds, all of it read; None where it finds none."""
    try:
        with NegativeSet.open(folder) as negative_set:
            for negative in negative_set:
                assert negative_digest(negative.image, negative.mask) == negative.digest
                assert negative_set.normal(negative.normal).source == negative.source
            return negative_set.digest
    except SetError as error:
        assert "\n" not in str(error)
        return None


@pytest.mark.parametrize(
    ("name", "times"),
    [("build --add", 1)]
    + [
        pytest.param(name, 20, marks=pytest.mark.slow)
        for name in ("build", "build --overwrite", "build --add")
    ],
)
def test_readers_see_nothing_or_a_whole_set(shop, tmp_path, name, times):
    writer = WRITERS[name]
    digests = shop.set_digests(writer)
    seen = {"nothing": 0, "old": 0, "new": 0}
    with ThreadPoolExecutor(1) as pool:
        for number in range(times):
            out = writer.prepare(shop.world, tmp_path / str(number))
            if writer.before is not None:
                assert read_whole(out / NAME) == digests[0]
            future = pool.submit(shop.server.run, writer.command(shop.world, out))
            while not future.done():
                digest = read_whole(out / NAME)
                assert digest is None or digest in digests
                kind = "nothing" if digest is None else ("old", "new")[digest == digests[-1]]
                seen[kind] += 1
            assert future.result().code == 0, future.result().output
            assert read_whole(out / NAME) == digests[-1]
    print(f"{name}: readers saw {seen}")
    if name == "build --add":  # the old set stays until the new one is there
        assert seen["nothing"] == 0 and seen["old"] > 0


@pytest.mark.parametrize(
    ("name", "times"),
    [("build with saliency", 2)]
    + [
        pytest.param(name, 20, marks=pytest.mark.slow)
        for name in ("build", "build --overwrite", "build --add", "replay", "merge", "pull")
    ],
)
def test_two_at_once_one_wins(shop, tmp_path, name, times):
    writer = WRITERS[name]
    refused, number = 0, 0
    # Where a run is quick and there are few, more of them until two have met.
    while number < times or (refused == 0 and number < 10):
        number += 1
        out = writer.prepare(shop.world, tmp_path / str(number))
        command = writer.command(shop.world, out)
        runs = shop.server.run_together([{"command": command}, {"command": command}])
        for run in runs:
            # The second may come when the first is done; then it has nothing to do.
            assert run.code in (0, 1), run.output
            if run.code == 1:
                refused += 1
                assert run.output.count("another run is writing here") == 1, run.output
                assert run.output.count("\n") == 1, run.output
        assert any(run.code == 0 for run in runs)
        shop.check_is_as_undisturbed(writer, out)
    print(f"{name}: {refused} of {number} times the second was told that another run is writing")
    assert refused > 0


@pytest.mark.parametrize("name", ["merge", "subset"])
def test_a_set_that_another_run_finishes_meanwhile_is_left_alone(shop, tmp_path, monkeypatch, name):
    # The folder was empty when this run looked, and is somebody's set when it gets the lock.
    from generator import merge, rearrangement, subset

    sets = shop.world.sets
    ours, theirs = {
        "merge": (
            lambda: merge.merge_sets([sets["first"], sets["second"]], tmp_path),
            lambda: merge.merge_sets([sets["second"], sets["first"]], tmp_path),
        ),
        "subset": (
            lambda: subset.subset_set(sets["first"], tmp_path, policies=("cutpaste",)),
            lambda: subset.subset_set(sets["first"], tmp_path, policies=("random-swap",)),
        ),
    }[name]
    real = rearrangement.writing

    @contextmanager
    def late(folder):
        with monkeypatch.context() as patch:
            patch.setattr(rearrangement, "writing", real)
            theirs()
        with real(folder):
            yield

    with monkeypatch.context() as patch:
        patch.setattr(rearrangement, "writing", late)
        with pytest.raises(SetError, match="--overwrite"):
            ours()
    assert verify_set(tmp_path / NAME) == []
    theirs()  # nothing to do
