"""The top of the page: its heading, the main figures, and the table of all metrics."""

from __future__ import annotations

from collections.abc import Sequence

from detector.html_report.category_report import CategoryReport
from detector.html_report.markup import Markup, element, joined
from detector.html_report.tables import summary_table
from detector.html_report.words import figure, percent, thousands
from detector.report import mean_metric


def header(reports: Sequence[CategoryReport], title: str) -> Markup:
    """The heading and what the page is about."""
    results = [report.result for report in reports]
    names = ", ".join(result.category for result in results[:4])
    if len(results) > 4:
        names += f" and {len(results) - 4} more"
    total = sum(result.counts["good"] + result.counts["defective"] for result in results)
    detectors = ", ".join(sorted({report.record.config.detector for report in reports}))
    return element(
        "header",
        {},
        element("h1", {}, title),
        element(
            "p",
            {"class": "lead"},
            element("bdi", {}, names),
            f" · {thousands(total)} test images · {detectors}",
        ),
    )


def summary(reports: Sequence[CategoryReport]) -> Markup:
    """The main figures large, the table of all of them, and what they rest on."""
    results = [report.result for report in reports]

    def total(name: str) -> int:
        return sum(result.counts[name] for result in results)

    def mean(name: str) -> str:
        return figure(mean_metric([result.metrics.get(name) for result in results]))

    defective, good = total("defective"), total("good")
    of_all = "" if len(results) == 1 else f"mean of {len(results)} categories"
    tiles = [
        _tile("Image AUROC", mean("image_auroc"), of_all or "good against defective images"),
        _tile("Pixel AUROC", mean("pixel_auroc"), of_all or "where the defects are"),
        _tile("AUPRO", mean("aupro"), of_all or "each defect counts the same"),
        _tile("Missed", thousands(total("misses")), _of(total("misses"), defective, "defective")),
        _tile(
            "False alarms",
            thousands(total("false_alarms")),
            _of(total("false_alarms"), good, "good"),
        ),
    ]
    thresholds = [
        (report.record.image_threshold.value, report.record.pixel_threshold.value)
        for report in reports
    ]
    notes = [
        element("li", {}, element("bdi", {}, f"{result.category}: {note}"))
        for result in results
        for note in result.notes
    ]
    return joined(
        element("dl", {"class": "tiles"}, *tiles),
        summary_table(results, thresholds),
        element("ul", {"class": "notes"}, *notes) if notes else None,
    )


def _tile(name: str, value: str, note: str | Markup) -> Markup:
    return element(
        "div",
        {"class": "card tile"},
        element("dt", {}, name),
        element("dd", {"class": "value"}, value),
        element("dd", {"class": "note"}, note),
    )


def _of(part: int, whole: int, noun: str) -> Markup:
    share = element("span", {"class": "whole"}, percent(part, whole))
    return joined(f"of {thousands(whole)} {noun} images, ", share)
