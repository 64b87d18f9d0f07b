"""Drawing on images: heat maps, outlines, boxes and differences, in RGB uint8.

Colours are Okabe and Ito's and matplotlib's inferno, which stay apart for colour-blind eyes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw

from manifests.lettering import CAPTION_PX, LINE, clean, font_of

Colour = tuple[int, int, int]

BLUE: Colour = (0, 114, 178)
GREEN: Colour = (0, 158, 115)
ORANGE: Colour = (230, 159, 0)
PURPLE: Colour = (204, 121, 167)
SKY: Colour = (86, 180, 233)
VERMILION: Colour = (213, 94, 0)

# Text, lesser text, lines of a grid, frames, areas that stand back.
# The report has others in the dark.
INK: Colour = (23, 26, 31)
MUTED: Colour = (86, 96, 108)
RULE: Colour = (223, 227, 232)
RULE_STRONG: Colour = (182, 190, 200)
WELL: Colour = (236, 239, 242)
_HALO: Colour = (0, 0, 0)


def overlay(
    image: np.ndarray,
    heat: np.ndarray,
    *,
    low: float = 0.0,
    high: float = 1.0,
    opacity: float = 0.65,
) -> np.ndarray:
    """A heat map over an image's grey values.

    The heat covers more the higher it is, fully so from the middle of the scale on: where there is
    nothing to show, the image stays readable.

    Args:
        image: (H, W, 3) uint8.
        heat: (H, W) float, or uint8 that is read as 0..1.
        low, high: values at the two ends of the colours; beyond them the colours stay.
        opacity: of the upper half of the scale; 0 shows the grey image only.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: shapes differ, or `high` is not above `low`.
    """
    if heat.shape != image.shape[:2] or not high > low:
        raise ValueError(f"cannot lay {heat.shape} from {low} to {high} over {image.shape}")
    colours, weight = _laid(heat, low, high, opacity)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    mixed: np.ndarray = colours * weight + grey[..., None] * (1 - weight) + np.float32(0.5)
    return mixed.astype(np.uint8)


def heat_layer(
    heat: np.ndarray, *, low: float = 0.0, high: float = 1.0, opacity: float = 0.65
) -> np.ndarray:
    """The heat of `overlay` alone, to be laid over any grey image by who shows it.

    Args:
        heat, low, high, opacity: as for `overlay`.

    Returns:
        (H, W, 4) uint8, RGB and how much of it covers the image.
    """
    colours, weight = _laid(heat, low, high, opacity)
    covering = weight * 255 + np.float32(0.5)
    return np.concatenate([colours, covering], axis=2).astype(np.uint8)


def heat_colours() -> np.ndarray:
    """(256, 3) uint8: the colours of `overlay`, dark purple to pale yellow."""
    return _heat_colours().astype(np.uint8)


def _laid(
    heat: np.ndarray, low: float, high: float, opacity: float
) -> tuple[np.ndarray, np.ndarray]:
    """Colours (H, W, 3) and their weights (H, W, 1), both float32."""
    values = heat / np.float32(255) if heat.dtype == np.uint8 else heat.astype(np.float32)
    scaled = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    colours = _heat_colours()[(scaled * 255 + np.float32(0.5)).astype(np.uint8)]
    return colours, np.minimum(2 * scaled, 1)[..., None] * np.float32(opacity)


def outline(
    image: np.ndarray, mask: np.ndarray, colour: Colour, *, width_px: int = 2
) -> np.ndarray:
    """A copy of the image with the border of a mask drawn just outside it, with a dark halo.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        colour: of the line.
        width_px: of the line; the halo adds one pixel.
    """
    result = image.copy()
    if not mask.any():
        return result
    solid = mask.astype(np.uint8)
    # Where the mask touches the border there is no outside: draw the line just inside there.
    wide = cv2.erode(solid, _disc(1), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    line = cv2.dilate(solid, _disc(width_px)) & ~np.where(_rim(mask.shape, width_px), wide, solid)
    result[(cv2.dilate(line, _disc(1)) > 0) & (line == 0) & ~mask] = _HALO
    result[line == 1] = colour
    return result


def boxes(
    image: np.ndarray,
    corners: Sequence[tuple[int, int, int, int]],
    colours: Sequence[Colour],
    *,
    width_px: int = 2,
) -> np.ndarray:
    """A copy of the image with `(y, x, h, w)` boxes drawn just inside their edges, with a halo.

    Args:
        image: (H, W, 3) uint8.
        corners: boxes in pixels; parts outside the image are cut, negative sizes are skipped.
        colours: one per box.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for (y, x, h, w), colour in zip(corners, colours, strict=True):
        if h < 1 or w < 1:
            continue
        thin = max(1, min(width_px, min(h, w) // 4))  # so that a small box stays a box
        edge = (x, y, x + w - 1, y + h - 1)
        draw.rectangle((edge[0] - 1, edge[1] - 1, edge[2] + 1, edge[3] + 1), outline=_HALO)
        draw.rectangle(edge, outline=tuple(colour), width=thin)
    return np.asarray(canvas).copy()


def difference(a: np.ndarray, b: np.ndarray, *, gain: float = 1.0) -> np.ndarray:
    """|a - b| times `gain`, clipped to 255, per channel; all arrays (H, W, 3) uint8."""
    gained: np.ndarray = cv2.absdiff(a, b) * np.float32(gain) + 0.5
    return gained.clip(0, 255).astype(np.uint8)


def mask_image(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool as a white-on-black (H, W, 3) uint8 image."""
    return np.repeat(mask[..., None].astype(np.uint8) * np.uint8(255), 3, axis=2)


def fit_tile(image: np.ndarray, tile_px: int) -> np.ndarray:
    """An image or map (H, W[, 3]) resized so that its longer side is `tile_px`.

    Shrinking averages; enlarging repeats pixels, so that nothing is shown that is not there.
    A pixel of a bool mask is set where any part of it was, lest small defects vanish.
    Annotate after this, so that lines keep their width.
    """
    height, width = image.shape[:2]
    scale = tile_px / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    if shape == (width, height):
        return image
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST_EXACT
    if image.dtype == bool:
        return cv2.resize(image.astype(np.float32), shape, interpolation=method) > 0
    return cv2.resize(np.ascontiguousarray(image), shape, interpolation=method)


def colour_bar(
    *, low: float, high: float, label: str, mark: float | None = None, width_px: int = 260
) -> np.ndarray:
    """The scale of `overlay` on a mid-grey image, with its ends and an optional mark labelled."""
    bar_px, pad = 14, 2 * CAPTION_PX
    ramp = np.linspace(low, high, width_px, dtype=np.float32)[None].repeat(bar_px, axis=0)
    bar = overlay(np.full((bar_px, width_px, 3), 128, np.uint8), ramp, low=low, high=high)
    line = round(CAPTION_PX * LINE)
    font = font_of(CAPTION_PX)
    width = max(width_px + 2 * pad, pad + round(font.getlength(label)) + 1)
    canvas = Image.new("RGB", (width, line + bar_px + 6 + line), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((pad, 0), clean(label), fill=INK, font=font)
    canvas.paste(Image.fromarray(bar), (pad, line))
    draw.rectangle((pad, line, pad + width_px - 1, line + bar_px - 1), outline=RULE_STRONG)
    for value, sign in ((low, "≤ "), (mark, ""), (high, "≥ ")):
        if value is None:
            continue
        x = pad + round((value - low) / (high - low) * (width_px - 1))
        if value == mark:
            draw.line((x, line - 3, x, line + bar_px + 3), fill=INK, width=2)
        draw.text((x, line + bar_px + 4), f"{sign}{value:g}", fill=INK, font=font, anchor="ma")
    return np.asarray(canvas).copy()


def _rim(shape: tuple[int, int], width_px: int) -> np.ndarray:
    inner = np.ones(shape, dtype=bool)
    inner[width_px:-width_px, width_px:-width_px] = False
    return inner


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


@lru_cache(maxsize=1)
def _heat_colours() -> np.ndarray:
    """(256, 3) float32, dark purple to pale yellow."""
    import matplotlib

    table = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    return table.astype(np.float32)
