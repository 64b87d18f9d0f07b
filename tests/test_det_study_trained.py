"""A study of detectors that are trained themselves: kept, found again, and as `fit` makes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import invoke_det

from detector.study.compare import assemble_plan, compare
from detector.study.extractors import LEARNED
from manifests.progress import Progress

PLAN = """
seeds = [1]
coresets = [0.05, 0.2]
baseline = "guided"
[build]
image_size = "96x80"
shard_images = 8
[fit]
batch = 2
updates = 2
width = 4
[arms.guided]
detector = "guided-seg"
negatives = "swap:1"
references = 7
[arms.fewer]
detector = "guided-seg"
negatives = "swap:1"
references = 3
[arms.cavga]
detector = "cavga"
[arms.weak]
detector = "cavga"
weak = true
negatives = "scar:1"
"""
OPTIONS = {
    "guided": ["--detector", "guided-seg", "--negatives", "swap:1", "--references", 7],
    "weak": ["--detector", "cavga", "--weak", "--negatives", "scar:1"],
}


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "trained.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def study(plan_file, sample_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study")
    data = ["--data", f"part={sample_data}"]
    invoke_det("compare", plan_file, *data, "--out", out, "--jobs", 1, "--quiet")
    return out


def test_a_coreset_changes_nothing_and_what_was_trained_is_shared(study, plan_file, sample_data):
    records = [json.loads(path.read_bytes()) for path in (study / "cells").glob("*.json")]
    assert sorted(record["arm"] for record in records) == ["cavga", "fewer", "guided", "weak"]
    assert {record["coreset"] for record in records} == {None}
    # References are chosen after training: both guided arms have one.
    assert len(list((study / "extractors").iterdir())) == 3
    assert len(list((study / "extractors").glob(f"*/{LEARNED}"))) == 3
    again = compare(
        assemble_plan(plan_file, data=[f"part={sample_data}"]),
        study,
        device="cpu",
        jobs=1,
        quiet=True,
        max_minutes=None,
        is_tables_only=False,
        make_progress=lambda label, unit: Progress(label, unit, quiet=True),
    )
    assert (again.run.fresh, again.run.is_whole) == (0, True)


@pytest.mark.parametrize("arm", OPTIONS)
def test_a_cell_is_what_fit_and_eval_give(arm, study, sample_data, tmp_path):
    (folder,) = (study / "sets").iterdir()
    shared = ["--updates", 2, "--batch", 2, "--width", 4, "--seed", 1, "--precision", "fp32"]
    invoke_det("fit", folder, "--out", tmp_path / "m", *OPTIONS[arm], *shared)
    result = invoke_det(
        "eval", tmp_path / "m", sample_data, "--out", tmp_path / "r", "--json", "--quiet"
    )
    (record,) = json.loads(result.stdout)
    cells = [json.loads(path.read_bytes()) for path in (study / "cells").glob("*.json")]
    (cell,) = [one for one in cells if one["arm"] == arm]
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        assert cell["metrics"][name] == pytest.approx(record["metrics"][name], abs=1e-6)


def test_what_studies_cannot_leave_out_is_refused(sample_data, tmp_path):
    (tmp_path / "plan.toml").write_text(
        PLAN + f'[arms.known]\ndetector = "cavga"\nanomalous = "{tmp_path}"\n'
    )
    result = invoke_det(
        "compare", tmp_path / "plan.toml", "--data", f"part={sample_data}",
        "--out", tmp_path / "study", exit_code=2,
    )  # fmt: skip
    assert "--anomalous is not for studies" in result.output
