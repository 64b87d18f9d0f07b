"""Contact sheets: colours, lines, captions and layout."""

from __future__ import annotations

import numpy as np
import pytest

from manifests.annotate import (
    SKY,
    VERMILION,
    boxes,
    colour_bar,
    difference,
    fit_tile,
    mask_image,
    outline,
    overlay,
)
from manifests.lettering import clean, ellipsised, font_of, wrapped
from manifests.sheet import sheet

FONT = font_of(12)


def _image(height: int = 20, width: int = 30) -> np.ndarray:
    """Not square, R != G != B."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 3 * x, 90 + 2 * y, 200 - x - y], axis=2).astype(np.uint8)


def test_overlay_shows_grey_where_cold_and_inferno_where_hot():
    image = np.full((2, 3, 3), (100, 150, 200), dtype=np.uint8)
    heat = np.array([[0, 0.5, 1], [-9, 2, 1]], dtype=np.float32)
    got = overlay(image, heat, opacity=1.0)
    grey = round(0.299 * 100 + 0.587 * 150 + 0.114 * 200)
    np.testing.assert_array_equal(got[0, 0], [grey] * 3)
    np.testing.assert_allclose(got[0, 2], [252, 255, 164], atol=1)  # inferno's upper end
    np.testing.assert_array_equal(got[1], got[0, [0, 2, 2]])  # beyond the ends the colours stay
    np.testing.assert_array_equal(overlay(image, heat, opacity=0.0)[0, 1], [grey] * 3)


def test_overlay_reads_uint8_as_zero_to_one_and_scales():
    image = _image()
    values = np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8)
    as_float = values / np.float32(255)
    np.testing.assert_array_equal(overlay(image, values), overlay(image, as_float))
    moved = overlay(image, as_float * 3 + 2, low=2, high=5).astype(int)
    assert np.abs(moved - overlay(image, as_float)).max() <= 1


def test_overlay_gets_lighter_with_heat():
    image = np.full((1, 256, 3), 128, dtype=np.uint8)
    got = overlay(image, np.arange(256, dtype=np.uint8)[None], opacity=1.0)[0, 128:].astype(float)
    lightness = got @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -1.5).all() and lightness[-1] > lightness[0] + 100


@pytest.mark.parametrize("wrong", [{"low": 1.0}, {"low": 2.0}, {}])
def test_overlay_refuses_what_does_not_fit(wrong):
    heat = np.zeros((20, 30) if wrong else (30, 20), dtype=np.float32)
    with pytest.raises(ValueError, match="cannot lay"):
        overlay(_image(), heat, **wrong)


def test_outline_leaves_the_region_itself_visible():
    image = _image()
    mask = np.zeros((20, 30), dtype=bool)
    mask[6:12, 8:20] = True
    got = outline(image, mask, VERMILION, width_px=2)
    np.testing.assert_array_equal(got[mask], image[mask])
    assert (got[5, 8:20] == VERMILION).all() and (got[4, 9:19] == VERMILION).all()
    assert (got[3, 9:19] == 0).all()  # the halo
    np.testing.assert_array_equal(got[:2], image[:2])


def test_outline_of_a_region_at_the_border_closes_inside():
    mask = np.ones((20, 30), dtype=bool)
    got = outline(_image(), mask, SKY, width_px=1)
    assert (got[0] == SKY).all() and (got[:, -1] == SKY).all()
    np.testing.assert_array_equal(got[3:-3, 3:-3], _image()[3:-3, 3:-3])
    np.testing.assert_array_equal(outline(_image(), ~mask, SKY), _image())


def test_boxes_are_y_x_h_w():
    image = _image()
    got = boxes(image, [(4, 6, 8, 16), (-1, -1, -1, -1)], [VERMILION, SKY], width_px=1)
    edge = np.zeros((20, 30), dtype=bool)
    edge[4:12, 6:22] = True
    edge[5:11, 7:21] = False
    assert (got[edge] == VERMILION).all()
    np.testing.assert_array_equal(got[5:11, 7:21], image[5:11, 7:21])
    assert not (got == SKY).all(axis=2).any()
    assert (got[3, 5:23] == 0).all()


def test_drawing_leaves_its_input_alone():
    image, kept = _image(), _image()
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:9, 5:9] = True
    outline(image, mask, SKY)
    boxes(image, [(1, 2, 9, 9)], [SKY])
    overlay(image, mask.astype(np.float32))
    sheet([[(image, "")]], tile_px=30)
    np.testing.assert_array_equal(image, kept)


def test_difference_by_hand():
    a = np.array([[[10, 200, 7]]], dtype=np.uint8)
    b = np.array([[[13, 100, 7]]], dtype=np.uint8)
    np.testing.assert_array_equal(difference(a, b, gain=4), [[[12, 255, 0]]])
    np.testing.assert_array_equal(difference(b, a), [[[3, 100, 0]]])


def test_fit_tile_keeps_the_aspect_and_small_defects():
    assert fit_tile(np.zeros((100, 400, 3), np.uint8), 80).shape == (20, 80, 3)
    assert fit_tile(np.zeros((400, 100), np.float32), 80).shape == (80, 20)
    assert fit_tile(np.zeros((1, 4000, 3), np.uint8), 80).shape == (1, 80, 3)
    mask = np.zeros((400, 100), dtype=bool)
    mask[203, 51] = True
    small = fit_tile(mask, 80)
    assert small.dtype == bool and np.argwhere(small).tolist() == [[40, 10]]
    large = fit_tile(_image(2, 3), 6)
    np.testing.assert_array_equal(large, _image(2, 3).repeat(2, axis=0).repeat(2, axis=1))


def test_mask_image():
    got = mask_image(np.array([[True, False]]))
    np.testing.assert_array_equal(got, [[[255] * 3, [0] * 3]])
    assert got.dtype == np.uint8


@pytest.mark.parametrize(
    "text",
    ["a few short words that wrap", "exp1_num_174647_left-front.jpg", "x" * 90, "Größe 日本"],
)
@pytest.mark.parametrize("width", [40, 90])
def test_wrapped_lines_fit_and_lose_nothing(text, width):
    lines = wrapped(text, FONT, width)
    assert all(FONT.getlength(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_wrapping_prefers_spaces_and_separators():
    width = round(FONT.getlength("exp1_num_") + 2)
    assert wrapped("exp1_num_174647.jpg", FONT, width)[0] == "exp1_num_"
    assert wrapped("one two", FONT, round(FONT.getlength("one tw"))) == ["one", "two"]
    assert wrapped("", FONT, 50) == []


def test_ellipsis():
    got = ellipsised("a long file name", FONT, 60)
    assert got.endswith("…") and FONT.getlength(got) <= 60 and got[0] == "a"
    assert ellipsised("short", FONT, 100) == "short"


def test_any_text_can_be_drawn():
    odd = "tab\there\x00\udc80 nul 日本 \U0001f600 é" + "z" * 100_000
    assert clean("a\tb\u00a0c\x00\udc80") == "a b c\ufffd\ufffd"
    got = sheet([[(_image(), odd + "\n" + odd)]], title=odd, notes=[odd], row_titles=[odd])
    assert got.shape[1] < 1200


def test_the_font_knows_more_than_ascii():
    unknown = bytes(FONT.getmask("\U000effff"))
    for char in "é×≥—…Ж":
        assert bytes(FONT.getmask(char)) != unknown, char


def _positions(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(y, x, h, w) of the pixels of one colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1


def test_layout_of_tiles_that_are_not_square():
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    tall = np.full((120, 60, 3), red, np.uint8)
    wide = np.full((40, 120, 3), green, np.uint8)
    small = np.full((12, 12, 3), blue, np.uint8)
    got = sheet([[(tall, "tall"), (wide, "wide")], [None, (small, "small")]], tile_px=120)
    assert got.dtype == np.uint8 and got.flags.writeable
    a, b, c = (_positions(got, colour) for colour in (red, green, blue))
    assert (a[2:], b[2:], c[2:]) == ((120, 60), (40, 120), (120, 120))
    assert a[0] + a[2] == b[0] + b[2]  # tiles of a row stand on one line
    assert b[1] == c[1] and b[1] > a[1] + a[3]  # tiles of a column start on one line
    assert c[0] > b[0] + b[2] + 12  # captions lie between rows
    border = np.concatenate([got[:16].ravel(), got[-16:].ravel(), got[:, -16:].ravel()])
    assert (border == 255).all()


def test_groups_are_set_apart_and_captions_are_drawn():
    tile = (np.full((50, 100, 3), (255, 0, 0), np.uint8), "")
    last = (np.full((50, 100, 3), (0, 255, 0), np.uint8), "")
    plain = sheet([[tile, last]], tile_px=100)
    grouped = sheet([[tile, last]], groups=[("one", 1), ("two", 1)], tile_px=100)
    assert _positions(grouped, (0, 255, 0))[1] > _positions(plain, (0, 255, 0))[1]
    assert _positions(grouped, (255, 0, 0))[0] > _positions(plain, (255, 0, 0))[0]
    captioned = sheet([[(tile[0], "caption\nsecond"), last]], tile_px=100)
    assert captioned.shape[0] > plain.shape[0]
    y, x, h, w = _positions(captioned, (255, 0, 0))
    assert (captioned[y + h + 4 : y + h + 18, x : x + w] < 128).any()


def test_long_captions_end_and_do_not_reach_the_next_tile():
    tile = np.full((100, 100, 3), (255, 0, 0), np.uint8)
    long = sheet([[(tile, "word " * 100), (tile, "")]], tile_px=100)
    short = sheet([[(tile, "a\nb\nc\nd"), (tile, "")]], tile_px=100)
    assert long.shape == short.shape  # four lines at most
    y, x, h, _ = _positions(long, (255, 0, 0))
    assert (long[y + h + 2 :, x + 101 :] == 255).all()


def test_empty_tiles_say_why_and_take_the_place():
    picture = (np.full((60, 100, 3), (255, 0, 0), np.uint8), "")
    got = sheet([[picture, (None, "no saliency stored")]], tile_px=100)
    empty = sheet([[picture, (None, "")]], tile_px=100)
    assert _positions(got, (245, 245, 245))[2:] == (58, 98)
    assert (got != empty).any()
    only = sheet([[(None, "nothing here")]], tile_px=100)
    assert _positions(only, (245, 245, 245))[2:] == (48, 98)


def test_header_lead_legend_and_nothing_at_all():
    lead = np.full((40, 80, 3), (255, 0, 0), np.uint8)
    legend = colour_bar(low=0.5, high=1.5, mark=1.0, label="scale")
    got = sheet([], title="Title", notes=["n"] * 9, lead=lead, legend=legend, tile_px=80)
    assert _positions(got, (255, 0, 0))[2:] == (40, 80)
    # Nine notes are higher than the image beside them; all must fit above the legend.
    assert got.shape[0] > 9 * 17 + legend.shape[0]
    assert sheet([]).shape[2] == 3
    with pytest.raises(ValueError, match="row titles"):
        sheet([[(lead, "")]], row_titles=["a", "b"])


def test_colour_bar_shows_the_colours_of_the_overlay():
    bar = colour_bar(low=0.5, high=1.5, label="scale", width_px=200)
    row = bar[23]
    grey = np.full((1, 1, 3), 128, np.uint8)
    for share in (0.1, 0.5, 0.9):
        value = np.array([[0.5 + share]], dtype=np.float32)
        want = overlay(grey, value, low=0.5, high=1.5)[0, 0].astype(int)
        got = row[24 + round(share * 199)].astype(int)
        assert np.abs(got - want).max() <= 3
    marked = colour_bar(low=0.5, high=1.5, mark=1.0, label="scale", width_px=200)
    assert (marked[23, 24 + 100] < 60).all()
