"""Shards made on a Dask cluster: equal bytes, failures that say where, and what ends a wait."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace

import pytest
from conftest import IMAGE_SIZE, REPO, invoke_gen
from test_gen_pipeline import digests, good_photos
from test_gen_textures import texture_folder

from generator import output, pipeline, scan
from manifests.errors import ConfigError, WorkerError
from manifests.verify import verify_set
from reference.dask_cluster import Cluster, end, need_dask

FREE = (
    "--image-size", 64, "--shard-images", 1, "--policies", "random-swap,cutpaste", "--quiet",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A worker of two threads and one of one, without access to the checkout's folder."""
    need_dask()
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.start_worker("--nthreads", 2)
        running.start_worker()
        running.wait_for(2)
        yield running


def on(cluster, data, out, *more, exit_code=0):
    return invoke_gen(
        "build", data, "--out", out, "--backend", "dask", "--scheduler", cluster.address,
        "--quiet", *more, exit_code=exit_code,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_a_cluster_gives_the_bytes_of_one_worker(
    cluster, sample_data, built, category_name, tmp_path, monkeypatch, kind
):
    monkeypatch.chdir(tmp_path)  # workers have another working directory
    data = shutil.copytree(sample_data, tmp_path / "data")
    out = "out" if kind == "folder" else f"file://{tmp_path}/out"
    on(cluster, data.name, out, "--image-size", IMAGE_SIZE, "--shard-images", 4)
    assert digests(tmp_path / "out" / category_name) == digests(built / category_name)
    assert verify_set(tmp_path / "out" / category_name) == []


def test_a_url_needs_no_worker_that_sees_the_images(
    cluster, built, sample_data, category_name, tmp_path, monkeypatch
):
    # The coordinator reads them; the paths that go along lead nowhere.
    real = scan.scan_one

    def moved(sample, geometry, *, max_pixels):
        image, canvas = real(sample, geometry, max_pixels=max_pixels)
        return replace(image, path=tmp_path / sample.source), canvas

    data = {image.name: image.read_bytes() for image in sample_data.rglob("train/good/*")}
    monkeypatch.setattr(scan, "scan_one", moved)
    monkeypatch.setattr(
        "generator.url_output.read_bytes", lambda path, *, max_pixels: data[path.name]
    )
    on(
        cluster, sample_data, f"file://{tmp_path}/out", "--image-size", IMAGE_SIZE,
        "--shard-images", 4, "--reuse-saliency", built, "--jobs", 1,
    )  # fmt: skip
    assert digests(tmp_path / "out" / category_name) == digests(built / category_name)


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_textures_travel_with_the_task(cluster, tmp_path, monkeypatch, kind):
    """Workers find no folder of textures: it is gone before the first shard is sent."""
    photos = good_photos(tmp_path / "photos", 5)
    folder = texture_folder(tmp_path / "textures")
    more = ("--image-size", 64, "--shard-images", 2, "--policies", "perlin", "--textures", folder)
    invoke_gen("build", photos, "--out", tmp_path / "one", *more, "--jobs", 1, "--quiet")
    real = scan.scan_samples

    def remove_first(*arguments, **options):
        folder.rename(tmp_path / "gone")
        return real(*arguments, **options)

    monkeypatch.setattr(pipeline, "scan_samples", remove_first)
    out = tmp_path / "out" if kind == "folder" else f"file://{tmp_path}/out"
    on(cluster, photos, out, *more)
    assert not folder.exists()
    assert digests(tmp_path / "out" / "photos") == digests(tmp_path / "one" / "photos")
    assert verify_set(tmp_path / "out" / "photos") == []


def test_failures_name_worker_and_image_and_the_next_run_goes_on(cluster, tmp_path, monkeypatch):
    photos = good_photos(tmp_path / "photos", 5)
    spoilt, good = photos / "photo 2.png", (photos / "photo 2.png").read_bytes()
    real = scan.scan_samples

    def spoil(*arguments, **options):
        found = real(*arguments, **options)
        spoilt.write_bytes(good + b"x")
        return found

    monkeypatch.setattr(pipeline, "scan_samples", spoil)
    result = on(cluster, photos, tmp_path / "out", *FREE, exit_code=1)
    assert f"{spoilt}: changed while the set was built, on worker tcp://127.0.0.1:" in result.output
    assert result.output.count("\n") == 1
    assert not list((tmp_path / "out").rglob("*.run-*"))
    monkeypatch.undo()
    spoilt.write_bytes(good)
    on(cluster, photos, tmp_path / "out", *FREE)
    invoke_gen("build", photos, "--out", tmp_path / "one", *FREE, "--jobs", 1)
    assert digests(tmp_path / "out" / "photos") == digests(tmp_path / "one" / "photos")


def test_a_folder_that_workers_do_not_share_is_named(cluster, tmp_path, monkeypatch):
    photos = good_photos(tmp_path / "photos", 2)
    real = output.RunPlace
    monkeypatch.setattr(output, "RunPlace", lambda run: real(tmp_path / "elsewhere" / run.name))
    result = on(cluster, photos, tmp_path / "out", *FREE, exit_code=1)
    assert "is not here" in result.output and "or a URL" in result.output
    assert "on worker tcp://" in result.output and "photo" in result.output


def kill_worker(number):
    os.kill(os.getpid(), signal.SIGKILL)


def double(number):
    return 2 * number


class NotThere:
    """What a worker cannot make again out of what it is sent."""

    def __reduce__(self):
        return int, ("not a number",)


def test_a_task_that_ends_its_workers_is_named(tmp_path):
    need_dask()
    from generator.dask_backend import in_dask

    once = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with Cluster(tmp_path, environment=once) as fragile:
        fragile.start_worker()
        fragile.wait_for(1)
        with (
            pytest.raises(
                WorkerError, match=r"1 in a row, the last one tcp://127\.0\.0\.1:"
            ) as error,
            in_dask(kill_worker, [5], lambda item: item, scheduler=fragile.address) as results,
        ):
            list(results)
        assert error.value.path == "5" and "memory" in error.value.hint


def test_what_a_cluster_cannot_read_ends_the_wait(cluster):
    from generator.dask_backend import in_dask

    with (
        pytest.raises(WorkerError, match="cannot run it"),
        in_dask(double, range(3), lambda item: NotThere(), scheduler=cluster.address) as results,
    ):
        list(results)
    with in_dask(double, range(30), lambda item: item, scheduler=cluster.address) as results:
        assert sorted(results) == list(range(0, 60, 2))


def test_a_wait_for_a_scheduler_or_workers_ends(tmp_path, monkeypatch):
    need_dask()
    from generator import dask_backend

    monkeypatch.setattr(dask_backend, "FIRST_S", 60.0)
    monkeypatch.setattr(dask_backend, "BACK_S", 1.0)
    monkeypatch.setattr(dask_backend, "_WARN_S", 0.2)
    monkeypatch.setattr(dask_backend, "_WATCH_S", 0.1)
    arguments = (double, [1], lambda item: item)
    with Cluster(tmp_path) as empty:
        with (
            pytest.warns(UserWarning, match="no workers, waiting"),
            pytest.raises(WorkerError, match="there are no workers"),
            dask_backend.in_dask(*arguments, scheduler=empty.address) as results,
        ):
            list(results)
        monkeypatch.setattr(dask_backend, "BACK_S", 60.0)
        monkeypatch.setattr(dask_backend, "_WARN_S", 60.0)
        with (
            pytest.warns(UserWarning, match="the scheduler is gone"),
            pytest.raises(WorkerError, match="the scheduler is gone"),
            dask_backend.in_dask(*arguments, scheduler=empty.address) as results,
        ):
            monkeypatch.setattr(dask_backend, "_connect", dying(dask_backend._connect, empty))
            list(results)
    monkeypatch.undo()
    monkeypatch.setattr(dask_backend, "FIRST_S", 0.5)
    with (
        pytest.raises(WorkerError, match="no scheduler answers"),
        dask_backend.in_dask(*arguments, scheduler=empty.address) as results,
    ):
        list(results)
    for address in ("nonsense", "foo://127.0.0.1:1", "tcp://127.0.0.1:port"):
        with (
            pytest.raises(ConfigError, match="--scheduler is no address"),
            dask_backend.in_dask(*arguments, scheduler=address),
        ):
            pass


def dying(connect, cluster):
    """Connects once, to a scheduler that is killed a moment later."""
    import threading

    def once(scheduler, patience_s):
        client = connect(scheduler, patience_s) if cluster.scheduler.poll() is None else None
        if client is not None:
            threading.Timer(0.5, end, [cluster.scheduler]).start()
        return client

    return once


def test_dask_needs_its_address(sample_data, tmp_path):
    need_dask()
    result = invoke_gen("build", sample_data, "--out", tmp_path, "--backend", "dask", exit_code=2)
    assert "--backend dask needs --scheduler" in result.output
    result = invoke_gen(
        "build", sample_data, "--out", tmp_path, "--scheduler", "tcp://127.0.0.1:1", exit_code=2
    )
    assert "leave --scheduler out" in result.output


@pytest.mark.slow
def test_ray_gives_the_bytes_of_one_worker(
    sample_data, built, category_name, tmp_path, monkeypatch
):
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes out
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    for out in (tmp_path / "folder", f"file://{tmp_path}/url"):
        invoke_gen(
            "build", sample_data, "--out", out, "--image-size", IMAGE_SIZE, "--shard-images", 4,
            "--backend", "ray", "--jobs", 2, "--quiet",
        )  # fmt: skip
    for root in ("folder", "url"):
        assert digests(tmp_path / root / category_name) == digests(built / category_name)
