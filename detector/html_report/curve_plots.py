"""ROC and precision-recall curves as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.html_report.markup import Markup, Value, element
from detector.html_report.plot import Plot, line
from detector.metrics import precision_recall_curve, roc_curve

SIDE_PX = 420
N_STYLES = 7
_UNIT_TICKS = (0, 0.2, 0.4, 0.6, 0.8, 1)
_MARK_PX = 5


@dataclass(frozen=True, eq=False)
class Curve:
    """One category's curve.

    Attributes:
        name: of the category.
        points: (x, y) of its corners, x never falling.
        area: under it.
        limit: (x, y) of the model's verdicts.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    area: float
    limit: tuple[float, float]


def roc_of(name: str, scores: np.ndarray, labels: np.ndarray, called: np.ndarray) -> Curve:
    """The ROC curve of (n,) image scores with both classes; `called` (n,) bool are the verdicts."""
    fpr, tpr, _ = roc_curve(scores, labels)
    is_bad = labels.astype(bool)
    return Curve(
        name=name,
        points=tuple(zip(fpr.tolist(), tpr.tolist(), strict=True)),
        area=float((np.diff(fpr) * (tpr[1:] + tpr[:-1])).sum() / 2),
        limit=(float(called[~is_bad].mean()), float(called[is_bad].mean())),
    )


def precision_recall_of(
    name: str, scores: np.ndarray, labels: np.ndarray, called: np.ndarray
) -> Curve:
    """The steps of precision over recall, whose area is the average precision; as `roc_of`.

    Where nothing is called, the limit's precision is 1: nothing is called wrongly.
    """
    recall, precision, _ = precision_recall_curve(scores, labels)
    points, area, before = [], 0.0, 0.0
    for r, p in zip(recall.tolist(), precision.tolist(), strict=True):
        points += [(before, p), (r, p)]
        area += (r - before) * p
        before = r
    is_bad = labels.astype(bool)
    found = int(np.count_nonzero(called & is_bad))
    calls = int(np.count_nonzero(called))
    return Curve(
        name=name,
        points=_merged(points),
        area=area,
        limit=(found / int(is_bad.sum()), found / calls if calls else 1.0),
    )


def curve_picture(
    curves: Sequence[Curve], *, title: str, x_label: str, y_label: str, has_diagonal: bool = False
) -> Markup:
    """Curves on a unit square, one style each, with a ring where the threshold is."""
    plot = Plot(SIDE_PX, SIDE_PX, (0, 1), (0, 1))
    parts = []
    if has_diagonal:
        parts.append(line(plot.place(0, 0), plot.place(1, 1), "diagonal"))
    for number, curve in enumerate(curves):
        style = f"curve s{number % N_STYLES} d{number // N_STYLES % 3}"
        parts.append(element("path", {"class": style, "d": plot.path(curve.points)}))
    for number, curve in enumerate(curves):
        x, y = plot.place(*curve.limit)
        at: dict[str, Value] = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": _MARK_PX}
        words = f"{curve.name}: at the threshold {curve.limit[0]:.3f}, {curve.limit[1]:.3f}"
        parts.append(
            element(
                "circle",
                {"class": f"limit s{number % N_STYLES}", **at},
                element("title", {}, words),
            )
        )
    areas = "; ".join(f"{curve.name} {curve.area:.3f}" for curve in curves[:20])
    return plot.picture(
        *parts,
        title=f"{title}. Areas: {areas}",
        x_label=x_label,
        y_label=y_label,
        x_ticks=_UNIT_TICKS,
        y_ticks=_UNIT_TICKS,
    )


def legend(curves: Sequence[Curve], area_name: str) -> Markup:
    """Which line is which category, with its area."""
    rows = []
    for number, curve in enumerate(curves):
        style = f"curve s{number % N_STYLES} d{number // N_STYLES % 3}"
        sample = element(
            "svg",
            {"class": "sample", "viewBox": "0 0 28 10", "aria-hidden": "true"},
            element("path", {"class": style, "d": "M1 5L27 5"}),
        )
        rows.append(
            element(
                "li",
                {},
                sample,
                element("span", {"class": "name"}, curve.name),
                element("span", {"class": "number"}, f"{curve.area:.3f}"),
            )
        )
    ring = element(
        "svg",
        {"class": "sample", "viewBox": "0 0 28 12", "aria-hidden": "true"},
        element("circle", {"class": "limit s0", "cx": 14, "cy": 6, "r": 4.5}),
    )
    rows.append(element("li", {"class": "note"}, ring, "at the model's threshold"))
    return element(
        "div",
        {"class": "legend"},
        element("p", {"class": "legend-title"}, area_name),
        element("ul", {}, *rows),
    )


def _merged(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The same line without points that are repeated."""
    kept = list(points[:1])
    for point in points[1:]:
        if point != kept[-1]:
            kept.append(point)
    return tuple(kept)
