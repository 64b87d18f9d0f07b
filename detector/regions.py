"""Regions of a score map above the pixel threshold: where a part looks defective, and how large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manifests.edits import Box

MOST_REGIONS = 100
"""So many are described; a noisy map of a large photo has tens of thousands."""


@dataclass(frozen=True)
class Region:
    """Pixels above a threshold that touch each other, at a side or a corner.

    Attributes:
        box: the smallest box around them, `y, x, h, w` in px.
        area_px: how many they are.
        peak: the highest score among them.
        peak_at: `y, x` of the pixel that has it, of several the first in reading order.
        centroid: mean `y, x` of the pixels, unweighted; a pixel's centre has whole coordinates.
    """

    box: Box
    area_px: int
    peak: float
    peak_at: tuple[int, int]
    centroid: tuple[float, float]


@dataclass(frozen=True)
class Regions:
    """All regions of a score map.

    Attributes:
        described: those of the highest peaks, the highest first; of equal ones the one whose peak
            comes first in reading order.
        count: how many there are.
        flagged_px: pixels in all of them together.
        largest_px: pixels in the largest one; 0 where there is none.
    """

    described: tuple[Region, ...]
    count: int
    flagged_px: int
    largest_px: int

    @property
    def left_out(self) -> int:
        """How many are not described."""
        return self.count - len(self.described)


NO_REGIONS = Regions((), 0, 0, 0)


def find_regions(map: np.ndarray, threshold: float, *, most: int = MOST_REGIONS) -> Regions:
    """The connected regions of pixels above a threshold (8-connectivity).

    Args:
        map: (H, W) float32 raw scores; for regions in original pixels, of the original's shape.
        threshold: the pixel threshold; a pixel counts where its score is above it.
        most: describe at most so many.

    Source: ours; connected components are OpenCV's.
    """
    import cv2  # it takes a noticeable part of a second to import

    is_flagged = map > threshold
    rows = np.flatnonzero(is_flagged.any(axis=1))
    if not len(rows):
        return NO_REGIONS
    columns = np.flatnonzero(is_flagged.any(axis=0))
    # Most photos show little above the threshold, and what lies around it need not be labelled.
    y, x = int(rows[0]), int(columns[0])
    window = slice(y, int(rows[-1]) + 1), slice(x, int(columns[-1]) + 1)
    is_flagged, scores = np.ascontiguousarray(is_flagged[window]), map[window]
    count, labels, boxes, centroids = cv2.connectedComponentsWithStats(
        is_flagged.view(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    areas = boxes[:, cv2.CC_STAT_AREA]
    peaks, positions = _peaks(labels, scores, is_flagged, count)
    # Label 0 is what lies outside.
    order = 1 + np.lexsort((positions[1:], -peaks[1:]))
    width = is_flagged.shape[1]
    described = []
    for label in order[:most].tolist():
        left, top, w, h, area = boxes[label].tolist()
        peak_y, peak_x = divmod(int(positions[label]), width)
        centre_x, centre_y = centroids[label].tolist()
        described.append(
            Region(
                box=(y + top, x + left, h, w),
                area_px=area,
                peak=float(peaks[label]),
                peak_at=(y + peak_y, x + peak_x),
                centroid=(y + centre_y, x + centre_x),
            )
        )
    return Regions(
        described=tuple(described),
        count=count - 1,
        flagged_px=int(areas[1:].sum(dtype=np.int64)),
        largest_px=int(areas[1:].max()),
    )


def _peaks(
    labels: np.ndarray, scores: np.ndarray, is_flagged: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each label's highest score, and where it is first met: (count,) float32 and int64."""
    labels, values = labels[is_flagged], scores[is_flagged]  # (N,) in reading order
    peaks = np.full(count, -np.inf, np.float32)
    np.maximum.at(peaks, labels, values)
    is_peak = values == peaks[labels]
    found, first = np.unique(labels[is_peak], return_index=True)
    positions = np.zeros(count, np.int64)
    positions[found] = np.flatnonzero(is_flagged)[is_peak][first]
    return peaks, positions
