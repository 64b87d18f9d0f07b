"""Plots of the image scores as PNG files, drawn by matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from detector.figures import LINE_COLOURS, plain_text, unit_colour, write_figure
from manifests.annotate import BLUE, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

_LINE_STYLES = ("-", "--", ":")


def plot_roc(path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes the ROC curves of one or more categories as a PNG, each with its area.

    Args:
        path: PNG file to write.
        curves: category -> (fpr, tpr), each (t,) rising from 0 to 1.

    Raises:
        OutputError: the file cannot be written.
    """
    is_long = len(curves) > 4
    figure, axes = _figure(7.6 if is_long else 5.4, 5.2)
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=1)
    for index, (name, (fpr, tpr)) in enumerate(curves.items()):
        area = float((np.diff(fpr) * (tpr[1:] + tpr[:-1])).sum() / 2)
        axes.plot(
            fpr,
            tpr,
            color=unit_colour(LINE_COLOURS[index % len(LINE_COLOURS)]),
            linestyle=_LINE_STYLES[index // len(LINE_COLOURS) % len(_LINE_STYLES)],
            linewidth=1.8,
            label=f"{area:.3f}  {plain_text(name)}",
            clip_on=False,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("good images called defective")
    axes.set_ylabel("defective images found")
    axes.set_title("ROC of the image scores", loc="left", fontweight="bold")
    if curves:
        place_of: dict[str, Any] = {}
        if is_long:
            place_of = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0)}
        axes.legend(title="AUROC", frameon=False, alignment="left", **place_of)
    write_figure(path, figure)


def plot_histograms(
    path: Path, good: np.ndarray, defective: np.ndarray, threshold: float, *, title: str = ""
) -> None:
    """Writes the histograms of the image scores of both classes, with the threshold, as a PNG.

    Args:
        path: PNG file to write.
        good, defective: (n,) raw image scores; either may be empty.
        threshold: raw; scores above it are called defective.
        title: heading, such as the category.

    Raises:
        OutputError: the file cannot be written.
    """
    figure, axes = _figure(7.2, 4.0)
    every = np.concatenate([good, defective, [threshold]]).astype(np.float64)
    edges = np.histogram_bin_edges(every, bins=48)
    classes = (("good", good, BLUE), ("defective", defective, VERMILION))
    for name, scores, colour in classes:
        flagged = int((scores > threshold).sum())
        axes.hist(
            scores,
            bins=edges.tolist(),
            color=(*unit_colour(colour), 0.35),
            edgecolor=unit_colour(colour),
            histtype="stepfilled",
            linewidth=1.4,
            label=f"{len(scores)} {name}, {flagged} called defective",
        )
    axes.axvline(threshold, color="0.15", linewidth=1.4, linestyle="--")
    axes.annotate(
        f"threshold {threshold:.4g}",
        (threshold, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(5, -4),
        textcoords="offset points",
        va="top",
        color="0.15",
        fontsize=9,
    )
    axes.margins(x=0.01)
    top = max(1.0, axes.get_ylim()[1])
    axes.set_ylim(0, 1.12 * top)  # room for the threshold's label
    cast("MaxNLocator", axes.yaxis.get_major_locator()).set_params(integer=True)
    axes.set_xlabel("image score")
    axes.set_ylabel("images")
    axes.set_title(plain_text(title) or "Image scores", loc="left", fontweight="bold")
    # Above the axes, where it cannot hide a bar.
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderpad=0)
    write_figure(path, figure)


def _figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=140, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes
