"""Scores of training images against a bank without their own patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from detector.detectors.base import Coverage, NormalBatches
from detector.training_features import TrainingFeatures
from manifests.errors import ModelError

if TYPE_CHECKING:
    from detector.detectors.patchcore import PatchCore


def leave_one_out(
    detector: PatchCore,
    source: TrainingFeatures | NormalBatches,
    *,
    first_image: int,
    blocks: int,
) -> tuple[np.ndarray, np.ndarray, Coverage]:
    """Scores training images without their own entries, and sees how far they are from the bank.

    Args:
        detector: with a bank.
        source: training images, or what the detector's `collect` made of them.
        first_image: number of the first of them among the bank's images.
        blocks: see `Coverage`.

    Returns:
        image scores (n,) and maxima of the score maps (n,), float32; and the coverage, in which
        entries of an image's own count.

    Raises:
        ModelError: fewer than two images, or a bank from one image alone.

    Source: ours; see `PatchCore.training_scores`.
    """
    n, bank = len(source), detector.bank
    if n < 2 and bool((bank.image_index == first_image).all()):
        raise ModelError(
            "training scores need other images to compare with", expected="at least 2 images", got=n
        )
    image = np.empty(n, dtype=np.float32)
    maxima = np.empty(n, dtype=np.float32)
    radius, total, rows = 0.0, 0.0, 0
    for i, (patches, valid, boxes) in enumerate(_each_image(detector, source)):
        own = first_image + i
        found = bank.nearest(patches, exclude_image=own)
        scores = detector.score_found(patches, found, valid, boxes, exclude_image=own)
        image[i], maxima[i] = scores.image[0], scores.map.max()
        covered = bank.nearest_own(patches, found[0], image=own)
        radius = max(radius, float(covered.max()))
        total, rows = total + float(covered.sum(dtype=torch.float64)), rows + len(covered)
    return image, maxima, Coverage(radius, total / rows, blocks, rows)


def _each_image(
    detector: PatchCore, source: TrainingFeatures | NormalBatches
) -> Iterator[tuple[torch.Tensor, np.ndarray, np.ndarray]]:
    """What the detector's `patches` returns, for one training image at a time."""
    if isinstance(source, TrainingFeatures):
        for i in range(len(source)):
            features = source.features[source.rows(i)].to(detector.device)
            yield features, source.valid[i : i + 1], source.boxes[i : i + 1]
        return
    for images, canvas_boxes in source:
        features, valid, boxes = detector.patches(images, canvas_boxes)
        ends = valid.sum((1, 2)).cumsum()
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            yield features[start:end], valid[i : i + 1], boxes[i : i + 1]
