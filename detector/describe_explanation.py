"""An explanation put into words for the terminal."""

from __future__ import annotations

from collections.abc import Callable

from detector.describe import VERDICTS
from detector.explanation import Explanation, Neighbour


def describe_explanation(found: Explanation) -> list[str]:
    """What an image was compared with, line by line."""
    lines = [
        f"{found.path}: {VERDICTS[found.is_defect]}, score {found.score:.4g}, "
        f"{found.normalised:.3g} × threshold, p {found.p_value:.2g}"
    ]
    if found.is_known:
        lines.append("  the model was fitted to this very image: it is compared with itself")
    if found.grid is None or found.cell is None or found.source_box is None:
        lines.append("  references most like it; the first one guided the segmentation:")
        return [*lines, *_table(found, "similarity", lambda one: f"{1.0 - one.distance:.4f}")]
    y, x, h, w = found.source_box
    lines += [
        f"  worst patch: {h}×{w} px at y {y}, x {x} of the image; row {found.cell[0]}, column "
        f"{found.cell[1]} of {found.grid[0]}×{found.grid[1]} cells",
        "  the normal patches nearest to it:",
    ]
    return [*lines, *_table(found, "distance", lambda one: f"{one.distance:.4g}")]


def _table(found: Explanation, measure: str, value: Callable[[Neighbour], str]) -> list[str]:
    width = max(len(measure), 10)
    heads = f"  {measure:>{width}}  {'row':>4}  {'column':>6}  image"
    rows = []
    for one in found.neighbours:
        row, column = ("-", "-") if one.cell is None else one.cell
        rows.append(f"  {value(one):>{width}}  {row:>4}  {column:>6}  {_name(one)}")
    if all(one.cell is None for one in found.neighbours):
        heads = f"  {measure:>{width}}  image"
        rows = [f"  {value(one):>{width}}  {_name(one)}" for one in found.neighbours]
    return [heads, *rows]


def _name(one: Neighbour) -> str:
    if one.normal is not None:
        return one.normal.source
    if one.image_index is None:
        return "a reference that the model does not name"
    return f"normal number {one.image_index}, which the model does not name: give --set"
