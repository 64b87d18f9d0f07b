"""Data of other layouts on its way through the commands: a list, and notes of a reader."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import invoke_det, invoke_gen

from manifests.datasets import open_data
from manifests.schema import read_manifest

QUICK = ("--policies", "cutpaste", "--image-size", 64, "--jobs", 1, "--quiet")


@pytest.fixture
def data(sample_data: Path, tmp_path: Path) -> Path:
    """A copy of the sample data, to add to."""
    return Path(shutil.copytree(sample_data, tmp_path / "data"))


def test_a_list_is_checked_built_fitted_and_evaluated(data: Path, tmp_path: Path) -> None:
    (category,) = open_data(data)
    path = data / "Line 3.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(("path", "split", "label", "mask"))
        for one in category.samples:
            mask = "" if one.mask is None else one.mask.relative_to(data)
            rows.writerow((one.path.relative_to(data), one.split, one.defect, mask))
    (answer,) = json.loads(invoke_gen("check", path, "--json", "--quiet").stdout)
    assert answer["images"] == {"train": 9, "test_good": 4, "test_defective": 4, "left_out": 0}
    invoke_gen("build", path, "--out", tmp_path / "shards", *QUICK)
    manifest = read_manifest(tmp_path / "shards" / "line_3")[0]
    assert (manifest.category, manifest.format) == ("line_3", "list")
    invoke_det("fit", tmp_path / "shards", "--out", tmp_path / "models", "--updates", 0, "--quiet")
    result = invoke_det(
        "eval", tmp_path / "models", path, "--out", tmp_path / "results", "--json", "--quiet"
    )
    (figures,) = json.loads(result.stdout)
    assert figures["category"] == "line_3"


def test_what_a_reader_leaves_out_is_said_on_the_way(data: Path, tmp_path: Path) -> None:
    (root,) = (path for path in data.iterdir() if path.is_dir())
    kind = next(path for path in (root / "test").iterdir() if path.name != "good")
    kind.rename(root / "test" / "logical_anomalies")
    shutil.copytree(root / "test" / "good", root / "validation" / "good")
    result = invoke_gen("build", root, "--out", tmp_path / "shards", *QUICK)
    assert f"note: {root.name}: read without masks" in result.stderr
    assert f"note: {root.name}: 4 images in validation left out" in result.stderr
    assert read_manifest(tmp_path / "shards" / root.name)[0].split_rule.endswith("left out")
