"""Tables: metrics per category, results per kind of defect, and plain rows of facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from detector.defect_results import DefectResult
from detector.html_report.markup import Child, Markup, Value, element, joined
from detector.html_report.words import NONE, counted_thousands, figure, percent, thousands
from detector.report import METRIC_COLUMNS, OPTIONAL_METRICS, mean_metric
from detector.results import EvalResult

MAX_ROWS = 300
_SHARE_PX = 80


def summary_table(
    results: Sequence[EvalResult], thresholds: Sequence[tuple[float, float]]
) -> Markup:
    """A row per category: metrics, counts, thresholds; then the mean of two or more.

    Args:
        results: of the categories.
        thresholds: of raw image scores and of pixels, per category.
    """
    chosen = [
        (key, group, name)
        for key, group, name in METRIC_COLUMNS
        if key not in OPTIONAL_METRICS or any(key in result.metrics for result in results)
    ]
    n_image = sum(key.startswith("image") for key, _, _ in chosen)
    groups = element(
        "tr",
        {},
        element("th", {"scope": "col", "rowspan": 2}, "Category"),
        *(
            element("th", {"scope": "colgroup", "class": "group", "colspan": span}, title)
            for title, span in (
                ("Image", n_image),
                ("Pixel", len(chosen) - n_image),
                ("Test images", 2),
                ("Wrong", 2),
                ("Threshold", 2),
            )
        ),
    )
    names = [name for _, _, name in chosen]
    names += ["good", "defective", "missed", "false alarms", "image", "pixel"]
    starts = {0, n_image, len(chosen), len(chosen) + 2, len(chosen) + 4}
    heads = element(
        "tr",
        {},
        *(
            element("th", {"scope": "col", "class": "first" if i in starts else None}, name)
            for i, name in enumerate(names)
        ),
    )
    rows = []
    for result, (image, pixel) in zip(results, thresholds, strict=True):
        counts = result.counts
        cells = [figure(result.metrics.get(key)) for key, _, _ in chosen]
        cells += [thousands(counts["good"]), thousands(counts["defective"])]
        cells += [thousands(counts["misses"]), thousands(counts["false_alarms"])]
        cells += [f"{image:.4g}", f"{pixel:.4g}"]
        rows.append(_row(result.category, cells, starts))
    foot = None
    if len(results) > 1:
        cells = [
            figure(mean_metric([result.metrics.get(key) for result in results]))
            for key, _, _ in chosen
        ]
        for key in ("good", "defective", "misses", "false_alarms"):
            cells.append(thousands(sum(result.counts[key] for result in results)))
        cells += [NONE, NONE]
        foot = element("tfoot", {}, _row("Mean, total", cells, starts))
    table = element(
        "table",
        {"class": "figures"},
        element("thead", {}, groups, heads),
        element("tbody", {}, *rows),
        foot,
    )
    return scrolling(table, "Metrics per category")


def defect_table(defects: Sequence[DefectResult], *, good: int, false_alarms: int) -> Markup:
    """A row per kind of defect, the hardest first, and one for the good images.

    Args:
        defects: of one category.
        good, false_alarms: good test images, and those of them that are called defective.
    """
    heads = (
        "Defect type", "images", "found", "missed", "share found", "image AUROC",
        "pixel AUROC, mean", "pixel AP, mean",
    )  # fmt: skip
    rows = []
    for one in defects:
        bare = "" if one.masked == one.images else f" ({one.masked} with a mask)"
        rows.append(
            element(
                "tr",
                {},
                element("th", {"scope": "row"}, element("bdi", {}, one.defect)),
                *_cells([thousands(one.images), thousands(one.found), thousands(one.missed)]),
                element("td", {}, _share(one.found, one.images)),
                *_cells([figure(one.auroc), figure(one.pixel_auroc)]),
                element("td", {}, figure(one.pixel_ap), bare or None),
            )
        )
    foot = element(
        "tr",
        {},
        element("th", {"scope": "row"}, "good"),
        *_cells([thousands(good), NONE, NONE]),
        element(
            "td",
            {"colspan": 4, "class": "words"},
            f"{thousands(good - false_alarms)} passed, "
            f"{counted_thousands(false_alarms, 'false alarm')} ({percent(false_alarms, good)})",
        ),
    )
    table = element(
        "table",
        {"class": "figures"},
        element("thead", {}, element("tr", {}, *_heads(heads))),
        element("tbody", {}, *rows),
        element("tfoot", {}, foot),
    )
    return scrolling(table, "Results per defect type")


def fallback_table(
    fallbacks: Mapping[str, Mapping[str, Mapping[str, int]]], kinds: Sequence[str]
) -> Markup:
    """How many negatives per policy and level left the plain path, and which way.

    Args:
        fallbacks: policy -> level -> kind -> count, as a manifest has them.
        kinds: the kinds, the plain path first.
    """
    rows = []
    for policy, levels in sorted(fallbacks.items()):
        for level, counts in sorted(levels.items(), key=lambda item: int(item[0])):
            made = sum(counts.values())
            cells = [thousands(made), *(_count(counts.get(kind, 0)) for kind in kinds)]
            left = made - counts.get(kinds[0], 0)
            rows.append(
                element(
                    "tr",
                    {},
                    element("th", {"scope": "row"}, policy),
                    element("td", {"class": "words"}, "all" if level == "-1" else level),
                    *_cells([*cells, percent(left, made)]),
                )
            )
    names = ["plain path" if kind == kinds[0] else kind for kind in kinds]
    heads = ("Policy", "level", "negatives", *names, "share of fallbacks")
    table = element(
        "table",
        {"class": "figures"},
        element("thead", {}, element("tr", {}, *_heads(heads))),
        element("tbody", {}, *rows[:MAX_ROWS]),
    )
    cut = len(rows) - MAX_ROWS
    note = element("p", {"class": "note"}, f"{cut} more rows are left out.") if cut > 0 else None
    return joined(scrolling(table, "Fallbacks per policy and level"), note)


def fact_table(rows: Iterable[tuple[str, Child]]) -> Markup:
    """Names and values, a row each; at most `MAX_ROWS`."""
    shown = list(rows)
    found = [
        element("tr", {}, element("th", {"scope": "row"}, name), element("td", {}, value))
        for name, value in shown[:MAX_ROWS]
    ]
    if len(shown) > MAX_ROWS:
        more = element("td", {"colspan": 2}, f"{len(shown) - MAX_ROWS} more rows are left out")
        found.append(element("tr", {}, more))
    return element("table", {"class": "facts"}, element("tbody", {}, *found))


def scrolling(table: Markup, name: str) -> Markup:
    """A table that scrolls by itself where the page is narrower than it."""
    around: dict[str, Value] = {
        "class": "scroll",
        "role": "region",
        "aria-label": name,
        "tabindex": 0,
    }
    return element("div", around, table)


def _row(name: str, cells: Sequence[str], starts: set[int]) -> Markup:
    return element(
        "tr",
        {},
        element("th", {"scope": "row"}, element("bdi", {}, name)),
        *(
            element("td", {"class": "first" if i in starts else None}, cell)
            for i, cell in enumerate(cells)
        ),
    )


def _cells(values: Iterable[str]) -> list[Markup]:
    return [element("td", {}, value) for value in values]


def _heads(names: Iterable[str]) -> list[Markup]:
    return [element("th", {"scope": "col"}, name) for name in names]


def _count(number: int) -> str:
    return thousands(number) if number else "·"


def _share(part: int, whole: int) -> Markup:
    bar = element(
        "svg",
        {"class": "share", "viewBox": f"0 0 {_SHARE_PX} 8", "aria-hidden": "true"},
        element("rect", {"class": "track", "width": _SHARE_PX, "height": 8, "rx": 2}),
        element(
            "rect",
            {"class": "part", "width": f"{_SHARE_PX * part / whole:.1f}", "height": 8, "rx": 2},
        ),
    )
    return joined(bar, element("span", {"class": "beside"}, percent(part, whole)))
