"""What all plots share, PNG files and those of the HTML report: colours, lines, the frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manifests.annotate import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RULE,
    RULE_STRONG,
    VERMILION,
    Colour,
)
from manifests.images import write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Dashes = tuple[float, ...]
"""Lengths of strokes and gaps in units of 1 px of the report, 1 pt of a PNG; () for none."""


@dataclass(frozen=True)
class Series:
    """How one of several lines is drawn: told apart by its dashes too, without colour vision.

    Attributes:
        name: of the colour in the report's style sheet, which has another one for dark pages.
        colour: on white.
    """

    name: str
    colour: Colour
    dashes: Dashes = ()


SERIES = (
    Series("good", BLUE),
    Series("bad", VERMILION, (8, 3)),
    Series("green", GREEN, (2.5, 2.5)),
    Series("purple", PURPLE),
    Series("orange", ORANGE, (8, 3)),
    Series("muted", MUTED, (2.5, 2.5)),
    Series("ink", INK),
)
LINE_WIDTHS = (2.2, 1.2, 3.4)
"""Of the first lines, of those that come after one of every series, and so on."""

DIAGONAL_DASHES: Dashes = (2, 4)
THRESHOLD_DASHES: Dashes = (5, 3)
DEFECTIVE_DASHES: Dashes = (4, 2)
"""Outlines of the bars of defective images."""


def figure_of(width_in: float, height_in: float) -> Figure:
    """An empty figure of our resolution, apart from pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=140, layout="constrained")


def frame(axes: Axes) -> None:
    """The looks of a plot before anything is drawn: a pale grid, one axis, grey labels."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(unit_colour(RULE_STRONG))
    axes.grid(color=unit_colour(RULE), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=unit_colour(MUTED))
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(unit_colour(MUTED))


def heading(figure: Figure, text: str) -> None:
    """What a picture is about, above it on the left; no mathematics is read in it."""
    figure.suptitle(
        plain_text(text), x=0.01, ha="left", fontweight="bold", fontsize=12, color=unit_colour(INK)
    )


def line_style(number: int) -> dict[str, object]:
    """How matplotlib draws the line of this number: colour, dashes and width."""
    series = SERIES[number % len(SERIES)]
    width = LINE_WIDTHS[number // len(SERIES) % len(LINE_WIDTHS)]
    return {
        "color": unit_colour(series.colour),
        "linestyle": dashed(series.dashes, width),
        "linewidth": width,
    }


def dashed(dashes: Dashes, width: float) -> object:
    """Dashes as matplotlib takes them, which multiplies them by the line's width."""
    return (0, [length / width for length in dashes]) if dashes else "-"


def write_figure(path: Path, figure: Figure) -> None:
    """Draws a figure into a PNG file. Raises OutputError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    write_png(path, np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))


def unit_colour(colour: Colour) -> tuple[float, float, float]:
    """An 8-bit colour as matplotlib takes it, 0 to 1."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def plain_text(text: str) -> str:
    """Text that matplotlib does not read as mathematics, which it does between two dollar signs."""
    return text.replace("$", r"\$")
