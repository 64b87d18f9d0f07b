"""Regions of a score map, against a flood fill and by hand."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from detector.regions import NO_REGIONS, find_regions
from reference.regions import regions_of


def test_two_regions_by_hand():
    map = np.zeros((5, 7), np.float32)
    map[1, 1:3] = 2.0, 3.0
    map[2, 3] = 2.5  # touches (1, 2) at a corner
    map[4, 5:7] = 9.0, 9.0
    found = find_regions(map, 1.0)
    assert [asdict(one) for one in found.described] == [
        {
            "box": (4, 5, 1, 2),
            "area_px": 2,
            "peak": 9.0,
            "peak_at": (4, 5),
            "centroid": (4.0, 5.5),
        },
        {
            "box": (1, 1, 2, 3),
            "area_px": 3,
            "peak": 3.0,
            "peak_at": (1, 2),
            "centroid": (pytest.approx(4 / 3), 2.0),
        },
    ]
    assert (found.count, found.flagged_px, found.largest_px, found.left_out) == (2, 5, 3, 0)


def test_a_pixel_at_the_threshold_is_not_above_it():
    threshold = float(np.float32(0.1))
    map = np.full((3, 4), threshold, np.float32)
    assert find_regions(map, threshold) == NO_REGIONS
    map[2, 3] = np.nextafter(np.float32(threshold), np.float32(1))
    assert find_regions(map, threshold).described[0].box == (2, 3, 1, 1)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.45, 0.8, 1.0])
def test_as_a_flood_fill(share):
    rng = np.random.default_rng(round(100 * share))
    for height, width in ((1, 9), (13, 1), (17, 31), (40, 23)):
        # Few values, so that peaks are equal within and between regions.
        map = rng.integers(1, 6, (height, width)).astype(np.float32)
        map[rng.random((height, width)) >= share] = 0.5
        expected = regions_of(map, 0.5)
        found = find_regions(map, 0.5, most=10**6)
        assert [asdict(one) | {"centroid": None} for one in found.described] == [
            one | {"centroid": None} for one in expected
        ]
        for one, other in zip(found.described, expected, strict=True):
            assert one.centroid == pytest.approx(other["centroid"])
        assert found.flagged_px == int((map > 0.5).sum())
        assert found.largest_px == max((one["area_px"] for one in expected), default=0)


def test_only_so_many_are_described_and_the_rest_counted():
    map = np.zeros((20, 40), np.float32)
    map[::2, ::2] = np.arange(200, dtype=np.float32).reshape(10, 20) + 1
    map[19, 39] = 0.5
    found = find_regions(map, 0.1, most=3)
    assert [one.peak for one in found.described] == [200.0, 199.0, 198.0]
    assert (found.count, found.left_out, found.flagged_px, found.largest_px) == (200, 197, 201, 2)
    none = find_regions(map, 0.1, most=0)
    assert none.described == () and (none.count, none.largest_px) == (200, 2)


def test_the_map_is_left_as_it_is():
    map = np.random.default_rng(0).random((12, 9)).astype(np.float32)[:, ::-1]  # a view
    before = map.copy()
    found = find_regions(map, 0.6, most=99)
    assert [one.box for one in found.described] == [one["box"] for one in regions_of(map, 0.6)]
    assert np.array_equal(map, before)
