"""The most salient pixels of a map: an alternative to its clusters, for comparison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from generator.clusters import GREY_VALUES, OUTSIDE, shown_part
from manifests.edits import Box

MIN_PIXELS = 2
"""A pair of anchors needs two."""


@dataclass(frozen=True, eq=False)
class MostSalient:
    """What stands in for `Clusters` where pixels are chosen by rank.

    Attributes:
        centroids: (2,) float64, mean saliency of the rest and of the chosen pixels, ascending,
            in grey values. Equal where nothing is left or the map is constant.
    """

    centroids: np.ndarray

    @property
    def count(self) -> int:
        """The number of regions: the rest (label 0) and the most salient pixels (label 1)."""
        return len(self.centroids)


def most_salient_map(
    saliency: np.ndarray,
    valid_box: Box,
    count: int,
    *,
    rng: np.random.Generator,
    roi: np.ndarray | None = None,
) -> tuple[np.ndarray, MostSalient]:
    """Mark the most salient pixels of a map's valid box.

    Of the pixels that share the lowest value taken, as many as are needed are taken at random.

    Args:
        saliency: (H, W) uint8.
        valid_box: the part that shows the image; padding outside it is never taken.
        count: how many pixels, 1 or more; at least 2 are taken, at most all of the valid box.
        rng: breaks the ties.
        roi: (H, W) bool, the pixels of the box that may be taken, at least two; None for all.

    Returns:
        labels (H, W) uint8, 1 for the pixels taken, 0 for the others and `OUTSIDE` outside the
        valid box and the region, and the two means.

    Raises:
        ValueError: the map is not (H, W) uint8, the box is empty or leaves it, or `count` is below
            1.

    Source: CutSwap (arXiv 2311.18332), the ablation with the 300 most salient pixels.
    Differs: the paper does not say how it breaks ties, which an 8-bit map has many of.
    """
    shown = shown_part(saliency, valid_box)
    if count < 1:
        raise ValueError(f"cannot take {count} pixels")
    y, x, h, w = valid_box
    inside = np.ones((h, w), dtype=bool) if roi is None else roi[y : y + h, x : x + w]
    values = shown[inside]
    needed = min(max(count, MIN_PIXELS), len(values))
    # at_least[v]: pixels of value v or above.
    histogram = np.bincount(values, minlength=GREY_VALUES)
    at_least = np.cumsum(histogram[::-1])[::-1]
    limit = int(np.flatnonzero(at_least >= needed)[-1])
    is_taken = values > limit
    ties = np.flatnonzero(values == limit)
    is_taken[rng.choice(ties, size=needed - np.count_nonzero(is_taken), replace=False)] = True

    labels = np.full(saliency.shape, OUTSIDE, dtype=np.uint8)
    labels[y : y + h, x : x + w][inside] = is_taken
    taken_mean = values[is_taken].mean()
    rest_mean = values[~is_taken].mean() if needed < len(values) else taken_mean
    centroids = np.array([rest_mean, taken_mean], dtype=np.float64)
    centroids.setflags(write=False)
    return labels, MostSalient(centroids)
