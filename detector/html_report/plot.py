"""The frame of a plot in SVG: where data lie on it, its axes and their labels.

Colours, fonts and line widths are the style sheet's, so that a plot follows the page's theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detector.html_report.markup import Child, Markup, Value, element, joined

LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 60, 14, 14, 44


@dataclass(frozen=True)
class Plot:
    """A rectangle for data inside an SVG picture.

    Args:
        width, height: of the picture in its own pixels, margins included.
        x, y: ends of the axes, the second above the first.
    """

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pair of data lies in the picture, from its upper left corner."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            LEFT_PX + across * (self.width - LEFT_PX - RIGHT_PX),
            self.height - BOTTOM_PX - up * (self.height - TOP_PX - BOTTOM_PX),
        )

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """A line through pairs of data, as a path's `d`."""
        placed = [self.place(x, y) for x, y in points]
        return "".join(
            f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(placed)
        )

    def picture(
        self,
        *children: Child,
        title: str,
        x_label: str,
        y_label: str,
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
    ) -> Markup:
        """The whole SVG picture: grid, axes, their labels, and what is drawn on them.

        Args:
            children: drawn above the grid.
            title: what there is to see, for who does not see it.
            x_label, y_label: of the axes.
            x_ticks, y_ticks: `ticks` of the axes where left out.
        """
        x_ticks = ticks(*self.x) if x_ticks is None else x_ticks
        y_ticks = ticks(*self.y) if y_ticks is None else y_ticks
        parts = [*self._grid(x_ticks, y_ticks), *children]
        middle = (LEFT_PX + self.width - RIGHT_PX) / 2
        parts.append(
            element(
                "text",
                {"class": "label", "x": middle, "y": self.height - 6, "text-anchor": "middle"},
                x_label,
            )
        )
        centre = (TOP_PX + self.height - BOTTOM_PX) / 2
        turned = {"class": "label", "transform": f"translate(12 {centre:g}) rotate(-90)"}
        parts.append(element("text", {**turned, "text-anchor": "middle"}, y_label))
        return element(
            "svg",
            {
                "class": "plot",
                "viewBox": f"0 0 {self.width} {self.height}",
                "role": "img",
                "aria-label": title,
            },
            joined(*parts),
        )

    def _grid(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[Markup]:
        parts = []
        for value in x_ticks:
            x, y = self.place(value, self.y[0])
            parts.append(line((x, TOP_PX), (x, y), "grid"))
            at: dict[str, Value] = {"class": "tick", "x": x, "y": y + 16, "text-anchor": "middle"}
            parts.append(element("text", at, tick_text(value)))
        for value in y_ticks:
            x, y = self.place(self.x[0], value)
            parts.append(line((x, y), (self.width - RIGHT_PX, y), "grid"))
            at = {"class": "tick", "x": x - 7, "y": y + 4, "text-anchor": "end"}
            parts.append(element("text", at, tick_text(value)))
        corner = self.place(self.x[0], self.y[0])
        parts.append(line(corner, (self.width - RIGHT_PX, corner[1]), "axis"))
        return parts


def line(start: tuple[float, float], end: tuple[float, float], kind: str) -> Markup:
    """A straight line of a class between two places of a picture."""
    ends = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    return element("line", {"class": kind, **{key: f"{at:.1f}" for key, at in ends.items()}})


def ticks(low: float, high: float, *, at_most: int = 6) -> list[float]:
    """Round values from low to high, 1, 2 or 5 times a power of ten apart.

    Args:
        low, high: ends, the second above the first.
        at_most: how many there may be, 2 or more.
    """
    rough = (high - low) / (at_most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A value on an axis."""
    text = f"{value:.4g}"
    return "0" if float(text) == 0 else text
