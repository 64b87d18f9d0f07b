"""The whole of `score`: verdicts, heat maps, models and images that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import invoke_det

from detector.model import load_model
from manifests.digest import bytes_digest
from manifests.images import read_image
from reference.scores import scores_of


@pytest.fixture
def model(fitted, category_name, tmp_path) -> Path:
    """A copy of the fitted model that a test may damage."""
    folder = tmp_path / "models" / category_name
    shutil.copytree(fitted / category_name, folder)
    return folder


# what is written


def test_score_lines_agree_in_every_form(fitted, sample_data, category_name):
    folder = sample_data / category_name / "test" / "scratch"
    model = fitted / category_name
    table = invoke_det("score", model, folder, "--quiet").stdout.splitlines()
    as_csv = invoke_det("score", model, folder, "--quiet", "--output", "csv").stdout.splitlines()
    (record,) = json.loads(invoke_det("score", model, folder, "--quiet", "--output", "json").stdout)
    threshold = load_model(model).image_threshold.value
    assert record["normalised"] == pytest.approx(record["score"] / threshold)
    assert record["verdict"] == ("defect" if record["score"] > threshold else "good")
    assert as_csv[0] == "path,score,normalised,p_value,verdict" and len(as_csv) == len(table) == 2
    assert float(as_csv[1].split(",")[1]) == record["score"]
    assert record["verdict"] in table[1] and record["path"] in table[1]


def test_heatmaps_and_masks_are_in_original_pixels(fitted, sample_data, category_name, tmp_path):
    folder = sample_data / category_name / "test"
    invoke_det(
        "score", fitted / category_name, folder, "--heatmaps", tmp_path / "h", "--masks",
        tmp_path / "m", "--quiet",
    )  # fmt: skip
    for source in folder.rglob("*.png"):
        name = source.relative_to(folder)
        height, width = read_image(source).shape[:2]
        assert read_image(tmp_path / "h" / name).shape == (height, width, 3)
        mask = cv2.imread(str(tmp_path / "m" / name), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (height, width)
        assert set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize("option", ["--heatmaps", "--masks"])
@pytest.mark.parametrize("below", ["", "good"])
def test_a_picture_never_replaces_an_image(
    fitted, sample_data, category_name, tmp_path, option, below
):
    shutil.copytree(sample_data / category_name / "test" / "good", tmp_path / "in" / "good")
    files = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*.png")}
    (tmp_path / "link").symlink_to(tmp_path / "in")
    result = invoke_det(
        "score", fitted / category_name, tmp_path / "in" / below, option, tmp_path / "link" / below,
        exit_code=2,
    )  # fmt: skip
    assert f"{option} would replace this image" in result.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "in").rglob("*.png")} == files
    result = invoke_det(
        "score", fitted / category_name, tmp_path / "in", "--heatmaps", tmp_path / "out",
        "--masks", tmp_path / "out" / "..", "--masks", tmp_path / "out", exit_code=2,
    )  # fmt: skip
    assert "name the same folder" in result.stderr and not (tmp_path / "out").exists()


def test_images_of_one_name_do_not_overwrite_each_other(
    fitted, category_name, sample_data, tmp_path
):
    source = next((sample_data / category_name / "test" / "good").iterdir())
    image = cv2.imread(str(source))
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "part.png"), image)
    cv2.imwrite(str(tmp_path / "in" / "part.jpg"), image)
    invoke_det(
        "score", fitted / category_name, tmp_path / "in", "--heatmaps", tmp_path / "out", "--quiet"
    )
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_scores_do_not_depend_on_the_company(fitted, sample_data, category_name):
    model = fitted / category_name
    folder = sample_data / category_name / "test"
    together = scores_of(model, folder)
    for path, score in list(together.items())[:3]:
        assert scores_of(model, path)[path] == pytest.approx(score, rel=1e-4)


# what is refused


def test_bad_files_are_listed_or_skipped(fitted, category_name, sample_data, tmp_path):
    good = next((sample_data / category_name / "test" / "good").iterdir())
    shutil.copy(good, tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.jpg").write_text("x")
    result = invoke_det("score", fitted / category_name, tmp_path, "--quiet", exit_code=1)
    assert "b.png" in result.output and "c.jpg" in result.output and "a.png" not in result.stdout
    result = invoke_det("score", fitted / category_name, tmp_path, "--quiet", "--skip-bad")
    assert "a.png" in result.stdout and "b.png" in result.stderr
    result = invoke_det(
        "score", fitted / category_name, tmp_path, "--max-megapixels", 0.0001, exit_code=1
    )
    assert "3 unusable images" in result.output


def test_lines_of_json_come_before_the_failure(fitted, category_name, sample_data, tmp_path):
    good = next((sample_data / category_name / "test" / "good").iterdir())
    for number in range(10):
        shutil.copy(good, tmp_path / f"{number}.png")
    (tmp_path / "z.png").write_bytes(b"")
    options = ("score", fitted / category_name, tmp_path, "--output", "jsonl", "--quiet")
    result = invoke_det(*options, exit_code=1)
    names = [Path(json.loads(line)["path"]).name for line in result.stdout.splitlines()]
    assert names == [f"{number}.png" for number in range(8)]  # a batch
    assert len(invoke_det(*options, "--skip-bad").stdout.splitlines()) == 10


@pytest.mark.parametrize(
    "name", ["extractor.safetensors", "bank.safetensors", "model.json", "model.sha256"]
)
def test_a_damaged_model_is_never_used(name, model, sample_data, category_name):
    data = bytearray((model / name).read_bytes())
    data[len(data) // 3] ^= 1
    (model / name).write_bytes(data)
    images = sample_data / category_name / "test"
    result = invoke_det("score", model, images, "--quiet", exit_code=1)
    assert name.split(".")[0] in result.output


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b"{}",
        b'{"model_version": 99}',
        b'{"model_version": 1}',
        b"\xff\xfe",
        b"[" * 9999,
    ],
)
def test_a_malformed_model_json_is_one_line(record, model, tmp_path):
    (model / "model.json").write_bytes(record)
    result = invoke_det("score", model, tmp_path, exit_code=1)
    assert len(result.output.strip().splitlines()) == 1 and "model.json" in result.output


def test_a_model_of_version_1_says_what_to_do(model, tmp_path):
    record = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(record | {"model_version": 1}))
    result = invoke_det("score", model, tmp_path, exit_code=1)
    assert "another version" in result.output and "fit again" in result.output


def test_a_model_of_an_unknown_detector_is_named(model, tmp_path):
    record = json.loads((model / "model.json").read_text())
    record["config"]["detector"] = "oracle"
    data = (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
    (model / "model.json").write_bytes(data)
    (model / "model.sha256").write_text(f"{bytes_digest(data)}  model.json\n")
    result = invoke_det("score", model, tmp_path, exit_code=1)
    assert "unknown detector" in result.output and "oracle" in result.output


def test_a_root_of_one_model_will_do_and_of_two_will_not(model, sample_data, category_name):
    images = sample_data / category_name / "test" / "dent"
    assert scores_of(model.parent, images) == scores_of(model, images)
    shutil.copytree(model, model.parent / "other")
    result = invoke_det("score", model.parent, images, exit_code=2)
    assert "other" in result.output and category_name in result.output


def test_missing_model_or_images(model, tmp_path):
    result = invoke_det("score", tmp_path / "no", tmp_path, exit_code=1)
    assert "cutswap-det fit" in result.output
    (tmp_path / "empty").mkdir()
    result = invoke_det("score", model, tmp_path / "empty", exit_code=1)
    assert "empty" in result.output
    result = invoke_det("score", model, tmp_path / "gone.png", exit_code=1)
    assert "gone.png" in result.output
