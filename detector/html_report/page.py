"""The page: one HTML file that needs nothing else, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib import resources

from detector.html_report.category_report import CategoryReport
from detector.html_report.curve_plots import Curve, curve_picture, legend
from detector.html_report.details import folded, model_details, reading_help, set_details
from detector.html_report.gallery import gallery
from detector.html_report.histogram_plots import score_histogram
from detector.html_report.markup import Child, Markup, element, joined
from detector.html_report.palette import palette_css
from detector.html_report.set_section import set_section
from detector.html_report.shown_image import ShownImage
from detector.html_report.summary import header, summary
from detector.html_report.tables import defect_table
from detector.html_report.words import shapes, thousands

DEFAULT_TITLE = "Inspection report"
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect "
    "width='16' height='16' rx='3' fill='%230072b2'/%3E%3Cpath d='M4 12L12 4' stroke='white' "
    "stroke-width='2'/%3E%3C/svg%3E"
)


def page(reports: Sequence[CategoryReport], *, title: str = DEFAULT_TITLE) -> str:
    """The whole page.

    Args:
        reports: one or more categories.
        title: its heading.
    """
    style = Markup(palette_css() + _resource("style.css"))
    script = Markup(_resource("page.js"))
    sections = _sections(reports)
    rules = _policy(style, script)
    head = [
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": rules}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "referrer", "content": "no-referrer"}),
        element("meta", {"name": "generator", "content": "cutswap-det report"}),
        element("title", {}, title),
        element("link", {"rel": "icon", "href": _ICON}),
        element("style", {}, style),
    ]  # fmt: skip
    links = [
        element("li", {}, element("a", {"href": f"#{key}"}, name)) for key, name, _ in sections
    ]
    body = [
        element("a", {"class": "skip", "href": "#summary"}, "Skip to the results"),
        shapes(),
        header(reports, title),
        element("nav", {"aria-label": "Sections"}, element("ul", {}, *links)),
        element(
            "main",
            {},
            *(
                element("section", {"id": key, "aria-labelledby": f"{key}-title"},
                        element("h2", {"id": f"{key}-title"}, name), inside)
                for key, name, inside in sections
            ),
        ),
        element("footer", {}, "Made by cutswap-det report. Nothing on this page asks the network "
                "for anything."),
        element("script", {}, script),
    ]  # fmt: skip
    html = element(
        "html",
        {"lang": "en", "class": "show-heat show-truth"},
        Markup("\n"),
        element("head", {}, *(joined(one, Markup("\n")) for one in head)),
        element("body", {}, *(joined(one, Markup("\n")) for one in body)),
    )
    return f"<!doctype html>\n{html}\n"


def _sections(reports: Sequence[CategoryReport]) -> list[tuple[str, str, Markup]]:
    return [
        ("summary", "Summary", summary(reports)),
        ("curves", "Curves", _curves(reports)),
        ("defects", "Defect types", _per_category(reports, _defects)),
        ("test-images", "Test images", _gallery(reports)),
        ("negatives", "Negative set", _per_category(reports, _set)),
        ("details", "Details", _details(reports)),
    ]


def _curves(reports: Sequence[CategoryReport]) -> Markup:
    roc = [report.roc for report in reports if report.roc is not None]
    steps = [one.precision_recall for one in reports if one.precision_recall is not None]
    parts: list[Child] = []
    if roc:
        parts += [
            _card(
                "ROC",
                roc,
                "AUROC",
                "good images called defective",
                "defective images found",
                has_diagonal=True,
            ),
            _card(
                "Precision and recall",
                steps,
                "AP",
                "recall: defective images found",
                "precision: calls that are right",
            ),
        ]
    parts += [_scores(report) for report in reports]
    words = "The test images are all of one class: there is no curve."
    return joined(
        None if roc else element("p", {"class": "note"}, words),
        element("div", {"class": "plots"}, *parts),
    )


def _scores(report: CategoryReport) -> Markup:
    result = report.result
    return element(
        "figure",
        {"class": "card"},
        element(
            "figcaption",
            {},
            element("strong", {}, "Image scores"),
            element("bdi", {}, result.category),
        ),
        score_histogram(report.relative, report.labels, name=result.category),
        element(
            "div",
            {"class": "legend"},
            element(
                "ul",
                {},
                element("li", {}, _swatch("good"), f"{thousands(result.counts['good'])} good"),
                element(
                    "li", {}, _swatch("bad"), f"{thousands(result.counts['defective'])} defective"
                ),
            ),
        ),
    )


def _card(
    title: str,
    curves: Sequence[Curve],
    area: str,
    x_label: str,
    y_label: str,
    *,
    has_diagonal: bool = False,
) -> Markup:
    picture = curve_picture(
        curves, title=title, x_label=x_label, y_label=y_label, has_diagonal=has_diagonal
    )
    return element(
        "figure",
        {"class": "card"},
        element("figcaption", {}, element("strong", {}, title)),
        picture,
        legend(curves, area),
    )


def _swatch(kind: str) -> Markup:
    box = element("rect", {"class": f"bars {kind}", "x": 1, "y": 1, "width": 18, "height": 10})
    return element("svg", {"class": "swatch", "viewBox": "0 0 20 12", "aria-hidden": "true"}, box)


def _defects(report: CategoryReport) -> Markup:
    counts = report.result.counts
    return defect_table(report.defects, good=counts["good"], false_alarms=counts["false_alarms"])


def _gallery(reports: Sequence[CategoryReport]) -> Markup:
    images = [image for report in reports for image in report.images]
    # Misses and false alarms of all categories first, then the rest; each category's own order is
    # that already.
    images.sort(key=lambda one: (one.verdict in ("found", "passed"), -_wrong_by(one)))
    return gallery(images, total=sum(len(report.labels) for report in reports))


def _wrong_by(image: ShownImage) -> float:
    return 1 - image.relative if image.is_defective else image.relative - 1


def _set(report: CategoryReport) -> Markup:
    if report.set_facts is not None:
        return set_section(report.set_facts, model_set_digest=report.record.set_digest)
    return element(
        "p",
        {"class": "note"},
        "The negative set of this model was not given, so nothing is told of it here. To have it: ",
        element("code", {}, "cutswap-det report … --set SHARDS"),
        ", with the set of digest ",
        element("code", {}, report.record.set_digest[:12]),
        ".",
    )


def _details(reports: Sequence[CategoryReport]) -> Markup:
    parts = [folded("How to read this page", reading_help())]
    for report in reports:
        name = report.result.category
        parts.append(folded(f"Model {name}", model_details(report.record, report.digest)))
        if report.set_facts is not None:
            facts = report.set_facts
            parts.append(folded(f"Set {name}", set_details(facts.manifest, facts.digest)))
    return joined(*parts)


def _per_category(
    reports: Sequence[CategoryReport], inside: Callable[[CategoryReport], Markup]
) -> Markup:
    if len(reports) == 1:
        return inside(reports[0])
    return joined(
        *(
            joined(element("h3", {}, element("bdi", {}, report.result.category)), inside(report))
            for report in reports
        )
    )


def _policy(style: str, script: str) -> str:
    """What the page may load: its own style, its own script, pictures that it holds. No more."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _resource(name: str) -> str:
    return resources.files("detector.html_report").joinpath(name).read_text(encoding="utf-8")
