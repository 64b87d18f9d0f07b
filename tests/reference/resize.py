"""Slow, literal resizing of one axis at a time, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def resize_axis(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Resize one axis: averages over areas where it shrinks, linear where it grows.

    Values are taken at pixel centres and repeated beyond the edges. No rounding.
    """
    moved = np.moveaxis(np.asarray(values, np.float64), axis, 0)
    n = moved.shape[0]
    rows = []
    for i in range(length):
        weights = [Fraction(0)] * n
        if length <= n:
            start, stop = Fraction(i * n, length), Fraction((i + 1) * n, length)
            for j in range(n):
                covered = min(stop, Fraction(j + 1)) - max(start, Fraction(j))
                if covered > 0:
                    weights[j] = covered / (stop - start)
        else:
            centre = Fraction((2 * i + 1) * n, 2 * length) - Fraction(1, 2)
            left = centre.numerator // centre.denominator
            weights[min(max(left, 0), n - 1)] += 1 - (centre - left)
            weights[min(max(left + 1, 0), n - 1)] += centre - left
        rows.append(sum(float(w) * moved[j] for j, w in enumerate(weights) if w))
    return np.moveaxis(np.stack(rows), 0, axis)


def nearest_index(n: int, length: int) -> list[int]:
    """The old pixel under the centre of each of `length` new ones."""
    found = []
    for i in range(length):
        centre = Fraction(2 * i + 1, 2) * n / length
        found.append(centre.numerator // centre.denominator)
    return found
