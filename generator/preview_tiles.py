"""The pictures of a preview: one image's saliency, regions, anchors and negatives, captioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from generator.regions import Regions
from generator.saliency import upsample
from generator.saliency_views import combined_saliency
from manifests.annotate import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Colour,
    boxes,
    difference,
    fit_tile,
    mask_image,
    outline,
    overlay,
)
from manifests.edits import Blend, Box, DonorTransform, render
from manifests.images import Geometry, valid_region
from manifests.schema import FALLBACKS
from manifests.sheet import Tile

if TYPE_CHECKING:
    from manifests.negative_set import Negative, Normal

ANCHOR_COLOURS: tuple[Colour, ...] = (VERMILION, SKY, GREEN, ORANGE, PURPLE, BLUE)
SOURCE_COLOUR: Colour = (255, 255, 255)

_REGION_COLOUR: Colour = (240, 228, 66)
_REGION_OPACITY = 0.45
_OUTSIDE_BRIGHTNESS = 0.6
_REGION_NAMES = {
    ("kmeans", "max"): "top cluster",
    ("kmeans", "min"): "lowest cluster",
    ("most-salient", "max"): "most salient",
    ("most-salient", "min"): "less salient",
}


def saliency_tile(normal: Normal, saliency: np.ndarray | None) -> Tile:
    """A saliency map (h, w) uint8 over the image."""
    if saliency is None:
        return None, "no saliency stored"
    full = upsample(saliency, *normal.image.shape[:2])
    height, width = saliency.shape
    return overlay(normal.image, full), f"{height}×{width} map"


def view_tile(normal: Normal, maps: Sequence[np.ndarray], view: str, geometry: Geometry) -> Tile:
    """The maps of all levels, (h, w) uint8 each, as a policy sees them as one, over the image."""
    if not maps:
        return None, "no saliency stored"
    height, width = normal.image.shape[:2]
    box, roi = valid_region(normal.canvas_box, geometry)
    full = combined_saliency(maps, height, width, box, view=view, roi=roi)
    return overlay(normal.image, full), f"{view} of {len(maps)} levels"


def region_of(
    saliency: np.ndarray | None,
    normal: Normal,
    level: int,
    regions: Regions | None,
    geometry: Geometry,
) -> tuple[np.ndarray | None, str]:
    """(H, W) bool of the region that the anchors were drawn from, and its name."""
    if level < 0:
        return None, "drawn anywhere"
    if saliency is None:
        return None, "no saliency stored"
    if regions is None:
        return None, "regions not recorded"
    height, width = normal.image.shape[:2]
    box, roi = valid_region(normal.canvas_box, geometry)
    labels, found = regions.cut(
        saliency, height, width, box, digest=normal.digest, level=level, roi=roi
    )
    name = _REGION_NAMES.get((regions.kind, regions.choice))
    if name is None:
        return None, f"one of {found.count} regions, at random"
    region = labels == (found.count - 1 if regions.choice == "max" else 0)
    return region, f"{name}, {share(region, normal.canvas_box)}"


def anchor_tile(
    normal: Normal,
    negative: Negative,
    region: np.ndarray | None,
    region_name: str,
    colour: Colour,
    tile_px: int,
) -> Tile:
    """The normal, yellow in the region, with the boxes that the edits started from.

    Where one patch is copied and the other place keeps its pixels, the source is white.
    """
    image = normal.image
    if region is not None:
        tint = np.float32(_REGION_OPACITY) * np.array(_REGION_COLOUR, dtype=np.float32)
        marked = image * np.float32(1 - _REGION_OPACITY) + tint
        dark = image * np.float32(_OUTSIDE_BRIGHTNESS)
        image = np.where(region[..., None], marked, dark).astype(np.uint8)
    shown = fit_tile(image, tile_px)
    anchors = [(int(y), int(x), int(h), int(w)) for y, x, h, w in negative.anchors if min(h, w) > 0]
    scaled = [_scaled(box, image.shape, shown.shape) for box in anchors]
    colours = [colour] * len(scaled)
    lines = [region_name, f"{anchors[0][2]}×{anchors[0][3]} px" if anchors else "no anchors"]
    if len(anchors) == 2 and len(negative.edits) == 1:
        colours[0] = SOURCE_COLOUR
        lines.append("from the white box")
    if negative.fallback:
        lines.append(f"fallback: {FALLBACKS[negative.fallback]}")
    return boxes(shown, scaled, colours), "\n".join(lines)


def donor_tile(
    normal: Normal,
    negative: Negative,
    donors: Mapping[str, np.ndarray],
    colour: Colour,
    tile_px: int,
) -> Tile:
    """What the negative mixes in, as it lies on the canvas, with the border of the mask.

    Args:
        normal, negative: with at least one `Blend`; of several the first is shown.
        donors: (Hd, Wd, 3) uint8 by digest.
        colour: of the border.
        tile_px: longest side of the picture.
    """
    blend = next(edit for edit in negative.edits if isinstance(edit, Blend))
    everywhere = replace(blend, mask=np.ones_like(blend.mask), alpha=255)
    laid, _ = render(normal.image, (everywhere,), donors)
    shown = outline(fit_tile(laid, tile_px), fit_tile(blend.mask, tile_px), colour, width_px=1)
    which = "the image itself" if blend.donor == normal.digest else "donor"
    return shown, f"{which}, weight {blend.alpha / 255:.2f}\n{_transform_words(blend.transform)}"


def _transform_words(transform: DonorTransform) -> str:
    words = [
        f"turned {90 * transform.quarter_turns}°" if transform.quarter_turns else "",
        "flipped" if transform.flip_y or transform.flip_x else "",
        "shifted" if any(transform.shift) else "",
        "recoloured" if transform.lut is not None else "",
    ]
    return ", ".join(filter(None, words)) or "as it is"


def negative_tiles(normal: Normal, negative: Negative, gain: float) -> list[Tile]:
    """The negative, its mask, and its difference from the normal times `gain`."""
    changed = difference(normal.image, negative.image, gain=gain)
    return [
        (negative.image, negative.policy),
        (mask_image(negative.mask), f"mask, {share(negative.mask, normal.canvas_box)}"),
        (changed, f"difference ×{gain:g}"),
    ]


def share(mask: np.ndarray, canvas_box: Box) -> str:
    """The part of the image that a mask covers, in words."""
    return f"{100 * np.count_nonzero(mask) / (canvas_box[2] * canvas_box[3]):.1f}%"


def _scaled(box: Box, from_shape: tuple[int, ...], to_shape: tuple[int, ...]) -> Box:
    y, x, h, w = box
    down, across = to_shape[0] / from_shape[0], to_shape[1] / from_shape[1]
    return round(y * down), round(x * across), max(1, round(h * down)), max(1, round(w * across))
