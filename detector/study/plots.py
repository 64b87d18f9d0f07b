"""Plots of a comparison as PNG files: differences to a baseline, and a setting against a metric."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detector.figures import (
    figure_of,
    frame,
    heading,
    plain_text,
    unit_colour,
    write_figure,
)
from detector.study.statistics import Difference, Estimate
from detector.study.tables import METRIC_NAMES, Row
from manifests.annotate import BLUE, INK, MUTED, VERMILION, WELL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_IN = 7.2  # 1008 px
_LABEL_CHARS = 26
_UNDECIDED = (125, 134, 145)


def plot_differences(
    path: Path, rows: Sequence[Row], metrics: Sequence[str], *, title: str, baseline: str
) -> None:
    """Writes a forest plot: per metric a panel, per arm the difference to the baseline.

    Arms stand from top to bottom as given, those without any difference left out. An interval that
    excludes 0 has a filled mark, one that contains it a hollow grey one.

    Args:
        path: PNG file to write, 1008 px wide.
        rows: arms with their differences.
        metrics: keys of `METRIC_NAMES`.
        title: heading.
        baseline: label of the arm that the differences are to.

    Raises:
        OutputError: the file cannot be written.
        ValueError: no arm has a difference in any of the metrics.

    Source: ours.
    """
    shown = [row for row in rows if any(row.differences.get(metric) for metric in metrics)]
    if not shown:
        raise ValueError("no arm has a difference in any of the metrics")
    per_line = _panels_per_line(len(metrics))
    lines = -(-len(metrics) // per_line)
    height_in = 0.9 + lines * (0.75 + 0.3 * len(shown))
    figure = figure_of(_WIDTH_IN, height_in)
    panels = figure.subplots(lines, per_line, squeeze=False, sharey=True)
    for index, axes in enumerate(panels.flat):
        if index >= len(metrics):
            axes.remove()
            continue
        _forest(axes, shown, metrics[index])
    heading(figure, title)
    figure.supxlabel(
        f"difference to {plain_text(baseline)}, 95 % interval; filled: excludes 0",
        fontsize=10,
        color=unit_colour(MUTED),
    )
    write_figure(path, figure)


def plot_curves(
    path: Path,
    xs: Sequence[float] | Sequence[str],
    points: Mapping[str, Sequence[Estimate | None]],
    *,
    title: str,
    x_label: str,
    is_log: bool = False,
    reference: tuple[str, Mapping[str, Estimate | None]] | None = None,
) -> None:
    """Writes metrics against a setting as a PNG, a panel each, with 95 % intervals.

    Args:
        path: PNG file to write, 1008 px wide.
        xs: values of the setting: numbers, or names that are spaced evenly in the order given.
        points: metric of `METRIC_NAMES` -> estimate per x, None where there is none.
        title: heading.
        x_label: name of the setting.
        is_log: logarithmic x axis; needs positive numbers.
        reference: label and estimates of an arm without the setting, drawn as a band.

    Raises:
        OutputError: the file cannot be written.
        ValueError: a metric with another number of points than `xs`, or names on a logarithmic
            axis.

    Source: ours.
    """
    has_names = any(isinstance(x, str) for x in xs)
    if is_log and (has_names or min(map(float, xs)) <= 0):
        raise ValueError("a logarithmic axis needs positive numbers")
    for metric, found in points.items():
        if len(found) != len(xs):
            raise ValueError(f"{metric!r} has {len(found)} points for {len(xs)} values")
    places = np.arange(len(xs), dtype=float) if has_names else np.array(xs, dtype=float)
    if is_log:
        places = np.log10(places)
    names = [plain_text(x) if isinstance(x, str) else f"{x:g}" for x in xs]
    per_line = _panels_per_line(len(points))
    lines = -(-len(points) // per_line)
    figure = figure_of(_WIDTH_IN, 0.9 + 2.4 * lines)
    panels = list(figure.subplots(lines, per_line, squeeze=False).flat)
    for axes, (metric, found) in zip(panels, points.items(), strict=False):
        band = None if reference is None else reference[1].get(metric)
        _curve(axes, places, found, band)
        axes.set_xticks(places, names)
        axes.set_title(METRIC_NAMES[metric], loc="left", fontsize=10, color=unit_colour(INK))
    for axes in panels[len(points) :]:
        axes.remove()
    heading(figure, title)
    below = "" if reference is None else f"; dashed: {plain_text(reference[0])}"
    figure.supxlabel(
        f"{plain_text(x_label)}{below}; 95 % intervals", fontsize=10, color=unit_colour(MUTED)
    )
    write_figure(path, figure)


def _panels_per_line(count: int) -> int:
    """At most three, and two of four, so that no panel stands alone."""
    return 2 if count == 4 else min(count, 3)


def _curve(
    axes: Axes, places: np.ndarray, points: Sequence[Estimate | None], band: Estimate | None
) -> None:
    frame(axes)
    if band is not None:
        axes.axhspan(*_possible(band), color=unit_colour(WELL), zorder=0, linewidth=0)
        axes.axhline(band.mean, color=unit_colour(MUTED), linewidth=1.4, linestyle="--")
    known = [(x, point) for x, point in zip(places, points, strict=True) if point is not None]
    axes.errorbar(
        [x for x, _ in known],
        [point.mean for _, point in known],
        yerr=[
            [point.mean - _possible(point)[0] for _, point in known],
            [_possible(point)[1] - point.mean for _, point in known],
        ],
        color=unit_colour(BLUE),
        marker="o",
        markersize=5,
        linewidth=1.6,
        elinewidth=1.4,
        capsize=3.5,
    )
    reach = float(np.ptp(places)) or 1.0
    axes.set_xlim(places.min() - 0.09 * reach, places.max() + 0.09 * reach)
    axes.tick_params(labelsize=8.5)


def _possible(point: Estimate) -> tuple[float, float]:
    """Of two seeds an interval is so wide that it leaves what a metric can be; no axis should."""
    return max(point.low, 0.0), min(point.high, 1.0)


def _forest(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    from matplotlib.ticker import MultipleLocator

    frame(axes)
    axes.grid(axis="y", visible=False)
    axes.axvline(0, color=unit_colour(INK), linewidth=1.2, zorder=1)
    for place, row in enumerate(rows):
        difference = row.differences.get(metric)
        if difference is None:
            continue
        colour = unit_colour(_colour(difference))
        axes.plot(
            [difference.low, difference.high],
            [place, place],
            color=colour,
            linewidth=2.2,
            solid_capstyle="butt",
            marker="|",
            markersize=7,
        )
        is_decided = difference.low > 0 or difference.high < 0
        axes.plot(
            difference.mean,
            place,
            marker="o",
            markersize=7,
            markeredgewidth=1.6,
            markeredgecolor=colour,
            markerfacecolor=colour if is_decided else "white",
            zorder=3,
        )
    axes.set_yticks(range(len(rows)), [_wrapped(row.label) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.08)
    step = _tick_step(*axes.get_xlim())
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.4g}" if abs(x) > step / 2 else "0")
    axes.tick_params(axis="y", labelsize=9.5, labelcolor=unit_colour(INK))
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_title(METRIC_NAMES[metric], loc="left", fontsize=10, color=unit_colour(INK))


def _tick_step(low: float, high: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that gives two to five ticks."""
    power = 10.0 ** math.floor(math.log10((high - low) / 10))
    steps = (factor * power for factor in (1, 2, 5, 10, 20, 50))
    return next(step for step in steps if math.floor(high / step) - math.ceil(low / step) < 5)


def _wrapped(label: str) -> str:
    # A long label would leave no room for the panels.
    return "\n".join(textwrap.wrap(plain_text(label), _LABEL_CHARS)) or " "


def _colour(difference: Difference) -> tuple[int, int, int]:
    if difference.low > 0:
        return BLUE
    return VERMILION if difference.high < 0 else _UNDECIDED
