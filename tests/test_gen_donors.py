"""Donors: which one is taken, how it is changed, what a shard's pool holds; never any padding."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO

from generator import procedural
from generator.anchors import anchor_rng
from generator.config import BuildConfig
from generator.donors import as_grey, shard_donors
from generator.policies import donor_augmentation
from generator.policies.donor import Donor, choose_donor
from generator.policies.donor_augmentation import COLOUR, GEOMETRY, draw_transform, identity_table
from generator.procedural import KINDS, draw_patterns
from manifests.digest import array_digest
from manifests.edits import Blend, DonorTransform, render
from manifests.images import Geometry

SENTINEL = 255


def picture(seed, height=20, width=30, *, is_grey=False):
    """Values below 200, of another range per channel."""
    noise = np.random.default_rng(seed).integers(0, 100, (height, width, 3))
    image = (noise + np.array([0, 50, 99])).astype(np.uint8)
    return np.repeat(image[..., :1], 3, axis=2) if is_grey else image


def donor_of(image, valid_box=None):
    return Donor(array_digest(image), image, valid_box or (0, 0, *image.shape[:2]))


def padded(seed, valid_box, height=20, width=30):
    """A donor whose padding holds a value that it has nowhere else."""
    y, x, h, w = valid_box
    image = np.full((height, width, 3), SENTINEL, np.uint8)
    image[y : y + h, x : x + w] = picture(seed, h, w)
    return donor_of(image, valid_box)


# Geometry


@pytest.mark.parametrize("turns", range(-1, 5))
@pytest.mark.parametrize(("flip_y", "flip_x"), [*itertools.product([False, True], repeat=2)])
def test_the_valid_box_goes_where_the_pixels_go(turns, flip_y, flip_x):
    donor = padded(0, (3, 5, 12, 7))
    height, width, (y, x, h, w) = donor.laid(turns, flip_y, flip_x)
    seen = np.rot90(donor.image, turns)
    seen = seen[::-1] if flip_y else seen
    seen = seen[:, ::-1] if flip_x else seen
    assert seen.shape == (height, width, 3)
    is_padding = (seen == SENTINEL).all(axis=2)
    inside = np.zeros((height, width), bool)
    inside[y : y + h, x : x + w] = True
    assert (is_padding == ~inside).all()


def test_a_window_fits_where_there_is_room_or_nothing_but_image():
    narrow = padded(0, (0, 10, 20, 8))  # 20 rows without padding, 8 of 30 columns
    assert narrow.holds(20, 8) and narrow.holds(99, 8) and not narrow.holds(1, 9)
    assert narrow.holds(8, 20, quarter_turns=1) and not narrow.holds(9, 20, quarter_turns=3)
    whole = donor_of(picture(1))
    assert whole.holds(500, 500) and whole.holds(500, 500, quarter_turns=1)


@pytest.mark.parametrize(
    "valid_box", [(3, 5, 12, 17), (0, 8, 20, 14), (4, 0, 9, 30), (0, 0, 20, 30)]
)
def test_no_transform_brings_padding_into_the_window(valid_box):
    donor = padded(2, valid_box)
    normal = np.zeros((24, 26, 3), np.uint8)
    rng = np.random.default_rng(0)
    shifts, turned = set(), 0
    for number in range(150):
        h, w = (int(rng.integers(1, side + 1)) for side in (valid_box[2], min(valid_box[3], 26)))
        window = (int(rng.integers(0, 25 - h)), int(rng.integers(0, 27 - w)), h, w)
        transform = draw_transform(rng, donor, window, keeps_grey=False)
        shifts.add(transform.shift)
        turned += transform.quarter_turns % 2
        mask = np.zeros((24, 26), bool)
        mask[window[0] : window[0] + h, window[1] : window[1] + w] = True
        bare = DonorTransform(
            transform.quarter_turns, transform.flip_y, transform.flip_x, transform.shift, None
        )
        image, _ = render(
            normal, [Blend(donor.digest, bare, mask, 255)], {donor.digest: donor.image}
        )
        assert not (image[mask] == SENTINEL).all(axis=1).any(), number
    assert len(shifts) > 20 and turned > 5


def test_a_window_without_a_place_is_refused():
    donor = padded(2, (3, 5, 12, 17))
    with pytest.raises(ValueError, match="no place"):
        draw_transform(np.random.default_rng(0), donor, (0, 0, 13, 4), keeps_grey=False)


# Which one


def chosen(donors, digest, *, is_grey=False, size=(5, 5), count=60):
    rng = np.random.default_rng(3)
    height, width = size
    return {
        choose_donor(rng, donors, digest=digest, is_grey=is_grey, height=height, width=width).digest
        for _ in range(count)
    }


def test_others_come_first_and_grey_for_grey():
    colour, other, grey, narrow = (
        donor_of(picture(0)),
        donor_of(picture(1)),
        donor_of(picture(2, is_grey=True)),
        padded(3, (0, 10, 20, 4)),
    )
    donors = sorted((colour, other, grey, narrow), key=lambda one: one.digest)
    everything = {one.digest for one in donors}
    assert chosen(donors, colour.digest, size=(5, 4)) == everything - {colour.digest}
    # The narrow one has padding that a wider window would show.
    assert chosen(donors, colour.digest) == {other.digest, grey.digest}
    assert chosen(donors, "0" * 64, is_grey=True) == {grey.digest}
    # Rather itself than one with colour; rather that than nothing.
    assert chosen(donors, grey.digest, is_grey=True) == {grey.digest}
    assert chosen([colour, other], "0" * 64, is_grey=True) == {colour.digest, other.digest}
    assert chosen([colour], colour.digest) == {colour.digest}
    with pytest.raises(ValueError, match="donor"):
        chosen([narrow], "0" * 64)


def test_padding_has_no_say_in_what_a_donor_is():
    image = np.full((20, 30, 3), (9, 200, 3), np.uint8)
    image[4:10, 5:25] = picture(1, 6, 20, is_grey=True)
    donor = donor_of(image, (4, 5, 6, 20))
    assert donor.is_grey and not donor_of(image).is_grey
    assert donor.histogram.shape == (3, 256)
    assert (donor.histogram == np.bincount(image[4:10, 5:25, 0].reshape(-1), minlength=256)).all()


# How it is changed


def fixed(*numbers):
    """Stands in for a generator: gives these numbers, whatever they are asked for."""
    queue = list(numbers)

    class Fixed:
        def uniform(self, low, high, size=None):
            value = queue.pop(0)
            assert size is None or np.shape(value) == size
            return value

        def integers(self, low, high):
            assert low <= queue[0] < high
            return queue.pop(0)

    return Fixed()


def curve_of(name, *numbers, counts=None, keeps_grey=False):
    counts = np.ones((3, 256)) if counts is None else counts
    return donor_augmentation._rounded(COLOUR[name](fixed(*numbers), counts, keeps_grey))


def test_curves_by_hand():
    assert curve_of("invert")[1, [0, 1, 255]].tolist() == [255, 254, 0]
    assert curve_of("solarise", 100)[0, [0, 99, 100, 255]].tolist() == [0, 99, 155, 0]
    assert curve_of("posterise", 1)[2, [0, 127, 128, 255]].tolist() == [0, 0, 255, 255]
    assert curve_of("posterise", 2)[2, [0, 64, 128, 255]].tolist() == [0, 85, 170, 255]
    assert curve_of("gamma", np.log(2))[0, [0, 51, 255]].tolist() == [0, 10, 255]
    found = curve_of("brightness-contrast", 0.6, 10.0)[0, [0, 127, 255]]
    assert found.tolist() == [61, 137, 214]  # 127.5 + 0.6 (v - 127.5) + 10
    gains = np.array([[0.6], [1.0], [1.4]])
    assert curve_of("channel-gain", gains)[:, 200].tolist() == [120, 200, 255]
    assert curve_of("channel-gain", gains, keeps_grey=True)[:, 200].tolist() == [120] * 3


def test_equalising_spreads_ranks():
    counts = np.zeros((3, 256))
    counts[:, [10, 20, 30]] = (5, 3, 1)
    counts[2, [10, 20, 30]] = (0, 0, 9)  # one value only: left as it is
    found = curve_of("equalise", counts=counts)
    # Of 9 pixels 5, 8 and 9 are at most as bright; the darkest 5 are 0.
    assert found[0, [0, 10, 20, 30, 99]].tolist() == [0, 0, 191, 255, 255]
    assert found[2, [10, 30, 99]].tolist() == [10, 30, 99]


def test_equalising_looks_at_what_earlier_curves_made():
    # Inverted first: the brightest pixels are the darkest now.
    donor = donor_of(np.stack([np.full((4, 5), v, np.uint8) for v in (0, 100, 200)], axis=-1))
    table = 255 - identity_table()
    counts = donor_augmentation._counts_after(donor.histogram, table)
    assert np.argwhere(counts).tolist() == [[0, 255], [1, 155], [2, 55]]
    assert counts.sum() == 60


def test_every_augmentation_is_drawn_three_at_a_time():
    donor = donor_of(picture(0))
    rng = np.random.default_rng(0)
    transforms = [draw_transform(rng, donor, (0, 0, 5, 5), keeps_grey=False) for _ in range(400)]
    kinds = [
        (one.quarter_turns > 0) + (one.flip_y or one.flip_x) + any(one.shift) for one in transforms
    ]
    assert max(kinds) == 3 and min(kinds) == 0
    # All three of geometry, and so no colour: one of 120.
    assert all(
        (one.lut is None) == (kind == 3) for one, kind in zip(transforms, kinds, strict=True)
    )
    assert {one.quarter_turns for one in transforms} == {0, 1, 2, 3}
    assert {(one.flip_y, one.flip_x) for one in transforms} == set(
        itertools.product([False, True], repeat=2)
    )
    expected = 3 * len(GEOMETRY) / len((*GEOMETRY, *COLOUR))
    assert np.mean(kinds) == pytest.approx(expected, abs=0.12)
    assert all(one != DonorTransform() for one in transforms)


def test_tables_keep_grey_where_they_are_to():
    donor = donor_of(picture(0, is_grey=True))
    rng = np.random.default_rng(1)
    for keeps_grey in (True, False):
        tables = [
            draw_transform(rng, donor, (0, 0, 5, 5), keeps_grey=keeps_grey).lut for _ in range(80)
        ]
        are_equal = [bool((table == table[:1]).all()) for table in tables if table is not None]
        assert all(are_equal) == keeps_grey


# What a shard's pool holds


def canvases(*images):
    return [(image, (0, 0, *image.shape[:2])) for image in images]


def pool(kind, images, *, textures=None, seed=0):
    config = BuildConfig(policies=("perlin",), donors=kind, seed=seed, geometry=Geometry(32, 40))
    digests = [array_digest(image) for image in images]
    return shard_donors(config, digests, canvases(*images), textures=textures)


def test_donors_of_the_set_are_its_normals():
    images = [picture(n, 32, 40) for n in range(4)]
    found = pool("set", images)
    assert [one.digest for one in found] == sorted(array_digest(image) for image in images)
    assert all(one.digest == array_digest(one.image) for one in found)


def test_procedural_donors_are_the_shards_own():
    images = [picture(n, 32, 40) for n in range(3)]
    found = pool("procedural", images)
    digests = [one.digest for one in found]
    assert len(found) == 16 and digests == sorted(set(digests))
    assert all(one.image.shape == (32, 40, 3) and not one.is_grey for one in found)
    assert digests == [one.digest for one in pool("procedural", images[:1])]  # the first decides
    assert not set(digests) & {one.digest for one in pool("procedural", images[1:])}
    assert not set(digests) & {one.digest for one in pool("procedural", images, seed=1)}


@pytest.mark.parametrize("kind", ["textures", "procedural"])
def test_pools_are_grey_where_all_normals_are(kind):
    textures = [picture(n, 32, 40) for n in range(5)]
    grey = [picture(n, 32, 40, is_grey=True) for n in range(2)]
    assert all(one.is_grey for one in pool(kind, grey, textures=textures))
    assert not any(one.is_grey for one in pool(kind, [*grey, textures[0]], textures=textures))


def test_textures_are_taken_as_given_and_missed_where_there_are_none():
    textures = [picture(n, 32, 40) for n in range(5)]
    found = pool("textures", [picture(9, 32, 40)], textures=[*textures, textures[0]])
    assert {one.digest for one in found} == {array_digest(image) for image in textures}
    with pytest.raises(ValueError, match="textures"):
        pool("textures", [picture(9, 32, 40)])


def test_grey_by_hand():
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]], np.uint8)
    # 76.245, 149.685, 29.07 and 2.99 + 11.74 + 3.42, rounded
    assert as_grey(image)[0, :, 0].tolist() == [76, 150, 29, 18]
    assert (as_grey(image) == as_grey(image)[..., :1]).all()


@pytest.mark.parametrize("size", [(32, 40), (64, 33)])
def test_patterns_have_contrast_and_differ(size):
    for is_grey in (False, True):
        rng = anchor_rng(0, "ab", "procedural", -1, 0)
        patterns = draw_patterns(rng, 2 * len(KINDS), *size, is_grey=is_grey)
        assert len({array_digest(one) for one in patterns}) == 2 * len(KINDS)
        for one in patterns:
            assert one.shape == (*size, 3) and one.dtype == np.uint8
            assert np.ptp(one.astype(int), axis=(0, 1)).max() > 40
            assert (one == one[..., :1]).all() == is_grey


PATTERNS = """
import numpy as np
from generator.procedural import draw_patterns
from manifests.digest import array_digest
rng = np.random.default_rng(0)
print(array_digest(np.stack(draw_patterns(rng, 300, 96, 120, is_grey=False))))
"""


def test_patterns_are_the_same_whatever_the_processor_can_do():
    """With the processor's vector units on, and with all of them off that numpy chooses from."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    digests = set()
    for disabled in ("", " ".join(found)):
        command = [sys.executable, "-c", PATTERNS]
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled}
        run = subprocess.run(
            command, cwd=REPO, env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout)
    assert len(digests) == 1


def test_waves_are_sines():
    phase = np.arange(-2 * procedural.STEPS, 2 * procedural.STEPS, 0.5, dtype=np.float32)
    found = procedural._sine(phase)
    turns = np.floor(phase.astype(float)) / procedural.STEPS
    assert np.abs(found - np.sin(2 * math.pi * turns)).max() < 2**-15
    assert found.dtype == np.float32
    exact = procedural._sine(np.float32([0, 1024, 2048, 3072, -1024])).tolist()
    assert exact == [0, 1, 0, -1, -1]


def test_a_wave_repeats_as_often_as_drawn_and_in_its_direction():
    class Fixed:
        def __init__(self):
            self.values = [8.0, 0.0]  # repeats along the shorter side; where it begins

        def uniform(self, low, high):
            assert low <= self.values[0] < high
            return self.values.pop(0)

    quarter = procedural.STEPS // 4
    along_x = procedural._waves(Fixed(), 32, 64, 0)
    assert (along_x == along_x[:1]).all() and along_x[0, 4] - along_x[0, 0] == procedural.STEPS
    along_y = procedural._waves(Fixed(), 32, 64, quarter)
    assert (along_y == along_y[:, :1]).all() and along_y[4, 0] - along_y[0, 0] == procedural.STEPS
