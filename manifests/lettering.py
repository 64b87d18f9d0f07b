"""Text in pictures: fonts, wrapping and ellipses for captions of any length and script.

The font is the DejaVu that comes with matplotlib: Pillow's own knows little beyond ASCII.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache
from typing import cast

from PIL import ImageFont

CAPTION_PX = 12
LINE = 1.35
"""Line height in font heights."""

_MOST_CHARACTERS = 500


@lru_cache(maxsize=16)
def font_of(height_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The sans-serif font at a height in pixels."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    try:
        return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", height_px)
    except OSError:  # distributions that package matplotlib without its fonts
        # With a size, it is never the font without outlines.
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=height_px))


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width`, broken at spaces, after _ / - and, if need be, anywhere."""
    lines, current = [], ""
    for piece in re.findall(r" +|[^ _/-]+[_/-]*|[_/-]+", clean(text)):
        if font.getlength(current + piece) > width and current:
            lines.append(current.rstrip())
            current = ""
        current += piece if current else piece.lstrip()
        while font.getlength(current) > width and len(current) > 1:
            fits = max(1, _fitting(current, font, width))
            lines.append(current[:fits])
            current = current[fits:]
    return [*lines, current.rstrip()] if current.strip() else lines


def ellipsised(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, its end replaced by an ellipsis where it is wider than `width`."""
    if font.getlength(text) <= width:
        return text
    body = text.rstrip("…")
    return body[: _fitting(body, font, width - font.getlength("…"))].rstrip() + "…"


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> int:
    """How many of the first characters are no wider than `width`."""
    return bisect_right(range(1, len(text) + 1), width, key=lambda n: font.getlength(text[:n]))


def clean(text: str) -> str:
    """Text that can be drawn: whitespace becomes spaces, other unprintable characters U+FFFD.

    File names may hold anything, even lone surrogates, which no font engine takes. Nobody reads
    more than the first 500 characters of a caption.
    """
    return "".join(
        " " if char.isspace() else char if char.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for char in text[:_MOST_CHARACTERS]
    )
