"""Forged anomalies: masks and blends against a literal reference, and what is drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from generator.anchors import anchor_rng
from generator.perlin_noise import perlin_noise
from generator.policies import forged
from generator.policies.base import ImageContext
from generator.policies.donor import Donor
from generator.policies.forged import extent
from generator.policies.perlin import Perlin, PerlinConfig
from generator.policies.saliency_perlin import (
    SaliencyPerlin,
    SaliencyPerlinConfig,
    adaptive_threshold,
)
from manifests.digest import array_digest
from manifests.edits import Blend, render
from reference import edits as literal_edits
from reference import perlin as literal

HEIGHT, WIDTH = 48, 64
PADDED = (6, 0, 36, 64)


def picture(seed, height=HEIGHT, width=WIDTH):
    noise = np.random.default_rng(seed).integers(0, 80, size=(height, width, 3))
    return (noise + np.array([0, 80, 160])).astype(np.uint8)


def context_of(*, valid_box=(0, 0, HEIGHT, WIDTH), saliency=None, donors=2):
    image = picture(0)
    rows = [(array_digest(image), image)]
    rows += [(array_digest(one), one) for one in map(picture, range(1, donors))]
    lent = tuple(Donor(digest, pixels, valid_box) for digest, pixels in sorted(rows))
    return ImageContext(image, rows[0][0], valid_box, -1, None, 0, saliency=saliency, donors=lent)


def hill():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.maximum(0, 255 - 6 * np.abs(y - 20) - 4 * np.abs(x - 40)).astype(np.uint8)


def draws_of(policy, context, count=30, seed=0):
    return [
        policy.draw(anchor_rng(seed, context.digest, "forged", -1, repeat), context)
        for repeat in range(count)
    ]


def recorded_noise(monkeypatch):
    """The grids of noise that policies have drawn."""
    seen = []

    def draw(rng, height, width, *, exponents):
        seen.append(perlin_noise(rng, height, width, exponents=exponents))
        return seen[-1].copy()

    monkeypatch.setattr(forged, "perlin_noise", draw)
    return seen


@pytest.mark.parametrize("valid_box", [(0, 0, HEIGHT, WIDTH), PADDED])
@pytest.mark.parametrize("map_of", [hill, lambda: np.zeros((HEIGHT, WIDTH), np.uint8)])
def test_masks_are_those_of_the_literal_reference(map_of, valid_box, monkeypatch):
    top, left, h, w = valid_box
    shown = np.s_[top : top + h, left : left + w]
    saliency = map_of()
    context = context_of(saliency=saliency, valid_box=valid_box)
    seen = recorded_noise(monkeypatch)
    for seed in range(8):
        (draw,) = draws_of(SaliencyPerlin(), context, 1, seed=seed)
        (edit,) = draw.edits
        expected = literal.forged_mask(seen[-1].tolist(), (saliency[shown] / 255).tolist())
        assert (edit.mask[shown] == expected).all()
        assert edit.mask.sum() == np.sum(expected)
        assert (draw.anchors == -1).all() and draw.fallback == 0
        if not saliency.any():  # nothing is salient: the noise alone, above 0.4
            assert (edit.mask[shown] == (seen[-1] > np.float32(0.4))).all()
        (draw,) = draws_of(Perlin(), context, 1, seed=seed)
        assert (draw.edits[0].mask[shown] == (seen[-1] > 0.5)).all()


def test_the_threshold_by_hand():
    half = np.zeros((2, 4), np.float32)
    assert adaptive_threshold(half) == 0.4
    half[0] = 1
    assert adaptive_threshold(half) == pytest.approx(0.5)
    assert adaptive_threshold(np.ones((3, 3), np.float32)) == pytest.approx(0.6)


def test_blends_are_those_of_the_literal_reference():
    context = context_of(saliency=hill(), donors=4)
    for draw in draws_of(SaliencyPerlin(), context, 12):
        (edit,) = draw.edits
        everywhere = Blend(edit.donor, edit.transform, np.ones_like(edit.mask), 255)
        donor, _ = literal_edits.render(context.image, [everywhere], context.donor_images)
        expected = np.array(
            literal.blended(context.image.tolist(), donor, edit.mask.tolist(), edit.alpha / 255)
        )
        image, mask = render(context.image, draw.edits, context.donor_images)
        assert np.abs(image - expected).max() <= 0.5 + 1e-9
        assert (mask == edit.mask).all()
        assert (draw.rendered[0] == image).all()


def test_weights_and_cells_are_as_asked_for(monkeypatch):
    context = context_of(donors=3)
    weights = [draw.edits[0].alpha for draw in draws_of(Perlin(), context, 200)]
    assert 26 <= min(weights) < 40 and 240 < max(weights) <= 255
    narrow = Perlin(PerlinConfig(alpha=(0.5, 0.5), perlin_cells=(2, 2)))
    assert {draw.edits[0].alpha for draw in draws_of(narrow, context, 10)} == {128}
    seen = []
    monkeypatch.setattr(
        forged,
        "perlin_noise",
        lambda rng, h, w, *, exponents: (seen.append(exponents), perlin_noise(rng, h, w))[1],
    )
    draws_of(narrow, context, 3)
    assert set(seen) == {(2, 2)}


def test_masks_lie_where_the_map_is():
    saliency = np.zeros((HEIGHT, WIDTH), np.uint8)
    saliency[10:30, 30:60] = 255
    for draw in draws_of(SaliencyPerlin(), context_of(saliency=saliency)):
        assert not draw.edits[0].mask[saliency == 0].any()
    # Where all is salient the threshold is 0.6, and masks are smaller than those of plain noise.
    full = context_of(saliency=np.full((HEIGHT, WIDTH), 255, np.uint8))
    guided, plain = (
        np.mean([draw.edits[0].mask.mean() for draw in draws_of(policy, full, 80)])
        for policy in (SaliencyPerlin(), Perlin())
    )
    assert guided < 0.8 * plain


def test_empty_and_tiny_masks_are_drawn_again_and_counted():
    saliency = np.zeros((HEIGHT, WIDTH), np.uint8)
    saliency[20:26, 30:36] = 255
    draws = draws_of(SaliencyPerlin(), context_of(saliency=saliency), 40)
    found = [draw for draw in draws if draw is not None]
    assert len(found) > 20 and max(draw.rejections for draw in found) > 3
    least = max(forged.MIN_MASK_PX, forged.MIN_MASK_FRAC * HEIGHT * WIDTH)
    assert min(draw.edits[0].mask.sum() for draw in found) >= least
    # Three pixels are too few for any mask, however often it is tried.
    saliency[:] = 0
    saliency[20, 30:33] = 255
    assert draws_of(SaliencyPerlin(), context_of(saliency=saliency), 3) == [None] * 3


def test_the_least_mask_grows_with_the_image():
    assert forged.MIN_MASK_FRAC * 256 * 256 == 32
    assert draws_of(Perlin(), context_of(valid_box=(0, 0, 1, 3)), 2) == [None, None]


def test_a_lone_image_is_mixed_with_itself_and_never_unchanged():
    context = context_of(donors=1)
    draws = draws_of(Perlin(), context, 60)
    for draw in draws:
        assert draw.edits[0].donor == context.digest
        changed = (draw.rendered[0] != context.image).any(axis=2)
        assert changed.sum() > 0.5 * draw.edits[0].mask.sum()


def test_donors_are_other_images():
    context = context_of(donors=5)
    used = {draw.edits[0].donor for draw in draws_of(Perlin(), context, 80)}
    assert used == {donor.digest for donor in context.donors} - {context.digest}


def test_padding_of_donors_stays_out():
    context = context_of(valid_box=PADDED, donors=3, saliency=hill())
    for policy in (Perlin(), SaliencyPerlin()):
        for draw in draws_of(policy, context, 40):
            (edit,) = draw.edits
            top, _, height, _ = extent(edit.mask)
            assert PADDED[0] <= top and top + height <= PADDED[0] + PADDED[2]
            marked = {
                digest: np.where(np.arange(HEIGHT)[:, None, None] // 6 % 7 == 0, 255, pixels // 2)
                for digest, pixels in context.donor_images.items()
            }  # rows 0..5 and 42..47 are padding
            bare = Blend(edit.donor, type(edit.transform)(
                edit.transform.quarter_turns, edit.transform.flip_y, edit.transform.flip_x,
                edit.transform.shift, None), edit.mask, 255)  # fmt: skip
            image, mask = render(
                np.zeros_like(context.image),
                [bare],
                {digest: pixels.astype(np.uint8) for digest, pixels in marked.items()},
            )
            assert image[mask].max() < 255


def test_the_view_is_that_of_the_config():
    for view in ("level", "mean", "max"):
        assert SaliencyPerlin(SaliencyPerlinConfig(saliency=view)).view == view
    assert SaliencyPerlin().view == "mean" and Perlin.view == "none"


def test_extent_by_hand():
    mask = np.zeros((7, 9), bool)
    mask[2, 3] = mask[5, 1] = True
    assert extent(mask) == (2, 1, 4, 3)
