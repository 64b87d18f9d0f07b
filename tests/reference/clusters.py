"""One-dimensional k-means by trying every partition, in exact fractions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, pairwise


def scatter(run: Sequence[tuple[int, int]]) -> Fraction:
    """Sum of squared distances of (value, count) pairs to their mean."""
    total = sum(count for _, count in run)
    mean = Fraction(sum(value * count for value, count in run), total)
    return sum((count * (value - mean) ** 2 for value, count in run), Fraction(0))


def best_partition(
    pairs: Sequence[tuple[int, int]], k: int
) -> tuple[Fraction, list[list[tuple[int, int]]]]:
    """Least inertia and its runs, ascending, of ascending (value, count > 0) pairs.

    Of equal partitions, the one whose highest run starts lowest, then the next highest.
    """
    k = min(k, len(pairs))
    best = None
    for cuts in combinations(range(1, len(pairs)), k - 1):
        edges = [0, *cuts, len(pairs)]
        runs = [list(pairs[a:b]) for a, b in pairwise(edges)]
        key = (sum((scatter(run) for run in runs), Fraction(0)), tuple(reversed(cuts)))
        if best is None or key < best[0]:
            best = key, runs
    return best[0][0], best[1]
