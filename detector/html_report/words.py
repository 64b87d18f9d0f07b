"""Verdicts, counts and figures in the page's words; verdicts have a shape each beside them."""

from __future__ import annotations

from dataclasses import dataclass

from detector.html_report.markup import Markup, element, joined

NONE = "—"


@dataclass(frozen=True)
class Verdict:
    """What became of a test image.

    Attributes:
        word: in a caption.
        group: "missed", "false-alarm" or "right", by which the gallery filters.
        shape: SVG path on 16 × 16.
    """

    word: str
    group: str
    shape: str


VERDICTS = {
    "missed": Verdict("missed", "missed", "M8 2a6 6 0 1 0 0 12a6 6 0 1 0 0-12M4 12L12 4"),
    "false-alarm": Verdict("false alarm", "false-alarm", "M8 2L15 14H1ZM8 6.5v3.5M8 11.6v.9"),
    "found": Verdict("found", "right", "M2.5 8.5l3.5 3.5l7.5-8"),
    "passed": Verdict("passed", "right", "M2.5 8.5l3.5 3.5l7.5-8"),
}


def badge(verdict: str) -> Markup:
    """A verdict as its shape and its word."""
    return element(
        "span", {"class": f"badge {verdict}"}, badge_shape(verdict), VERDICTS[verdict].word
    )


def badge_shape(verdict: str) -> Markup:
    """A verdict's shape alone."""
    return element(
        "svg",
        {"viewBox": "0 0 16 16", "aria-hidden": "true", "class": f"shape {verdict}"},
        element("use", {"href": f"#v-{verdict}"}),
    )


def shapes() -> Markup:
    """The verdicts' shapes, once per page, for `badge` to use."""
    symbols = [
        element(
            "symbol",
            {"id": f"v-{key}", "viewBox": "0 0 16 16"},
            element("path", {"d": one.shape}),
        )
        for key, one in VERDICTS.items()
    ]
    return element("svg", {"class": "shapes", "aria-hidden": "true"}, joined(*symbols))


def figure(value: float | None) -> str:
    """A metric in 0 to 1 with three places, or a dash."""
    return NONE if value is None else f"{value:.3f}"


def percent(part: int, whole: int) -> str:
    """A part of a whole in percent."""
    return f"{100 * part / whole:.1f} %" if whole else NONE


def thousands(number: int) -> str:
    """11415 as 11,415."""
    return f"{number:,}"


def counted_thousands(number: int, noun: str) -> str:
    """`1 image`, `1,234 images`."""
    return f"{thousands(number)} {noun}{'' if number == 1 else 's'}"
