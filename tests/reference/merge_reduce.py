"""Slow, literal merge and reduce: lists of rows, one rule after the other."""

from __future__ import annotations

import math

import numpy as np

from reference import coreset as literal


def bank_rows(
    points: np.ndarray,
    blocks: list[int],
    *,
    bank: int,
    total: int,
    capacity: int,
    seed: int,
    oversampling: int,
    least_part: int,
    merge_part: int,
) -> tuple[list[int], int]:
    """Rows of (N, D) points in the bank, ascending, and the number of merges; `blocks` are sizes.

    Points are not projected: D is at most the projection's.
    """
    most = capacity // 2
    wanted = min(oversampling * bank, most)

    def share(rows: int) -> int:
        return min(rows, most, math.ceil(wanted * rows / total))

    def choose(rows: list[int], size: int, *address: int) -> list[int]:
        if size >= len(rows):
            return rows
        rng = np.random.default_rng([seed, *address])
        picks = literal.k_centre(points[rows], size, first=int(rng.integers(len(rows))))
        return sorted(rows[pick] for pick in picks)

    sets: list[tuple[list[int], int, int]] = []  # candidates, features they stand for, level
    merges = start = 0
    for number, count in enumerate(blocks):
        block = list(range(start, start + count))
        start += count
        size = min(max(share(count), count // least_part, 1), count, max(1, most))
        fresh = choose(block, size, 1, number)
        while len(sets) > 1 and sum(len(rows) for rows, _, _ in sets) + len(fresh) > capacity:
            lowest = sets[-1][2]
            tail = [one for one in sets if one[2] == lowest]
            if len(tail) == 1:
                before = sets[-2][2]
                tail = [one for one in sets if one[2] == before] + tail
            sets = sets[: len(sets) - len(tail)]
            rows = [row for one in tail for row in one[0]]
            stands = sum(one[1] for one in tail)
            size = min(len(rows), max(share(stands), len(rows) // merge_part))
            sets.append((choose(rows, size, 2, merges), stands, max(one[2] for one in tail) + 1))
            merges += 1
        sets.append((fresh, count, 0))
    rows = [row for one in sets for row in one[0]]
    return choose(rows, bank, 3), merges
