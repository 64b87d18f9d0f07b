"""Images that nearly are another one: the same part photographed again, or compressed anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_DIFFERENT_BITS = 8
"""Of 256. Of the magnetic tiles, five in six such pairs are one tile under two exposures; of a
machined part that always lies the same way, no two images are nearer than 36."""

MAX_COMPARED = 10_000
MAX_PAIRS = 10_000
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class NearPairs:
    """Pairs of images by their index.

    Attributes:
        pairs: (first, second, different bits), sorted; first < second.
        compared: of how many images every pair was looked at.
        is_cut: whether there are more than `MAX_PAIRS`, of which only some are listed.
    """

    pairs: tuple[tuple[int, int, int], ...]
    compared: int
    is_cut: bool


def near_pairs(bits: np.ndarray, *, max_different: int = MAX_DIFFERENT_BITS) -> NearPairs:
    """Every pair of hashes that differ in few bits.

    Of more than `MAX_COMPARED` images that many are compared, taken at even distances, so that the
    work stays bounded: 50 million pairs.

    Args:
        bits: (n, b) bool.
        max_different: bits that may differ.

    Source: ours.
    """
    n = len(bits)
    chosen = np.arange(n)
    if n > MAX_COMPARED:
        chosen = np.arange(MAX_COMPARED) * n // MAX_COMPARED
    # Of vectors of -1 and 1, the product is the bits that agree less those that differ: exact in
    # float32, and a matrix product is the fastest way to many distances.
    signs = np.where(bits[chosen], np.float32(1), np.float32(-1))
    found: list[tuple[int, int, int]] = []
    for start in range(0, len(signs), _ROWS_AT_ONCE):
        products = signs[start : start + _ROWS_AT_ONCE] @ signs[start:].T
        different = (signs.shape[1] - products) / 2
        rows, columns = np.nonzero(np.triu(different <= max_different, k=1))
        for row, column in zip(rows, columns, strict=True):
            if len(found) == MAX_PAIRS:
                return NearPairs(tuple(found), len(chosen), is_cut=True)
            first, second = int(chosen[start + row]), int(chosen[start + column])
            found.append((first, second, int(different[row, column])))
    return NearPairs(tuple(found), len(chosen), is_cut=False)
