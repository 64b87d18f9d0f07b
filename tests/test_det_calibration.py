"""Scores of good images behind a model: thresholds, p-values, and other ones in their place."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import invoke_det
from safetensors.numpy import load_file, save_file

from detector.calibration import OTHERS, SOURCES, TRAINING, Calibration
from detector.model import load_model
from detector.threshold import fit_threshold
from manifests.digest import bytes_digest, file_digest
from manifests.errors import ModelError


def test_thresholds_and_p_values_by_hand():
    found = Calibration.of(np.array([3.0, 1.0, 2.0, 2.0]), np.array([1, 9, 5, 7]), TRAINING)
    assert found.image.tolist() == [1, 2, 2, 3] and found.map_maximum.tolist() == [1, 5, 7, 9]
    assert len(found) == 4
    image, pixel = found.thresholds(0.4)
    assert image == fit_threshold(np.array([1, 2, 2, 3]), 0.4)
    assert pixel == fit_threshold(np.array([1, 5, 7, 9]), 0.4)
    # Scores at least as high, the image itself among them, of five.
    p_values = found.p_values(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 3.5]))
    assert p_values.tolist() == [1.0, 1.0, 0.8, 0.8, 0.4, 0.2]


def test_p_values_of_good_images_are_small_as_often_as_they_say():
    rng = np.random.default_rng(0)
    small = [
        Calibration.of(rng.normal(size=99), np.zeros(99), TRAINING).p_values(rng.normal(size=50))
        <= 0.05
        for _ in range(400)
    ]
    assert np.mean(small) == pytest.approx(0.05, abs=0.005)


def test_what_is_no_calibration_is_refused():
    ones = np.ones(3)
    for image, maxima in ((ones[:0], ones[:0]), (ones, ones[:2]), (ones, ones * np.nan)):
        with pytest.raises(ModelError):
            Calibration.of(image, maxima, TRAINING)
    state = Calibration.of(ones, ones, TRAINING).state()
    assert Calibration.from_state(state, OTHERS).source == OTHERS
    for changes in (
        {"image": torch.tensor([2.0, 1.0, 3.0])},
        {"image": torch.ones(3, dtype=torch.float64)},
        {"image": torch.ones((3, 1))},
        {"image": torch.ones(2)},
        {"more": torch.ones(3)},
    ):
        with pytest.raises(ModelError, match="malformed calibration"):
            Calibration.from_state(state | changes, TRAINING)


def test_a_model_keeps_the_scores_behind_its_thresholds(fitted, category_name, sample_data):
    model = load_model(fitted / category_name)
    assert (len(model.calibration), model.calibration.source) == (model.image_threshold.n, TRAINING)
    assert model.calibration.thresholds(model.config.false_alarm_rate) == (
        model.image_threshold,
        model.pixel_threshold,
    )
    folder = sample_data / category_name / "test"
    result = invoke_det("score", fitted / category_name, folder, "--output", "json", "--quiet")
    for row in json.loads(result.stdout):
        expected = (1 + (model.calibration.image >= np.float32(row["score"])).sum()) / (
            1 + len(model.calibration)
        )
        assert row["p_value"] == pytest.approx(expected)
        assert row["verdict"] == "good" or row["p_value"] <= model.image_threshold.achievable_rate


def test_scores_that_do_not_give_the_thresholds_are_refused(fitted, category_name, tmp_path):
    folder = tmp_path / "part"
    shutil.copytree(fitted / category_name, folder)
    path = folder / "calibration.safetensors"
    tensors = load_file(path)
    tensors["image"] = tensors["image"] + np.float32(1.0)
    save_file(tensors, path)
    plain = json.loads((folder / "model.json").read_bytes())
    plain["files"][path.name] = file_digest(path)
    data = (json.dumps(plain, sort_keys=True, indent=1) + "\n").encode("ascii")
    (folder / "model.json").write_bytes(data)
    (folder / "model.sha256").write_text(f"{bytes_digest(data)}  model.json\n")
    with pytest.raises(ModelError, match="does not give the recorded thresholds"):
        load_model(folder)


def test_recalibration_sets_thresholds_from_other_images(
    fitted, category_name, sample_data, tmp_path
):
    source = fitted / category_name
    before = load_model(source)
    good = sample_data / category_name / "test" / "good"
    options = ("recalibrate", source, good, "--out", tmp_path)
    told = invoke_det(*options, "--false-alarm-rate", 0.3, "--quiet").stdout
    after = load_model(tmp_path / category_name)
    files = sorted(good.glob("*.png"))
    scores = [row["score"] for row in json.loads(
        invoke_det("score", source, good, "--output", "json", "--quiet").stdout
    )]  # fmt: skip
    assert after.calibration.source == OTHERS and len(after.calibration) == len(files)
    assert after.image_threshold == fit_threshold(np.array(scores, np.float32), 0.3)
    assert after.config.false_alarm_rate == 0.3
    assert after.training_files == before.training_files | {file_digest(path) for path in files}
    assert f"thresholds from {len(files)} good images" in told and "seen after the fit" in (
        invoke_det("inspect", tmp_path).stdout
    )
    for name in ("extractor.safetensors", "bank.safetensors"):
        assert file_digest(tmp_path / category_name / name) == file_digest(source / name)
    invoke_det("verify", tmp_path)
    # What is there stays, and images that the model knows do not count.
    assert "already holds a model" in invoke_det(*options, exit_code=1).output
    seen = sample_data / category_name / "train" / "good"
    result = invoke_det("recalibrate", source, seen, "--out", tmp_path / "x", exit_code=1)
    assert "too few good images that the model has not seen" in result.output
    assert not (tmp_path / "x").exists()
    again = invoke_det(*options[:3], seen, *options[3:], "--overwrite", "--json", "--quiet")
    (summary,) = json.loads(again.stdout)
    assert (summary["images"], summary["seen"]) == (len(files), len(list(seen.glob("*.png"))))
    exceeding = (np.array(scores, np.float32) > before.image_threshold.value).sum()
    assert summary["exceeding"] == exceeding
    assert summary["after"]["target_rate"] == before.config.false_alarm_rate
    # Its images are not tested on.
    told = invoke_det("eval", tmp_path, sample_data, "--out", tmp_path / "r", "--quiet").output
    assert f"{len(files)} test images left out" in told


def test_a_model_is_not_recalibrated_onto_itself(
    fitted, built, category_name, sample_data, tmp_path
):
    shutil.copytree(fitted, tmp_path / "m")
    good = sample_data / category_name / "test" / "good"
    model = tmp_path / "m" / category_name
    result = invoke_det(
        "recalibrate", model, good, "--out", tmp_path / "m", "--overwrite", exit_code=1
    )
    assert "is the model itself" in result.output
    files = sorted(model.rglob("*"))
    for command in (("recalibrate", model, good), ("fit", built, "--updates", 0)):
        result = invoke_det(*command, "--out", model, "--overwrite", exit_code=2)
        assert "--out is a model itself" in result.output and sorted(model.rglob("*")) == files
    invoke_det("recalibrate", model, good, "--out", tmp_path / "n", "--quiet")
    result = invoke_det(
        "fit", built, "--out", tmp_path / "n", "--updates", 0, "--coreset", 0.05, exit_code=1
    )
    assert "already holds a recalibrated model" in result.output


def test_every_source_has_a_name_in_words():
    from detector.describe import _OF_SOURCE

    assert set(_OF_SOURCE) == set(SOURCES)
