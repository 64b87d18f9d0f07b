"""Pairs of hashes that differ in few bits, against a comparison of every pair."""

from __future__ import annotations

import numpy as np
import pytest

from generator import near_duplicates
from generator.image_facts import HASH_SIDE, difference_bits
from generator.near_duplicates import near_pairs


def literal(bits: np.ndarray, most: int) -> set[tuple[int, int, int]]:
    pairs = set()
    for first in range(len(bits)):
        for second in range(first + 1, len(bits)):
            different = int((bits[first] != bits[second]).sum())
            if different <= most:
                pairs.add((first, second, different))
    return pairs


@pytest.mark.parametrize("n", [1, 2, 50])
def test_pairs_are_those_of_the_literal_comparison(n, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(n)
    bits = rng.random((n, 256)) < 0.5
    for row in range(3, n, 4):
        bits[row] = bits[row - 3]
        bits[row, rng.choice(256, row % 11, replace=False)] ^= True
    found = near_pairs(bits, max_different=8)
    assert set(found.pairs) == literal(bits, 8)
    assert (found.compared, found.is_cut) == (n, False)
    assert n < 50 or len(found.pairs) > 5


def test_the_work_is_bounded(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MAX_COMPARED", 10)
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 4)
    bits = np.zeros((100, 256), bool)
    found = near_pairs(bits)
    assert found.compared == 10 and found.is_cut
    # Every tenth image: 0, 10, 20, ...
    assert found.pairs == ((0, 10, 0), (0, 20, 0), (0, 30, 0), (0, 40, 0))


def test_bits_by_hand():
    """Brightness that rises to the middle and falls again: left half True, right half False."""
    columns = np.minimum(np.arange(HASH_SIDE + 1), np.arange(HASH_SIDE + 1)[::-1])
    image = np.repeat(np.repeat(columns, 4)[None] * 20, 4 * HASH_SIDE, axis=0).astype(np.uint8)
    expected = np.repeat([[True] * 8 + [False] * 8], HASH_SIDE, axis=0)
    assert np.array_equal(difference_bits(image), expected)
    assert np.array_equal(difference_bits(np.dstack([image] * 3)), expected)
    assert np.array_equal(difference_bits(image // 2), expected)
