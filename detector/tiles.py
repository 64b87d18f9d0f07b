"""A large canvas as overlapping tiles: how large they may be, and where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manifests.errors import ConfigError

if TYPE_CHECKING:
    from manifests.geometry import Geometry

STEP_PX = 32
"""Tiles start at multiples of this: the coarsest cells of a tile are then cells of the canvas."""
MIN_TILE_PX, MAX_TILE_PX = 192, 4096
SHARED_FRAC = 0.25
MIN_SHARED_PX = 96
"""Neighbours share a quarter of a tile, and at least so much: what a tile's edge hides reaches that
far into the cells of the stages that feed the bank."""


def check_tile(tile_px: int | None) -> None:
    """Raises ConfigError unless this is a side of a tile, or None for none."""
    if tile_px is None:
        return
    is_side = type(tile_px) is int and MIN_TILE_PX <= tile_px <= MAX_TILE_PX
    if not is_side or tile_px % STEP_PX:
        raise ConfigError(
            "--tile cannot be used",
            expected=f"a multiple of {STEP_PX} from {MIN_TILE_PX} to {MAX_TILE_PX} px",
            got=tile_px,
        )


def check_tiled_canvas(tile_px: int | None, geometry: Geometry) -> None:
    """Raises ConfigError where a canvas cannot be cut into such tiles, or need not be."""
    if tile_px is None:
        return
    sides = (geometry.height, geometry.width)
    if max(sides) <= tile_px:
        raise ConfigError(
            "--tile: the canvas is no larger than one tile",
            expected=f"a tile of less than {max(sides)} px",
            got=tile_px,
            hint="leave --tile out, or build the set with a larger --image-size",
        )
    if any(side % STEP_PX for side in sides):
        raise ConfigError(
            "--tile: the sides of the canvas are not multiples of the cells' grid",
            expected=f"multiples of {STEP_PX} px",
            got=f"{sides[0]}x{sides[1]}",
            hint="build the set with another --image-size",
        )


def tile_starts(length_px: int, tile_px: int) -> list[int]:
    """Where tiles start along an axis, in px, ascending; neighbours share `shared_px` or more.

    Args:
        length_px: of the axis, a multiple of 32.
        tile_px: side of a tile, a multiple of 32; an axis that is shorter is one tile.

    Source: ours.
    """
    if length_px <= tile_px:
        return [0]
    starts = list(range(0, length_px - tile_px, tile_px - shared_px(tile_px)))
    return [*starts, length_px - tile_px]


def shared_px(tile_px: int) -> int:
    """How many px neighbouring tiles share along an axis, at least; a multiple of 32."""
    return -(-max(MIN_SHARED_PX, round(tile_px * SHARED_FRAC)) // STEP_PX) * STEP_PX
