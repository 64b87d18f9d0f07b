"""Losses and the image score of guided segmentation against hand-computed and literal ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from detector.guided.losses import focal_loss, reconstruction_loss, ssim
from detector.guided.pooled_score import pooled_scores, window_side
from reference.guided import (
    focal_loss_literally,
    pooled_score_literally,
    reconstruction_loss_literally,
    ssim_literally,
)

LN2 = math.log(2.0)
SHAPE = (2, 3, 20, 27)


def random(shape, seed=0, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches that resemble each other, with R != G != B."""
    x = random(SHAPE, seed) * torch.tensor([1.0, 0.7, 0.4]).view(1, 3, 1, 1)
    return x, (0.8 * x + 0.2 * random(SHAPE, seed + 1)).clamp(0, 1)


# focal loss


def test_the_focal_loss_by_hand():
    # p = 3/4 of being anomalous: (1/4)^2 * ln(4/3) if so, (3/4)^2 * ln 4 if not.
    logits = torch.full((1, 1, 2), math.log(3.0))
    masks = torch.tensor([[[True, False]]])
    expected = (math.log(4 / 3) / 16 + 9 / 16 * math.log(4)) / 2
    assert focal_loss(logits, masks).item() == pytest.approx(expected)
    assert focal_loss(torch.zeros((1, 1, 2)), masks).item() == pytest.approx(LN2 / 4)
    assert focal_loss(torch.zeros((1, 1, 2)), masks, gamma=0.0).item() == pytest.approx(LN2)
    valid = torch.tensor([[[True, False]]])
    found = focal_loss(logits, masks, valid=valid)
    assert found.item() == pytest.approx(math.log(4 / 3) / 16)
    assert focal_loss(logits, masks, valid=torch.zeros_like(masks)).item() == 0.0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
def test_the_focal_loss_equals_the_literal_one(gamma):
    logits = 8 * random((2, 5, 7)) - 4
    masks, valid = random((2, 5, 7), 1) < 0.3, random((2, 5, 7), 2) < 0.6
    for counted in (None, valid):
        expected = focal_loss_literally(logits, masks, gamma, counted)
        found = focal_loss(logits, masks, gamma=gamma, valid=counted)
        assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_is_finite_however_sure_the_network_is(gamma):
    logits = torch.tensor([[[-300.0, 300.0, -300.0, 300.0]]], requires_grad=True)
    masks = torch.tensor([[[True, True, False, False]]])
    loss = focal_loss(logits, masks, gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx(150.0)
    slopes = torch.tensor([-0.25, 0.0, 0.0, 0.25])
    torch.testing.assert_close(logits.grad[0, 0], slopes)


def test_what_is_invalid_neither_counts_nor_learns():
    logits = random((1, 4, 6), dtype=torch.float32).requires_grad_(True)
    masks, valid = random((1, 4, 6), 1) < 0.3, random((1, 4, 6), 2) < 0.6
    loss = focal_loss(logits, masks, valid=valid)
    loss.backward()
    assert torch.equal(logits.grad != 0, valid)
    changed = torch.where(valid, logits, 50.0)
    assert torch.equal(focal_loss(changed, masks ^ ~valid, valid=valid), loss)


def test_the_focal_loss_is_of_float32_whatever_the_logits_are():
    logits, masks = random((1, 4, 4)).bfloat16(), random((1, 4, 4)) < 0.5
    assert focal_loss(logits, masks).dtype == torch.float32
    assert torch.equal(focal_loss(logits, masks), focal_loss(logits.float(), masks))


def test_masks_that_would_be_broadcast_or_are_numbers_are_refused():
    logits = torch.zeros((2, 4, 6))
    with pytest.raises(ValueError, match="masks must be"):
        focal_loss(logits, torch.zeros((2, 1, 6), dtype=torch.bool))
    with pytest.raises(ValueError, match="masks must be"):
        focal_loss(logits, torch.zeros((2, 4, 6)))
    with pytest.raises(ValueError, match="valid must be"):
        focal_loss(logits, logits > 0, valid=torch.ones((4, 6), dtype=torch.bool))
    with pytest.raises(ValueError, match="gamma"):
        focal_loss(logits, logits > 0, gamma=-1.0)


# SSIM


def test_the_ssim_by_hand():
    # Of constants only the means are left: (2ab + C1) / (a² + b² + C1).
    a, b = torch.full((1, 1, 12, 13), 0.25), torch.full((1, 1, 12, 13), 0.75)
    expected = (2 * 0.1875 + 1e-4) / (0.0625 + 0.5625 + 1e-4)
    assert ssim(a.double(), b.double()).item() == pytest.approx(expected)
    assert ssim(a, b).item() == pytest.approx(expected, rel=1e-4)
    assert ssim(a, a).tolist() == [1.0]
    assert reconstruction_loss(a, b).item() == pytest.approx(0.25 + 1 - expected, rel=1e-4)


def test_the_ssim_equals_the_literal_one():
    x, y = pictures()
    found = ssim(x, y)
    assert found.shape == (2,) and found.dtype == torch.float64
    for a, b, value in zip(x, y, found, strict=True):
        assert value.item() == pytest.approx(ssim_literally(a.numpy(), b.numpy()), rel=1e-9)
    torch.testing.assert_close(ssim(x.float(), y.float()), found.float(), rtol=0, atol=1e-5)


def test_the_ssim_equals_that_of_scikit_image():
    x, y = pictures(4)
    for a, b, value in zip(x, y, ssim(x, y), strict=True):
        expected = structural_similarity(
            a.numpy(), b.numpy(), channel_axis=0, data_range=1.0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert value.item() == pytest.approx(expected, rel=1e-9)


def test_windows_that_hold_an_invalid_pixel_do_not_count():
    x, y = pictures(2)
    valid = torch.zeros((2, 20, 27), dtype=torch.bool)
    valid[0, 3:17, 5:25] = True
    valid[1, 3:13, :] = True  # too thin for a window
    found = ssim(x, y, valid=valid)
    expected = ssim_literally(x[0].numpy(), y[0].numpy(), valid[0].numpy())
    assert found.tolist() == pytest.approx([expected, 1.0])
    changed = torch.where(valid[:, None], x, 0.0)
    assert torch.equal(ssim(changed, y, valid=valid), found)


def test_the_reconstruction_loss_equals_the_literal_one():
    x, y = pictures(6)
    valid = torch.zeros((2, 20, 27), dtype=torch.bool)
    valid[0, 2:18, 4:20], valid[1, :14] = True, True
    for counted in (None, valid):
        expected = reconstruction_loss_literally(
            x.numpy(), y.numpy(), None if counted is None else counted.numpy()
        )
        found = reconstruction_loss(x, y, valid=counted)
        assert found.item() == pytest.approx(expected, rel=1e-9)


def test_autocast_does_not_reach_the_ssim():
    x, y = (images.float() for images in pictures())
    expected = reconstruction_loss(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reconstruction_loss(x, y), expected)


def test_a_better_reconstruction_is_found_by_descent():
    _, y = (images.float() for images in pictures())
    x = torch.full_like(y, 0.5).requires_grad_(True)
    first = reconstruction_loss(x, y)
    optimiser = torch.optim.Adam([x], 0.05)
    for _ in range(40):
        optimiser.zero_grad()
        loss = reconstruction_loss(x, y)
        loss.backward()
        optimiser.step()
    assert loss < 0.2 * first


def test_images_that_are_too_small_or_differ_in_shape_are_refused():
    small = torch.zeros((1, 3, 10, 40))
    with pytest.raises(ValueError, match="11x11"):
        ssim(small, small)
    with pytest.raises(ValueError, match="two batches"):
        ssim(torch.zeros((1, 3, 20, 20)), torch.zeros((1, 1, 20, 20)))


# the image score


@pytest.mark.parametrize(
    ("window_px", "height", "width", "side"),
    [
        (21, 256, 256, 21),
        (21, 512, 600, 41),
        (21, 128, 256, 11),
        (21, 32, 48, 3),
        (5, 256, 256, 5),
        (5, 128, 128, 3),
        (5, 32, 48, 1),
        (1, 8, 8, 1),
    ],
)
def test_the_window_grows_with_the_canvas(window_px, height, width, side):
    assert window_side(window_px, height, width) == side
    assert window_side(window_px, width, height) == side


def test_the_score_by_hand():
    maps = torch.zeros((2, 32, 48))
    maps[0, 10:12, 20:23] = 0.9  # six of the nine pixels of a window
    maps[1, 0, 0] = 0.8  # in the corner a window has four
    assert pooled_scores(maps, window_px=21).tolist() == pytest.approx([0.6, 0.2])
    # A window of 5 px at 256 px is one pixel here.
    assert pooled_scores(maps).tolist() == pytest.approx([0.9, 0.8])
    assert pooled_scores(torch.full((1, 32, 48), 0.3)).tolist() == pytest.approx([0.3])


def test_padding_adds_nothing_and_takes_nothing_away():
    maps = torch.full((1, 32, 48), 0.5)
    valid = torch.zeros((1, 32, 48), dtype=torch.bool)
    valid[0, 8:20, :] = True
    maps[0, 20:, :] = 1.0
    maps[0, :8, :] = torch.nan
    for window_px in (5, 21, 256):
        found = pooled_scores(maps, window_px=window_px, valid=valid)
        assert found.item() == pytest.approx(0.5)


@pytest.mark.parametrize("window_px", [5, 21])
@pytest.mark.parametrize("canvas", [(64, 90), (90, 64), (37, 33)])
def test_the_score_equals_the_literal_one(canvas, window_px):
    maps = random((4, *canvas), dtype=torch.float32) ** 4
    valid = torch.ones((4, *canvas), dtype=torch.bool)
    valid[1] = False
    valid[1, 5:30, 9:31] = True
    valid[2] = False
    valid[2, 7, 3] = True
    valid[3] = random(canvas, 3) < 0.5
    found = pooled_scores(maps, window_px=window_px, valid=valid)
    side = window_side(window_px, *canvas)
    for values, shown, score in zip(maps.numpy(), valid.numpy(), found, strict=True):
        expected = pooled_score_literally(values, side, shown)
        assert score.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(pooled_scores(maps, window_px=window_px)[:1], found[:1])


def test_a_map_without_a_valid_pixel_is_refused():
    valid = torch.ones((2, 32, 48), dtype=torch.bool)
    valid[1] = False
    with pytest.raises(ValueError, match="a pixel in every map"):
        pooled_scores(torch.zeros((2, 32, 48)), valid=valid)


def test_nothing_given_is_changed():
    x, y = pictures()
    maps, valid = random((1, 32, 48)), random((1, 32, 48), 1) < 0.5
    before = [each.numpy().copy() for each in (x, y, maps, valid)]
    reconstruction_loss(x, y)
    pooled_scores(maps, valid=valid)
    focal_loss(maps, valid)
    for now, then in zip((x, y, maps, valid), before, strict=True):
        np.testing.assert_array_equal(now, then)
