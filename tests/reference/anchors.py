"""Anchor pairs by plain loops: two random pixels, redrawn until their boxes are disjoint."""

from __future__ import annotations

from itertools import product

import numpy as np

Corner = tuple[int, int]


def corners_of(labels, cluster, valid_box, h, w, *, is_moved=False) -> list[Corner]:
    """Pixels of a cluster (of any, where it is None) whose h x w box stays in the valid box.

    Where boxes are moved, every pixel counts, as the nearest corner whose box stays inside.
    """
    top, left, height, width = valid_box
    last_y, last_x = top + height - h, left + width - w
    found = set()
    for y in range(top, top + height):
        for x in range(left, left + width):
            is_member = cluster is None or labels[y, x] == cluster
            is_inside = y <= last_y and x <= last_x
            if is_member and (is_inside or (is_moved and last_y >= top and last_x >= left)):
                found.add((min(y, last_y), min(x, last_x)))
    return sorted(found)


def are_disjoint(one: Corner, other: Corner, h, w) -> bool:
    """Whether two h x w boxes share no pixel, pixel by pixel."""
    pixels = set(product(range(one[0], one[0] + h), range(one[1], one[1] + w)))
    return pixels.isdisjoint(product(range(other[0], other[0] + h), range(other[1], other[1] + w)))


def disjoint_pairs(corners, h, w) -> list[tuple[Corner, Corner]]:
    """All ordered pairs of corners with disjoint boxes."""
    return [(a, b) for a in corners for b in corners if are_disjoint(a, b, h, w)]


def redraw_until_disjoint(rng: np.random.Generator, corners, h, w) -> tuple[Corner, Corner]:
    """The rule itself. Never returns where no pair is disjoint."""
    while True:
        first, second = (corners[rng.integers(len(corners))] for _ in range(2))
        if are_disjoint(first, second, h, w):
            return first, second


def search(labels, valid_box, h, w, chosen, floor_frac):
    """(fallback, is_moved, cluster or None, h, w) of the first step that has a pair, or None.

    `chosen` is the cluster to start in; fallbacks as in `manifests.schema.FALLBACKS`.
    """
    floor = floor_frac * valid_box[2] * valid_box[3]
    for cluster in [*range(chosen, -1, -1), None]:
        for is_moved in (False, True) if cluster is not None else (False,):
            area, is_shrunk = h * w, False
            while True:
                side = (area / (h * w)) ** 0.5
                size = max(1, round(h * side)), max(1, round(w * side))
                corners = corners_of(labels, cluster, valid_box, *size, is_moved=is_moved)
                if disjoint_pairs(corners, *size):
                    fallback = "shrunk" if is_shrunk else "none"
                    if is_moved:
                        fallback = "moved"
                    if cluster != chosen:
                        fallback = "lower-cluster"
                    if cluster is None:
                        fallback = "anywhere"
                    return fallback, is_moved, cluster, *size
                if area <= max(floor, 1):
                    break
                area, is_shrunk = max(0.8 * area, floor, 1), True
    return None
