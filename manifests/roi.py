"""A region of interest: the part of every photo that is inspected."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from manifests.errors import ConfigError

INSIDE_FROM = 128
"""Grey values of a mask file from here on are inside."""

_MAX_SIDE_PX = 1 << 20


@dataclass(frozen=True)
class Roi:
    """Which pixels of a canvas are inspected.

    Args:
        height, width: of the canvas, in px.
        runs: lengths of the runs of equal pixels, row by row from the upper left, the first of them
            outside (0 where the first pixel is inside), then inside and outside in turns.
        source_height, source_width: of the mask that it was read from, in px.

    Raises:
        ConfigError: runs that do not fill the canvas, or nothing inside.

    Source: ours; run lengths, because they are the same bytes on every machine.
    """

    height: int
    width: int
    runs: tuple[int, ...]
    source_height: int
    source_width: int

    def __post_init__(self) -> None:
        sides = (self.source_height, self.source_width)
        numbers = (*self.runs, *sides)
        if any(type(number) is not int for number in numbers):
            raise ConfigError("malformed region of interest", expected="runs and sides as integers")
        if not all(1 <= side <= _MAX_SIDE_PX for side in sides):
            raise ConfigError("malformed region of interest", got=f"a mask of {sides} px")
        is_split = all(run >= 1 for run in self.runs[1:]) and min(self.runs, default=-1) >= 0
        if not is_split or sum(self.runs) != self.height * self.width:
            raise ConfigError(
                "malformed region of interest",
                expected=f"runs that make {self.height} x {self.width} pixels",
                got=f"{len(self.runs)} runs",
            )
        if len(self.runs) < 2:
            raise ConfigError(
                "the region of interest is empty on the canvas",
                hint=f"paint what is to be inspected white in the mask, grey {INSIDE_FROM} or more",
            )

    @cached_property
    def mask(self) -> np.ndarray:
        """(height, width) bool, True inside; not to be written to."""
        is_inside = np.arange(len(self.runs)) % 2 == 1
        mask = np.repeat(is_inside, self.runs).reshape(self.height, self.width)
        mask.setflags(write=False)
        return mask

    @property
    def area_frac(self) -> float:
        """The part of the canvas that is inside, above 0 and at most 1."""
        return sum(self.runs[1::2]) / (self.height * self.width)

    @classmethod
    def of_mask(cls, mask: np.ndarray, *, source_height: int, source_width: int) -> Roi:
        """The region that a mask (height, width) bool on the canvas marks.

        Raises:
            ConfigError: nothing is marked.
        """
        flat = np.concatenate([[False], mask.reshape(-1)])
        ends = np.flatnonzero(flat[1:] != flat[:-1])
        runs = np.diff(np.concatenate([[0], ends, [mask.size]]))
        height, width = mask.shape
        return cls(height, width, tuple(runs.tolist()), source_height, source_width)

    def to_json(self) -> dict[str, list[int]]:
        """Runs and the mask's sides as plain JSON values."""
        return {"runs": list(self.runs), "source": [self.source_height, self.source_width]}

    @classmethod
    def from_json(cls, plain: object, *, height: int, width: int) -> Roi:
        """Inverse of `to_json`. Raises ConfigError on anything else."""
        if not isinstance(plain, Mapping) or set(plain) != {"runs", "source"}:
            raise ConfigError("malformed region of interest", expected="runs and source")
        runs, source = plain["runs"], plain["source"]
        if not isinstance(runs, list) or not isinstance(source, list) or len(source) != 2:
            raise ConfigError("malformed region of interest", expected="lists of integers")
        return cls(height, width, tuple(runs), *source)


def read_roi(path: str | os.PathLike[str], *, height: int, width: int, fit: str) -> Roi:
    """Reads a region of interest from a mask file and fits it to a canvas as an image of its size.

    A canvas pixel is inside where all pixels of the mask are white that it would be made from:
    whatever happens in the black part then changes nothing.

    Args:
        path: an image, white (grey 128 or more) where the part is inspected.
        height, width, fit: of the canvas; see `Geometry`.

    Raises:
        ImageError: not an image that can be read.
        ConfigError: nothing is white, or a crop leaves nothing of it.
    """
    from manifests.geometry import Geometry, place
    from manifests.images import read_mask

    mask = read_mask(path, binarise_at=INSIDE_FROM)
    placement = place(mask.shape[0], mask.shape[1], Geometry(height, width, fit))
    inside = np.zeros((height, width), dtype=bool)
    y, x, h, w = placement.canvas_box
    top, left, shown_h, shown_w = placement.source_box
    source = mask[top : top + shown_h, left : left + shown_w]
    inside[y : y + h, x : x + w] = _all_white(source, h, w)
    try:
        return Roi.of_mask(inside, source_height=mask.shape[0], source_width=mask.shape[1])
    except ConfigError as error:
        raise ConfigError(
            f"{os.fspath(path)} marks nothing of the canvas to inspect", hint=error.hint
        ) from error


def _all_white(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool, where a mask (H, W) bool is True in all that a new pixel reads."""
    black = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64)
    np.cumsum(np.cumsum(~mask, axis=0, dtype=np.int64), axis=1, out=black[1:, 1:])
    top, bottom = _read_by(mask.shape[0], height)
    left, right = _read_by(mask.shape[1], width)
    count = black[bottom][:, right] - black[top][:, right] - black[bottom][:, left]
    count += black[top][:, left]
    is_white: np.ndarray = count == 0
    return is_white


def _read_by(side: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last of the source's pixels that each new pixel is made from.

    The area under it where the axis shrinks, the two nearest centres where it grows.
    """
    number = np.arange(pixels)
    if side >= pixels:
        return number * side // pixels, -(-(number + 1) * side // pixels)
    low = ((2 * number + 1) * side - pixels) // (2 * pixels)
    return np.clip(low, 0, side - 1), np.clip(low + 2, 1, side)
