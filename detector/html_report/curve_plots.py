"""ROC and precision-recall curves as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from detector.figures import LINE_WIDTHS, SERIES
from detector.html_report.markup import Markup, Value, element
from detector.html_report.plot import Plot, line
from detector.score_curves import Curve

SIDE_PX = 420
_UNIT_TICKS = (0, 0.2, 0.4, 0.6, 0.8, 1)
_MARK_PX = 5


def curve_picture(
    curves: Sequence[Curve], *, title: str, x_label: str, y_label: str, has_diagonal: bool = False
) -> Markup:
    """Curves on a unit square, one style each, with a ring where the threshold is."""
    plot = Plot(SIDE_PX, SIDE_PX, (0, 1), (0, 1))
    parts = []
    if has_diagonal:
        parts.append(line(plot.place(0, 0), plot.place(1, 1), "diagonal"))
    for number, curve in enumerate(curves):
        style = _style(number)
        parts.append(element("path", {"class": style, "d": plot.path(curve.points)}))
    for number, curve in enumerate(curves):
        x, y = plot.place(*curve.limit)
        at: dict[str, Value] = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": _MARK_PX}
        words = f"{curve.name}: at the threshold {curve.limit[0]:.3f}, {curve.limit[1]:.3f}"
        parts.append(
            element(
                "circle",
                {"class": f"limit s{number % len(SERIES)}", **at},
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
        style = _style(number)
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


def _style(number: int) -> str:
    width = number // len(SERIES) % len(LINE_WIDTHS)
    return f"curve s{number % len(SERIES)} d{width}"
