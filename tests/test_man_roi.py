"""Regions of interest: as runs, as JSON, on a canvas and back in the photo."""

from __future__ import annotations

import json

import numpy as np
import pytest

from manifests.errors import ConfigError, ImageError
from manifests.images import (
    Geometry,
    cropped_fraction,
    fit_image,
    fit_mask,
    inspected,
    place,
    restore_map,
    valid_region,
    write_png,
)
from manifests.roi import Roi, read_roi

H, W = 32, 40


def corner_mask() -> np.ndarray:
    """The upper left quarter and the lowest row."""
    mask = np.zeros((H, W), dtype=bool)
    mask[:16, :20] = True
    mask[31] = True
    return mask


def roi_of(mask: np.ndarray) -> Roi:
    return Roi.of_mask(mask, source_height=mask.shape[0], source_width=mask.shape[1])


def photo(height: int = 64, width: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


def test_runs_by_hand():
    mask = np.array([[0, 1, 1], [1, 0, 0]], dtype=bool)
    roi = Roi.of_mask(mask, source_height=20, source_width=30)
    assert roi.runs == (1, 3, 2)
    assert Roi.of_mask(~mask, source_height=2, source_width=3).runs == (0, 1, 3, 2)
    assert roi.area_frac == 0.5
    np.testing.assert_array_equal(roi.mask, mask)
    assert roi.to_json() == {"runs": [1, 3, 2], "source": [20, 30]}


@pytest.mark.parametrize("seed", range(20))
def test_runs_hold_any_mask(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < rng.random()
    mask[rng.integers(mask.shape[0]), rng.integers(mask.shape[1])] = True
    roi = roi_of(mask)
    np.testing.assert_array_equal(roi.mask, mask)
    plain = json.loads(json.dumps(roi.to_json()))
    assert Roi.from_json(plain, height=mask.shape[0], width=mask.shape[1]) == roi


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {"runs": [4]},
        {"runs": [4], "source": [2, 2]},  # nothing inside
        {"runs": [0, 5], "source": [2, 2]},
        {"runs": [0, 3, 0, 1], "source": [2, 2]},
        {"runs": [-1, 5], "source": [2, 2]},
        {"runs": [1, 3.0], "source": [2, 2]},
        {"runs": [True, 3], "source": [2, 2]},
        {"runs": "13", "source": [2, 2]},
        {"runs": [1, 3], "source": [2]},
        {"runs": [1, 3], "source": [0, 2]},
        {"runs": [1, 3], "source": [2, 1 << 40]},
        {"runs": [], "source": [2, 2]},
        {"runs": [1, 3], "source": [2, 2], "more": 1},
    ],
)
def test_malformed_regions_are_refused(plain):
    with pytest.raises(ConfigError):
        Roi.from_json(plain, height=2, width=2)


def test_a_geometry_keeps_its_region_and_one_without_is_written_as_before():
    geometry = Geometry(H, W, "stretch", roi_of(corner_mask()))
    plain = json.loads(json.dumps(geometry.to_json()))
    assert Geometry.from_json(plain) == geometry
    assert Geometry.from_json(plain) != Geometry(H, W)
    assert Geometry(H, W).to_json() == {"height": H, "width": W, "fit": "stretch"}
    assert geometry.in_words == "32x40 stretch, 28 % inspected"  # 360 of 1280
    with pytest.raises(ConfigError, match="another canvas"):
        Geometry(H, W + 1, "stretch", geometry.roi)


def test_outside_is_black_and_can_never_be_seen():
    mask = corner_mask()
    geometry = Geometry(H, W, "stretch", roi_of(mask))
    image = photo()
    canvas, placement = fit_image(image, geometry)
    whole, _ = fit_image(image, Geometry(H, W))
    np.testing.assert_array_equal(canvas[mask], whole[mask])
    assert not canvas[~mask].any()
    other = image.copy()
    other[~inspected(placement)] = 7
    # A canvas pixel is the mean of 2 x 2: all of them lie inside or all outside.
    np.testing.assert_array_equal(fit_image(other, geometry)[0], canvas)


def test_an_image_of_the_canvas_size_is_not_changed_itself():
    image = photo(H, W)
    before = image.copy()
    fit_image(image, Geometry(H, W, "stretch", roi_of(corner_mask())))
    np.testing.assert_array_equal(image, before)


def test_masks_and_maps_end_with_the_region():
    mask = corner_mask()
    geometry = Geometry(H, W, "stretch", roi_of(mask))
    placement = place(64, 80, geometry)
    np.testing.assert_array_equal(fit_mask(np.ones((64, 80), bool), placement), mask)
    np.testing.assert_array_equal(inspected(placement), np.kron(mask, np.ones((2, 2), bool)))
    full = restore_map(np.full((H, W), 3, np.float32), placement)
    np.testing.assert_array_equal(full > 0, inspected(placement))
    truth = np.zeros((64, 80), bool)
    truth[30:34, :8] = True  # half of it in the upper left quarter, which ends at row 32
    assert cropped_fraction(truth, placement) == 0.5


def test_valid_region_by_hand():
    mask = corner_mask()
    geometry = Geometry(H, W, "letterbox", roi_of(mask))
    box, pixels = valid_region((0, 0, H, W), geometry)
    assert box == (0, 0, 32, 40)
    np.testing.assert_array_equal(pixels, mask)
    # Of a rectangle the box says all.
    assert valid_region((0, 0, 31, W), geometry) == ((0, 0, 16, 20), None)
    assert valid_region((1, 2, 3, 4), Geometry(H, W)) == ((1, 2, 3, 4), None)
    with pytest.raises(ValueError, match="region of interest"):
        valid_region((20, 0, 5, 5), geometry)


def test_read_from_a_file_as_an_image_of_its_size_would_be(tmp_path):
    mask = np.zeros((60, 100), np.uint8)
    mask[:, 50:] = 255
    mask[:, :50] = 127  # not white enough
    write_png(tmp_path / "roi.png", mask)
    roi = read_roi(tmp_path / "roi.png", height=40, width=40, fit="letterbox")
    expected = np.zeros((40, 40), bool)
    expected[8:32, 20:] = True  # 24 x 40 px of the canvas show the photo
    np.testing.assert_array_equal(roi.mask, expected)
    assert (roi.source_height, roi.source_width) == (60, 100)
    write_png(tmp_path / "black.png", np.zeros((60, 100), np.uint8))
    with pytest.raises(ConfigError, match=r"black\.png marks nothing"):
        read_roi(tmp_path / "black.png", height=40, width=40, fit="stretch")


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_a_photo_of_another_shape_is_refused_where_the_aspect_ratio_is_kept(tmp_path, fit):
    write_png(tmp_path / "roi.png", np.full((60, 100), 255, np.uint8))
    geometry = Geometry(40, 40, fit, read_roi(tmp_path / "roi.png", height=40, width=40, fit=fit))
    fit_image(photo(120, 200), geometry)
    fit_image(photo(601, 1000), geometry)
    with pytest.raises(ImageError, match=r"x.png: not of the shape.*60 x 100.*100 x 60"):
        fit_image(photo(100, 60), geometry, path="x.png")


@pytest.mark.parametrize(("height", "width"), [(100, 130), (1000, 999), (20, 30), (70, 25)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_nothing_black_in_the_mask_changes_a_canvas_whatever_the_sizes(
    tmp_path, height, width, fit
):
    rng = np.random.default_rng(height)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 7 : -height // 5, width // 6 : -width // 9] = 255
    mask[height // 2 :, width // 2 :] = 255
    mask[int(0.6 * height) : int(0.7 * height), int(0.3 * width) : int(0.5 * width)] = 0
    write_png(tmp_path / "roi.png", mask)
    geometry = Geometry(64, 56, fit, read_roi(tmp_path / "roi.png", height=64, width=56, fit=fit))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    canvas, _ = fit_image(image, geometry)
    other = image.copy()
    other[mask == 0] = 255 - other[mask == 0]
    np.testing.assert_array_equal(fit_image(other, geometry)[0], canvas)
    # And no more is lost than a canvas pixel along the edge.
    white = fit_mask(mask > 0, place(height, width, Geometry(64, 56, fit)))
    inside = geometry.roi.mask
    near = np.zeros_like(inside)
    reach = 2 if min(height, width) >= 64 else 5
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            near |= np.roll(inside, (dy, dx), axis=(0, 1))
    assert not (inside & ~white).any() and not (white & ~near).any()


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_scores_do_not_fade_along_the_edge_of_the_region(scale):
    geometry = Geometry(H, W, "stretch", roi_of(corner_mask()))
    placement = place(scale * H, scale * W, geometry)
    full = restore_map(np.full((H, W), 3, np.float32), placement)
    np.testing.assert_allclose(full[inspected(placement)], 3.0, rtol=1e-6)
    assert not full[~inspected(placement)].any()


def test_a_photo_that_shows_nothing_of_the_region_is_named():
    mask = np.zeros((H, 2 * W), dtype=bool)
    mask[:, 0] = True
    roi = Roi.of_mask(mask, source_height=100, source_width=250)
    geometry = Geometry(H, 2 * W, "letterbox", roi)
    fit_image(photo(100, 250), geometry)
    with pytest.raises(ImageError, match=r"y\.png: shows nothing of the region of interest"):
        fit_image(photo(102, 250), geometry, path="y.png")
