"""Fitting images to the canvas and bringing results back to the original pixels."""

from __future__ import annotations

import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ConfigError, ImageError
from manifests.images import (
    FITS,
    Geometry,
    cropped_fraction,
    fit_image,
    fit_mask,
    place,
    restore_map,
    restore_mask,
)
from reference.resize import nearest_index, resize_axis

FIT = pytest.mark.parametrize("fit", FITS)
SHAPES = st.tuples(st.integers(16, 400), st.integers(16, 400))
CANVASES = st.tuples(st.integers(32, 300), st.integers(32, 300), st.sampled_from(FITS))


def noise(height: int, width: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(height * 1000 + width))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[..., 1] //= 2
    image[..., 2] //= 4  # R ≠ G ≠ B also in the mean
    return image


def blob(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((y - height * 0.4) / height) ** 2 + ((x - width * 0.55) / width) ** 2 < 0.06


# --- the geometry itself --------------------------------------------------------------------------


def test_default_geometry_and_json_round_trip() -> None:
    assert Geometry() == Geometry(256, 256, "stretch")
    geometry = Geometry(64, 96, "crop")
    values = json.loads(json.dumps(geometry.to_json()))
    assert values == {"height": 64, "width": 96, "fit": "crop"}
    assert Geometry.from_json(values) == geometry


@pytest.mark.parametrize("side", [31, 4097, 0, -1, 256.0, True, "256", None])
def test_unusable_sides(side: object) -> None:
    with pytest.raises(ConfigError, match=r"32 to 4096 pixels.*--image-size") as caught:
        Geometry(height=side)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="image width"):
        Geometry(width=side)


def test_unknown_fit_and_malformed_json() -> None:
    assert Geometry(32, 4096).width == 4096
    with pytest.raises(ConfigError, match=r"stretch \| letterbox \| crop"):
        Geometry(fit="Stretch")
    for values in (
        {},
        {"height": 64, "width": 64},
        {"height": 64, "width": 64, "fit": "crop", "x": 1},
        [64, 64, "crop"],
        {"height": "64", "width": 64, "fit": "crop"},
    ):
        with pytest.raises(ConfigError):
            Geometry.from_json(values)


# --- where an image lands -------------------------------------------------------------------------


def test_hand_computed_placements() -> None:
    # A 100 x 300 image on a 64 x 96 canvas. Letterbox: scale 96/300, height 32, 16 above it.
    # Crop: 100 x 150 of the source has the canvas's aspect, 75 to the left of it.
    stretch = place(100, 300, Geometry(64, 96, "stretch"))
    assert (stretch.source_box, stretch.canvas_box) == ((0, 0, 100, 300), (0, 0, 64, 96))
    letterbox = place(100, 300, Geometry(64, 96, "letterbox"))
    assert (letterbox.source_box, letterbox.canvas_box) == ((0, 0, 100, 300), (16, 0, 32, 96))
    crop = place(100, 300, Geometry(64, 96, "crop"))
    assert (crop.source_box, crop.canvas_box) == ((0, 75, 100, 150), (0, 0, 64, 96))
    # The same, upright.
    assert place(300, 100, Geometry(96, 64, "letterbox")).canvas_box == (0, 16, 96, 32)
    assert place(300, 100, Geometry(96, 64, "crop")).source_box == (75, 0, 150, 100)
    assert (crop.source_height, crop.source_width) == (100, 300)


@FIT
def test_equal_aspect_fills_the_canvas_from_the_whole_source(fit: str) -> None:
    placement = place(333 * 2, 333 * 3, Geometry(64, 96, fit))
    assert placement.source_box == (0, 0, 666, 999)
    assert placement.canvas_box == (0, 0, 64, 96)


def test_extreme_aspect_keeps_at_least_one_pixel() -> None:
    assert place(16, 40_000, Geometry(64, 64, "letterbox")).canvas_box == (31, 0, 1, 64)
    assert place(40_000, 16, Geometry(32, 4096, "crop")).source_box == (19_999, 0, 1, 16)
    with pytest.raises(ValueError, match="no placement"):
        place(0, 5, Geometry())


@given(SHAPES, CANVASES)
@settings(max_examples=150, deadline=None)
def test_placements_are_centred_inside_and_keep_the_aspect(shape: tuple, canvas: tuple) -> None:
    geometry = Geometry(*canvas)
    placement = place(*shape, geometry)
    outer_inner = [
        (shape, placement.source_box),
        ((geometry.height, geometry.width), placement.canvas_box),
    ]
    for outer, (y, x, h, w) in outer_inner:
        assert 1 <= h <= outer[0] and 1 <= w <= outer[1]
        assert 0 <= outer[0] - h - 2 * y <= 1 and 0 <= outer[1] - w - 2 * x <= 1
        assert h == outer[0] or w == outer[1]
    if geometry.fit != "crop":
        assert placement.source_box == (0, 0, *shape)
    if geometry.fit != "letterbox":
        assert placement.canvas_box == (0, 0, geometry.height, geometry.width)
    if geometry.fit != "stretch":
        # One side is rounded: undo the scale of the other and compare within half a pixel.
        (sh, sw), (ch, cw) = placement.source_box[2:], placement.canvas_box[2:]
        if geometry.fit == "letterbox":
            side, exact = (cw, Fraction(sw * ch, sh)) if ch == canvas[0] else (ch, None)
            exact = exact if exact is not None else Fraction(sh * cw, sw)
        else:
            side, exact = (sw, Fraction(cw * sh, ch)) if sh == shape[0] else (sh, None)
            exact = exact if exact is not None else Fraction(ch * sw, cw)
        assert abs(side - exact) <= Fraction(1, 2) or side == 1


# --- resizing -------------------------------------------------------------------------------------


def test_hand_computed_resizes() -> None:
    # 2 x 2 blocks 0 10 / 20 30 average to 15.
    blocks = np.tile(np.array([[0, 10], [20, 30]], np.uint8), (32, 48))
    canvas, _ = fit_image(np.repeat(blocks[..., None], 3, 2), Geometry(32, 48))
    assert canvas.shape == (32, 48, 3) and (canvas == 15).all()
    # Doubling a row 0 100 0 100 …: quarters and three quarters between the centres.
    row = np.tile(np.array([0, 100], np.uint8), 16)
    image = np.repeat(np.tile(row, (32, 1))[..., None], 3, 2)
    canvas, _ = fit_image(image, Geometry(32, 64))
    assert canvas[5, :8, 1].tolist() == [0, 25, 75, 75, 25, 25, 75, 75]


@pytest.mark.parametrize(
    ("shape", "canvas", "calls"),
    [
        ((100, 90), (40, 36), [(cv2.INTER_AREA, (36, 40))]),
        ((100, 90), (40, 90), [(cv2.INTER_AREA, (90, 40))]),
        ((40, 36), (100, 90), [(cv2.INTER_LINEAR_EXACT, (90, 100))]),
        ((40, 36), (40, 90), [(cv2.INTER_LINEAR_EXACT, (90, 40))]),
        ((100, 36), (40, 90), [(cv2.INTER_AREA, (36, 40)), (cv2.INTER_LINEAR_EXACT, (90, 40))]),
        ((36, 100), (90, 40), [(cv2.INTER_AREA, (40, 36)), (cv2.INTER_LINEAR_EXACT, (40, 90))]),
        ((40, 90), (40, 90), []),
    ],
)
def test_each_axis_has_its_own_rule(
    monkeypatch: pytest.MonkeyPatch, shape: tuple, canvas: tuple, calls: list
) -> None:
    seen = []
    resize = cv2.resize

    def spy(image: np.ndarray, sides: tuple, *, interpolation: int) -> np.ndarray:
        seen.append((interpolation, sides))
        return resize(image, sides, interpolation=interpolation)

    monkeypatch.setattr(cv2, "resize", spy)
    image = noise(*shape)
    fitted, _ = fit_image(image, Geometry(*canvas))
    assert seen == calls
    expected = image.astype(float)
    # The literal rule: shrink first, round to 8 bits, then grow.
    for shrinks in (True, False):
        for axis in (0, 1):
            if (canvas[axis] < shape[axis]) == shrinks and canvas[axis] != shape[axis]:
                expected = resize_axis(expected, canvas[axis], axis)
        if shrinks and len(calls) == 2:
            expected = np.rint(expected)
    # Half a grey value of rounding; where it grows, OpenCV's weights have 8 bits.
    has_growth = any(flag == cv2.INTER_LINEAR_EXACT for flag, _ in calls)
    assert np.abs(fitted - expected).max() <= (1.75 if has_growth else 0.51)


def test_fitting_leaves_the_image_alone_and_never_shares_memory() -> None:
    image = noise(40, 90)
    before = image.copy()
    image.flags.writeable = False
    canvas, _ = fit_image(image, Geometry(40, 90))
    np.testing.assert_array_equal(canvas, before)
    assert not np.shares_memory(canvas, image)
    np.testing.assert_array_equal(  # a view with negative strides
        fit_image(image[::-1], Geometry(40, 90))[0], before[::-1]
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros(40, np.uint8),
        np.zeros((40, 40, 1), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((1, 40, 40, 3), np.uint8),
        np.zeros((40, 40, 3)),
        np.zeros((40, 40)),
    ],
)
def test_fitting_something_else_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(H,W,3\) or \(H,W\) uint8"):
        fit_image(image, Geometry())


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("canvas", [(64, 64), (61, 90), (32, 200), (333, 77), (300, 300)])
def test_a_grey_image_is_fitted_as_its_three_channels_are(fit: str, canvas: tuple) -> None:
    grey = noise(61, 90)[:, :, 0]
    geometry = Geometry(*canvas, fit=fit)
    fitted, placement = fit_image(grey, geometry)
    expected, same = fit_image(np.repeat(grey[:, :, None], 3, axis=2), geometry)
    assert placement == same and not np.shares_memory(fitted, grey)
    # To a grey value: averages are taken in floating point, one channel by other instructions.
    assert np.abs(fitted.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(fitted, np.repeat(fitted[:, :, :1], 3, axis=2))


def test_letterbox_pads_with_black_and_shows_everything() -> None:
    image = np.maximum(noise(50, 150), 1)
    canvas, placement = fit_image(image, Geometry(128, 96, "letterbox"))
    y, x, h, w = placement.canvas_box
    assert (y, x, h, w) == (48, 0, 32, 96)
    shown, _ = fit_image(image, Geometry(32, 96, "stretch"))
    np.testing.assert_array_equal(canvas[y : y + h, x : x + w], shown)
    assert not canvas[:y].any() and not canvas[y + h :].any()


def test_crop_is_the_stretched_centre() -> None:
    image = noise(50, 150)
    canvas, placement = fit_image(image, Geometry(64, 64, "crop"))
    assert placement.source_box == (0, 50, 50, 50)
    np.testing.assert_array_equal(canvas, fit_image(image[:, 50:100], Geometry(64, 64))[0])


# --- masks and maps -------------------------------------------------------------------------------


@FIT
@pytest.mark.parametrize("shape", [(70, 113), (201, 64)])
def test_masks_are_nearest(fit: str, shape: tuple) -> None:
    mask = noise(*shape)[..., 0] > 128
    placement = place(*shape, Geometry(48, 96, fit))
    (sy, sx, sh, sw), (cy, cx, ch, cw) = placement.source_box, placement.canvas_box
    rows = [sy + i for i in nearest_index(sh, ch)]
    columns = [sx + i for i in nearest_index(sw, cw)]
    expected = np.zeros((48, 96), bool)
    expected[cy : cy + ch, cx : cx + cw] = mask[np.ix_(rows, columns)]
    fitted = fit_mask(mask, placement)
    assert fitted.dtype == bool
    np.testing.assert_array_equal(fitted, expected)

    restored = np.zeros(shape, bool)
    rows, columns = nearest_index(ch, sh), nearest_index(cw, sw)
    restored[sy : sy + sh, sx : sx + sw] = expected[cy : cy + ch, cx : cx + cw][
        np.ix_(rows, columns)
    ]
    np.testing.assert_array_equal(restore_mask(fitted, placement), restored)


def test_hand_computed_mask() -> None:
    # Three columns for every two: the centres of 48 columns over 32 fall on 0 1 1, 2 3 3, …
    mask = np.zeros((32, 32), bool)
    mask[:, 1] = True
    fitted = fit_mask(mask, place(32, 32, Geometry(32, 48)))
    assert np.flatnonzero(fitted[0]).tolist() == [1, 2]
    mask = np.zeros((32, 32), bool)
    mask[:, 0] = True
    fitted = fit_mask(mask, place(32, 32, Geometry(32, 48)))
    assert np.flatnonzero(fitted[0]).tolist() == [0]


@given(SHAPES, CANVASES)
@settings(max_examples=100, deadline=None)
def test_a_mask_survives_a_round_trip_on_a_larger_canvas(shape: tuple, canvas: tuple) -> None:
    placement = place(*shape, Geometry(*canvas))
    y, x, h, w = placement.source_box
    mask = noise(*shape)[..., 0] > 128
    restored = restore_mask(fit_mask(mask, placement), placement)
    assert restored.shape == mask.shape
    if placement.canvas_box[2] >= h and placement.canvas_box[3] >= w:
        np.testing.assert_array_equal(restored[y : y + h, x : x + w], mask[y : y + h, x : x + w])
    restored[y : y + h, x : x + w] = False
    assert not restored.any()


@FIT
@pytest.mark.parametrize("shape", [(90, 240), (240, 90), (30, 50)])
def test_round_trips_land_on_the_original_pixels(fit: str, shape: tuple) -> None:
    """A smooth map and a blob, fitted and restored, are where they were."""
    mask = blob(*shape)
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = (127 + 60 * np.sin(y / shape[0] * 3) + 60 * np.cos(x / shape[1] * 3)).astype(np.uint8)
    canvas, placement = fit_image(np.repeat(smooth[..., None], 3, 2), Geometry(96, 128, fit))
    restored = restore_map(canvas[..., 0].astype(np.float32), placement, outside=-1)
    assert restored.dtype == np.float32 and restored.shape == shape
    sy, sx, h, w = placement.source_box
    inside = np.zeros(shape, bool)
    inside[sy : sy + h, sx : sx + w] = True
    assert np.abs(restored - smooth)[inside].max() < 5
    assert (restored[~inside] == -1).all()

    back = restore_mask(fit_mask(mask, placement), placement)
    overlap = (back & mask & inside).sum() / ((back | mask) & inside).sum()
    assert overlap > 0.9


def test_restored_map_does_not_see_the_padding() -> None:
    placement = place(50, 150, Geometry(96, 96, "letterbox"))
    y, x, h, w = placement.canvas_box
    values = np.full((96, 96), np.nan, np.float32)
    values[y : y + h, x : x + w] = 7
    np.testing.assert_array_equal(restore_map(values, placement), np.full((50, 150), 7, np.float32))


def test_hand_computed_map() -> None:
    placement = place(32, 64, Geometry(32, 32, "stretch"))
    values = np.tile(np.array([0, 100], np.float32), (32, 16))
    assert restore_map(values, placement)[3, :6].tolist() == [0, 25, 75, 75, 25, 25]


def test_shapes_that_do_not_match() -> None:
    placement = place(50, 150, Geometry(64, 96, "crop"))
    with pytest.raises(ImageError, match="expected 50 x 150, got 150 x 50"):
        fit_mask(np.zeros((150, 50), bool), placement)
    with pytest.raises(ImageError, match="expected 50 x 150"):
        cropped_fraction(np.zeros((64, 96), bool), placement)
    for restore in (restore_map, restore_mask):
        with pytest.raises(ValueError, match=r"canvas's shape \(64, 96\)"):
            restore(np.zeros((96, 64), np.float32), placement)


def test_cropped_fraction() -> None:
    placement = place(50, 150, Geometry(64, 64, "crop"))  # keeps columns 50 to 99
    mask = np.zeros((50, 150), bool)
    assert cropped_fraction(mask, placement) == 0.0
    mask[10:20, 45:55] = True
    assert cropped_fraction(mask, placement) == 0.5
    mask[:, 0:40] = True
    assert cropped_fraction(mask, placement) == (50 + 2000) / 2100
    for fit in ("stretch", "letterbox"):
        assert cropped_fraction(mask, place(50, 150, Geometry(64, 64, fit))) == 0.0
