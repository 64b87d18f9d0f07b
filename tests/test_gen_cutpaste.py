"""CutPaste and its scar: what is pasted, how it is recoloured, and where it lands."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from generator.anchors import anchor_rng, sample_box
from generator.policies.base import ImageContext
from generator.policies.colour_jitter import has_no_colour, jittered_colour
from generator.policies.cutpaste import CutPaste, CutPasteConfig
from generator.policies.cutpaste_scar import (
    CutPasteScar,
    CutPasteScarConfig,
    margins_in_padding,
)
from manifests.edits import ColourShift, render
from reference import edits as literal
from reference.cutpaste import jittered, turned_places

HEIGHT, WIDTH = 48, 80
WHOLE = (0, 0, HEIGHT, WIDTH)


def noise_image(height=HEIGHT, width=WIDTH, seed=0):
    noise = np.random.default_rng(seed).integers(0, 80, size=(height, width, 3))
    return (noise + np.array([10, 80, 160])).astype(np.uint8)


def context_of(image, valid_box=None):
    valid_box = valid_box or (0, 0, *image.shape[:2])
    return ImageContext(image, "0" * 64, valid_box, -1, None, 0)


def draws_of(policy, context, count):
    return [
        policy.draw(anchor_rng(0, context.digest, "paste", -1, repeat), context)
        for repeat in range(count)
    ]


class FixedFactors:
    """Stands in for a generator: brightness, contrast and three gains as given."""

    def __init__(self, *factors):
        self.factors = np.array(factors)

    def uniform(self, low, high, size):
        assert low <= self.factors.min() and self.factors.max() <= high
        assert size == len(self.factors)
        return self.factors


# What is pasted


def test_the_destination_holds_the_recoloured_source_exactly():
    context = context_of(noise_image())
    for draw in draws_of(CutPaste(), context, 20):
        (edit,) = draw.edits
        (sy, sx, h, w), (dy, dx, _, _) = edit.src, edit.dst
        assert draw.anchors.tolist() == [list(edit.src), list(edit.dst)]
        assert (draw.fallback, edit.angle_cdeg) == (0, 0)
        image, mask = render(context.image, draw.edits)
        expected = [
            [
                [
                    literal.colour(int(v), gain, offset)
                    for v, gain, offset in zip(
                        pixel, edit.colour.gain_q8, edit.colour.offset, strict=True
                    )
                ]
                for pixel in row
            ]
            for row in context.image[sy : sy + h, sx : sx + w]
        ]
        assert (image[dy : dy + h, dx : dx + w] == expected).all()
        assert mask[dy : dy + h, dx : dx + w].all() and mask.sum() == h * w
        assert (image[~mask] == context.image[~mask]).all()


def test_the_scar_is_one_turned_recoloured_box():
    context = context_of(noise_image(64, 80))
    config = CutPasteScarConfig(length_px=(40.0, 100.0), width_px=(8.0, 64.0))
    angles = []
    for number, draw in enumerate(draws_of(CutPasteScar(config), context, 60)):
        (edit,) = draw.edits
        assert draw.anchors.tolist() == [list(edit.src), list(edit.dst)] and draw.fallback == 0
        assert max(edit.src[2:]) >= 2 * min(edit.src[2:]) and edit.colour is not None
        angles.append(edit.angle_cdeg)
        if number < 4:
            expected, mask = literal.render(context.image, draw.edits, {})
            assert (draw.rendered[0] == expected).all() and (draw.rendered[1] == mask).all()
    assert -4500 <= min(angles) < -3500 and 3500 < max(angles) <= 4500


def test_nothing_visible_is_none_and_near_copies_are_drawn_again():
    black = context_of(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))
    flat = context_of(np.full((HEIGHT, WIDTH, 3), [90, 120, 200], dtype=np.uint8))
    half = noise_image()
    half[:, :60] = [90, 120, 200]
    plain = CutPaste(CutPasteConfig(colour_jitter=0.0))
    plain_scar = CutPasteScar(CutPasteScarConfig(colour_jitter=0.0))
    for policy in (CutPaste(), CutPasteScar()):
        assert draws_of(policy, black, 2) == [None, None]
        assert all(draw.edits[0].colour is not None for draw in draws_of(policy, flat, 5))
    for policy in (plain, plain_scar):
        assert draws_of(policy, flat, 2) == [None, None]
        draws = draws_of(policy, context_of(half), 30)
        assert max(draw.rejections for draw in draws) > 0
        assert all(draw.edits[0].colour is None for draw in draws)


# Colour


def test_a_jitter_by_hand():
    image = np.full((4, 6, 3), 255, dtype=np.uint8)
    image[1:3, 2:4] = 100
    factors = FixedFactors(1.1, 0.9, 1.05, 1.0, 0.95)
    shift = jittered_colour(factors, image, (1, 2, 2, 2), strength=0.1, is_grey=False)
    # 256 * 1.1 * 0.9 = 253.44 and (1 - 0.9) * 1.1 * 100 = 11, each times the channel's gain.
    assert shift == ColourShift((266, 253, 241), (12, 11, 10))
    grey = jittered_colour(factors, image, (1, 2, 2, 2), strength=0.1, is_grey=True)
    assert grey == ColourShift((253, 253, 253), (11, 11, 11))
    still = FixedFactors(1.0, 1.0, 1.0, 1.0, 1.0)
    assert jittered_colour(still, image, (1, 2, 2, 2), strength=0.0, is_grey=False) is None


@pytest.mark.parametrize("strength", [0.05, 0.1, 0.4])
def test_a_jitter_equals_the_literal_one_in_floats(strength):
    image = noise_image()
    for seed in range(10):
        box = (3 + seed, 5, 7, 9)
        shift = jittered_colour(
            np.random.default_rng(seed), image, box, strength=strength, is_grey=False
        )
        factors = np.random.default_rng(seed).uniform(1 - strength, 1 + strength, size=5)
        patch = image[box[0] : box[0] + 7, 5:14]
        expected = np.array(jittered(patch.tolist(), *factors[:2], factors[2:]))
        shifted = np.stack([shift.table()[c][patch[..., c]] for c in range(3)], axis=-1)
        # Gain (to 1/512, of at most 255), offset and result are rounded.
        assert np.abs(shifted - np.clip(expected, 0, 255)).max() <= 1.5
        assert np.abs(shifted.astype(int) - patch).max() > 1


def test_extreme_jitters_stay_in_range():
    image = np.full((4, 4, 3), 255, dtype=np.uint8)
    for factors in ((1.4, 1.4, 1.4, 1.4, 1.4), (1.4, 0.6, 1.4, 1.4, 1.4), (0.6,) * 5):
        jittered_colour(FixedFactors(*factors), image, (0, 0, 4, 4), strength=0.4, is_grey=False)


def test_gains_are_drawn_for_grey_images_too():
    rngs = [np.random.default_rng(4) for _ in range(2)]
    image = noise_image()
    shifts = [
        jittered_colour(rng, image, (0, 0, 5, 5), strength=0.1, is_grey=is_grey)
        for rng, is_grey in zip(rngs, (True, False), strict=True)
    ]
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
    assert len(set(shifts[0].gain_q8)) == 1 and len(set(shifts[1].gain_q8)) == 3


def test_what_counts_as_grey():
    grey = np.repeat(noise_image()[..., :1], 3, axis=2)
    assert has_no_colour(grey, WHOLE)
    for channel in range(3):
        tinted = grey.copy()
        tinted[9, 70, channel] ^= 1
        assert not has_no_colour(tinted, WHOLE)
        assert has_no_colour(tinted, (10, 0, 30, WIDTH)) and has_no_colour(tinted, (0, 0, 48, 70))


# Places


def test_both_places_are_uniform_and_independent():
    # Patches of exactly 6 x 8 in a valid box of 12 x 16: 7 x 9 places.
    valid_box = (8, 20, 12, 16)
    config = CutPasteConfig(area_frac=(0.25, 0.25), aspect=(0.75, 0.75))
    draws = draws_of(CutPaste(config), context_of(noise_image(30, 40), valid_box), 1260)
    src, dst = (np.array([draw.anchors[row] for draw in draws]) for row in (0, 1))
    for boxes in (src, dst):
        assert (boxes[:, 2:] == [6, 8]).all()
        places = (boxes[:, 0] - 8) * 9 + boxes[:, 1] - 20
        assert chisquare(np.bincount(places, minlength=7 * 9)).pvalue > 0.01
    parts = [(boxes[:, 0] >= 11) * 2 + (boxes[:, 1] >= 24) for boxes in (src, dst)]
    assert chi2_contingency(np.histogram2d(*parts, bins=4)[0]).pvalue > 0.01
    overlaps = (np.abs(src - dst)[:, 0] < 6) & (np.abs(src - dst)[:, 1] < 8)
    assert 0 < overlaps.sum() < len(draws)  # allowed, not sought


def test_sides_are_cut_to_the_valid_box():
    valid_box = (4, 6, 10, 70)
    config = CutPasteConfig(area_frac=(0.4, 0.5), aspect=(2.0, 3.0))
    for draw in draws_of(CutPaste(config), context_of(noise_image(), valid_box), 10):
        for y, x, h, w in draw.anchors.tolist():
            assert (y, h) == (4, 10) and 6 <= x <= 76 - w


def test_boxes_with_margins_spread_evenly():
    rng = np.random.default_rng(1)
    # Rows 3..13 and columns 5..16, of which 1, 2, 0 and 3 must stay free around a 3 x 4 box.
    boxes = [sample_box(rng, (3, 5, 11, 12), 3, 4, margins=(1, 2, 0, 3)) for _ in range(3600)]
    seen = Counter(box[:2] for box in boxes)
    expected = {(y, x) for y in range(4, 4 + 6) for x in range(5, 5 + 6)}
    assert set(seen) == expected and {box[2:] for box in boxes} == {(3, 4)}
    assert chisquare(list(seen.values())).pvalue > 0.01
    assert sample_box(rng, (3, 5, 11, 12), 11, 12) == (3, 5, 11, 12)
    assert sample_box(rng, (3, 5, 11, 12), 11, 12, margins=(0, 1, 0, 0)) is None
    assert sample_box(rng, (3, 5, 11, 12), 4, 13) is None


@pytest.mark.parametrize(
    "valid_box", [(6, 0, 12, 26), (0, 5, 24, 14), (5, 4, 14, 17), (0, 0, 24, 26), (0, 0, 15, 26)]
)
def test_turned_boxes_stay_out_of_padding_and_go_everywhere_else(valid_box):
    height, width = 24, 26
    top, left, valid_height, valid_width = valid_box
    for h, w, angle in ((2, 6, 4500), (7, 2, -1700), (3, 7, 0), (6, 3, 9000)):
        above, below, before, behind = margins_in_padding(h, w, angle, valid_box, height, width)
        places = {
            (y, x)
            for y in range(top + above, top + valid_height - h - below + 1)
            for x in range(left + before, left + valid_width - w - behind + 1)
        }
        assert places == turned_places(h, w, angle, valid_box, height, width)


def test_scars_in_a_narrow_valid_box():
    image = noise_image(256, 256)
    # Only lying scars of little height fit between the bars; they are drawn until one does.
    narrow = (120, 0, 8, 256)
    outside = np.ones((256, 256), dtype=bool)
    outside[120:128] = False
    for draw in draws_of(CutPasteScar(), context_of(image, narrow), 10):
        assert not (draw.rendered[1] & outside).any()
    hopeless = CutPasteScar(CutPasteScarConfig(width_px=(9.0, 9.0)))
    assert draws_of(hopeless, context_of(image, narrow), 1) == [None]
