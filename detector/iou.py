"""Intersection over union: how well a map, cut at one value, covers the marked defects."""

from __future__ import annotations

import numpy as np

HALF = 0.5


def mean_iou(
    maps: np.ndarray, masks: np.ndarray, valid: np.ndarray | None, *, threshold: float = HALF
) -> float | None:
    """The mean over images with a marked defect of |called and marked| / |called or marked|.

    Only maps whose values mean the same for all models can be cut at a fixed value; see
    `Detector.is_bounded`.

    Args:
        maps: (n, H, W) float32; a pixel is called where its value is above the threshold.
        masks: (n, H, W) bool, the marked defects.
        valid: (n, H, W) bool, False on padding, which counts for nothing; None: all pixels count.
        threshold: where the maps are cut.

    Returns:
        0 to 1; None where no image has a marked pixel.

    Raises:
        ValueError: shapes differ.

    Source: CAVGA (arXiv 1911.08616) cuts its maps at 0.5 and reports IoU; the mean over images
    rather than over all pixels is ours, so that large defects do not decide alone.
    """
    if maps.shape != masks.shape or (valid is not None and valid.shape != maps.shape):
        raise ValueError(f"maps {maps.shape} and masks {masks.shape} differ")
    found = []
    for i, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        called = scores > threshold
        if valid is not None:
            called, mask = called & valid[i], mask & valid[i]
        if mask.any():
            found.append(np.count_nonzero(called & mask) / np.count_nonzero(called | mask))
    return float(np.mean(found)) if found else None
