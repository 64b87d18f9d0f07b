"""Pictures inside the page: photographs and heat maps as data URIs, outlines as SVG paths."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from detector.cases import HEAT_HIGH, HEAT_LOW
from detector.html_report.markup import Markup, Value, element
from manifests.annotate import fit_tile, heat_colours, heat_layer, overlay
from manifests.canvas import restore_map
from manifests.geometry import Placement

PHOTO_QUALITY = 70
HEAT_STEPS = 64
MAX_HEAT_PX = 112
"""Longest side of a heat map: maps are smooth, and the browser enlarges them."""

MAX_PATH_CHARS = 4096
_UNITS = 10  # of a path, per pixel of the picture
_OUTLINE_ERROR_PX = 0.5


@dataclass(frozen=True)
class Picture:
    """What is shown of an image, in layers.

    Attributes:
        width, height: of the photograph in the page, in pixels.
        photo: data URI.
        heat: data URI of the heat to be laid over it, or None.
        outline: path of a mask's border in a picture of `_UNITS` units per pixel, or None.
    """

    width: int
    height: int
    photo: str
    heat: str | None = None
    outline: str | None = None

    def layers(self, *, alt: str) -> Markup:
        """The layers, one over the other, in one `span`.

        Args:
            alt: what the picture shows, in words.
        """
        size: dict[str, Value] = {
            "width": self.width,
            "height": self.height,
            "decoding": "async",
            "loading": "lazy",
        }
        heat = outline = None
        if self.heat is not None:
            heat = element("img", {"class": "heat", "alt": "", "src": self.heat, **size})
        if self.outline:
            box = f"0 0 {self.width * _UNITS} {self.height * _UNITS}"
            outline = element(
                "svg",
                {"class": "truth", "viewBox": box, "aria-hidden": "true"},
                element("path", {"class": "halo", "d": self.outline}),
                element("path", {"d": self.outline}),
            )
        kind = "layers" if heat is None else "layers has-heat"
        photo = element("img", {"class": "photo", "alt": alt, "src": self.photo, **size})
        return element("span", {"class": kind}, photo, heat, outline)


def picture_of(
    image: np.ndarray,
    *,
    tile_px: int,
    placement: Placement | None = None,
    heat: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Picture:
    """A picture of an image, with a heat map and an outline where they are given.

    Args:
        image: (H, W, 3) uint8, the original; larger ones than `tile_px` are shrunk, others stay.
        tile_px: longest side of the photograph.
        placement: of the image on the canvas; None where the image is the canvas.
        heat: (Hc, Wc) float32 on the canvas, in units of the threshold; only with a placement.
        mask: (Hc, Wc) bool on the canvas.
    """
    shown = fit_tile(image, tile_px) if max(image.shape[:2]) > tile_px else image
    height, width = shown.shape[:2]
    layer = None
    if heat is not None and placement is not None:
        layer = _heat_uri(_heat_on_image(heat, placement))
    path = None
    if mask is not None and mask.any():
        path = outline_path(mask, placement, width=width, height=height)
    return Picture(width, height, photo_uri(shown), layer, path)


def photo_uri(image: np.ndarray) -> str:
    """(H, W, 3) uint8 as the data URI of a JPEG.

    WebP is two thirds of its size, but takes ten times as long, and a browser that prints to PDF
    keeps JPEGs as they are and unfolds everything else.
    """
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(
        buffer, format="JPEG", quality=PHOTO_QUALITY, optimize=True
    )
    return _uri("image/jpeg", buffer)


def counts_uri(counts: np.ndarray) -> str:
    """(H, W) counts as the data URI of a PNG, a pixel each; the largest is the palest colour."""
    top = max(float(counts.max()), 1e-12)
    colours = heat_colours()[np.rint(counts * (255 / top)).astype(np.uint8)]
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, format="PNG")
    return _uri("image/png", buffer)


def heat_ramp_uri() -> str:
    """The scale of the heat maps over mid grey, a pixel high, as the data URI of a PNG."""
    ramp = np.linspace(0, 1, HEAT_STEPS, dtype=np.float32)[None]
    shown = overlay(np.full((1, HEAT_STEPS, 3), 128, np.uint8), ramp)
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, format="PNG")
    return _uri("image/png", buffer)


def outline_path(mask: np.ndarray, placement: Placement | None, *, width: int, height: int) -> str:
    """The border of a mask as an SVG path, in units of a tenth of a pixel of the picture.

    A mask of so many specks that its path would be longer than `MAX_PATH_CHARS` is drawn coarser,
    a pixel of it set where any part of it was, so that a picture stays small whatever its mask is.

    Args:
        mask: (Hc, Wc) bool on the canvas.
        placement: of the image on the canvas; None where the image is the canvas.
        width, height: of the picture in pixels.
    """
    offset, scale = (0.0, 0.0), (width / mask.shape[1], height / mask.shape[0])
    if placement is not None:
        y, x, h, w = placement.canvas_box
        mask = mask[y : y + h, x : x + w]
        from_y, from_x, high, wide = placement.source_box
        across, down = width / placement.source_width, height / placement.source_height
        offset, scale = (from_x * across, from_y * down), (wide * across / w, high * down / h)
    while True:
        path = _path(mask, offset, scale)
        if len(path) <= MAX_PATH_CHARS or max(mask.shape) <= 8:
            return path
        coarse = (max(1, mask.shape[0] // 2), max(1, mask.shape[1] // 2))
        scale = (scale[0] * mask.shape[1] / coarse[1], scale[1] * mask.shape[0] / coarse[0])
        shrunk = cv2.resize(mask.astype(np.float32), coarse[::-1], interpolation=cv2.INTER_AREA)
        mask = shrunk > 0


def _path(mask: np.ndarray, offset: Sequence[float], scale: Sequence[float]) -> str:
    # Contours run through the middle of pixels. Of a mask three times as large the outermost
    # pixels' middles are a sixth of a pixel from the true border.
    fine = np.repeat(np.repeat(mask.astype(np.uint8), 3, axis=0), 3, axis=1)
    contours, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, 3 * _OUTLINE_ERROR_PX, True)[:, 0]
        places = (points + 0.5) / 3 * scale + offset
        rounded = np.rint(places * _UNITS).astype(int)
        steps = np.diff(rounded, axis=0)
        start = f"M{rounded[0, 0]} {rounded[0, 1]}"
        parts.append(start + "".join(f"l{dx} {dy}" for dx, dy in steps.tolist()) + "z")
    return "".join(parts)


def _heat_on_image(heat: np.ndarray, placement: Placement) -> np.ndarray:
    """A score map (Hc, Wc) brought onto its image, in as many pixels as it is shown with."""
    size = (placement.source_height, placement.source_width)
    scale = min(1.0, MAX_HEAT_PX / max(size))
    small = [max(1, round(side * scale)) for side in size]
    rows, columns = small[0] / size[0], small[1] / size[1]
    y, x, h, w = placement.source_box
    top, left = round(y * rows), round(x * columns)
    box = (
        top,
        left,
        max(1, min(round(h * rows), small[0] - top)),
        max(1, min(round(w * columns), small[1] - left)),
    )
    there = replace(placement, source_height=small[0], source_width=small[1], source_box=box)
    return restore_map(heat, there)


def _heat_uri(heat: np.ndarray) -> str:
    """A map in units of the threshold as a PNG of a few colours, some of them see-through.

    Its colours are exact, and on real maps it is as small as a lossy WebP.
    """
    scaled = np.clip((heat - HEAT_LOW) / (HEAT_HIGH - HEAT_LOW), 0, 1)
    steps = np.arange(HEAT_STEPS, dtype=np.float32)[None] / (HEAT_STEPS - 1)
    palette = heat_layer(steps)[0]
    image = Image.fromarray(np.rint(scaled * (HEAT_STEPS - 1)).astype(np.uint8))
    image.putpalette(palette[:, :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=palette[:, 3].tobytes(), optimize=True)
    return _uri("image/png", buffer)


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
