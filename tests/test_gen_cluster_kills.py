"""A cluster whose processes are killed while it builds, and one on machines of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, invoke_gen
from test_gen_pipeline import digests, good_photos

from manifests.location import Location
from manifests.remote import open_location
from manifests.verify import verify_set
from reference.buckets import s3_bucket
from reference.dask_cluster import Cluster, end, need_dask, wait_until
from reference.machines import Machines, need_namespaces

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL and process groups"),
]
NAME = "photos"
N_SHARDS = 24
OPTIONS = (
    "--image-size", 128, "--shard-images", 1, "--policies", "random-swap,cutpaste", "--repeats", 20,
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return good_photos(tmp_path_factory.mktemp("data") / NAME, N_SHARDS, side=128)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    invoke_gen("build", photos, "--out", out, *OPTIONS, "--jobs", 1, "--quiet")
    return digests(out / NAME)


def command(photos: Path, out: object, address: str) -> list[str]:
    words = [
        sys.executable, "-m", "generator.cli", "build", photos, "--out", out, "--backend", "dask",
        "--scheduler", address, *OPTIONS, "--json",
    ]  # fmt: skip
    return list(map(str, words))


def run(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        words, cwd=REPO, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def finished(folder: Path) -> int:
    return len(list(folder.glob("shard-*.h5")))


def nanny_children(pid: int) -> list[int]:
    """Processes that a nanny has started, the worker among them."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_workers_killed_at_random_moments(photos, whole, tmp_path, kind):
    need_dask()
    folder = tmp_path / "out" / NAME
    out = tmp_path / "out" if kind == "folder" else f"file://{tmp_path}/out"
    rng = np.random.default_rng(0)
    # A task is given up when it has lost so many workers, its own fault or not.
    patient = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "100"}
    with Cluster(tmp_path, environment=patient) as cluster, ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            cluster.start_worker(nanny=True)
        cluster.wait_for(2)
        future = pool.submit(run, command(photos, out, cluster.address))
        kills = 0
        wait_until(lambda: finished(folder) > 0)
        while not future.done() and kills < 12:
            target = finished(folder) + 1
            wait_until(lambda target=target: finished(folder) >= target or future.done())
            for pid in nanny_children(cluster.workers[int(rng.integers(2))].pid):
                kills += 1
                os.kill(pid, signal.SIGKILL)
        answer = future.result()
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)[0]["fresh_images"] == N_SHARDS
    assert digests(folder) == whole
    print(f"{kind}: {kills} processes of workers killed")
    assert kills > 3


def test_a_scheduler_that_is_killed_and_comes_back(photos, whole, tmp_path):
    need_dask()
    folder = tmp_path / "out" / NAME
    with Cluster(tmp_path) as cluster, ThreadPoolExecutor(1) as pool:
        workers = [cluster.start_worker() for _ in range(2)]
        cluster.wait_for(2)
        future = pool.submit(run, command(photos, tmp_path / "out", cluster.address))
        for count in (3, 10):
            wait_until(lambda count=count: finished(folder) >= count)
            before = {path.name: path.stat().st_ino for path in folder.glob("shard-*.h5")}
            end(cluster.scheduler)
            for worker in workers:  # they end by themselves when they notice
                end(worker)
            cluster.start_scheduler()
            workers = [cluster.start_worker() for _ in range(2)]
        answer = future.result()
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("the scheduler is gone, waiting up to") == 2
    assert digests(folder) == whole
    kept = sum((folder / name).stat().st_ino == inode for name, inode in before.items())
    print(f"{kept} of {len(before)} shards that were there stayed as they were")
    assert kept >= len(before) - 2 - 2  # one in hand per worker, each time


def test_a_coordinator_that_is_killed_leaves_its_workers_no_way_in(photos, whole, tmp_path):
    need_dask()
    folder = tmp_path / "out" / NAME
    with Cluster(tmp_path) as cluster:
        for _ in range(2):
            cluster.start_worker()
        cluster.wait_for(2)
        words = command(photos, tmp_path / "out", cluster.address)
        first = subprocess.Popen(words, cwd=REPO, start_new_session=True)
        wait_until(lambda: finished(folder) >= 3)
        end(first)
        assert list(folder.glob(".run-*"))
        other = run([*words, "--seed", "1", "--overwrite"])
        assert other.returncode == 0, other.stderr
        assert verify_set(folder) == [] and digests(folder) != whole
        assert not list(folder.glob(".run-*"))
        again = run([*words, "--overwrite"])
        assert again.returncode == 0, again.stderr
    assert digests(folder) == whole


def test_a_build_goes_on_after_its_coordinator_is_killed(photos, whole, tmp_path):
    need_dask()
    folder = tmp_path / "out" / NAME
    for out in (tmp_path / "out", f"file://{tmp_path}/out"):
        with Cluster(tmp_path) as cluster:
            cluster.start_worker()
            cluster.wait_for(1)
            words = command(photos, out, cluster.address)
            first = subprocess.Popen(words, cwd=REPO, start_new_session=True)
            wait_until(lambda: finished(folder) >= 5)
            end(first)
            answer = run(words)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)[0]["resumed_shards"] >= 4
        assert digests(folder) == whole
        shutil.rmtree(folder)


def test_machines_with_addresses_of_their_own(photos, whole, tmp_path, monkeypatch):
    need_dask()
    need_namespaces()
    with Machines(["scheduler", "one", "two"]) as machines:
        # Neither the images nor the checkout's neighbours are to be seen from a worker.
        apart = {name: machines.enter(name, hidden=[photos]) for name in ("one", "two")}
        with s3_bucket(monkeypatch, address=machines.own_address) as url:
            import fsspec

            settings = {f"FSSPEC_S3_{k.upper()}": v for k, v in fsspec.config.conf["s3"].items()}
            for name, value in settings.items():
                monkeypatch.setenv(name, value)
            with (
                Cluster(
                    tmp_path, host=machines.address("scheduler"), inside=machines.enter("scheduler")
                ) as cluster,
                ThreadPoolExecutor(1) as pool,
            ):
                for name, inside in apart.items():
                    cluster.start_worker("--host", machines.address(name), inside=inside)
                cluster.wait_for(2)
                future = pool.submit(run, command(photos, url, cluster.address))
                target = Location.of(f"{url}/{NAME}")
                wait_until(lambda: sum(n.endswith(".h5") for n in target.names()) >= 4)
                end(cluster.workers[0])
                cluster.start_worker("--host", machines.address("one"), inside=apart["one"])
                answer = future.result()
            assert answer.returncode == 0, answer.stderr
            assert target.names() == sorted(whole)
            assert digests(open_location(f"{url}/{NAME}")) == whole
            seen = cluster.logs()
            assert f"{machines.address('one')}:" in seen and f"{machines.address('two')}:" in seen
