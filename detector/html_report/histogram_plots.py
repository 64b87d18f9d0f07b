"""Histograms as SVG: image scores of good and defective images, area fractions of masks."""

from __future__ import annotations

import numpy as np

from detector.html_report.markup import Markup, Value, element
from detector.html_report.plot import TOP_PX, Plot, line, tick_text, ticks
from detector.score_bins import score_counts, score_edges

WIDTH_PX, HEIGHT_PX = 420, 420
SMALL_WIDTH_PX, SMALL_HEIGHT_PX = 360, 200
AREA_EDGES = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
"""Of area fractions: in steps of 1, 2 and 5, because most masks are small and some are not."""


def score_histogram(relative: np.ndarray, labels: np.ndarray, *, name: str) -> Markup:
    """Both classes over one axis, in units of the threshold, which is the line at 1.

    Args:
        relative: (n,) scores over the threshold.
        labels: (n,) bool, True for defective.
        name: of the category.
    """
    edges = score_edges(relative)
    good = score_counts(relative[~labels], edges)
    bad = score_counts(relative[labels], edges)
    top = int(max(good.max(), bad.max(), 1))
    plot = Plot(WIDTH_PX, HEIGHT_PX, (float(edges[0]), float(edges[-1])), (0, 1.1 * top))
    parts = [_steps(plot, edges, good, "good"), _steps(plot, edges, bad, "bad")]
    for i in range(len(edges) - 1):
        if good[i] or bad[i]:
            words = f"{edges[i]:.3g} to {edges[i + 1]:.3g}: {good[i]} good, {bad[i]} defective"
            parts.append(_hover(plot, edges[i], edges[i + 1], words))
    x, bottom = plot.place(1, 0)
    parts.append(line((x, TOP_PX), (x, bottom), "threshold"))
    is_right = x > 0.7 * WIDTH_PX
    at: dict[str, Value] = {"x": f"{x + (-6 if is_right else 6):.1f}", "y": TOP_PX + 10}
    parts.append(
        element(
            "text",
            {"class": "mark", **at, "text-anchor": "end" if is_right else "start"},
            "threshold",
        )
    )
    flagged_good = int((relative[~labels] > 1).sum())
    flagged_bad = int((relative[labels] > 1).sum())
    return plot.picture(
        *parts,
        title=(
            f"{name}: image scores over the threshold. {len(relative[~labels])} good images, "
            f"{flagged_good} above it; {len(relative[labels])} defective images, {flagged_bad} "
            "above it"
        ),
        x_label="image score ÷ threshold",
        y_label="images",
        y_ticks=_counts_up_to(top),
    )


def area_histogram(fractions: np.ndarray, *, name: str) -> Markup:
    """How large the masks of a policy are, in parts of the image.

    Args:
        fractions: (n,) float64, 0 to 1.
        name: of the policy.
    """
    counts = area_counts(fractions)
    top = int(max(counts.max(), 1))
    # All bins equally wide, because their edges are: nobody would see the small ones otherwise.
    plot = Plot(SMALL_WIDTH_PX, SMALL_HEIGHT_PX, (0, len(counts)), (0, 1.1 * top))
    places = np.arange(len(counts) + 1, dtype=float)
    parts = [_steps(plot, places, counts, "area")]
    for i, count in enumerate(counts.tolist()):
        words = f"{_percent(AREA_EDGES[i])} to {_percent(AREA_EDGES[i + 1])} %: {count} masks"
        parts.append(_hover(plot, i, i + 1, words))
    for i, edge in enumerate(AREA_EDGES):
        x, y = plot.place(i, 0)
        at: dict[str, Value] = {"class": "tick", "x": x, "y": y + 16, "text-anchor": "middle"}
        parts.append(element("text", at, _percent(edge)))
    return plot.picture(
        *parts,
        title=f"{name}: area of the masks of {len(fractions)} negatives, in percent of the image",
        x_label="mask, % of the image",
        y_label="negatives",
        x_ticks=(),
        y_ticks=_counts_up_to(top),
    )


def area_counts(fractions: np.ndarray) -> np.ndarray:
    """Fractions per bin of `AREA_EDGES`; each holds its lower edge, the last one both."""
    return np.histogram(fractions, bins=AREA_EDGES)[0]


def _steps(plot: Plot, edges: np.ndarray, counts: np.ndarray, kind: str) -> Markup:
    points = [(float(edges[0]), 0.0)]
    for i, count in enumerate(counts.tolist()):
        points += [(float(edges[i]), float(count)), (float(edges[i + 1]), float(count))]
    points.append((float(edges[-1]), 0.0))
    return element("path", {"class": f"bars {kind}", "d": plot.path(points) + "Z"})


def _hover(plot: Plot, low: float, high: float, words: str) -> Markup:
    """An invisible bar over the whole height that says what it stands over."""
    x, bottom = plot.place(low, 0)
    right, _ = plot.place(high, 0)
    box = {"x": x, "y": TOP_PX, "width": right - x, "height": bottom - TOP_PX}
    return element(
        "rect",
        {"class": "hover", **{key: f"{value:.1f}" for key, value in box.items()}},
        element("title", {}, words),
    )


def _counts_up_to(top: int) -> list[float]:
    return [value for value in ticks(0, 1.1 * top, at_most=5) if value == int(value)]


def _percent(fraction: float) -> str:
    return tick_text(100 * fraction)
