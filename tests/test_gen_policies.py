"""One suite for every policy: a row here is what a new policy owes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from generator.anchors import anchor_rng
from generator.clusters import cluster_map
from generator.policies import CONFIGS, POLICIES
from generator.policies.base import (
    MAX_REJECTIONS,
    NEEDS,
    VIEWS,
    ImageContext,
    Proposal,
    first_visible,
    mean_change,
)
from generator.policies.cutpaste import CutPaste
from generator.policies.cutpaste_scar import CutPasteScar
from generator.policies.donor import Donor
from generator.policies.perlin import Perlin
from generator.policies.random_scar import RandomScar, RandomScarConfig
from generator.policies.random_swap import RandomSwap
from generator.policies.saliency_perlin import SaliencyPerlin
from generator.policies.scar import Scar, ScarConfig, footprints_fit
from generator.policies.swap import Swap
from generator.saliency_views import combined_saliency
from manifests.digest import array_digest, bytes_digest
from manifests.edit_codec import canonical
from manifests.edits import Copy, decode, encode, footprint, render
from manifests.schema import FALLBACKS

HEIGHT, WIDTH = 72, 112
PADDED_BOX = (9, 0, 50, 112)
REPEATS = 12
CLUSTER_POLICIES = [name for name in POLICIES if "clusters" in POLICIES[name].needs]


def noise_image(seed=0, height=HEIGHT, width=WIDTH):
    # A different range per channel, so that a mixed-up channel shows.
    noise = np.random.default_rng(seed).integers(0, 80, size=(height, width, 3))
    return (noise + np.array([0, 80, 160])).astype(np.uint8)


DONOR = noise_image(99, 40, 60)[:, :, ::-1].copy()  # of another size than the image
NARROW = noise_image(98, 90, 60)[:, :, ::-1].copy()  # with padding
DONORS = (
    Donor(array_digest(DONOR), DONOR, (0, 0, 40, 60)),
    Donor(array_digest(NARROW), NARROW, (0, 20, 90, 30)),
)


def region():
    """An L in the middle of the canvas, and the smallest box around it."""
    roi = np.zeros((HEIGHT, WIDTH), dtype=bool)
    roi[8:66, 10:52] = True
    roi[38:66, 10:104] = True
    return (8, 10, 58, 94), roi


def context_of(image, valid_box=None, n_clusters=4, roi=None):
    """With a hill of saliency, and donors as a shard has them: others, and the image itself."""
    height, width = image.shape[:2]
    valid_box = valid_box or (0, 0, height, width)
    y, x = np.mgrid[:height, :width]
    hill = 255 * np.exp(-(((y - height * 0.45) / 25) ** 2) - ((x - width * 0.6) / 35) ** 2)
    hill = hill.astype(np.uint8)
    labels, clusters = cluster_map(hill, valid_box, n_clusters, roi=roi)
    digest = array_digest(image)
    return ImageContext(
        image,
        digest,
        valid_box,
        2,
        labels,
        clusters.count,
        saliency=combined_saliency([hill], height, width, valid_box, view="level", roi=roi),
        donors=tuple(
            sorted((*DONORS, Donor(digest, image, valid_box)), key=lambda one: one.digest)
        ),
        roi=roi,
    )


@dataclass(frozen=True)
class Row:
    make: Callable
    keeps_pixels: bool = False  # the image's pixels change places, none is lost
    needs_contrast: bool = True  # makes nothing of a flat image


ROWS = {
    "swap": Row(Swap, keeps_pixels=True),
    "scar": Row(Scar),
    "random-swap": Row(RandomSwap, keeps_pixels=True),
    "random-scar": Row(RandomScar),
    "cutpaste": Row(CutPaste, needs_contrast=False),
    "cutpaste-scar": Row(CutPasteScar, needs_contrast=False),
    "perlin": Row(Perlin, needs_contrast=False),
    "saliency-perlin": Row(SaliencyPerlin, needs_contrast=False),
}
# What a policy draws for a seed is part of a recipe: the same options give the same set.
FROZEN_DRAWS = {
    "swap": "79ad9930e353c1e1",
    "scar": "fa3e9f7b7a5daed0",
    "random-swap": "20a9f5821b1e85db",
    "random-scar": "ee0d9544f309664a",
    "cutpaste": "03f36c08643581ef",
    "cutpaste-scar": "8270e63c20fe4ed5",
    "perlin": "f4d9403931f91da2",
    "saliency-perlin": "520c2f35107a2fe5",
}


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


@pytest.fixture(params=["whole", "padded", "region"])
def context(request):
    if request.param == "region":
        box, roi = region()
        image = noise_image()
        image[~roi] = 0
        return context_of(image, box, roi=roi)
    return context_of(noise_image(), None if request.param == "whole" else PADDED_BOX)


def draws_of(row, context, repeats=REPEATS):
    policy = row.make()
    return [
        policy.draw(anchor_rng(0, context.digest, "row", context.level, repeat), context)
        for repeat in range(repeats)
    ]


def test_every_policy_has_a_row_and_a_config():
    assert set(POLICIES) == set(CONFIGS) == set(ROWS) == set(FROZEN_DRAWS)
    assert CLUSTER_POLICIES == ["swap", "scar"]
    for name, policy in POLICIES.items():
        assert ROWS[name].make is policy
        one = policy(CONFIGS[name]())
        assert one.needs <= NEEDS and one.view in VIEWS
        # A map without a need of it would have a network run for nothing, and the other way round.
        assert (one.view != "none") == bool(one.needs & {"clusters", "saliency"})
        assert one.summary and one.source and len(one.summary) < 80


def test_mask_holds_every_change_and_nothing_outside_the_valid_box(row, context):
    top, left, height, width = context.valid_box
    outside = np.ones(context.image.shape[:2], dtype=bool)
    outside[top : top + height, left : left + width] = False
    if context.roi is not None:
        outside |= ~context.roi
    for draw in draws_of(row, context):
        image, mask = render(context.image, draw.edits, context.donor_images)
        changed = (image != context.image).any(axis=2)
        assert changed.any()
        assert not (changed & ~mask).any()
        assert not (mask & outside).any()
        # Noise makes nearly every edited pixel differ, so that a mask too wide would show.
        assert changed.sum() > 0.9 * mask.sum()
        if row.keeps_pixels:
            before, after = (np.sort(a.reshape(-1, 3), axis=0) for a in (context.image, image))
            assert (before == after).all()


def test_draw_fields(row, context):
    top, left, height, width = context.valid_box
    for draw in draws_of(row, context):
        assert isinstance(draw.edits, tuple) and draw.edits
        assert draw.anchors.shape == (2, 4) and draw.anchors.dtype == np.int32
        assert 0 <= draw.fallback < len(FALLBACKS) and draw.rejections >= 0
        for y, x, h, w in draw.anchors[(draw.anchors != -1).any(axis=1)].tolist():
            assert top <= y < y + h <= top + height
            assert left <= x < x + w <= left + width
            assert context.roi is None or context.roi[y : y + h, x : x + w].all()


def test_edits_survive_being_stored(row, context):
    for draw in draws_of(row, context, 3):
        stored = decode(encode(draw.edits), *context.image.shape[:2])
        for one, other in zip(
            render(context.image, draw.edits, context.donor_images),
            render(context.image, stored, context.donor_images),
            strict=True,
        ):
            assert (one == other).all()


def test_draws_repeat_and_differ_between_repeats(row, context):
    one, other = (draws_of(row, context) for _ in range(2))
    assert [encode(draw.edits) for draw in one] == [encode(draw.edits) for draw in other]
    assert [draw.anchors.tolist() for draw in one] == [draw.anchors.tolist() for draw in other]
    assert len({encode(draw.edits) for draw in one}) == REPEATS


def test_neither_image_nor_labels_change(row, context):
    arrays = (context.image, context.labels, context.saliency, *context.donor_images.values())
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    draws_of(row, context)
    for array, old in zip(arrays, before, strict=True):
        assert (array == old).all()


def test_padding_is_never_read(row):
    context = context_of(noise_image(), PADDED_BOX)
    other_image = noise_image(5)
    shown = np.s_[9:59, 0:112]
    other_image[shown] = context.image[shown]
    lent = [  # with other padding, too
        replace(donor, image=repadded(donor)) if donor.digest != context.digest else
        replace(donor, image=other_image) for donor in context.donors
    ]  # fmt: skip
    other = replace(context, image=other_image, donors=tuple(lent))
    for one, two in zip(draws_of(row, context, 40), draws_of(row, other, 40), strict=True):
        assert encode(one.edits) == encode(two.edits)
        first, mask = render(context.image, one.edits, context.donor_images)
        if one.rendered is not None:
            np.testing.assert_array_equal(one.rendered[0], first)
            np.testing.assert_array_equal(one.rendered[1], mask)
        second, _ = render(other_image, two.edits, other.donor_images)
        assert (first[shown] == second[shown]).all()


def repadded(donor):
    """Its image with something else outside the valid box."""
    y, x, h, w = donor.valid_box
    image = noise_image(7, *donor.image.shape[:2])
    image[y : y + h, x : x + w] = donor.image[y : y + h, x : x + w]
    return image


def test_grey_images_stay_grey(row):
    image = np.repeat(noise_image()[..., :1], 3, axis=2)
    coloured_padding = noise_image(5)
    coloured_padding[9:59] = image[9:59]
    for context in (context_of(image), context_of(coloured_padding, PADDED_BOX)):
        y, x, h, w = context.valid_box
        edited = [
            render(context.image, draw.edits, context.donor_images)[0][y : y + h, x : x + w]
            for draw in draws_of(row, context)
        ]
        assert all((shown == shown[..., :1]).all() for shown in edited)


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_drawn_by_default_is_frozen(name):
    y, x = np.mgrid[:96, :144]
    image = np.stack([y * x % 97, 80 + y * y % 71, 255 - (3 * x + y) % 89], axis=-1)
    labels = np.minimum((y // 30) + (x // 50), 3).astype(np.uint8)
    box = (0, 0, 96, 144)
    image = image.astype(np.uint8)
    saliency = (255 - np.abs(y - 40) - np.abs(x - 60)).astype(np.uint8)
    donors = Donor("ab" * 32, image, box), Donor("cd" * 32, image[::-1, ::-1].copy(), box)
    context = ImageContext(image, "ab" * 32, box, 2, labels, 4, saliency=saliency, donors=donors)
    lines = []
    for repeat in range(6):
        draw = POLICIES[name]().draw(anchor_rng(3, context.digest, name, 2, repeat), context)
        edits = canonical(draw.edits)  # the stored bytes of a mask depend on the version of zlib
        lines.append(f"{edits} {draw.anchors.tolist()} {draw.fallback}".encode())
    assert bytes_digest(b"".join(lines))[:16] == FROZEN_DRAWS[name]


def test_flat_image_gives_nothing(row):
    context = context_of(np.full((HEIGHT, WIDTH, 3), [90, 120, 200], dtype=np.uint8))
    draws = draws_of(row, context, 2)
    assert [draw is None for draw in draws] == [row.needs_contrast] * 2


def change_of(context, edits):
    return mean_change(context.image, *render(context.image, edits, context.donor_images))


def test_nearly_equal_patches_are_redrawn_and_counted(row):
    # Left half flat, right half noise: many first proposals change nothing.
    image = noise_image()
    image[:, :80] = [90, 120, 200]
    context = context_of(image)
    draws = [draw for draw in draws_of(row, context, 40) if draw is not None]
    rejections = [draw.rejections for draw in draws]
    assert len(draws) == 40 and 0 in rejections and max(rejections) <= MAX_REJECTIONS
    if row.needs_contrast:
        assert max(rejections) > 0
    assert all(change_of(context, draw.edits) > 1.0 for draw in draws)


@pytest.mark.parametrize("name", CLUSTER_POLICIES)
def test_stays_in_the_chosen_cluster(name):
    context = context_of(noise_image())
    policy, config = POLICIES[name], CONFIGS[name]
    for choice, expected in (("max", {3}), ("min", {0}), ("random", {0, 1, 2, 3})):
        seen = set()
        for repeat in range(30):
            rng = anchor_rng(1, context.digest, choice, 0, repeat)
            draw = policy(config(cluster=choice)).draw(rng, context)
            if draw.fallback < FALLBACKS.index("moved"):
                seen |= {int(context.labels[y, x]) for y, x in draw.anchors[:, :2].tolist()}
        assert seen == expected


@pytest.mark.parametrize("name", POLICIES)
def test_what_it_does_not_need_makes_no_difference_and_what_it_needs_is_missed(name):
    context = context_of(noise_image(), PADDED_BOX)
    without = {
        "clusters": {"labels": None, "n_clusters": 0},
        "saliency": {"saliency": None},
        "donors": {"donors": ()},
    }
    for need in NEEDS:
        bare = replace(context, **without[need])
        one, other = np.random.default_rng(0), np.random.default_rng(0)
        if need in POLICIES[name].needs:
            with pytest.raises(ValueError, match=f"needs .*{need.removesuffix('s')}"):
                POLICIES[name]().draw(one, bare)
        else:
            drawn = POLICIES[name]().draw(one, bare)
            assert encode(drawn.edits) == encode(POLICIES[name]().draw(other, context).edits)


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "cutpaste"])
def test_without_room(name):
    # Not even two pixels; CutPaste alone makes do with one, which it recolours.
    context = context_of(noise_image(), (4, 5, 1, 1))
    assert POLICIES[name]().draw(np.random.default_rng(0), context) is None


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 300), (256, 40)])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_small_and_narrow_images(policy, height, width):
    context = context_of(noise_image(0, height, width))
    for repeat in range(10):
        draw = policy().draw(anchor_rng(0, context.digest, "any", 0, repeat), context)
        assert change_of(context, draw.edits) > 1.0


def test_rejections_are_bounded_and_exact():
    image = np.zeros((8, 12, 3), dtype=np.uint8)
    image[0, 0] = [4, 0, 2]  # a copy of it changes one pixel by 2 on the mean
    same, visible = Copy((4, 4, 1, 1), (5, 5, 1, 1)), Copy((0, 0, 1, 1), (5, 5, 1, 1))
    context = context_of(image)
    assert change_of(context, (same,)) == 0.0
    assert change_of(context, (visible,)) == 2.0
    # The darker pixel is as far away as the brighter one.
    assert change_of(context, (Copy((4, 4, 1, 1), (0, 0, 1, 1)),)) == 2.0
    assert change_of(context, (Copy((0, 0, 2, 2), (4, 4, 2, 2)),)) == 0.5

    def after(calls):
        # Nothing at all changes nothing either.
        queue = [(same,), ()] * (calls // 2) + [(same,)] * (calls % 2) + [(visible,)]
        return lambda: Proposal(queue.pop(0), ((1, 2, 3, 4),), 2)

    draw = first_visible(after(MAX_REJECTIONS), image, noop_tolerance=1.9)
    assert (draw.rejections, draw.fallback) == (MAX_REJECTIONS, 2)
    assert draw.anchors.tolist() == [[1, 2, 3, 4], [-1] * 4]
    assert first_visible(after(MAX_REJECTIONS + 1), image, noop_tolerance=1.9) is None
    # Exactly at the tolerance is not above it.
    at_tolerance = Proposal((visible,), (), 0)
    assert first_visible(lambda: at_tolerance, image, noop_tolerance=2.0) is None


@pytest.mark.parametrize("name", ["swap", "random-swap"])
def test_swap_exchanges_two_disjoint_patches(name):
    context = context_of(noise_image())
    for draw in draws_of(ROWS[name], context, 30):
        (y1, x1, h, w), (y2, x2, h2, w2) = draw.anchors.tolist()
        assert (h, w) == (h2, w2)
        assert abs(y1 - y2) >= h or abs(x1 - x2) >= w
        image, mask = render(context.image, draw.edits, {})
        assert mask.sum() == 2 * h * w
        assert (image[y1 : y1 + h, x1 : x1 + w] == context.image[y2 : y2 + h, x2 : x2 + w]).all()
        assert (image[y2 : y2 + h, x2 : x2 + w] == context.image[y1 : y1 + h, x1 : x1 + w]).all()


@pytest.mark.parametrize("valid_box", [None, PADDED_BOX, (0, 20, 72, 60)])
@pytest.mark.parametrize("name", ["scar", "random-scar"])
def test_scar_footprints_are_disjoint_and_turned(name, valid_box):
    image = noise_image()
    context = context_of(image, valid_box)
    # Long scars in the cluster around the hill, so that they land at edges often.
    shape = {"length_px": (60.0, 80.0), "width_px": (4.0, 20.0)}
    policy = (
        Scar(ScarConfig(cluster="min", **shape))
        if name == "scar"
        else RandomScar(RandomScarConfig(**shape))
    )
    angles, is_clipped = [], []
    for repeat in range(60):
        draw = policy.draw(anchor_rng(0, context.digest, name, 0, repeat), context)
        first, second = draw.edits
        assert (first.src, first.dst) == (second.dst, second.src)
        one, other = (footprint(edit, HEIGHT, WIDTH) for edit in draw.edits)
        assert not (one & other).any()
        assert (render(image, draw.edits, {})[1] == (one | other)).all()
        angles += [first.angle_cdeg, second.angle_cdeg]
        for part, edit in ((one, first), (other, second)):
            is_clipped.append(part.sum() < 0.9 * edit.dst[2] * edit.dst[3])
        top, left, height, width = context.valid_box
        for part in (one, other):
            assert part.sum() == part[top : top + height, left : left + width].sum()
    assert -4500 <= min(angles) < -3500 and 3500 < max(angles) <= 4500
    assert any(is_clipped)  # by the image's edges, which each of the valid boxes touches
    assert len(set(angles)) > 100  # each box turns by its own angle
    assert any(angle % 100 for angle in angles)


def test_scar_fit_by_hand():
    # Two upright 10 x 2 bars, 6 columns apart; turned by 45 degrees each covers about 8 columns.
    bars = (20, 30, 10, 2), (20, 36, 10, 2)
    whole = (0, 0, HEIGHT, WIDTH)

    def fit(first_cdeg, second_cdeg, boxes=bars, valid_box=whole):
        one, other = boxes
        edits = Copy(one, other, second_cdeg), Copy(other, one, first_cdeg)
        return footprints_fit(edits, valid_box, HEIGHT, WIDTH)

    assert fit(0, 0)
    assert fit(4500, 4500)  # parallel
    assert not fit(4500, -4500)  # a V whose arms meet, or cross
    far = (20, 30, 10, 2), (20, 80, 10, 2)
    assert fit(4500, -4500, far)
    # The valid box starts at the left edge of the bar: fine upright, not turned.
    assert fit(0, 0, far, (0, 30, HEIGHT, WIDTH - 30))
    assert not fit(4500, 0, far, (0, 30, HEIGHT, WIDTH - 30))
    # The image's own edge may clip what padding may not.
    edge = (20, 0, 10, 2), (20, 80, 10, 2)
    assert fit(4500, 0, edge)
    assert fit(4500, 0, edge, (10, 0, 40, WIDTH))
    assert fit(0, 0, edge, (20, 0, 10, WIDTH))
    assert not fit(4500, 0, ((20, 30, 10, 2), far[1]), (22, 0, 10, WIDTH))


def test_a_size_that_fits_nowhere_in_a_region_is_drawn_again(row):
    """A ring, thinner than most patches."""
    ring = np.zeros((HEIGHT, WIDTH), dtype=bool)
    ring[4:68, 4:108] = True
    ring[14:58, 14:98] = False
    context = context_of(noise_image(), (4, 4, 64, 104), roi=ring)
    for draw in draws_of(row, context):
        assert draw is not None
        _, mask = render(context.image, draw.edits, context.donor_images)
        assert mask.any() and not (mask & ~ring).any()
