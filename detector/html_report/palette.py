"""The page's colours and lines: those of all our pictures, as CSS."""

from __future__ import annotations

from detector.figures import (
    DEFECTIVE_DASHES,
    DIAGONAL_DASHES,
    LINE_WIDTHS,
    SERIES,
    THRESHOLD_DASHES,
    Dashes,
)
from manifests.annotate import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RULE,
    RULE_STRONG,
    SKY,
    VERMILION,
    WELL,
    Colour,
)

NAMED = {
    "blue": BLUE,
    "vermilion": VERMILION,
    "green": GREEN,
    "purple": PURPLE,
    "orange": ORANGE,
    "sky": SKY,
    "ink": INK,
    "muted": MUTED,
    "rule": RULE,
    "rule-strong": RULE_STRONG,
    "well": WELL,
}


def palette_css() -> str:
    """A custom property per colour, `--blue` and so on, for the style sheet to use, and its lines.

    `.s0` and so on have a series's colour and dashes, `.d0` and so on its width.
    """
    colours = "".join(f"--{name}:{hex_colour(colour)};" for name, colour in NAMED.items())
    series = "".join(
        f".s{number}{{--series:var(--{one.name});{_dashes(one.dashes)}}}\n"
        for number, one in enumerate(SERIES)
    )
    widths = "".join(
        f".d{number}{{stroke-width:{width:g}}}\n" for number, width in enumerate(LINE_WIDTHS)
    )
    others = (
        f".diagonal{{{_dashes(DIAGONAL_DASHES)}}}\n"
        f".threshold{{{_dashes(THRESHOLD_DASHES)}}}\n"
        f".bars.bad{{{_dashes(DEFECTIVE_DASHES)}}}\n"
    )
    return f":root{{{colours}}}\n{series}{widths}{others}"


def hex_colour(colour: Colour) -> str:
    """`#0072b2`."""
    return "#" + "".join(f"{part:02x}" for part in colour)


def _dashes(dashes: Dashes) -> str:
    return f"stroke-dasharray:{' '.join(f'{one:g}' for one in dashes)}" if dashes else ""
