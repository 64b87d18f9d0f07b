"""Both commands as a user runs them: separate processes, files in, files out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO


def run(stage: str, *arguments: object, cwd: Path, exit_code: int = 0):
    """`cutswap-gen` or `cutswap-det` in a process of its own."""
    command = [sys.executable, "-m", f"{stage}.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_from_sample_data_to_results(tmp_path):
    run(
        "generator", "sample-data", "data", "--train", 10, "--test-good", 4, "--per-defect", 1,
        "--quiet", cwd=tmp_path,
    )  # fmt: skip
    run(
        "generator", "build", "data", "--out", "shards", "--image-size", 128, "--jobs", 2,
        "--shard-images", 5, cwd=tmp_path,
    )  # fmt: skip
    run("generator", "verify", "shards", cwd=tmp_path)
    fit = run(
        "detector", "fit", "shards", "--out", "models", "--updates", 3, "--frozen-start", 1,
        "--batch", 4, "--coreset", 0.05, cwd=tmp_path,
    )  # fmt: skip
    assert "loss" in fit.stderr and "accuracy" in fit.stderr
    result = run("detector", "eval", "models", "data", "--json", cwd=tmp_path)
    (record,) = json.loads(result.stdout)
    # Ten normals and three updates make no good detector, but defects must score above chance.
    assert record["metrics"]["pixel_auroc"] > 0.6
    category = record["category"]
    run(
        "detector", "score", f"models/{category}", f"data/{category}/test/dent", "--heatmaps",
        "heat", "--output", "csv", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "heat" / "000.png").is_file()
    assert not list(tmp_path.rglob("*.tmp-*"))


def slice_of(tiles: Path, target: Path) -> tuple[Path, Path]:
    """24 free tiles, 16 of them for training, and 4 defective ones of three kinds."""
    names = []
    for kind, count in (("Free", 24), ("Blowhole", 4), ("Break", 4), ("Uneven", 4)):
        folder = target / "mtd" / f"MT_{kind}" / "Imgs"
        folder.mkdir(parents=True)
        for path in sorted((tiles / f"MT_{kind}" / "Imgs").glob("*.jpg"))[:count]:
            shutil.copy(path, folder)
            shutil.copy(path.with_suffix(".png"), folder)
            if kind == "Free":
                names.append(path.name)
    train_list = target / "train.txt"
    train_list.write_text("\n".join(names[:16]) + "\n")
    return target / "mtd", train_list


def test_a_slice_of_the_real_tiles(tiles, tmp_path):
    data, train_list = slice_of(tiles, tmp_path)
    run(
        "generator", "build", data, "--train-list", train_list, "--out", "shards",
        "--image-size", 128, "--jobs", 1, cwd=tmp_path,
    )  # fmt: skip
    run(
        "detector", "fit", "shards", "--out", "models", "--updates", 0, "--coreset", 0.05,
        cwd=tmp_path,
    )  # fmt: skip
    result = run(
        "detector", "eval", "models", data, "--train-list", train_list, "--json", cwd=tmp_path
    )
    (record,) = json.loads(result.stdout)
    assert record["counts"]["good"] == 8 and record["counts"]["defective"] == 12
    assert record["metrics"]["image_auroc"] > 0.7
    # Without the list the same: what the model has not seen.
    result = run("detector", "eval", "models", data, "--json", cwd=tmp_path)
    (record,) = json.loads(result.stdout)
    assert record["counts"]["good"] == 8


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process group")
def test_ctrl_c_ends_a_parallel_build_cleanly(sample_data, category_name, tmp_path):
    command = [
        sys.executable, "-m", "generator.cli", "build", str(sample_data), "--out", str(tmp_path),
        "--image-size", "128", "--shard-images", "1", "--jobs", "2",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=REPO, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    folder = tmp_path / category_name
    deadline = time.monotonic() + 120
    while not list(folder.glob("shard-*.h5")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    # As a terminal does: to every process of the group.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and "interrupted" in errors
    assert not list(folder.glob("*.tmp-*"))
    assert not (folder / "manifest.json").exists()
