"""One contact sheet per normal image: where its negatives come from and what they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from generator.negatives import NO_LEVEL
from generator.policies import POLICIES
from generator.preview_tiles import (
    ANCHOR_COLOURS,
    anchor_tile,
    donor_tile,
    negative_tiles,
    region_of,
    saliency_tile,
    view_tile,
)
from generator.recipe_parts import guiding_view
from generator.regions import Regions
from manifests.annotate import Colour, fit_tile
from manifests.edits import Blend
from manifests.sheet import Tile, sheet

if TYPE_CHECKING:
    from manifests.negative_set import Negative, NegativeSet, Normal

TILE_PX = 150
DIFFERENCE_GAIN = 4
POLICIES_PER_BLOCK = 2
"""More side by side and the sheet is wider than a screen."""

_TILES_PER_NEGATIVE = 4
GUIDED = "saliency-perlin"
"""The policy that may see all maps as one."""


def preview_sheet(
    negative_set: NegativeSet,
    i: int,
    *,
    tile_px: int = TILE_PX,
    gain: float = DIFFERENCE_GAIN,
) -> np.ndarray:
    """Draws normal `i` and all its negatives, in blocks of two policies, one below the other.

    A block has a row per saliency level and repeat, or per draw where its policies see no level by
    itself. A row holds the saliency map over the image, or the image alone, and, per policy, the
    region that the anchors were drawn from with the anchors on it, or what is mixed in with the
    border of the mask, then the negative, its mask and its difference from the normal.
    Regions and combined maps are made again from the stored saliency, as the build does.

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
    geometry = negative_set.geometry
    regions = Regions.from_recipe(negative_set.manifest.recipe, path=negative_set.path)
    numbers = np.flatnonzero(negative_set.negative_normal == i)
    negatives, row_of = {}, {}
    for j in numbers.tolist():
        one = negative_set[j]
        place = one.policy, one.level, one.repeat
        negatives[place], row_of[place] = one, j
    maps = {level: negative_set.saliency(i, level) for level in negative_set.levels}
    blocks = _blocks(negative_set) or [_Block((), (), frozenset(), None)]
    parts: list[np.ndarray] = []
    for block in blocks:
        rows: list[list[Tile | None]] = []
        cut = {
            level: region_of(maps.get(level), normal, level, regions, geometry)
            for level in block.levels
        }
        # The normal itself where there is no map: something to compare with, and the columns of all
        # blocks stand below each other.
        whole: Tile = (normal.image, "as it is")
        if block.view is not None:
            whole = view_tile(normal, list(maps.values()), block.view, geometry)
        for level, repeat in block.places:
            lead = saliency_tile(normal, maps.get(level)) if level != NO_LEVEL else whole
            row: list[Tile | None] = [lead]
            for policy, colour in block.policies:
                negative = negatives.get((policy, level, repeat))
                if (policy, level) not in block.used:
                    row += [None] * _TILES_PER_NEGATIVE
                elif negative is None:
                    row += [(None, "no visible negative found")] * _TILES_PER_NEGATIVE
                elif any(isinstance(edit, Blend) for edit in negative.edits):
                    # Fetched for this tile alone: those of all negatives may be many.
                    j = row_of[policy, level, repeat]
                    row.append(
                        donor_tile(normal, negative, negative_set.donors(j), colour, tile_px)
                    )
                    row += negative_tiles(normal, negative, gain)
                else:
                    row.append(anchor_tile(normal, negative, *cut[level], colour, tile_px))
                    row += negative_tiles(normal, negative, gain)
            rows.append(row)
        is_first = not parts
        parts.append(
            sheet(
                rows,
                title=normal.source if is_first else "",
                notes=_notes(negative_set, i, normal, negatives, regions) if is_first else (),
                lead=fit_tile(normal.image, tile_px) if is_first else None,
                groups=block.groups,
                row_titles=block.row_titles,
                tile_px=tile_px,
            )
        )
    return _stacked(parts)


@dataclass(frozen=True)
class _Block:
    """Policies side by side.

    Attributes:
        policies: names and the colours of their anchors.
        places: level and repeat of every row.
        used: policy and level of the negatives that the set has of any image.
        view: how its policies see the maps of all levels as one, "mean" or "max"; None where they
            do not.
    """

    policies: tuple[tuple[str, Colour], ...]
    places: tuple[tuple[int, int], ...]
    used: frozenset[tuple[str, int]]
    view: str | None

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(level for level, _ in self.places))

    @property
    def has_saliency(self) -> bool:
        return any(level != NO_LEVEL for level in self.levels)

    @property
    def groups(self) -> list[tuple[str, int]]:
        names = [(name, _TILES_PER_NEGATIVE) for name, _ in self.policies]
        is_map = self.has_saliency or self.view is not None
        return [("saliency" if is_map else "normal", 1), *names]

    @property
    def row_titles(self) -> list[str]:
        if not self.has_saliency:
            return [f"draw {repeat}" for _, repeat in self.places]
        is_repeated = len(self.places) > len(self.levels)
        return [
            f"level {level}" + (f" repeat {repeat}" if is_repeated else "")
            for level, repeat in self.places
        ]


def _blocks(negative_set: NegativeSet) -> list[_Block]:
    """Two policies each, those that see single levels first, then those that see all as one.

    As wide and as high as the whole set asks: what one image lacks has its place on its sheet.
    """
    drawn = set(
        zip(
            negative_set.negative_policy.tolist(),
            negative_set.negative_level.tolist(),
            negative_set.negative_repeat.tolist(),
            strict=True,
        )
    )
    used = frozenset((policy, level) for policy, level, _ in drawn)
    names = sorted(negative_set.policies, key=_build_order)
    colours = {name: ANCHOR_COLOURS[n % len(ANCHOR_COLOURS)] for n, name in enumerate(names)}
    with_map = {*negative_set.levels, *(level for _, level in used)} - {NO_LEVEL}
    view = guiding_view(negative_set.manifest.recipe)
    # Not so where each level's map guided by itself, or in a merged set different ones did.
    recorded = view if view in ("mean", "max") else None
    guided = {GUIDED} if recorded is not None else set()
    groups = (
        (sorted(with_map), None, names),
        ([NO_LEVEL], recorded, [name for name in names if name in guided]),
        ([NO_LEVEL], None, [name for name in names if name not in guided]),
    )
    blocks = []
    for levels, view, allowed in groups:
        kinds = [name for name in allowed if any((name, level) in used for level in levels)]
        if not kinds and (used or levels == [NO_LEVEL]):
            continue
        for start in range(0, max(len(kinds), 1), POLICIES_PER_BLOCK):
            part = kinds[start : start + POLICIES_PER_BLOCK]
            repeats = {n for name, level, n in drawn if name in part and level in levels} or {0}
            places = tuple((level, repeat) for level in levels for repeat in sorted(repeats))
            if places:
                coloured = tuple((name, colours[name]) for name in part)
                blocks.append(_Block(coloured, places, used, view))
    return blocks


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures one below the other, from the left edge, on white."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate(
        [
            np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255)
            for part in parts
        ]
    )


def _build_order(policy: str) -> tuple[int, str]:
    known = list(POLICIES)
    return (known.index(policy) if policy in known else len(known)), policy


def _notes(
    negative_set: NegativeSet,
    i: int,
    normal: Normal,
    negatives: Mapping[tuple[str, int, int], Negative],
    regions: Regions | None,
) -> tuple[str, ...]:
    manifest = negative_set.manifest
    counts = dict.fromkeys(sorted(negative_set.policies, key=_build_order), 0)
    for policy, _, _ in negatives:
        counts[policy] += 1
    height, width = normal.image.shape[:2]
    notes = [
        f"{manifest.category}, normal {i} (of {negative_set.n_normals}), {height}×{width} px",
        f"content {normal.digest[:16]}…",
        "negatives: " + ", ".join(f"{count} {name}" for name, count in counts.items()),
    ]
    if regions is not None and any((one.anchors != -1).any() for one in negatives.values()):
        notes.append(f"salient anchors from {regions.in_words}")
    return tuple(notes)
