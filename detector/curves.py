"""Plots of the image scores as PNG files: what the HTML report shows, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from detector.figures import (
    DEFECTIVE_DASHES,
    DIAGONAL_DASHES,
    SERIES,
    THRESHOLD_DASHES,
    dashed,
    figure_of,
    frame,
    heading,
    line_style,
    plain_text,
    unit_colour,
    write_figure,
)
from detector.score_bins import score_counts, score_edges
from detector.score_curves import Curve
from manifests.annotate import BLUE, INK, MUTED, RULE_STRONG, VERMILION

if TYPE_CHECKING:
    from matplotlib.ticker import MaxNLocator

_BAR_WIDTH = 1.6
_INK = unit_colour(INK)


def plot_roc(path: Path, curves: Sequence[Curve]) -> None:
    """Writes the ROC curves of one or more categories as a PNG, each with its area and threshold.

    Args:
        path: PNG file to write.
        curves: of the categories, see `roc_of`.

    Raises:
        OutputError: the file cannot be written.
    """
    is_long = len(curves) > 4
    # Beside a square plot, a legend of any length.
    figure = figure_of(*((7.6, max(5.2, 1.3 + 0.21 * len(curves))) if is_long else (5.4, 5.2)))
    axes = figure.add_subplot()
    frame(axes)
    diagonal = dashed(DIAGONAL_DASHES, 1.0)
    axes.plot([0, 1], [0, 1], color=unit_colour(RULE_STRONG), linewidth=1, linestyle=diagonal)
    for number, curve in enumerate(curves):
        x, y = zip(*curve.points, strict=True)
        label = f"{curve.area:.3f}  {plain_text(curve.name)}"
        style: dict[str, Any] = line_style(number)
        axes.plot(x, y, label=label, clip_on=False, **style)
    ring: dict[str, Any] = {"marker": "o", "markersize": 7, "markerfacecolor": "white"}
    ring |= {"markeredgewidth": 2, "linestyle": "none"}
    for number, curve in enumerate(curves):
        colour = unit_colour(SERIES[number % len(SERIES)].colour)
        axes.plot(*curve.limit, markeredgecolor=colour, clip_on=False, zorder=3, **ring)
    edge = unit_colour(SERIES[0].colour)
    axes.plot([], [], label="at the model's threshold", markeredgecolor=edge, **ring)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("good images called defective")
    axes.set_ylabel("defective images found")
    heading(figure, "ROC of the image scores")
    place_of: dict[str, Any] = {"loc": "lower right"}
    if is_long:
        place_of = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0)}
    place_of |= {"title": "AUROC", "alignment": "left"}
    axes.legend(frameon=False, labelcolor=_INK, **place_of).get_title().set_color(_INK)
    write_figure(path, figure)


def plot_histograms(
    path: Path, relative: np.ndarray, labels: np.ndarray, called: np.ndarray, *, title: str = ""
) -> None:
    """Writes the histograms of the image scores of both classes, with the threshold, as a PNG.

    Args:
        path: PNG file to write.
        relative: (n,) scores over the threshold, see `relative_scores`.
        labels: (n,) bool, True for defective; either class may be missing.
        called: (n,) bool, the verdicts.
        title: heading, such as the category.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = figure_of(7.2, 4.0)
    axes = figure.add_subplot()
    frame(axes)
    edges = score_edges(relative)
    classes = (
        ("good", ~labels, BLUE, 0.26, "-"),
        ("defective", labels, VERMILION, 0.18, dashed(DEFECTIVE_DASHES, _BAR_WIDTH)),
    )
    top = 1
    for name, own, colour, filled, line in classes:
        counts = score_counts(relative[own], edges)
        top = max(top, int(counts.max()))
        axes.stairs(
            counts,
            edges,
            fill=True,
            facecolor=(*unit_colour(colour), filled),
            edgecolor=unit_colour(colour),
            linestyle=line,
            linewidth=_BAR_WIDTH,
            label=f"{np.count_nonzero(own)} {name}, {np.count_nonzero(called & own)} called "
            "defective",
        )
    threshold: Any = dashed(THRESHOLD_DASHES, 1.5)
    axes.axvline(1, color=_INK, linewidth=1.5, linestyle=threshold)
    is_right = edges[0] + 0.7 * (edges[-1] - edges[0]) < 1
    axes.annotate(
        "threshold",
        (1, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if is_right else 5, -4),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="top",
        color=_INK,
        fontsize=9,
        fontweight="bold",
    )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.1 * top)
    cast("MaxNLocator", axes.yaxis.get_major_locator()).set_params(integer=True)
    axes.set_xlabel("image score ÷ threshold")
    axes.set_ylabel("images")
    heading(figure, title or "Image scores")
    # Above the axes, where it cannot hide a bar.
    axes.legend(
        frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderpad=0, ncols=2,
        labelcolor=unit_colour(MUTED),
    )  # fmt: skip
    write_figure(path, figure)
