"""What a feature cell stands for, in pixels of the canvas and of the image."""

from __future__ import annotations

from manifests.geometry import Geometry, Placement

Box = tuple[int, int, int, int]

# Features are means over 3×3 cells (`FeatureExtractor`).
_REACH_CELLS = 1


def patch_box(
    cell: tuple[int, int], grid: tuple[int, int], geometry: Geometry, canvas_box: Box
) -> Box:
    """The patch of 3×3 cells around a cell, `y, x, h, w` in px of the canvas.

    What lies in padding or outside is left out. The network sees more than that, less and less
    clearly: the box says where the patch is, not all that it depends on.

    Args:
        cell: (row, column).
        grid: (h, w) cells.
        canvas_box: the part of the canvas that shows the image, `y, x, h, w`.
    """
    y, h = _axis(cell[0], grid[0], geometry.height, canvas_box[0], canvas_box[2])
    x, w = _axis(cell[1], grid[1], geometry.width, canvas_box[1], canvas_box[3])
    return y, x, h, w


def source_box(box: Box, placement: Placement) -> Box:
    """A box of the canvas in pixels of the image, `y, x, h, w`, widened to whole ones."""
    spans = []
    sides = (placement.source_height, placement.source_width)
    for axis in (0, 1):
        start, shown = placement.canvas_box[axis], placement.canvas_box[axis + 2]
        first, length = placement.source_box[axis], placement.source_box[axis + 2]
        low = first + (box[axis] - start) * length // shown
        high = first - (-(box[axis] + box[axis + 2] - start) * length // shown)
        low, high = max(0, low), min(sides[axis], high)
        spans.append((low, max(1, high - low)))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def around(box: Box, context_px: int, canvas: tuple[int, int]) -> Box:
    """A box with so much around it on every side, moved inside a canvas of (height, width)."""
    spans = []
    for axis in (0, 1):
        length = min(box[axis + 2] + 2 * context_px, canvas[axis])
        middle = 2 * box[axis] + box[axis + 2]
        spans.append((min(max(0, (middle - length) // 2), canvas[axis] - length), length))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _axis(cell: int, cells: int, pixels: int, start: int, length: int) -> tuple[int, int]:
    low = max((cell - _REACH_CELLS) * pixels // cells, start)
    high = min(-(-(cell + _REACH_CELLS + 1) * pixels // cells), start + length)
    # A box thinner than a cell may lie between the cells that stand for it.
    low = min(low, start + length - 1)
    return low, max(1, high - low)
