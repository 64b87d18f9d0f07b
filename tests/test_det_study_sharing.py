"""What cells share never decides their scores, and `compare` scores the images that `eval` does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import invoke_det
from PIL import Image

from detector.study.cell_scores import CellScores
from detector.study.compare import assemble_plan
from detector.study.outcome import Outcomes
from detector.study.runner import Runner
from manifests.progress import Progress

HEAD = """
seeds = [0]
coresets = [0.2]
baseline = "plain"
[build]
image_size = "224x96"
levels = [3]
policies = "swap"
[fit]
updates = 0
batch = 3
[arms.plain]
"""
SETS = """
[sets.roi]
roi = "roi.png"
[sets.letterbox]
fit = "letterbox"
"""
PER_IMAGE = (
    "sources", "defects", "labels", "image", "has_truth", "good", "bad", "overlap", "components"
)  # fmt: skip
OTHERS = {
    "roi": "set = 'roi'",
    "letterbox": "set = 'letterbox'",
    "tile": "tile = 192",
    "stage": "stages = [2]",
    "precision": "feature_precision = 'bf16'",
    "blur": "sigma = 16",
    "reweight": "reweight = true",
    "projection": "projection_dim = 2",
    "small": "coreset_max = 5",
    "gaussian": "detector = 'gaussian'",
}


def _runner(folder: Path, data: Path, arms: dict[str, str], out: Path, *, sets: str = "") -> Runner:
    path = folder / "sharing.toml"
    path.write_text(
        HEAD + sets + "".join(f"[arms.{name}]\n{more}\n" for name, more in arms.items())
    )
    return Runner(
        assemble_plan(path, data=[f"part={data}"]),
        out,
        device="cpu",
        jobs=1,
        quiet=True,
        make_progress=lambda label, unit: Progress(label, unit, quiet=True),
    )


def _scores(runner: Runner) -> dict[str, CellScores]:
    return {cell.arm.name: CellScores.load(cell.path) for cell in runner.cells}


@pytest.fixture
def masked(sample_data, category_name, tmp_path) -> Path:
    """A folder with a mask of a region."""
    photo = next((sample_data / category_name / "train/good").iterdir())
    mask = np.zeros(Image.open(photo).size[::-1], dtype=np.uint8)
    mask[mask.shape[0] // 3 :, : mask.shape[1] // 2] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    return tmp_path


def test_scores_are_those_of_each_arm_alone(sample_data, masked):
    together = _runner(masked, sample_data, OTHERS, masked / "together", sets=SETS)
    assert together.run().is_whole
    (masked / "alone").mkdir()
    shutil.copytree(masked / "together/sets", masked / "alone/sets")
    alone = _runner(masked, sample_data, OTHERS, masked / "alone", sets=SETS)
    cells = alone.cells
    for cell in cells:
        alone.cells = [cell]
        assert alone.run().fresh == 1
    alone.cells = cells
    expected, found = _scores(alone), _scores(together)
    for name, scores in expected.items():
        assert np.array_equal(found[name].image, scores.image), name
        assert np.array_equal(found[name].good, scores.good), name
    plain = expected.pop("plain")
    for name, scores in expected.items():
        is_same = np.array_equal(scores.image, plain.image)
        assert not (is_same and np.array_equal(scores.good, plain.good)), f"{name} reaches nothing"


def test_normals_in_other_files_are_left_out_as_eval_does(sample_data, category_name, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(sample_data, data)
    for number, path in enumerate(sorted((data / category_name / "train/good").iterdir())[:3]):
        Image.open(path).save(data / category_name / "test/good" / f"zz{number}.bmp")
    runner = _runner(tmp_path, data, {"stage": OTHERS["stage"]}, tmp_path / "study")
    assert runner.run().is_whole
    (folder,) = (tmp_path / "study/sets").iterdir()
    options = ("--updates", 0, "--batch", 3, "--coreset", 0.2)
    invoke_det("fit", folder, "--out", tmp_path / "models", *options)
    invoke_det("eval", tmp_path / "models", data, "--out", tmp_path / "results")
    (of_eval,) = json.loads((tmp_path / "results/metrics.json").read_text())
    scores = _scores(runner)["plain"]
    assert not [name for name in scores.sources if "zz" in name] and len(scores.sources) == 8
    assert scores.exact == pytest.approx(of_eval["metrics"])

    # On a small canvas another one may look like a normal: it is left out of every arm's figures.
    (whole,) = Outcomes(runner.plan, runner.cells, replicates=9).tables()
    (cell,) = [cell for cell in runner.cells if cell.arm.name == "stage"]
    few = CellScores.load(cell.path)
    is_seen = np.zeros(len(few.sources), dtype=bool)
    is_seen[np.flatnonzero(~few.labels)[0]] = True
    columns = {name: getattr(few, name)[~is_seen] for name in PER_IMAGE}
    replace(few, **columns).save(cell.path)
    (found,) = Outcomes(runner.plan, runner.cells, replicates=9).tables()
    assert (whole.n_good, found.n_good) == (3, 2) and found.n_defective == whole.n_defective
    assert (whole.n_seen, found.n_seen) == (3, 4)  # the copies; one other is for validation
