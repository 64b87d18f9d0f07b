"""One contact sheet per normal image: where its negatives come from and what they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from generator.clusters import cluster_map
from generator.policies import POLICIES
from generator.saliency import upsample
from manifests.annotate import (
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
    overlay,
)
from manifests.edits import Box
from manifests.errors import SetError
from manifests.schema import FALLBACKS
from manifests.sheet import Tile, sheet

if TYPE_CHECKING:
    from manifests.negative_set import Negative, NegativeSet, Normal

TILE_PX = 150
DIFFERENCE_GAIN = 4

_ANCHOR_COLOURS: tuple[Colour, ...] = (VERMILION, SKY, GREEN, ORANGE, PURPLE)
_REGION_COLOUR: Colour = (240, 228, 66)
_REGION_OPACITY = 0.45
_OUTSIDE_BRIGHTNESS = 0.6
_CHOICES = {"max": "top cluster", "min": "lowest cluster"}


def preview_sheet(
    negative_set: NegativeSet,
    i: int,
    *,
    tile_px: int = TILE_PX,
    gain: float = DIFFERENCE_GAIN,
) -> np.ndarray:
    """Draws normal `i` and all its negatives, a row per saliency level and repeat.

    A row holds the saliency map over the image and, per policy, the cluster that the anchors were
    drawn from with the anchors on it, the negative, its mask and its difference from the normal.
    The clusters are computed again from the stored saliency, as the build does.

    Args:
        negative_set: an open set, stored as pixels or anchors, with or without saliency.
        i: number of the normal image.
        tile_px: longest side of one picture.
        gain: what the difference is multiplied by.

    Returns:
        (H, W, 3) uint8.

    Raises:
        IndexError: there is no such normal.
        SetError: the set is damaged, or its recipe malformed.
        ConfigError: the recipe's number of clusters is out of range.

    Source: ours.
    """
    normal = negative_set.normal(i)
    clusters = _cluster_options(negative_set)
    numbers = np.flatnonzero(negative_set.negative_normal == i)
    negatives = [negative_set[int(j)] for j in numbers]
    found = {(row.level, row.repeat, row.policy): row for row in negatives}
    policies = sorted(negative_set.policies, key=_build_order)
    # A policy that uses no saliency has its negatives at level -1, which comes last.
    columns = (negative_set.negative_policy.tolist(), negative_set.negative_level.tolist())
    used = set(zip(*columns, strict=True))
    levels = sorted({*negative_set.levels, *(level for _, level in used)}, key=lambda n: (n < 0, n))
    repeats = sorted(set(negative_set.negative_repeat.tolist())) or [0]

    rows: list[list[Tile | None]] = []
    titles = []
    for level in levels:
        saliency = negative_set.saliency(i, level) if level in negative_set.levels else None
        region, region_name = _region(saliency, normal, level, clusters)
        for repeat in repeats:
            row: list[Tile | None] = [_saliency_tile(normal, saliency, level)]
            for number, policy in enumerate(policies):
                colour = _ANCHOR_COLOURS[number % len(_ANCHOR_COLOURS)]
                negative = found.get((level, repeat, policy))
                if (policy, level) not in used:
                    row += [None] * 4
                    continue
                if negative is None:
                    row += [(None, "no visible negative found")] * 4
                    continue
                row.append(_anchor_tile(normal, negative, region, region_name, colour, tile_px))
                row += _negative_tiles(normal, negative, gain)
            rows.append(row)
            title = "no level" if level < 0 else f"level {level}"
            titles.append(title + (f" repeat {repeat}" if len(repeats) > 1 else ""))
    return sheet(
        rows,
        title=normal.source,
        notes=_notes(negative_set, i, normal, negatives, clusters),
        lead=fit_tile(normal.image, tile_px),
        groups=[("saliency", 1), *((policy, 4) for policy in policies)],
        row_titles=titles,
        tile_px=tile_px,
    )


def _build_order(policy: str) -> tuple[int, str]:
    known = list(POLICIES)
    return (known.index(policy) if policy in known else len(known)), policy


def _cluster_options(negative_set: NegativeSet) -> tuple[int, str] | None:
    """K and the choice of cluster; None for a recipe without clusters. Raises SetError."""
    options = negative_set.manifest.recipe.get("clusters")
    if options is None:
        return None
    try:
        return options["k"], str(options["choice"])
    except (KeyError, TypeError) as error:
        raise SetError(
            "recipe's clusters are malformed",
            path=negative_set.path,
            expected="k and choice",
            got=ascii(options)[:80],
        ) from error


def _region(
    saliency: np.ndarray | None, normal: Normal, level: int, clusters: tuple[int, str] | None
) -> tuple[np.ndarray | None, str]:
    """(H, W) bool of the cluster that the anchors were drawn from, and its name."""
    if level < 0 or clusters is None:
        return None, "drawn anywhere"
    if saliency is None:
        return None, "no saliency stored"
    n_clusters, choice = clusters
    full = upsample(saliency, *normal.image.shape[:2])
    labels, found = cluster_map(full, normal.canvas_box, n_clusters)
    if choice not in _CHOICES:
        return None, f"one of {found.count} clusters, at random"
    region = labels == (found.count - 1 if choice == "max" else 0)
    return region, f"{_CHOICES[choice]}, {_share(region, normal.canvas_box)}"


def _saliency_tile(normal: Normal, saliency: np.ndarray | None, level: int) -> Tile:
    if saliency is None:
        return None, "needs no saliency" if level < 0 else "no saliency stored"
    full = upsample(saliency, *normal.image.shape[:2])
    height, width = saliency.shape
    return overlay(normal.image, full), f"{height}×{width} map"


def _anchor_tile(
    normal: Normal,
    negative: Negative,
    region: np.ndarray | None,
    region_name: str,
    colour: Colour,
    tile_px: int,
) -> Tile:
    """The normal, yellow in the cluster, with the boxes that the edits started from."""
    image = normal.image
    if region is not None:
        tint = np.float32(_REGION_OPACITY) * np.array(_REGION_COLOUR, dtype=np.float32)
        marked = image * np.float32(1 - _REGION_OPACITY) + tint
        dark = image * np.float32(_OUTSIDE_BRIGHTNESS)
        image = np.where(region[..., None], marked, dark).astype(np.uint8)
    shown = fit_tile(image, tile_px)
    anchors = [tuple(map(int, box)) for box in negative.anchors if min(box[2], box[3]) > 0]
    scaled = [_scaled(box, image.shape, shown.shape) for box in anchors]
    fallback = "" if negative.fallback == 0 else f"\nfallback: {FALLBACKS[negative.fallback]}"
    sides = f"\n{anchors[0][2]}×{anchors[0][3]} px" if anchors else "\nno anchors"
    return boxes(shown, scaled, [colour] * len(scaled)), region_name + sides + fallback


def _negative_tiles(normal: Normal, negative: Negative, gain: float) -> list[Tile]:
    changed = difference(normal.image, negative.image, gain=gain)
    return [
        (negative.image, negative.policy),
        (mask_image(negative.mask), f"mask, {_share(negative.mask, normal.canvas_box)}"),
        (changed, f"difference ×{gain:g}"),
    ]


def _notes(
    negative_set: NegativeSet,
    i: int,
    normal: Normal,
    negatives: Sequence[Negative],
    clusters: tuple[int, str] | None,
) -> tuple[str, ...]:
    manifest = negative_set.manifest
    counts = dict.fromkeys(sorted(negative_set.policies, key=_build_order), 0)
    for negative in negatives:
        counts[negative.policy] += 1
    height, width = normal.image.shape[:2]
    notes = [
        f"{manifest.category}, normal {i} (of {negative_set.n_normals}), {height}×{width} px",
        f"content {normal.digest[:16]}…",
        "negatives: " + ", ".join(f"{count} {name}" for name, count in counts.items()),
    ]
    if clusters is not None:
        notes.append(f"anchors from k-means clusters, K={clusters[0]}, {clusters[1]}")
    return tuple(notes)


def _share(mask: np.ndarray, canvas_box: Box) -> str:
    return f"{100 * np.count_nonzero(mask) / (canvas_box[2] * canvas_box[3]):.1f}%"


def _scaled(box: Box, from_shape: tuple[int, ...], to_shape: tuple[int, ...]) -> Box:
    y, x, h, w = box
    down, across = to_shape[0] / from_shape[0], to_shape[1] / from_shape[1]
    return round(y * down), round(x * across), max(1, round(h * down)), max(1, round(w * across))
