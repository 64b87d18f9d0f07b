"""Scores a category's test images and keeps what metrics and pictures need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detector.detectors.base import Scores
from detector.labelled_images import LabelledStream, Truth
from detector.labelled_images import TestImages as TestImages
from detector.labelled_images import load_test_images as load_test_images
from detector.model import Model
from detector.score_ahead import score_ahead
from manifests.datasets import Category, Sample
from manifests.errors import CutswapError


@dataclass(frozen=True)
class Evaluation:
    """Scores, maps and masks of a category's test images, training files left out.

    Attributes:
        samples: those that were scored, in order.
        scores: (n,) float32 raw image scores.
        labels: (n,) bool, True for defective.
        maps: (n, H, W) float32 score maps on the canvas.
        masks: (n, H, W) bool ground truth on the canvas.
        valid: (n, H, W) bool, False on padding.
        has_truth: (n,) bool, False where a defective image has no mask or an empty one: it counts
            for image metrics only.
        without_mask: sources of those images.
        excluded: sources left out because they were trained on.
        skipped: errors of unusable images that were left out on request.
        cropped: (source, fraction of its defect's area that the crop lost).
    """

    samples: tuple[Sample, ...]
    scores: np.ndarray
    labels: np.ndarray
    maps: np.ndarray
    masks: np.ndarray
    valid: np.ndarray
    has_truth: np.ndarray
    without_mask: tuple[str, ...]
    excluded: tuple[str, ...]
    skipped: tuple[CutswapError, ...]
    cropped: tuple[tuple[str, float], ...]


def evaluation_of(truth: Truth, scores: Scores) -> Evaluation:
    """An evaluation from test images' truth and any detector's scores of them, in order.

    Raises:
        ValueError: not one score and one map per image.
    """
    n = len(truth.samples)
    if scores.image.shape != (n,) or scores.map.shape != truth.masks.shape:
        raise ValueError(
            f"scores {scores.image.shape} and maps {scores.map.shape} of {n} images on "
            f"{truth.masks.shape[1:]} px"
        )
    return Evaluation(
        samples=truth.samples,
        scores=scores.image,
        labels=truth.labels,
        maps=scores.map,
        masks=truth.masks,
        valid=truth.valid,
        has_truth=truth.has_truth,
        without_mask=truth.without_mask,
        excluded=truth.excluded,
        skipped=truth.skipped,
        cropped=truth.cropped,
    )


def evaluate(
    model: Model,
    category: Category,
    *,
    max_pixels: int,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores every test image that the model was not trained on, a batch in memory at a time.

    Raises:
        DataError: the category has no test images, or all were trained on.
        BadImages: unreadable images, or masks missing or of another size, unless `skip_bad`.
    """
    stream = LabelledStream(
        category,
        model.geometry,
        training_files=model.training_files,
        batch=model.config.batch,
        max_pixels=max_pixels,
        skip_bad=skip_bad,
        progress=progress,
    )
    scored = score_ahead(model.detector, stream, lambda batch: (batch.canvases, batch.boxes))
    found = [scores for _, scores in scored]
    scores = Scores(
        np.concatenate([scores.image for scores in found]),
        np.concatenate([scores.map for scores in found]),
    )
    return evaluation_of(stream.truth(), scores)
