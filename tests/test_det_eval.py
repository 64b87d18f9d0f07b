"""`eval`: tables, pictures, what is left out, and test images kept in memory."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from conftest import invoke_det, invoke_gen

from detector.detectors import Scores
from detector.evaluate import evaluate, evaluation_of, load_test_images
from detector.model import load_model
from manifests.datasets import open_data
from manifests.errors import DataError
from manifests.images import DEFAULT_MAX_PIXELS, Geometry, read_image


def test_eval_writes_table_metrics_and_pictures(fitted, sample_data, category_name, tmp_path):
    result = invoke_det("eval", fitted, sample_data, "--out", tmp_path, "--quiet", "--cases", 2)
    assert category_name in result.stdout and "AUPRO" in result.stdout
    for name in ("roc.png", "histogram.png", "cases.png"):
        assert read_image(tmp_path / category_name / name).std() > 1
    rows = (tmp_path / category_name / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 8
    (record,) = json.loads((tmp_path / "metrics.json").read_text())
    assert record["counts"]["good"] == record["counts"]["defective"] == 4
    assert 0 <= record["metrics"]["aupro"] <= 1
    as_json = invoke_det(
        "eval", fitted, sample_data, "--out", tmp_path, "--quiet", "--json", "--category",
        category_name, "--format", "mvtec",
    )  # fmt: skip
    assert json.loads(as_json.stdout) == [record]


def test_eval_leaves_training_files_out(fitted, sample_data, category_name, tmp_path):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    trained = sorted((data / "train" / "good").iterdir())[:2]
    for path in trained:
        shutil.copy(path, data / "test" / "good" / f"copy-{path.name}")
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--json")
    (record,) = json.loads(result.stdout)
    assert record["counts"]["excluded"] == 2 and record["counts"]["good"] == 4
    assert "2 test images left out" in result.stderr


def test_eval_leaves_training_images_out_that_were_saved_anew(
    fitted, sample_data, category_name, tmp_path
):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    source = next((data / "train" / "good").iterdir())
    copy = data / "test" / "good" / "anew.png"
    cv2.imwrite(str(copy), read_image(source)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert copy.read_bytes() != source.read_bytes()
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--json")
    (record,) = json.loads(result.stdout)
    assert record["counts"]["excluded"] == 1 and record["counts"]["good"] == 4
    assert "1 test image left out: the model has seen it" in result.stderr


def test_eval_of_one_class_gives_no_figure(fitted, sample_data, category_name, tmp_path):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    for defect in (data / "test").iterdir():
        if defect.name != "good":
            shutil.rmtree(defect)
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--json")
    (record,) = json.loads(result.stdout)
    assert set(record["metrics"].values()) == {None}
    assert "one class" in result.stderr


def test_eval_names_masks_that_are_missing_or_of_another_size(
    fitted, sample_data, category_name, tmp_path
):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    mask = next((data / "ground_truth" / "dent").iterdir())
    cv2.imwrite(str(mask), np.full((100, 120), 255, np.uint8))
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", exit_code=1)
    assert mask.name in result.output and "another size" in result.output
    invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--skip-bad")
    mask.unlink()
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", exit_code=1)
    assert "mask" in result.output


def test_eval_counts_an_empty_mask_for_the_image_only(fitted, sample_data, category_name, tmp_path):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    mask = next((data / "ground_truth" / "dent").iterdir())
    cv2.imwrite(str(mask), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) * 0)
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--json")
    (record,) = json.loads(result.stdout)
    assert record["counts"]["without_mask"] == 1 and record["counts"]["defective"] == 4
    assert "dent" in result.stderr


def test_eval_says_which_defects_are_too_small(fitted, sample_data, category_name, tmp_path):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    mask = next((data / "ground_truth" / "dent").iterdir())
    speck = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) * 0
    speck[:1, :1] = 255  # a canvas pixel's centre lies elsewhere
    cv2.imwrite(str(mask), speck)
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--json")
    (record,) = json.loads(result.stdout)
    assert record["counts"]["without_mask"] == 1
    assert "1 defective image with defects too small for the canvas" in result.stderr
    assert "no mask or an empty one" not in result.stderr


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_good_images_that_a_model_has_not_seen_are_tested_on_whatever_the_draw(
    sample_data, category_name, tmp_path, seed
):
    part = tmp_path / "part"
    shutil.copytree(sample_data / category_name / "train" / "good", part / "good")
    shutil.copytree(sample_data / category_name / "test" / "dent", part / "dent")
    names = sorted(path.name for path in (part / "good").iterdir())
    if seed == 0:  # the one that `eval` draws by: what was skipped in training stops nothing
        drawn = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
        (part / "good" / names[drawn[0]]).write_bytes(b"no image")
    options = ("--image-size", "64x48", "--policies", "cutpaste", "--skip-bad", "--quiet")
    shards, models = tmp_path / "shards", tmp_path / "models"
    invoke_gen("build", part, "--out", shards, "--seed", seed, *options, "--jobs", 1)
    invoke_det("fit", shards, "--out", models, "--updates", 0, "--coreset", 0.2, "--quiet")
    result = invoke_det("eval", models, part, "--out", tmp_path / "r", "--json", "--quiet")
    (record,) = json.loads(result.stdout)
    assert record["counts"]["good"] == len(names) - len(names) * 4 // 5


def test_eval_without_test_images_or_data(fitted, sample_data, category_name, tmp_path):
    good = sample_data / category_name / "train" / "good"
    result = invoke_det("eval", fitted, good, "--out", tmp_path / "r", exit_code=1)
    assert "no test images" in result.output
    result = invoke_det("eval", fitted, tmp_path / "absent", "--out", tmp_path / "r", exit_code=1)
    assert "absent" in result.output


def test_crop_reports_lost_defect_area(sample_data, category_name, tmp_path):
    invoke_gen(
        "build", sample_data, "--out", tmp_path / "s", "--image-size", "160x40", "--fit", "crop",
        "--jobs", 1, "--levels", "2", "--quiet",
    )  # fmt: skip
    invoke_det("fit", tmp_path / "s", "--out", tmp_path / "m", "--updates", 0, "--quiet")
    result = invoke_det("eval", tmp_path / "m", sample_data, "--out", tmp_path / "r", "--quiet")
    assert "crop cuts off defect area" in result.stderr


# test images in memory


def test_images_in_memory_give_the_evaluation_of_the_stream(
    fitted, sample_data, category_name, tmp_path
):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    shutil.copy(next((data / "train" / "good").iterdir()), data / "test" / "good" / "copy.png")
    mask = next((data / "ground_truth" / "dent").iterdir())
    cv2.imwrite(str(mask), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) * 0)
    (category,) = open_data(data)
    model = load_model(fitted / category_name)
    calls = []
    images = load_test_images(
        model.geometry,
        model.training_files,
        category,
        batch=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert images.canvases.shape == (len(images), 96, 80, 3) and images.canvases.dtype == np.uint8
    assert calls[-1] == (9, 9)
    streamed = evaluate(model, category, max_pixels=DEFAULT_MAX_PIXELS)
    found = [model.detector.score(canvases, boxes) for canvases, boxes in images.batches(3)]
    assert [len(scores.image) for scores in found] == [3, 3, 2]
    scores = Scores(
        np.concatenate([part.image for part in found]), np.concatenate([part.map for part in found])
    )
    kept = evaluation_of(images.truth, scores)
    assert kept.samples == streamed.samples and kept.excluded == ("test/good/copy.png",)
    assert kept.without_mask == streamed.without_mask != ()
    for name in ("labels", "masks", "valid", "has_truth"):
        assert np.array_equal(getattr(kept, name), getattr(streamed, name))
    np.testing.assert_allclose(kept.scores, streamed.scores, rtol=1e-4)
    np.testing.assert_allclose(kept.maps, streamed.maps, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="of 8 images"):
        evaluation_of(images.truth, found[0])


def test_images_in_memory_know_their_padding(sample_data, category_name):
    (category,) = open_data(sample_data / category_name)
    images = load_test_images(Geometry(64, 128, "letterbox"), frozenset(), category)
    for (y, x, h, w), valid, canvas in zip(
        images.truth.boxes, images.truth.valid, images.canvases, strict=True
    ):
        assert valid.sum() == h * w < 64 * 128
        assert valid[y : y + h, x : x + w].all()
        assert canvas[~valid].max() == 0


def test_no_image_left_counts_bad_masks_too(sample_data, category_name, tmp_path):
    data = tmp_path / category_name
    shutil.copytree(sample_data / category_name, data)
    for folder in (data / "test").iterdir():
        if folder.name not in ("good", "dent"):
            shutil.rmtree(folder)
    shutil.rmtree(data / "test" / "good")
    (data / "test" / "good").mkdir()
    mask = next((data / "ground_truth" / "dent").iterdir())
    cv2.imwrite(str(mask), np.full((100, 120), 255, np.uint8))
    (category,) = open_data(data)
    with pytest.raises(DataError, match="1 unusable"):
        load_test_images(Geometry(64, 64), frozenset(), category, skip_bad=True)
