"""Perlin noise and forged anomalies as they are written down, one pixel at a time, in floats."""

from __future__ import annotations

import math


def noise(height, width, cells_y, cells_x, angle_rad, gradient):
    """Rows of values; `gradient(i, j)` is the unit vector (y, x) at a point of the lattice."""
    return [
        [
            _value(*_place(y, x, height, width, cells_y, cells_x, angle_rad), gradient)
            for x in range(width)
        ]
        for y in range(height)
    ]


def _place(y, x, height, width, cells_y, cells_x, angle_rad):
    """Where a pixel's centre lies on the lattice, turned about the middle of the picture."""
    down, across = y + 0.5 - height / 2, x + 0.5 - width / 2
    turned_down = math.cos(angle_rad) * down - math.sin(angle_rad) * across
    turned_across = math.sin(angle_rad) * down + math.cos(angle_rad) * across
    return (
        cells_y / 2 + turned_down * cells_y / height,
        cells_x / 2 + turned_across * cells_x / width,
    )


def _value(y, x, gradient):
    i, j = math.floor(y), math.floor(x)

    def product(di, dj):
        down, across = gradient(i + di, j + dj)
        return down * (y - i - di) + across * (x - j - dj)

    def mixed(first, second, t):
        return first + (6 * t**5 - 15 * t**4 + 10 * t**3) * (second - first)

    above = mixed(product(0, 0), product(0, 1), x - j)
    below = mixed(product(1, 0), product(1, 1), x - j)
    return math.sqrt(2) * mixed(above, below, y - i)


def forged_mask(noise, saliency):
    """`M = G > mu`: noise and S (0 to 1) are rows of values of the part that shows the image."""
    values = [value for row in saliency for value in row]
    mu = 0.4 + 0.2 * sum(values) / len(values)
    is_salient = sum(values) > 0
    return [
        [(s * p if is_salient else p) > mu for s, p in zip(srow, prow, strict=True)]
        for srow, prow in zip(saliency, noise, strict=True)
    ]


def blended(image, donor, mask, alpha):
    """`I = A(1-M) + alpha B M + (1-alpha) A M` in floats, with alpha from 0 to 1."""
    return [
        [
            [(1 - m) * a + alpha * b * m + (1 - alpha) * a * m for a, b in zip(p, q, strict=True)]
            for p, q, m in zip(arow, brow, mrow, strict=True)
        ]
        for arow, brow, mrow in zip(image, donor, mask, strict=True)
    ]
