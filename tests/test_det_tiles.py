"""Large canvases in tiles: where tiles lie, how they become one, and what training sees of them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import invoke_det, invoke_gen

from detector.config import FitConfig
from detector.dataset import TripletSampler
from detector.detectors import PatchCore, PatchCoreConfig
from detector.features import FeatureExtractor
from detector.joined_features import JoinedFeatures
from detector.model import load_model
from detector.model_record import ModelRecord
from detector.scoring import score_images
from detector.tiled_features import TiledFeatures, axis_weights
from detector.tiles import check_tile, check_tiled_canvas, shared_px, tile_starts
from detector.train_config import TrainConfig
from detector.windows import WindowSampler
from manifests.errors import ConfigError, ModelError
from manifests.images import Geometry
from reference.small_networks import batches, make_images, make_network
from reference.training import PaintedSet

TILE = 192


def test_starts_by_hand():
    assert shared_px(192) == 96 and shared_px(512) == 128 and shared_px(416) == 128
    assert tile_starts(192, 192) == [0] == tile_starts(96, 192)
    assert tile_starts(224, 192) == [0, 32]
    assert tile_starts(480, 192) == [0, 96, 192, 288]
    assert tile_starts(2048, 512) == [0, 384, 768, 1152, 1536]


@pytest.mark.parametrize("tile", [192, 256, 512, 1024])
@pytest.mark.parametrize("length", range(192, 4097, 352))
def test_tiles_cover_everything_on_the_grid_and_share_enough(length, tile):
    starts = tile_starts(length, tile)
    side = min(length, tile)
    assert starts[0] == 0 and starts[-1] + side == length
    for one, other in itertools.pairwise(starts):
        assert one < other and other % 32 == 0
        assert one + side - other >= shared_px(tile)


def literal_weights(starts, length, tile, cell):
    """Cell by cell, as the docstring says it."""
    side, shared = min(length, tile), shared_px(tile)
    weights = np.zeros((len(starts), length // cell))
    for t, start in enumerate(starts):
        for c in range(length // cell):
            middle = (c + 0.5) * cell
            if not start < middle < start + side:
                continue
            weight = 1.0
            for is_inner, distance in (
                (start > 0, middle - start),
                (start + side < length, start + side - middle),
            ):
                if is_inner:
                    rising = (distance - shared / 4) / (shared / 2)
                    weight = min(weight, max(0.0, min(1.0, rising)))
            weights[t, c] = weight
    return weights / weights.sum(0)


@pytest.mark.parametrize(("length", "tile"), [(480, 192), (224, 192), (640, 256), (96, 192)])
@pytest.mark.parametrize("cell", [4, 8, 32])
def test_weights_equal_literal_and_have_no_step(length, tile, cell):
    starts = tile_starts(length, tile)
    found = axis_weights(starts, length, tile, cell)
    np.testing.assert_allclose(found, literal_weights(starts, length, tile, cell), atol=1e-6)
    np.testing.assert_allclose(found.sum(0), 1.0, rtol=1e-6)
    steps = np.abs(np.diff(found, axis=1)).max(initial=0.0)
    assert steps <= cell / (shared_px(tile) / 2) + 1e-6


def whole_and_tiled(stages=(2, 3)):
    whole = JoinedFeatures([FeatureExtractor(make_network(), stages=stages)])
    return whole, TiledFeatures(whole, TILE, batch=3)


def test_features_are_those_of_the_whole_canvas():
    """The small network sees 16 px around a cell, less than a tile's edge is left out."""
    geometry = Geometry(352, 480)
    images = make_images(2, geometry=geometry)
    whole, tiled = whole_and_tiled()
    assert tiled.grid(352, 480) == whole.grid(352, 480) and tiled.dim == whole.dim
    torch.testing.assert_close(tiled(images), whole(images), rtol=1e-4, atol=1e-5)


def test_an_axis_shorter_than_a_tile_is_one_tile():
    images = make_images(1, geometry=Geometry(64, 480))
    whole, tiled = whole_and_tiled()
    torch.testing.assert_close(tiled(images), whole(images), rtol=1e-4, atol=1e-5)


def test_padding_is_left_out_as_it_is_of_a_whole_canvas():
    images = make_images(2, geometry=Geometry(480, 480))
    boxes = np.array([(0, 0, 480, 480), (0, 224, 480, 128)])
    other = images.copy()
    other[1, :, :200] = 255
    other[1, :, 376:] = 255
    whole, tiled = whole_and_tiled()
    found, again = tiled(images, canvas_boxes=boxes), tiled(other, canvas_boxes=boxes)
    expected = whole(images, canvas_boxes=boxes)
    inside = slice(224 // 8, 352 // 8)
    torch.testing.assert_close(found[:, :, inside], expected[:, :, inside], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again[1, :, inside], found[1, :, inside], rtol=1e-4, atol=1e-5)


def test_a_defect_on_a_seam_is_found_as_without_tiles():
    geometry = Geometry(352, 480)
    images = make_images(6, geometry=geometry)
    damaged = make_images(2, seed=5, geometry=geometry)
    # The first tile's lower edge is at row 192, its right one at column 192.
    damaged[:, 180:204, 180:204] = (255, 0, 255)
    maps = []
    for tile in (None, TILE):
        config = PatchCoreConfig(coreset_ratio=0.1, batch=3, tile=tile)
        detector = PatchCore(make_network(), geometry, config)
        detector.fit(batches(images, [(0, 0, 352, 480)] * 6, 4))
        scores = detector.score(damaged)
        for one in scores.map:
            y, x = np.unravel_index(one.argmax(), one.shape)
            assert 176 <= y < 208 and 176 <= x < 208
        maps.append(scores.map)
        copy = PatchCore.from_state(make_network(), geometry, config, detector.state())
        np.testing.assert_array_equal(copy.score(damaged).map, scores.map)
    difference = np.abs(maps[0] - maps[1])
    assert difference.max() < 0.05 * maps[0].max()


def test_what_cannot_be_tiled_is_refused():
    for tile in (0, 100, 160, 8192, True, 192.0):
        with pytest.raises(ConfigError, match="--tile"):
            check_tile(tile)
    check_tile(None)
    check_tiled_canvas(None, Geometry(33, 47))
    check_tiled_canvas(192, Geometry(96, 224))
    with pytest.raises(ConfigError, match="no larger than one tile"):
        check_tiled_canvas(256, Geometry(256, 256))
    with pytest.raises(ConfigError, match="multiples of 32"):
        check_tiled_canvas(192, Geometry(250, 250))
    for train in (TrainConfig(updates=4), TrainConfig(updates=0, tile=192)):
        with pytest.raises(ConfigError, match="in training too"):
            FitConfig(train=train, tile=192)
    with pytest.raises(ConfigError, match="option of the detector patchcore"):
        FitConfig(detector="gaussian", train=TrainConfig(updates=4, tile=192), tile=192)
    with pytest.raises(ConfigError, match="trains on windows"):
        TrainConfig(tile=192, cache_activations=True, freeze_stages=2)


def test_a_config_without_tiles_is_written_as_before():
    plain = FitConfig(train=TrainConfig(updates=0)).to_json()
    assert "tile" not in plain and "tile" not in plain["train"]
    tiled = FitConfig(train=TrainConfig(updates=4, tile=192), tile=192)
    assert FitConfig.from_json(tiled.to_json()) == tiled


def sampler(shares=(), side=16) -> WindowSampler:
    whole = TripletSampler(PaintedSet(), batch=4, seed=3, negatives=("swap", "scar"), shares=shares)
    return WindowSampler(whole, side)


def test_windows_of_negatives_hold_an_edited_pixel_and_normals_share_one_of_theirs():
    source, windows = PaintedSet(), sampler(side=26)
    places = set()
    for update in range(12):
        batch = windows.batch(update, with_masks=True)
        assert batch.images.shape == (12, 26, 26, 3) and batch.masks.shape == (12, 26, 26)
        assert batch.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert batch.masks[4:].any((1, 2)).all() and not batch.masks[:4].any()
        for i, row in enumerate(batch.rows[:4]):
            # The normal's window is that of its swap or of its scar.
            normal = source.normal(int(row)).image
            corners = [
                corner_of(source[int(batch.rows[i + offset]) - 8].image, batch.images[i + offset])
                for offset in (4, 8)
            ]
            cut = [normal[y : y + 26, x : x + 26] for y, x in corners]
            assert any(np.array_equal(batch.images[i], one) for one in cut)
            places |= set(corners)
    assert len(places) > 40


def corner_of(image: np.ndarray, window: np.ndarray) -> tuple[int, int]:
    """Where a window was cut from; noise stands but in one place."""
    side = len(window)
    found = [
        (y, x)
        for y in range(image.shape[0] - side + 1)
        for x in range(image.shape[1] - side + 1)
        if np.array_equal(image[y : y + side, x : x + side], window)
    ]
    return found[0]


def test_windows_follow_from_seed_and_update_and_parts_make_the_whole():
    whole = sampler().batch(5, with_masks=True)
    again = sampler().batch(5, with_masks=True)
    np.testing.assert_array_equal(whole.images, again.images)
    assert not np.array_equal(whole.images, sampler().batch(6).images)
    assert sampler().batch(5).masks is None
    assert sampler().batch(5, with_images=False).images is None
    for number in range(2):
        part = sampler().batch(5, with_masks=True, part=(number, 2))
        np.testing.assert_array_equal(part.images, whole.images[part.places])
        np.testing.assert_array_equal(part.masks, whole.masks[part.places])


@pytest.mark.parametrize("shares", [(2, 2), (0.5, 2), (0.5, 0.5)])
def test_with_any_shares_a_normal_has_the_window_of_a_negative(shares):
    source, windows = PaintedSet(), sampler(shares=shares, side=26)
    for update in range(4):
        batch = windows.batch(update)
        negatives = np.flatnonzero(batch.labels > 0)
        corners = {
            i: corner_of(source[int(batch.rows[i]) - 8].image, batch.images[i]) for i in negatives
        }
        for i in np.flatnonzero(batch.labels == 0):
            normal = int(batch.rows[i])
            own = [j for j in negatives if source.negative_normal[batch.rows[j] - 8] == normal]
            image = source.normal(normal).image
            assert any(
                np.array_equal(batch.images[i], image[y : y + 26, x : x + 26])
                for y, x in (corners[j] for j in (own or negatives))
            )


def test_windows_with_other_shares_and_of_small_images():
    batch = sampler(shares=(0.5, 2)).batch(0, with_masks=True)
    assert batch.images.shape[0] == 4 + 2 + 8
    assert batch.masks[4:].any((1, 2)).all()
    height, width = PaintedSet().normal(0).image.shape[:2]
    assert sampler(side=4096).batch(0).images.shape[1:3] == (height, width)


def test_from_build_to_score_on_tiles(sample_data, category_name, tmp_path):
    """Trained on windows, which a kill interrupts, then fitted, checked and scored."""
    invoke_gen(
        "build", sample_data, "--out", tmp_path / "shards", "--image-size", "224x256",
        "--policies", "cutpaste", "--jobs", 1, "--repeats", 1,
    )  # fmt: skip
    common = ("--batch", 4, "--updates", 2, "--coreset", 0.02, "--tile", 192)
    result = invoke_det("fit", tmp_path / "shards", "--out", tmp_path / "models", *common)
    assert "Traceback" not in result.output
    model = tmp_path / "models" / category_name
    assert load_model(model).config.tile == 192
    invoke_det("verify", model)
    assert "192" in invoke_det("inspect", model).output
    test = sample_data / category_name / "test"
    rows, errors = score_images(model, [test])
    assert len(rows) == 8 and not errors
    plain = json.loads((model / "model.json").read_text())
    plain["geometry"] = {"height": 250, "width": 250, "fit": "stretch"}
    with pytest.raises(ModelError, match="multiples of 32"):
        ModelRecord.from_json(plain)


def test_the_command_says_why_a_set_cannot_be_tiled(built, tmp_path):
    for options, words in (
        (("--tile", 256), "no larger than one tile"),
        (("--tile", 100), "a multiple of 32"),
        (("--tile", 192, "--detector", "gaussian"), "option of the detector patchcore"),
    ):
        result = invoke_det("fit", built, "--out", tmp_path, "--updates", 0, *options, exit_code=2)
        assert words in result.output
    assert not list(tmp_path.rglob("model.json"))
