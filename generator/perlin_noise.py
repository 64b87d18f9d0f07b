"""Perlin noise on a lattice that lies turned over the image, sampled at every pixel at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAX_EXPONENT = 8
"""At most 2^8 cells along a side."""
MIN_CELL_PX = 2
"""A cell is at least this long; finer noise than that is no Perlin noise any more."""
MAX_TURN_DEG = 90.0
# Sampled at a time: all arrays of a band stay in the processor's cache.
_BAND_PX = 8192


@dataclass(frozen=True, eq=False)
class Lattice:
    """The parameters of one noise grid; `noise_of` makes the noise.

    Attributes:
        height, width: of the grid, in px.
        cells_y, cells_x: cells along the grid's height and width where nothing is turned.
        angle_rad: how far the lattice is turned about the grid's centre.
        top, left: row and column of the first gradient, in cells from the grid's upper-left corner.
        gradients: (n, m, 2) float64, a unit vector `(y, x)` at every lattice point.
    """

    height: int
    width: int
    cells_y: int
    cells_x: int
    angle_rad: float
    top: int
    left: int
    gradients: np.ndarray


def draw_lattice(
    rng: np.random.Generator, height: int, width: int, *, exponents: tuple[int, int]
) -> Lattice:
    """Draw cells, turn and gradients of a noise grid.

    There are 2^i cells along the height and 2^j along the width, i and j from U{low..high}, each by
    itself; no more than leave a cell 2 px. The lattice is turned by U(-90, 90) degrees.

    Args:
        rng: of the draw.
        height, width: of the grid, in px, at least 1.
        exponents: low and high, 0 to 8.

    Source: resolutions and turn as in DRAEM (Zavrtanik et al., ICCV 2021), read in its reference
        implementation; the noise of NIGSF (IEEE TCSVT 34(6), 2024) has them too.
    Differs: DRAEM makes the noise upright and turns the picture of it, which leaves corners empty.
        Here the lattice is turned and reaches as far as the picture does. The least size of a cell
        is ours.
    """
    low, high = exponents
    drawn = rng.integers(low, high + 1, size=2).tolist()
    cells_y, cells_x = (
        max(1, min(2**exponent, side // MIN_CELL_PX))
        for exponent, side in zip(drawn, (height, width), strict=True)
    )
    limit = math.radians(MAX_TURN_DEG)
    angle_rad = float(rng.uniform(-limit, limit))
    rows, columns = _lattice_axes(height, width, cells_y, cells_x, angle_rad)
    # Places are sums of a part that depends on the row and one that depends on the column.
    top, bottom = (math.floor(sum(part)) for part in _extremes(*rows))
    left, right = (math.floor(sum(part)) for part in _extremes(*columns))
    turns = rng.uniform(0.0, 2 * math.pi, size=(bottom - top + 2, right - left + 2))
    gradients = np.stack([np.sin(turns), np.cos(turns)], axis=-1)
    return Lattice(height, width, cells_y, cells_x, angle_rad, top, left, gradients)


def noise_of(lattice: Lattice) -> np.ndarray:
    """The noise at the centre of every pixel, (height, width) float32, about -1 to 1.

    In a cell, the products of its four corners' gradients with the way from the corner are mixed by
    the quintic fade `6 t^5 - 15 t^4 + 10 t^3`, times the square root of 2.

    Source: Perlin's improved noise (2002); the factor as in DRAEM (ICCV 2021).
    """
    height, width = lattice.height, lattice.width
    places = _lattice_axes(height, width, lattice.cells_y, lattice.cells_x, lattice.angle_rad)
    noise = np.empty((height, width), np.float32)
    band = max(1, _BAND_PX // width)
    for start in range(0, height, band):
        # (h, W) each, in cells: what the row and what the column adds.
        y, x = (down[start : start + band, None] + across[None, :] for down, across in places)
        noise[start : start + band] = _sampled(lattice, y, x)
    return noise


def _sampled(lattice: Lattice, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The noise at places (h, w) of the lattice, float32."""
    n_columns = lattice.gradients.shape[1]
    row, column = np.floor(y), np.floor(x)
    # Ways from the upper-left corner of the cell, 0 to 1.
    y, x = (y - row).astype(np.float32), (x - column).astype(np.float32)
    corner = ((row - lattice.top) * n_columns + (column - lattice.left)).astype(np.intp)
    down, across = (lattice.gradients[..., axis].astype(np.float32).reshape(-1) for axis in (0, 1))

    def product(step_y: int, step_x: int) -> np.ndarray:
        """Of a corner's gradient and the way from there, (h, w)."""
        here = corner + (step_y * n_columns + step_x)
        total: np.ndarray = down.take(here)
        total *= y - np.float32(step_y)
        part = across.take(here)
        part *= x - np.float32(step_x)
        total += part
        return total

    fade_x = _fade(x)
    above, below = (_mixed(product(step, 0), product(step, 1), fade_x) for step in (0, 1))
    noise = _mixed(above, below, _fade(y))
    noise *= np.float32(math.sqrt(2))
    return noise


def _mixed(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`first + weight * (second - first)`, written into `first`."""
    second -= first
    second *= weight
    first += second
    return first


def perlin_noise(
    rng: np.random.Generator, height: int, width: int, *, exponents: tuple[int, int] = (0, 5)
) -> np.ndarray:
    """A fresh grid of Perlin noise, (height, width) float32, about -1 to 1.

    Args: as `draw_lattice`.
    """
    return noise_of(draw_lattice(rng, height, width, exponents=exponents))


def _lattice_axes(
    height: int, width: int, cells_y: int, cells_x: int, angle_rad: float
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Where pixel centres lie on the lattice, in cells: what row and column add to y and to x."""
    from_middle_y = np.arange(height) + 0.5 - height / 2
    from_middle_x = np.arange(width) + 0.5 - width / 2
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    per_px_y, per_px_x = cells_y / height, cells_x / width
    y = (cells_y / 2 + cos * per_px_y * from_middle_y, -sin * per_px_y * from_middle_x)
    x = (cells_x / 2 + sin * per_px_x * from_middle_y, cos * per_px_x * from_middle_x)
    return y, x


def _extremes(down: np.ndarray, across: np.ndarray) -> tuple[tuple, tuple]:
    return (down.min(), across.min()), (down.max(), across.max())


def _fade(t: np.ndarray) -> np.ndarray:
    faded: np.ndarray = t * t * t * (t * (t * np.float32(6) - np.float32(15)) + np.float32(10))
    return faded
