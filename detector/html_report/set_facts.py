"""What the page tells of a set: where anchors fall, how large masks are, some negatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detector.html_report.pictures import Picture, picture_of
from manifests.negative_set import NegativeSet
from manifests.schema import FALLBACKS, Manifest

GRID_CELLS = 24
"""Of the maps of anchors, along the canvas's longer side."""

SHOWN_PER_POLICY = 10
MAX_POLICIES = 12
MAX_MASKS = 50_000
"""Masks measured; of larger sets that many, evenly spaced."""


@dataclass(frozen=True)
class ShownNegative:
    """A negative beside the normal that it was made from.

    Attributes:
        level: -1 where no single level's map was looked at.
        fallback: a name in `FALLBACKS`.
        area: of its mask, in parts of the image.
    """

    normal: Picture
    negative: Picture
    source: str
    level: int
    fallback: str
    area: float


@dataclass(frozen=True, eq=False)
class PolicyFacts:
    """What is known of one policy's negatives.

    Attributes:
        count: of its negatives.
        anchors: how many there are; 0 where the policy draws none.
        grid: (rows, columns) number of anchors per cell of the canvas; where there are no anchors,
            the mean part of a cell that masks cover.
        areas: (n,) float64, the masks' parts of the image.
    """

    policy: str
    count: int
    anchors: int
    grid: np.ndarray
    areas: np.ndarray
    shown: tuple[ShownNegative, ...]


@dataclass(frozen=True)
class SetFacts:
    """What is known of a set.

    Attributes:
        policies: of at most `MAX_POLICIES`.
        left_out: further policies.
        measured: masks that the areas come from.
    """

    manifest: Manifest
    digest: str
    policies: tuple[PolicyFacts, ...]
    left_out: int
    measured: int


def read_set_facts(
    negative_set: NegativeSet,
    *,
    tile_px: int,
    progress: Callable[[int, int], None] | None = None,
) -> SetFacts:
    """Reads a set's anchors and masks, and some of its images.

    Args:
        negative_set: open.
        tile_px: longest side of the pictures.
        progress: called with (masks read, masks).

    Raises:
        SetError: the set is damaged.
    """
    names = negative_set.policies
    every = max(1, -(-len(negative_set) // MAX_MASKS))
    measured = range(0, len(negative_set), every)
    policy = negative_set.negative_policy
    canvas = (negative_set.geometry.height, negative_set.geometry.width)
    areas: dict[str, list[float]] = {name: [] for name in names}
    covered = {name: np.zeros(canvas, dtype=np.int64) for name in names[:MAX_POLICIES]}
    sides: dict[int, int] = {}
    for done, j in enumerate(measured, start=1):
        mask = negative_set.negative_mask(j)
        normal = int(negative_set.negative_normal[j])
        if normal not in sides:
            sides = {normal: _pixels(negative_set, normal)}
        name = str(policy[j])
        areas[name].append(int(np.count_nonzero(mask)) / sides[normal])
        if name in covered:
            covered[name] += mask
        if progress is not None and (done % 256 == 0 or done == len(measured)):
            progress(done, len(measured))
    found = []
    for name in names[:MAX_POLICIES]:
        rows = np.flatnonzero(policy == name)
        anchors = negative_set.negative_anchors[rows].reshape(-1, 4)
        anchors = anchors[(anchors[:, 2:] > 0).all(axis=1)]
        grid = anchor_counts(anchors, *canvas)
        if not len(anchors):
            grid = mean_cover(covered[name], max(1, len(areas[name])))
        found.append(
            PolicyFacts(
                policy=name,
                count=len(rows),
                anchors=len(anchors),
                grid=grid,
                areas=np.array(areas[name], dtype=np.float64),
                shown=tuple(
                    _shown(negative_set, j, tile_px=tile_px)
                    for j in spread(rows, negative_set.negative_level[rows], SHOWN_PER_POLICY)
                ),
            )
        )
    return SetFacts(
        manifest=negative_set.manifest,
        digest=negative_set.digest,
        policies=tuple(found),
        left_out=max(0, len(names) - MAX_POLICIES),
        measured=len(measured),
    )


def grid_shape(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of about square cells, `GRID_CELLS` along the canvas's longer side."""
    scale = GRID_CELLS / max(height, width)
    return max(1, round(scale * height)), max(1, round(scale * width))


def anchor_counts(anchors: np.ndarray, height: int, width: int) -> np.ndarray:
    """How many boxes have their centre in each cell of the canvas.

    Args:
        anchors: (n, 4) int, `(y, x, h, w)` in pixels of the canvas, inside it.
        height, width: of the canvas.

    Returns:
        `grid_shape` int64.

    Source: ours.
    """
    rows, columns = grid_shape(height, width)
    counts = np.zeros((rows, columns), dtype=np.int64)
    y, x, h, w = np.asarray(anchors, dtype=np.int64).T
    # In whole numbers, so that a centre on the border of two cells lies in the second, always.
    row = np.clip((2 * y + h) * rows // (2 * height), 0, rows - 1)
    column = np.clip((2 * x + w) * columns // (2 * width), 0, columns - 1)
    np.add.at(counts, (row, column), 1)
    return counts


def mean_cover(covered: np.ndarray, count: int) -> np.ndarray:
    """The part of each cell that a mask covers on average.

    Args:
        covered: (H, W) int, how many masks hold each pixel.
        count: of masks.

    Returns:
        `grid_shape` float64, 0 to 1.
    """
    height, width = covered.shape
    rows, columns = grid_shape(height, width)
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    total = np.zeros((rows, columns))
    pixels = np.zeros((rows, columns))
    np.add.at(total, (row[:, None], column[None]), covered)
    np.add.at(pixels, (row[:, None], column[None]), 1)
    return total / pixels / count


def spread(rows: np.ndarray, levels: np.ndarray, count: int) -> list[int]:
    """At most `count` rows, the levels in turn, evenly spaced within each.

    Args:
        rows: (n,) int, ascending.
        levels: (n,) int, one per row.
    """
    by_level = [rows[levels == level] for level in sorted(set(levels.tolist()))]
    chosen: set[int] = set()
    for number, own in enumerate(by_level):
        wanted = min(len(own), len(range(number, count, len(by_level))))
        if wanted:
            # Each level a little further on, or all of them would show the same few normals.
            steps = np.arange(wanted) * len(by_level) + number
            chosen.update(own[steps * len(own) // (wanted * len(by_level))].tolist())
    return sorted(chosen)


def _shown(negative_set: NegativeSet, j: int, *, tile_px: int) -> ShownNegative:
    one = negative_set[j]
    normal = negative_set.normal(one.normal)
    y, x, h, w = normal.canvas_box
    inside = (slice(y, y + h), slice(x, x + w))
    return ShownNegative(
        normal=picture_of(normal.image[inside], tile_px=tile_px),
        negative=picture_of(one.image[inside], tile_px=tile_px, mask=one.mask[inside]),
        source=one.source,
        level=one.level,
        fallback=FALLBACKS[one.fallback],
        area=int(np.count_nonzero(one.mask)) / (h * w),
    )


def _pixels(negative_set: NegativeSet, i: int) -> int:
    """Pixels of the canvas that normal `i` covers."""
    _, _, h, w = negative_set.normal_box(i)
    return h * w
