"""A region of interest from `build` to `score`: outside it nothing is drawn, kept or scored."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import IMAGE_SIZE, invoke_det, invoke_gen

from detector.features import valid_cells
from detector.model import load_model
from detector.scoring import score_images
from manifests.images import Geometry, read_image, write_png
from manifests.negative_set import NegativeSet
from manifests.roi import Roi

POLICIES = "swap,scar,cutpaste,cutpaste-scar,random-swap,random-scar,perlin,saliency-perlin"


@pytest.fixture(scope="module")
def roi_file(sample_data, category_name, tmp_path_factory) -> Path:
    """An L, as large as the photos."""
    photo = next((sample_data / category_name / "train" / "good").iterdir())
    height, width = read_image(photo).shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[height // 8 : -height // 8, width // 8 : width // 2] = 255
    mask[height // 2 : -height // 8, width // 8 : -width // 8] = 255
    path = tmp_path_factory.mktemp("roi") / "roi.png"
    write_png(path, mask)
    return path


@pytest.fixture(scope="module")
def shards(sample_data, roi_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards-roi")
    invoke_gen(
        "build", sample_data, "--out", out, "--image-size", IMAGE_SIZE, "--jobs", 1,
        "--policies", POLICIES, "--roi", roi_file,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def model(shards, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models-roi")
    invoke_det("fit", shards, "--out", out, "--updates", 0, "--coreset", 0.2)
    return next(out.iterdir())


def test_no_negative_of_any_kind_leaves_the_region(shards, category_name):
    with NegativeSet.open(shards / category_name) as negatives:
        inside = negatives.geometry.roi.mask
        assert 0.2 < inside.mean() < 0.8
        assert all(not normal.image[~inside].any() for normal in map(negatives.normal, range(9)))
        kinds = set()
        for negative in negatives:
            kinds.add(negative.policy)
            assert negative.mask.any() and not (negative.mask & ~inside).any()
            for y, x, h, w in negative.anchors[(negative.anchors != -1).any(axis=1)].tolist():
                assert inside[y : y + h, x : x + w].all()
        assert kinds == set(POLICIES.split(","))


def test_it_verifies_replays_previews_and_says_so(shards, sample_data, category_name, tmp_path):
    folder = shards / category_name
    invoke_gen("verify", folder)
    assert "% inspected" in invoke_gen("inspect", folder).output
    invoke_gen("preview", folder, "--out", tmp_path / "sheets", "--count", 1)
    assert list((tmp_path / "sheets").rglob("*.png"))
    invoke_gen("export-recipe", folder, "-o", tmp_path / "set.recipe", "--with-donors")
    invoke_gen(
        "replay", tmp_path / "set.recipe", "--data", sample_data, "--out", tmp_path / "again"
    )
    again = NegativeSet.open(tmp_path / "again" / category_name)
    with NegativeSet.open(folder) as negatives, again:
        assert again.manifest.content_digest == negatives.manifest.content_digest
        assert again.geometry == negatives.geometry


def test_the_bank_holds_cells_of_the_region_alone(shards, model, category_name):
    found = load_model(model)
    grid = found.detector.extractor.grid(96, 80)
    inside = valid_cells(grid, found.geometry, (0, 0, 96, 80))
    # Literally: cells with a pixel of the region.
    mask = found.geometry.roi.mask
    for row in range(grid[0]):
        for column in range(grid[1]):
            part = mask[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            assert inside[row, column] == part.any()
    with h5py.File(shards / category_name / "shard-00000.h5") as shard:
        images = shard["normals/image"][:]
    features = found.detector.extractor(images)[:, inside].reshape(-1, found.detector.bank.dim)
    distance = (found.detector.bank.features[:, None] - features[None]).square().sum(-1).min(1)
    assert float(distance.values.max()) < 1e-6


def test_what_happens_outside_changes_no_score(model, sample_data, category_name, tmp_path):
    found = load_model(model)
    photo = next((sample_data / category_name / "test").rglob("*.png"))
    image = read_image(photo)
    inside = found.geometry.roi.mask
    height, width = image.shape[:2]
    rows = np.arange(height) * 96 // height
    columns = np.arange(width) * 80 // width
    near = np.zeros_like(inside)  # and a canvas pixel around it, which area averaging reads too
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            near |= np.roll(inside, (dy, dx), axis=(0, 1))
    painted = image.copy()
    painted[~near[rows][:, columns]] = (255, 0, 255)
    assert (painted != image).any()
    for name, picture in (("a", image), ("b", painted)):
        (tmp_path / name).mkdir()
        write_png(tmp_path / name / "photo.png", picture)
    one, other = (score_images(model, [tmp_path / name])[0][0] for name in ("a", "b"))
    assert one.score == other.score > 0


@pytest.mark.parametrize("detector", ["gaussian"])
def test_maps_are_zero_outside_and_metrics_leave_it_out(
    shards, sample_data, category_name, detector, tmp_path
):
    invoke_det("fit", shards, "--out", tmp_path, "--updates", 0, "--detector", detector)
    invoke_det("eval", tmp_path, sample_data, "--out", tmp_path / "results")
    found = load_model(tmp_path / category_name)
    scores = found.detector.score(np.full((1, 96, 80, 3), 90, np.uint8))
    assert not scores.map[0][~found.geometry.roi.mask].any()
    assert scores.map[0][found.geometry.roi.mask].min() > 0


def test_a_model_without_the_region_is_another_canvas(built, shards, tmp_path):
    """Sets that differ in their region are not merged."""
    result = invoke_gen(
        "merge", next(built.iterdir()), next(shards.iterdir()), "--out", tmp_path / "x",
        exit_code=1,
    )  # fmt: skip
    assert "inspected" in result.output


def test_roi_of_another_canvas_in_a_strangers_manifest_is_refused():
    plain = Geometry(96, 80).to_json() | {"roi": {"runs": [0, 5], "source": [1, 1]}}
    with pytest.raises(Exception, match="malformed region"):
        Geometry.from_json(plain)
    assert Roi.from_json({"runs": [0, 4], "source": [1, 1]}, height=2, width=2).area_frac == 1
