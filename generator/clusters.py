"""Exact one-dimensional k-means on 8-bit saliency maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manifests.edits import Box
from manifests.errors import ConfigError

GREY_VALUES = 256
MAX_CLUSTERS = 64
OUTSIDE = 255
"""Label of pixels outside the valid box, which belong to no cluster (never a cluster's index)."""

# Costs closer than this part of the total scatter count as equal. Rounding stays below 1e-14 of
# it, so that true ties are seen as ties on every machine and no visible gap is lost.
_TIE_FRACTION = 1e-12
_BLOCK_ROWS = 64
_STARTS_LATE = np.triu(np.ones((GREY_VALUES, GREY_VALUES), dtype=bool), 1)


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of the grey values into `count` runs, ascending.

    Attributes:
        labels: (256,) uint8, the cluster of every grey value, 0 for the darkest. Values that do
            not occur go to the nearest centroid, the lower one where two are equally near.
        centroids: (count,) float64, strictly ascending, in grey values.
        inertia: sum of squared distances of all pixels to their centroid.
    """

    labels: np.ndarray
    centroids: np.ndarray
    inertia: float

    @property
    def count(self) -> int:
        """The number of clusters: k, or the number of distinct values where that is smaller."""
        return len(self.centroids)


def kmeans_1d(histogram: np.ndarray, k: int) -> Clusters:
    """Split a grey-value histogram into the k clusters of least inertia, exactly.

    Optimal clusters of numbers are runs of neighbouring values, so dynamic programming over the
    values that occur finds the global optimum: no seed, no restarts, no local optimum.

    Ties: of all partitions of least inertia (within 1e-12 of the total scatter) the one is taken
    whose highest cluster starts lowest, then the next highest, and so on down.

    Args:
        histogram: (256,) integers >= 0, pixels per grey value; fewer than 2**37 pixels, so that
            all sums are exact in float64.
        k: the number of clusters asked for, 1 to 64.

    Raises:
        ConfigError: k is out of range.
        ValueError: the histogram has another shape or type, a negative entry or no pixel.

    Source: ours; the objective is CutSwap's k-means (arXiv 2311.18332).
    Differs: the paper's k-means is iterative and seeded; this is its global optimum.
    """
    check_cluster_count(k)
    histogram = _checked(histogram)
    values = np.flatnonzero(histogram)
    counts = histogram[values].astype(np.float64)
    starts = _best_starts(values, counts, k)
    lengths = np.diff(starts, append=len(values))
    run = np.repeat(np.arange(len(starts)), lengths)  # of each value that occurs
    centroids = np.bincount(run, weights=counts * values) / np.bincount(run, weights=counts)
    inertia = float(np.sum(counts * (values - centroids[run]) ** 2))

    # A value as near to another centroid as to its own would be better off there, so that the
    # nearest centroid of every value that occurs is that of its run.
    midpoints = (centroids[1:] + centroids[:-1]) / 2
    labels = np.searchsorted(midpoints, np.arange(GREY_VALUES), side="left").astype(np.uint8)
    labels.setflags(write=False)
    centroids.setflags(write=False)
    return Clusters(labels, centroids, inertia)


def cluster_map(
    saliency: np.ndarray, valid_box: Box, k: int, *, roi: np.ndarray | None = None
) -> tuple[np.ndarray, Clusters]:
    """Cluster a saliency map's grey values over its valid box.

    Args:
        saliency: (H, W) uint8.
        valid_box: the part that shows the image; padding outside it is not counted.
        k: the number of clusters asked for, 1 to 64.
        roi: (H, W) bool, the pixels of the box that count, at least one; None for all.

    Returns:
        labels (H, W) uint8, `OUTSIDE` outside the valid box and the region, and the clusters.

    Raises:
        ConfigError: k is out of range.
        ValueError: the map is not (H, W) uint8, or the box is empty or leaves it.

    Source: CutSwap (arXiv 2311.18332), clustering of the saliency intensities.
    """
    shown = shown_part(saliency, valid_box)
    y, x, h, w = valid_box
    counted = shown.reshape(-1) if roi is None else shown[roi[y : y + h, x : x + w]]
    clusters = kmeans_1d(np.bincount(counted, minlength=GREY_VALUES), k)
    labels = np.full(saliency.shape, OUTSIDE, dtype=np.uint8)
    labels[y : y + h, x : x + w] = clusters.labels.take(shown)
    if roi is not None:
        labels[~roi] = OUTSIDE
    return labels, clusters


def shown_part(saliency: np.ndarray, valid_box: Box) -> np.ndarray:
    """The view of a saliency map (H, W) uint8 that lies in the valid box, (h, w).

    Raises:
        ValueError: the map is not (H, W) uint8, or the box is empty or leaves it.
    """
    if saliency.ndim != 2 or saliency.dtype != np.uint8:
        raise ValueError(f"expected a (H, W) uint8 map, got {saliency.shape} {saliency.dtype}")
    y, x, h, w = valid_box
    if min(y, x) < 0 or min(h, w) < 1 or y + h > saliency.shape[0] or x + w > saliency.shape[1]:
        raise ValueError(f"valid box {valid_box} does not lie in a map of {saliency.shape}")
    return saliency[y : y + h, x : x + w]


def check_cluster_count(k: int) -> None:
    """Raise ConfigError unless k is an integer from 1 to 64."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MAX_CLUSTERS:
        raise ConfigError(
            "the number of clusters is out of range", expected=f"1 to {MAX_CLUSTERS}", got=k
        )


def _checked(histogram: np.ndarray) -> np.ndarray:
    if histogram.shape != (GREY_VALUES,) or histogram.dtype.kind not in "iu":
        raise ValueError(f"expected (256,) integers, got {histogram.shape} {histogram.dtype}")
    if histogram.min() < 0 or not histogram.any():
        raise ValueError("a histogram has no negative entry and at least one pixel")
    return histogram


def _best_starts(values: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Where each of the best min(k, n) runs starts among the n values that occur.

    Least inertia is the same as most gain, the sum over runs of (sum of values)^2 / pixels, which
    takes fewer passes over the table of all runs.
    """
    n = len(values)
    k = min(k, n)
    starts = np.zeros(k, dtype=np.intp)
    if k == 1:
        return starts
    # Values count from the rounded mean: sums of integers stay exact, and the gains, which grow
    # with the distance from the origin, stay no larger than twice the total scatter.
    offset = values - np.rint(np.dot(counts, values) / counts.sum())
    weight, first = np.zeros((2, n + 1))
    np.cumsum(counts, out=weight[1:])
    np.cumsum(counts * offset, out=first[1:])
    tolerance = _TIE_FRACTION * float(np.dot(counts, offset * offset))

    gains = _gain_blocks(weight, first)
    # best[c][stop]: most gain of the values 0..stop in c + 1 runs.
    best = [np.concatenate([block[:, 0] for block in gains])]
    for _ in range(k - 2):
        before = best[-1]
        rows = [(block[:, 1:] + before[: block.shape[1] - 1]).max(axis=1) for block in gains]
        best.append(np.concatenate(rows))
    stop = n - 1
    for run in range(k - 1, 0, -1):
        # The last run starts at 1..stop; the values before it form `run` runs.
        row = gains[stop // _BLOCK_ROWS][stop % _BLOCK_ROWS]
        total = row[1 : stop + 1] + best[run - 1][:stop]
        starts[run] = 1 + np.argmax(total >= total.max() - tolerance)
        stop = starts[run] - 1
    return starts


def _gain_blocks(weight: np.ndarray, first: np.ndarray) -> list[np.ndarray]:
    """The gain of every run, rows of stops by columns of starts, in blocks of 64 rows.

    `gain[stop, start]` is of the run start..stop and -inf where start > stop. A block ends at the
    last start its rows can have. Arrays this small come from the allocator's pool; the whole table
    at once costs five times as long, nearly all of it in fresh pages.

    Args:
        weight, first: (n + 1,) float64 prefix sums of the counts and of count * value.
    """
    n = len(weight) - 1
    blocks = []
    for top in range(0, n, _BLOCK_ROWS):
        end = min(top + _BLOCK_ROWS, n)
        gain = first[top + 1 : end + 1, None] - first[None, :end]
        gain *= gain
        with np.errstate(divide="ignore", invalid="ignore"):
            gain /= weight[top + 1 : end + 1, None] - weight[None, :end]
        np.copyto(gain, -np.inf, where=_STARTS_LATE[top:end, :end])
        blocks.append(gain)
    return blocks
