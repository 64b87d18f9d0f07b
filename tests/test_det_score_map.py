"""The score map: upsampled and blurred without help from padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detector.score_map import image_scores, score_map, worst_cells
from reference import patchcore as literal

HEIGHT, WIDTH = 24, 40
GRID = (3, 5)


def distances(batch: int = 2, grid: tuple[int, int] = GRID, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).random((batch, *grid)) * 10
    return torch.from_numpy(values.astype(np.float32))


def sigma_of(px: float) -> float:
    """The sigma_px that gives a blur of `px` on the test canvas."""
    return px * 256 / HEIGHT


def literal_map(values, cells, pixels, sigma):
    up = literal.upsample(values.numpy(), cells, HEIGHT, WIDTH)
    return literal.blur(up, pixels, sigma)


def test_equals_literal_without_padding():
    values = distances()
    found = score_map(values, HEIGHT, WIDTH, sigma_px=sigma_of(1.5))
    assert found.shape == (2, HEIGHT, WIDTH)
    assert found.dtype == torch.float32
    everywhere = np.ones((HEIGHT, WIDTH), dtype=bool)
    for i in range(2):
        expected = literal_map(values[i], np.ones(GRID, dtype=bool), everywhere, 1.5)
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-5)


def test_equals_literal_in_a_region():
    """Means over the cells of the region: weights of the others go to them."""
    roi = np.zeros((HEIGHT, WIDTH), dtype=bool)
    roi[2:20, 3:14] = True
    roi[17:22, 3:38] = True
    valid = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)[None]
    values = distances(1)
    everything = [(0, 0, HEIGHT, WIDTH)]
    found = score_map(
        values,
        HEIGHT,
        WIDTH,
        sigma_px=sigma_of(1.2),
        valid=valid,
        canvas_boxes=everything,
        roi=roi,
    )[0].numpy()
    cells, pixels = np.ones(GRID, dtype=bool), np.ones((HEIGHT, WIDTH), dtype=bool)
    inside = torch.from_numpy(valid[0].astype(np.float32))
    total = literal_map(values[0] * inside, cells, pixels, 1.2)
    weight = literal_map(inside, cells, pixels, 1.2)
    np.testing.assert_allclose(found[roi], total[roi] / weight[roi], rtol=1e-5)
    assert not found[~roi].any()
    # What cells outside the region hold is never seen, and a constant map stays constant.
    other = torch.where(inside.bool(), values, torch.inf)
    arguments = {"sigma_px": sigma_of(1.2), "valid": valid, "canvas_boxes": everything, "roi": roi}
    np.testing.assert_array_equal(score_map(other, HEIGHT, WIDTH, **arguments)[0].numpy(), found)
    level = score_map(torch.full_like(values, 3.0), HEIGHT, WIDTH, **arguments)[0].numpy()
    np.testing.assert_allclose(level[roi], 3.0, rtol=1e-5)


def test_equals_literal_with_padding():
    values = distances()
    valid = np.zeros((2, *GRID), dtype=bool)
    valid[0, 1:3] = True
    valid[1, :, 1:4] = True
    boxes = [(7, 0, 17, 40), (0, 6, 24, 27)]
    found = score_map(
        values, HEIGHT, WIDTH, sigma_px=sigma_of(1.2), valid=valid, canvas_boxes=boxes
    )
    for i, (y, x, h, w) in enumerate(boxes):
        pixels = np.zeros((HEIGHT, WIDTH), dtype=bool)
        pixels[y : y + h, x : x + w] = True
        expected = literal_map(values[i], valid[i], pixels, 1.2)
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-5, atol=1e-6)
        assert float(found[i][torch.from_numpy(~pixels)].abs().max()) == 0.0


def test_hand_computed_upsampling():
    # Two cells of 2 px: centres at 1 and 3, pixels at 0.5, 1.5, 2.5, 3.5.
    found = score_map(torch.tensor([[[0.0, 8.0]]]), 1, 4, sigma_px=0.0)
    assert found.tolist() == [[[0.0, 2.0, 6.0, 8.0]]]


def test_sigma_scales_with_the_shorter_side():
    # An impulse far from the border falls to exp(-1/2) of its peak at one sigma.
    values = torch.zeros(1, 128, 160)
    values[0, 64, 80] = 1.0
    found = score_map(values, 128, 160, sigma_px=8.0)[0]
    assert float(found[64, 84] / found[64, 80]) == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert float(found[68, 80] / found[64, 80]) == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert float(found.sum()) == pytest.approx(1.0, rel=1e-4)


def test_a_constant_stays_constant_up_to_every_edge():
    valid = np.zeros((1, *GRID), dtype=bool)
    valid[0, :, 2:] = True
    found = score_map(
        torch.full((1, *GRID), 3.0),
        HEIGHT,
        WIDTH,
        sigma_px=sigma_of(3.0),
        valid=valid,
        canvas_boxes=[(0, 15, 24, 25)],
    )
    torch.testing.assert_close(found[0, :, 15:], torch.full((24, 25), 3.0))


def test_what_stands_in_padding_has_no_influence():
    valid = np.zeros((1, *GRID), dtype=bool)
    valid[0, 1:, :4] = True
    boxes = np.array([[8, 0, 16, 30]])
    maps = []
    for filling in (0.0, 1e6, float("inf")):
        values = distances(1)
        values[torch.from_numpy(~valid)] = filling
        before = values.clone()
        maps.append(score_map(values, HEIGHT, WIDTH, valid=valid, canvas_boxes=boxes))
        assert torch.equal(values, before)
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


def test_a_box_thinner_than_a_cell_takes_its_nearest_cell():
    valid = np.zeros((1, *GRID), dtype=bool)
    valid[0, 1] = True
    values = distances(1)
    found = score_map(
        values, HEIGHT, WIDTH, sigma_px=0.0, valid=valid, canvas_boxes=[(11, 0, 2, 40)]
    )
    assert torch.isfinite(found).all()
    row = score_map(values[:, 1:2], 1, WIDTH, sigma_px=0.0)[0, 0]
    torch.testing.assert_close(found[0, 11], row)
    torch.testing.assert_close(found[0, 12], row)


def test_image_scores_take_the_largest_valid_cell():
    values = torch.tensor([[[1.0, 9.0], [5.0, 5.0]], [[2.0, 3.0], [4.0, 8.0]]])
    assert image_scores(values).tolist() == [9.0, 8.0]
    valid = np.array([[[True, False], [True, True]], [[True, True], [True, False]]])
    assert image_scores(values, valid=valid).tolist() == [5.0, 4.0]
    # Equal maxima: the first in reading order.
    assert worst_cells(values, valid=valid).tolist() == [2, 2]


def test_the_image_score_is_not_blurred():
    values = torch.zeros(1, 8, 8)
    values[0, 4, 4] = 7.0
    assert float(image_scores(values)) == 7.0
    assert float(score_map(values, 64, 64).max()) < 7.0


@pytest.mark.parametrize(
    "valid",
    [np.zeros((1, 3, 5), dtype=bool), np.eye(3, 5, dtype=bool)[None]],
)
def test_cells_that_are_no_rectangle_are_refused(valid):
    with pytest.raises(ValueError, match="rectangle"):
        score_map(distances(1), HEIGHT, WIDTH, valid=valid, canvas_boxes=[(0, 0, 24, 40)])


def test_cells_without_boxes_are_refused():
    with pytest.raises(ValueError, match="together"):
        score_map(distances(1), HEIGHT, WIDTH, valid=np.ones((1, *GRID), dtype=bool))
