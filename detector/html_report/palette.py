"""The page's colours: those of all our pictures, as CSS."""

from __future__ import annotations

from manifests.annotate import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, Colour

NAMED = {
    "blue": BLUE,
    "vermilion": VERMILION,
    "green": GREEN,
    "purple": PURPLE,
    "orange": ORANGE,
    "sky": SKY,
}


def palette_css() -> str:
    """A custom property per colour, `--blue` and so on, for the style sheet to use."""
    rows = "".join(f"--{name}:{hex_colour(colour)};" for name, colour in NAMED.items())
    return f":root{{{rows}}}\n"


def hex_colour(colour: Colour) -> str:
    """`#0072b2`."""
    return "#" + "".join(f"{part:02x}" for part in colour)
