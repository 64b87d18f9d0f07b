"""Patterns drawn by ourselves, for builds that mix in donors without having any."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from generator.perlin_noise import perlin_noise

LEAST_CONTRAST = 96
"""Between the two ends of a pattern's colours, per channel."""
N_COLOURS = 3
CELL_COUNT = (8, 64)
STEPS = 4096
"""Of a whole turn of a wave."""
# Read from here and not asked of numpy: its sine of float32 ends in other bits on other processors.
_SINE = np.array(
    [round(math.sin(2 * math.pi * step / STEPS) * 2**15) for step in range(STEPS)], np.float32
) / np.float32(2**15)

Kind = Callable[[np.random.Generator, int, int], np.ndarray]
"""From a generator, a height and a width to a pattern (height, width) of 0 to 1."""


def draw_patterns(
    rng: np.random.Generator, count: int, height: int, width: int, *, is_grey: bool
) -> list[np.ndarray]:
    """Draw patterns, every kind as often as any other but for the last round.

    Args:
        rng: of all of them.
        count: how many.
        height, width: in px.
        is_grey: whether R, G and B are to be the same.

    Returns:
        (height, width, 3) uint8 each.

    Source: ours.
    """
    kinds = list(KINDS.values())
    return [
        _coloured(rng, kinds[number % len(kinds)](rng, height, width), is_grey=is_grey)
        for number in range(count)
    ]


def _coloured(rng: np.random.Generator, pattern: np.ndarray, *, is_grey: bool) -> np.ndarray:
    """A pattern (H, W) of 0 to 1 in a scale of three colours, uint8."""
    low = rng.integers(0, 256 - LEAST_CONTRAST, size=3)
    high = np.array([rng.integers(value + LEAST_CONTRAST, 256) for value in low.tolist()])
    middle = rng.integers(0, 256, size=3)
    ends = np.where(rng.random(3) < 0.5, [low, high], [high, low])
    stops = np.stack([ends[0], middle, ends[1]])  # (3 colours, 3 channels)
    if is_grey:
        stops = np.repeat(stops[:, :1], 3, axis=1)
    place = np.linspace(0, 255, N_COLOURS)
    table = np.stack([np.interp(np.arange(256), place, stops[:, c]) for c in range(3)], axis=1)
    values = np.floor(np.clip(pattern, 0, 1) * 255 + 0.5).astype(np.uint8)
    coloured: np.ndarray = np.floor(table + 0.5).astype(np.uint8)[values]
    return coloured


def _turbulence(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Several octaves of folded noise, each half as strong as the one before."""
    first = int(rng.integers(1, 4))
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        exponents = (first + octave, first + octave)
        total += np.abs(perlin_noise(rng, height, width, exponents=exponents)) / 2**octave
    return total / total.max() if total.any() else total


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Waves in one direction, soft or sharp, bent by coarse noise."""
    phase = _waves(rng, height, width, int(rng.integers(STEPS // 2)))
    bend = np.float32(rng.uniform(0, STEPS / 2))
    phase += bend * perlin_noise(rng, height, width, exponents=(1, 2))
    return np.float32(0.5) + np.float32(rng.uniform(0.5, 4)) * _sine(phase)


def _checks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two waves across each other, with sharp or rounded corners."""
    angle = int(rng.integers(STEPS // 2))
    one, other = (_waves(rng, height, width, turned) for turned in (angle, angle + STEPS // 4))
    checks: np.ndarray = np.float32(0.5) + np.float32(rng.uniform(1, 8)) * _sine(one) * _sine(other)
    return checks


def _cells(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Voronoi cells of random points: each of one value, or dark along the borders."""
    count = int(rng.integers(CELL_COUNT[0], CELL_COUNT[1] + 1))
    centres = rng.random((count, 2)) * (height, width)
    values = rng.random(count).astype(np.float32)
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)
    nearest = np.full((height, width), np.inf, np.float32)  # squared distances
    second = nearest.copy()
    pattern = np.zeros((height, width), np.float32)
    for (centre_y, centre_x), value in zip(centres.astype(np.float32), values, strict=True):
        distance = (y - centre_y) ** 2 + (x - centre_x) ** 2
        is_nearer = distance < nearest
        np.minimum(second, np.maximum(distance, nearest), out=second)
        np.minimum(nearest, distance, out=nearest)
        pattern[is_nearer] = value
    if rng.random() < 0.5:
        return pattern
    width_px = rng.uniform(0.02, 0.06) * math.sqrt(height * width)
    return (np.sqrt(second) - np.sqrt(nearest)) / np.float32(width_px)


def _speckle(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Small spots on an even ground, few or many."""
    noise = perlin_noise(rng, height, width, exponents=(5, 6))
    return np.float32(rng.uniform(3, 8)) * (noise - np.float32(rng.uniform(0.0, 0.35)))


def _waves(rng: np.random.Generator, height: int, width: int, angle: int) -> np.ndarray:
    """Phase (H, W) float32 of a plane wave that repeats 3 to 24 times along the shorter side.

    It and the angle count in steps of a turn.
    """
    per_px = np.float32(STEPS * rng.uniform(3, 24) / min(height, width))
    y = np.arange(height, dtype=np.float32)[:, None] * (per_px * _SINE[angle % STEPS])
    x = np.arange(width, dtype=np.float32)[None, :] * (per_px * _SINE[(angle + STEPS // 4) % STEPS])
    waves: np.ndarray = y + x + np.float32(rng.uniform(0, STEPS))
    return waves


def _sine(phase: np.ndarray) -> np.ndarray:
    """Sine of a phase in steps of a turn, by the last whole step."""
    sine: np.ndarray = _SINE[np.floor(phase).astype(np.int64) % STEPS]
    return sine


KINDS: dict[str, Kind] = {
    "turbulence": _turbulence,
    "stripes": _stripes,
    "checks": _checks,
    "cells": _cells,
    "speckle": _speckle,
}
