"""`cutswap-det explain`: the nearest normal patches, by name and place, and a picture of them."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from conftest import invoke_det, invoke_gen
from safetensors.numpy import load_file, save_file

from detector.detectors import PatchCore
from detector.model import load_model
from detector.model_record import read_record
from detector.patch_boxes import around, patch_box, source_box
from detector.verify_model import verify_model
from manifests.digest import array_digest, file_digest
from manifests.errors import ModelError
from manifests.geometry import Geometry, place
from manifests.images import fit_image, read_image
from manifests.negative_set import NegativeSet
from reference.old_models import make_version_5, rewrite


@pytest.fixture
def model(fitted, category_name):
    return load_model(fitted / category_name)


@pytest.fixture
def scratched(sample_data, category_name):
    """A defective test image."""
    return next(
        path
        for path in sorted((sample_data / category_name / "test").glob("*/*.png"))
        if path.parent.name != "good"
    )


def explained(*arguments: object) -> dict:
    (found,) = json.loads(invoke_det("explain", *arguments, "--json", "--quiet").stdout)
    return found


# ---- where entries come from --------------------------------------------------------------------


def test_every_entry_is_the_feature_of_its_cell(model, built, category_name):
    bank, detector = model.detector.bank, model.detector
    with NegativeSet.open(built / category_name) as negative_set:
        assert len(model.normals) == negative_set.n_normals == 9
        for number, normal in enumerate(model.normals):
            stored = negative_set.normal(number)
            assert (normal.source, normal.file_sha256) == (stored.source, stored.file_sha256)
            assert (normal.pixel_digest, normal.canvas_box) == (stored.digest, stored.canvas_box)
            rows = bank.image_index == number
            patches, valid, _ = detector.patches(stored.image[None], [stored.canvas_box])
            assert valid.all()
            found = patches[bank.cell[rows].long()]
            assert torch.allclose(found, bank.features[rows], atol=1e-4)
    assert len(bank.cell) == len(bank) and len(set(bank.image_index.tolist())) > 1


def test_a_bank_chosen_in_blocks_knows_its_cells_as_well(
    built, category_name, tmp_path, monkeypatch
):
    # As if the budget did not hold the features of nine images; its blocks do not.
    monkeypatch.setattr(PatchCore, "fits", lambda detector, images: False)
    told = invoke_det(
        "fit", built, "--out", tmp_path, "--updates", 0, "--coreset", 0.02,
        "--memory-budget", "1MB", "--quiet", "--batch-images", 2,
    ).stdout  # fmt: skip
    assert "chosen in 2 blocks" in told
    model = load_model(tmp_path / category_name)
    bank = model.detector.bank
    with NegativeSet.open(built / category_name) as negative_set:
        for row in range(len(bank)):
            normal = negative_set.normal(int(bank.image_index[row]))
            patches, _, _ = model.detector.patches(normal.image[None], [normal.canvas_box])
            assert torch.allclose(patches[int(bank.cell[row])], bank.features[row], atol=1e-4)


# ---- places -------------------------------------------------------------------------------------


def test_boxes_by_hand():
    geometry, whole = Geometry(256, 256), (0, 0, 256, 256)
    assert patch_box((16, 18), (32, 32), geometry, whole) == (120, 136, 24, 24)
    assert patch_box((0, 31), (32, 32), geometry, whole) == (0, 240, 16, 16)
    # Nothing of the padding; a box between cells still gets a pixel.
    assert patch_box((10, 5), (32, 32), geometry, (76, 0, 100, 256)) == (76, 32, 20, 24)
    assert patch_box((3, 3), (32, 32), geometry, (200, 0, 2, 256)) == (200, 16, 1, 24)
    # Twice as high, three times as wide.
    placement = place(512, 768, geometry)
    assert source_box((120, 136, 24, 24), placement) == (240, 408, 48, 72)
    letterboxed = place(100, 200, Geometry(256, 256, "letterbox"))
    assert letterboxed.canvas_box == (64, 0, 128, 256)
    assert source_box((64, 0, 24, 24), letterboxed) == (0, 0, 19, 19)
    cropped = place(100, 200, Geometry(256, 256, "crop"))
    assert cropped.source_box == (0, 50, 100, 100)
    assert source_box((0, 0, 256, 256), cropped) == (0, 50, 100, 100)
    assert around((120, 136, 24, 24), 32, (256, 256)) == (88, 104, 88, 88)
    assert around((0, 240, 16, 16), 32, (256, 256)) == (0, 176, 80, 80)
    assert around((10, 10, 24, 24), 200, (96, 80)) == (0, 0, 96, 80)


# ---- the command --------------------------------------------------------------------------------


def test_neighbours_are_those_of_a_literal_search(model, fitted, scratched):
    found = explained(fitted, scratched, "-k", 7)
    image = read_image(scratched)
    canvas, placement = fit_image(image, model.geometry)
    patches, valid, _ = model.detector.patches(canvas[None], [placement.canvas_box])
    features = model.detector.bank.features.numpy().astype(np.float64)
    distances = np.array(
        [np.sqrt(((features - patch) ** 2).sum(1)) for patch in patches.numpy().astype(np.float64)]
    )
    worst = distances.min(axis=1).argmax()
    assert found["cell"] == list(divmod(int(valid.flatten().nonzero()[0][worst]), valid.shape[2]))
    order = distances[worst].argsort(kind="stable")[:7]
    assert [one["distance"] for one in found["neighbours"]] == pytest.approx(
        distances[worst][order].tolist(), rel=1e-4
    )
    bank = model.detector.bank
    for row, one in zip(order, found["neighbours"], strict=True):
        normal = model.normals[int(bank.image_index[row])]
        assert (one["image"], one["file_sha256"]) == (normal.source, normal.file_sha256)
        assert one["cell"] == list(divmod(int(bank.cell[row]), valid.shape[2]))
    (scored,) = json.loads(
        invoke_det("score", fitted, scratched, "--output", "json", "--quiet").stdout
    )
    assert (found["score"], found["normalised"]) == (scored["score"], scored["normalised"])
    assert found["is_defect"] == (scored["verdict"] == "defect") and not found["is_known"]
    assert found["p_value"] == scored["p_value"] and found["distance"] == pytest.approx(
        found["score"], rel=1e-6
    )
    y, x, h, w = found["source_box"]
    assert 0 <= y < y + h <= image.shape[0] and 0 <= x < x + w <= image.shape[1]


def test_pictures_with_and_without_the_normals(
    fitted, built, sample_data, category_name, scratched, tmp_path
):
    ways = {"bare": [], "data": ["--data", sample_data / category_name], "set": ["--set", built]}
    for name, options in ways.items():
        told = invoke_det(
            "explain", fitted, scratched, "-o", tmp_path / "new" / f"{name}.png", *options
        ).stdout
        assert "train/good/" in told and f"{name}.png" in told and "worst patch" in told
    pictures = {name: cv2.imread(str(tmp_path / "new" / f"{name}.png")) for name in ways}
    # The same pixels from either place; without them, no crops.
    assert np.array_equal(pictures["data"], pictures["set"])
    assert pictures["bare"].shape[0] < pictures["data"].shape[0]
    bare, full = (int((pictures[name].std(axis=2) > 20).sum()) for name in ("bare", "data"))
    assert full > bare > 0  # boxes and heat are what has colour


def test_the_crop_is_of_the_normal_that_is_named(fitted, sample_data, category_name, scratched):
    from detector.explanation import explain_image
    from detector.normal_pixels import NormalPixels

    model = load_model(fitted / category_name)
    pixels = NormalPixels(model.geometry, data=sample_data, category=category_name)
    found = explain_image(model, scratched, pixels=pixels, normals=model.normals, count=3)
    for one in found.neighbours:
        image = read_image(sample_data / category_name / one.normal.source)
        assert np.array_equal(one.canvas, fit_image(image, model.geometry)[0])
        assert array_digest(one.canvas) == one.normal.pixel_digest


def test_a_renamed_file_is_found_and_another_image_is_refused(
    fitted, sample_data, category_name, scratched, tmp_path
):
    names = [one["image"] for one in explained(fitted, scratched, "-k", 1)["neighbours"]]
    folder = tmp_path / "part"
    shutil.copytree(sample_data / category_name / "train", folder / "train")
    normal = folder / names[0]
    normal.rename(normal.with_name("other.png"))
    options = ("explain", fitted, scratched, "-k", 1, "--data", folder)
    picture = tmp_path / "why.png"
    assert names[0] in invoke_det(*options, "-o", picture).stdout
    # Another image under the name that the model remembers.
    normal.with_name("other.png").unlink()
    image = read_image(scratched)
    cv2.imwrite(str(normal), image[..., ::-1])
    picture.unlink()
    result = invoke_det(*options, "-o", picture, exit_code=1)
    assert "holds no image like" in result.output and names[0] in result.output
    assert len(result.output.strip().splitlines()) == 1 and not picture.exists()
    result = invoke_det("explain", fitted, scratched, "-o", tmp_path / "why.jpg", exit_code=2)
    assert "the picture is a PNG" in result.output
    before = scratched.read_bytes()
    result = invoke_det("explain", fitted, scratched, "-o", scratched, exit_code=2)
    assert "-o would replace the image" in result.output and scratched.read_bytes() == before


def test_a_set_of_other_images_is_refused(fitted, sample_data, category_name, scratched, tmp_path):
    good = sample_data / category_name / "test" / "good"
    invoke_gen(
        "build", good, "--out", tmp_path, "--image-size", "96x80", "--policies", "random-swap",
        "--jobs", 1,
    )  # fmt: skip
    result = invoke_det("explain", fitted, scratched, "--set", tmp_path, exit_code=1)
    assert "which is not in the set" in result.output and "--data" in result.output


def test_an_image_of_the_fit_is_called_so(fitted, sample_data, category_name):
    normal = next((sample_data / category_name / "train" / "good").glob("*.png"))
    assert explained(fitted, normal)["is_known"]
    assert "fitted to this very image" in invoke_det("explain", fitted, normal).stdout


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        ("gaussian", "shrinks its covariance"),
        pytest.param("cavga", "is trained on its images", marks=pytest.mark.slow),
    ],
)
def test_detectors_that_keep_no_patches_say_so(
    detector, reason, built, category_name, scratched, tmp_path
):
    options = ["--updates", 0] if detector == "gaussian" else ["--updates", 1, "--width", 4]
    invoke_det("fit", built, "--out", tmp_path, "--detector", detector, *options, "--quiet")
    result = invoke_det("explain", tmp_path, scratched, exit_code=1)
    assert f"the detector {detector}" in result.output and "--heatmaps" in result.output
    out = tmp_path / "updated"
    result = invoke_det("bank", "update", tmp_path, scratched, "--out", out, exit_code=1)
    assert f"the detector {detector} has no bank to update: it {reason}" in result.output
    assert "fit again" in result.output and not out.exists()


# ---- models of version 5 ------------------------------------------------------------------------


def test_models_of_version_5_are_read_explained_and_written_as_they_are(
    fitted, built, sample_data, category_name, scratched, tmp_path
):
    new = explained(fitted, scratched)
    shutil.copytree(fitted, tmp_path / "m")
    make_version_5(tmp_path / "m" / category_name)
    assert verify_model(tmp_path / "m" / category_name) == []
    old = explained(tmp_path / "m", scratched)
    assert [one["distance"] for one in old["neighbours"]] == [
        one["distance"] for one in new["neighbours"]
    ]
    assert {one["image"] for one in old["neighbours"]} == {None}
    assert "give --set" in invoke_det("explain", tmp_path / "m", scratched).stdout
    # The set of the fit names its normals, and their pixels show the cells.
    assert explained(tmp_path / "m", scratched, "--set", built) == new
    good = sample_data / category_name / "test" / "good"
    invoke_det("recalibrate", tmp_path / "m", good, "--out", tmp_path / "r", "--quiet")
    assert verify_model(tmp_path / "r" / category_name) == []
    record = json.loads((tmp_path / "r" / category_name / "model.json").read_bytes())
    assert record["model_version"] == 5


def test_another_set_does_not_name_the_normals_of_an_old_model(
    fitted, sample_data, category_name, scratched, tmp_path
):
    good = sample_data / category_name / "test" / "good"
    invoke_gen(
        "build", good, "--out", tmp_path / "s", "--image-size", "96x80", "--policies",
        "random-swap", "--jobs", 1,
    )  # fmt: skip
    shutil.copytree(fitted, tmp_path / "m")
    make_version_5(tmp_path / "m" / category_name)
    result = invoke_det("explain", tmp_path / "m", scratched, "--set", tmp_path / "s", exit_code=1)
    assert "is not the set that the model was fitted on" in result.output


# ---- strangers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("source", lambda t: np.full_like(t, ord("/")), "no path"),
        ("source", lambda t: np.full_like(t, 0xFF), "no path"),
        ("source_end", lambda t: t[::-1].copy(), "do not follow one another"),
        ("source_end", lambda t: t - 1, "do not follow one another"),
        ("source_end", lambda t: t * 10**12, "do not follow one another"),
        ("canvas_box", lambda t: t + 1, "outside the canvas"),
        ("canvas_box", lambda t: -t, "outside the canvas"),
        ("cell", lambda t: t + 120, "outside the grid"),
        ("cell", lambda t: t - 1000, "outside the grid"),
        ("image_index", lambda t: t + 1, "images that it does not name"),
        ("image_index", lambda t: t - 1, "images that it does not name"),
    ],
)
def test_forged_names_and_places_are_refused(
    name, change, expected, fitted, category_name, scratched, tmp_path
):
    folder = tmp_path / category_name
    shutil.copytree(fitted / category_name, folder)
    file = "bank.safetensors" if name in ("cell", "image_index") else "normals.safetensors"
    tensors = load_file(folder / file)
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / file)
    rewrite(folder, files=read_record(folder)[0].files | {file: file_digest(folder / file)})
    with pytest.raises(ModelError, match=expected):
        load_model(folder)
    result = invoke_det("explain", folder, scratched, exit_code=1)
    assert len(result.output.strip().splitlines()) == 1


def test_counts_that_cannot_be_are_refused(fitted, category_name, tmp_path):
    folder = tmp_path / category_name
    shutil.copytree(fitted / category_name, folder)
    rewrite(folder, added_normals=9, score_bounds=0)
    with pytest.raises(ModelError, match="counts more images than it has"):
        load_model(folder)
    rewrite(folder, added_normals=0, score_bounds=10)
    assert "score_bounds is more than the scores" in str(verify_model(folder)[0])
    rewrite(folder, added_normals=-1)
    assert "added_normals is not 0 or more" in str(verify_model(folder)[0])
