"""What all plots share: colours, text without mathematics, figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manifests.annotate import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from manifests.images import write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, (60, 60, 60))


def write_figure(path: Path, figure: Figure) -> None:
    """Draws a figure into a PNG file. Raises OutputError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    write_png(path, np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))


def unit_colour(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """An 8-bit colour as matplotlib takes it, 0 to 1."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def plain_text(text: str) -> str:
    """Text that matplotlib does not read as mathematics, which it does between two dollar signs."""
    return text.replace("$", r"\$")
