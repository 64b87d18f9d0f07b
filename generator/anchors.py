"""Where boxes start: disjoint pairs in a saliency cluster or anywhere, and single boxes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from manifests.edits import Box
from manifests.errors import ConfigError

CLUSTER_CHOICES = ("max", "min", "random")

# Which path found the pair: positions in manifests.schema.FALLBACKS.
NONE, SHRUNK, MOVED, LOWER_CLUSTER, ANYWHERE = range(5)

SHRINK_AREA = 0.8
MAX_TRIES = 100
_BATCH_PAIRS = 32


@dataclass(frozen=True)
class AnchorPair:
    """Two disjoint boxes of equal height and width.

    Attributes:
        first, second: `(y, x, h, w)` inside the valid box.
        fallback: 0 as drawn, 1 shrunk, 2 moved inside, 3 in a lower cluster, 4 anywhere in the
            valid box.
    """

    first: Box
    second: Box
    fallback: int


def anchor_rng(seed: int, digest: str, policy: str, level: int, repeat: int) -> np.random.Generator:
    """The generator of one draw, whatever was drawn before it and in whichever process.

    Args:
        seed: of the set, >= 0.
        digest: content digest of the resized normal, hex.
        policy, level, repeat: which of the image's negatives this is.

    Source: ours; PCG64 seeded with the SHA-256 of "seed|digest|policy|level|repeat".
    """
    key = f"{seed}|{digest}|{policy}|{level}|{repeat}".encode()
    entropy = int.from_bytes(hashlib.sha256(key).digest(), "big")
    return np.random.Generator(np.random.PCG64(entropy))


def check_cluster_choice(cluster: str) -> None:
    """Raise ConfigError unless `cluster` is max, min or random."""
    if cluster not in CLUSTER_CHOICES:
        raise ConfigError(
            "unknown choice of cluster", expected=", ".join(CLUSTER_CHOICES), got=cluster
        )


def sample_pair(
    rng: np.random.Generator,
    labels: np.ndarray,
    n_clusters: int,
    valid_box: Box,
    height_px: int,
    width_px: int,
    *,
    cluster: str = "max",
    smallest_area_frac: float = 0.005,
    accept: Callable[[Box, Box], bool] | None = None,
    roi: np.ndarray | None = None,
) -> AnchorPair | None:
    """Draw two disjoint boxes with their upper-left corners at random pixels of a cluster.

    The corners are uniform over all ordered pairs of the cluster's pixels where both boxes fit the
    valid box and `|dy| >= h` or `|dx| >= w`. Where no such pair exists, the boxes' area shrinks by
    0.8 at a time (sides rounded, the last step exactly at the floor). Then, at the full size again,
    boxes that stick out are moved inside: a cluster that hugs the lower or the right border has
    hardly a pixel where a box below and right of it fits. Only then the next lower cluster is taken
    in the same way, down to cluster 0, and last any pixel.

    Args:
        rng: source of all randomness.
        labels: (H, W) uint8, the cluster of each pixel, 0 for the least salient.
        n_clusters: number of clusters, 1 or more.
        valid_box: the part of the canvas that shows the image; no box leaves it.
        height_px, width_px: sides of the boxes, 1 or more.
        cluster: start in the cluster of the highest ("max") or lowest ("min") centroid, or in
            one at random, each cluster as likely as the others.
        smallest_area_frac: floor of the shrinking, as a fraction of the valid box's (or region's)
            area; a box below the floor does not shrink.
        accept: a further condition on the two boxes. A step of the search on which it refuses
            100 pairs counts as one without a pair.
        roi: (H, W) bool within the valid box; no box leaves it. None for all of the box. Labels
            are of its pixels alone.

    Returns:
        The pair, or None where not even the smallest boxes fit anywhere.

    Raises:
        ConfigError: `cluster` is unknown.
        ValueError: a side is below 1 or there is no cluster.

    Source: CutSwap (arXiv 2311.18332): two random pixels of the top cluster as upper-left corners.
    Differs: the paper does not say what happens at the border, on overlap or in small clusters.
        Instead of giving up after a number of overlapping draws, whether a disjoint pair exists is
        decided exactly; the pair has the distribution of redrawing until disjoint. Moved boxes
        still hold their cluster pixel (measured on magnetic tiles: without them 8 % of the swaps
        leave the top cluster, 38 % at stride 8, where it often lies along the border).
    """
    check_cluster_choice(cluster)
    if min(height_px, width_px, n_clusters) < 1:
        raise ValueError(f"no pair of {height_px} x {width_px} boxes in {n_clusters} clusters")
    top, left, valid_height, valid_width = valid_box
    shown = labels[top : top + valid_height, left : left + valid_width]
    allowed = _shown(roi, valid_box)
    area_px = valid_height * valid_width if roi is None else int(np.count_nonzero(roi))
    sizes = _shrinking_sizes(height_px, width_px, smallest_area_frac * area_px)
    if cluster == "random":
        chosen = int(rng.integers(n_clusters))
    else:
        chosen = n_clusters - 1 if cluster == "max" else 0

    for index in range(chosen, -2, -1):
        members = shown == index if index >= 0 else _everywhere(allowed, shown.shape)
        for is_moved in (False, True) if index >= 0 else (False,):
            found = _first_pair(
                rng,
                members,
                sizes,
                (top, left),
                is_moved=is_moved,
                accept=accept,
                allowed=allowed,
            )
            if found is None:
                continue
            if index < 0:
                return AnchorPair(found.first, found.second, ANYWHERE)
            if index < chosen:
                return AnchorPair(found.first, found.second, LOWER_CLUSTER)
            return AnchorPair(found.first, found.second, MOVED) if is_moved else found
    return None


def sample_pair_anywhere(
    rng: np.random.Generator,
    valid_box: Box,
    height_px: int,
    width_px: int,
    *,
    smallest_area_frac: float = 0.005,
    accept: Callable[[Box, Box], bool] | None = None,
    roi: np.ndarray | None = None,
) -> AnchorPair | None:
    """Draw two disjoint boxes, uniformly over all pairs that lie in the valid box.

    Boxes of which no two are disjoint shrink, as in `sample_pair`. There is no other fallback.

    Args and Raises: as `sample_pair`.

    Returns:
        The pair, or None where not even the smallest boxes fit, or `accept` refused 100 of each.

    Source: ours, the baseline of CutSwap's anchors: no saliency.
    """
    if min(height_px, width_px) < 1:
        raise ValueError(f"no pair of {height_px} x {width_px} boxes")
    top, left, valid_height, valid_width = valid_box
    area_px = valid_height * valid_width if roi is None else int(np.count_nonzero(roi))
    sizes = _shrinking_sizes(height_px, width_px, smallest_area_frac * area_px)
    allowed = _shown(roi, valid_box)
    everywhere = _everywhere(allowed, (valid_height, valid_width))
    return _first_pair(
        rng, everywhere, sizes, (top, left), is_moved=False, accept=accept, allowed=allowed
    )


def sample_box(
    rng: np.random.Generator,
    valid_box: Box,
    height_px: int,
    width_px: int,
    *,
    margins: tuple[int, int, int, int] = (0, 0, 0, 0),
    roi: np.ndarray | None = None,
) -> Box | None:
    """Draw one box, uniformly over all that lie in the valid box.

    Args:
        rng: of the draw.
        valid_box: the part of the canvas that shows the image.
        height_px, width_px: sides of the box, 1 or more.
        margins: rows above and below and columns left and right of the box, 0 or more, that have
            to lie in the valid box too.
        roi: (H, W) bool within the valid box, which the box does not leave; None for all of it.

    Returns:
        The box, or None where there is none.

    Source: ours.
    """
    top, left, valid_height, valid_width = valid_box
    above, below, before, behind = margins
    rows = valid_height - height_px - above - below + 1
    columns = valid_width - width_px - before - behind + 1
    if rows < 1 or columns < 1:
        return None
    shown = _shown(roi, valid_box)
    if shown is None:
        y, x = int(rng.integers(rows)), int(rng.integers(columns))
    else:
        fits = _fitting(shown, height_px, width_px)
        corners = np.flatnonzero(fits[above : above + rows, before : before + columns])
        if not len(corners):
            return None
        y, x = divmod(int(corners[rng.integers(len(corners))]), columns)
    return top + above + y, left + before + x, height_px, width_px


def _shown(roi: np.ndarray | None, valid_box: Box) -> np.ndarray | None:
    """What of a region (H, W) lies in the valid box, (h, w) bool."""
    y, x, h, w = valid_box
    return None if roi is None else roi[y : y + h, x : x + w]


def _everywhere(allowed: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape, dtype=bool) if allowed is None else allowed


def _fitting(allowed: np.ndarray, h: int, w: int) -> np.ndarray:
    """Where the upper-left corner of an h × w box may lie so that all of it is allowed."""
    rows, columns = allowed.shape[0] - h + 1, allowed.shape[1] - w + 1
    if rows < 1 or columns < 1:
        return np.zeros((0, 0), dtype=bool)
    integral = np.zeros((allowed.shape[0] + 1, allowed.shape[1] + 1), dtype=np.int64)
    np.cumsum(np.cumsum(allowed, axis=0, dtype=np.int64), axis=1, out=integral[1:, 1:])
    count = integral[h:, w:] - integral[:-h, w:] - integral[h:, :-w] + integral[:-h, :-w]
    fits: np.ndarray = count == h * w
    return fits


def _first_pair(
    rng: np.random.Generator,
    members: np.ndarray,
    sizes: list[tuple[int, int]],
    corner: tuple[int, int],
    *,
    is_moved: bool,
    accept: Callable[[Box, Box], bool] | None,
    allowed: np.ndarray | None,
) -> AnchorPair | None:
    """A disjoint pair of the first size that has one (and that `accept` takes).

    Args:
        members: (valid height, valid width) bool, the pixels where boxes may start.
        sizes: heights and widths to try, in order; any but the first counts as shrunk.
        corner: row and column of the valid box.
        is_moved: see `_corners`.
        accept: see `sample_pair`.
        allowed: (valid height, valid width) bool, the pixels that boxes may hold; None for all.
    """
    top, left = corner
    for step, (h, w) in enumerate(sizes):
        corners = _corners(members, h, w, is_moved=is_moved)
        if allowed is not None:
            corners = corners & _fitting(allowed, h, w)
        if not _has_disjoint_pair(corners, h, w):
            continue
        pairs = _disjoint_pairs(rng, corners, h, w)
        for _ in range(1 if accept is None else MAX_TRIES):
            y1, x1, y2, x2 = next(pairs)
            first, second = (top + y1, left + x1, h, w), (top + y2, left + x2, h, w)
            if accept is None or accept(first, second):
                return AnchorPair(first, second, SHRUNK if step else NONE)
    return None


def _corners(members: np.ndarray, h: int, w: int, *, is_moved: bool) -> np.ndarray:
    """Where the upper-left corner of an h × w box may lie, (rows, columns) bool.

    A member so near the border that its box does not fit is no candidate, or, where boxes are
    moved, stands for the nearest corner whose box does fit.
    """
    rows, columns = members.shape[0] - h + 1, members.shape[1] - w + 1
    if rows < 1 or columns < 1:
        return np.zeros((0, 0), dtype=bool)
    if not is_moved:
        return members[:rows, :columns]
    corners = members[:rows].copy()
    corners[-1] |= members[rows:].any(axis=0)
    inside = corners[:, :columns].copy()
    inside[:, -1] |= corners[:, columns:].any(axis=1)
    return inside


def _shrinking_sizes(height: int, width: int, floor_px: float) -> list[tuple[int, int]]:
    """The size as drawn, then smaller ones of the same shape down to an area of `floor_px`."""
    sizes = [(height, width)]
    area = float(height * width)
    target = area
    while target > floor_px:
        target = max(target * SHRINK_AREA, floor_px, 1.0)
        side = math.sqrt(target / area)
        size = max(1, round(height * side)), max(1, round(width * side))
        if size != sizes[-1]:
            sizes.append(size)
        if target <= 1.0:
            break
    return sizes


def _has_disjoint_pair(corners: np.ndarray, h: int, w: int) -> bool:
    """Whether two of the corners lie h rows or w columns apart: their extent decides it."""
    for axis, apart in ((1, h), (0, w)):
        taken = np.flatnonzero(corners.any(axis=axis))
        if len(taken) and taken[-1] - taken[0] >= apart:
            return True
    return False


def _disjoint_pairs(
    rng: np.random.Generator, corners: np.ndarray, h: int, w: int
) -> Iterator[tuple[int, int, int, int]]:
    """Independent draws (y1, x1, y2, x2), uniform over the ordered disjoint pairs of corners.

    Random pairs are tried first, since most are disjoint. After a batch without one, pairs are
    drawn by counting, which has the same distribution, so that neither biases the other.
    """
    columns = corners.shape[1]
    flat = np.flatnonzero(corners)
    while True:
        pairs = flat[rng.integers(len(flat), size=(_BATCH_PAIRS, 2))]
        y, x = np.divmod(pairs, columns)
        apart = (np.abs(y[:, 0] - y[:, 1]) >= h) | (np.abs(x[:, 0] - x[:, 1]) >= w)
        found = np.flatnonzero(apart).tolist()
        if not found:
            break
        for i in found:
            yield int(y[i, 0]), int(x[i, 0]), int(y[i, 1]), int(x[i, 1])
    yield from _counted_pairs(rng, corners, flat, h, w)


def _counted_pairs(
    rng: np.random.Generator, corners: np.ndarray, flat: np.ndarray, h: int, w: int
) -> Iterator[tuple[int, int, int, int]]:
    """The same draws by numbering all ordered disjoint pairs and drawing a number.

    An integral image counts the corners within reach of each corner; the others are its partners.
    """
    rows, columns = corners.shape
    integral = np.zeros((rows + 1, columns + 1), dtype=np.int64)
    np.cumsum(np.cumsum(corners, axis=0, dtype=np.int64), axis=1, out=integral[1:, 1:])
    ys, xs = np.divmod(flat, columns)
    above, below = np.maximum(ys - h + 1, 0), np.minimum(ys + h, rows)
    before, behind = np.maximum(xs - w + 1, 0), np.minimum(xs + w, columns)
    near = integral[below, behind] - integral[above, behind]
    near -= integral[below, before] - integral[above, before]
    partners = len(flat) - near
    last = np.cumsum(partners)
    while True:
        number = int(rng.integers(last[-1]))
        i = int(np.searchsorted(last, number, side="right"))
        rank = number - int(last[i] - partners[i])
        apart = (np.abs(ys - ys[i]) >= h) | (np.abs(xs - xs[i]) >= w)
        j = int(np.flatnonzero(apart)[rank])
        yield int(ys[i]), int(xs[i]), int(ys[j]), int(xs[j])
