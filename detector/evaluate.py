"""Scores a category's test images and keeps what metrics and pictures need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from detector.detectors.base import Scores
from detector.labelled_images import LabelledStream, Truth
from detector.labelled_images import TestImages as TestImages
from detector.labelled_images import load_test_images as load_test_images
from detector.min_area import ANY_AREA, MinArea
from detector.model import Model
from detector.score_ahead import score_ahead
from detector.scored_image import judge
from manifests.datasets import Category, Sample
from manifests.digest import file_digest
from manifests.errors import CutswapError
from manifests.images import restore_map
from manifests.layouts.base import ordered


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
        too_small: of `without_mask`, those whose mask marks less than the canvas can show.
        verdicts: (n,) bool, True where the model calls a part defective; None where scores alone
            are known.
        min_area: what the verdicts ask of regions.
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
    too_small: tuple[str, ...] = ()
    verdicts: np.ndarray | None = None
    min_area: MinArea = ANY_AREA


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
        too_small=truth.too_small,
    )


def evaluate(
    model: Model,
    category: Category,
    *,
    max_pixels: int,
    min_area: MinArea = ANY_AREA,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores every test image that the model was not trained on, a batch in memory at a time.

    Left out are files that it has seen, and normals of its bank in other files. Where training
    images were drawn by another seed than those of its set, all good ones that it has not seen are
    test images.

    The verdicts are those of `score`: regions are measured in original pixels.

    Raises:
        DataError: the category has no test images, or all were trained on.
        BadImages: unreadable images, or masks missing or of another size, unless `skip_bad`.
    """
    if category.is_drawn:
        category = _drawn_as_for(model, category)
    stream = LabelledStream(
        category,
        model.geometry,
        training_files=model.training_files,
        training_pixels=model.training_pixels,
        batch=model.config.batch,
        max_pixels=max_pixels,
        skip_bad=skip_bad,
        progress=progress,
    )
    found, verdicts = [], []
    for batch, scores in score_ahead(
        model.detector, stream, lambda batch: (batch.canvases, batch.boxes)
    ):
        found.append(scores)
        for placement, score, canvas_map in zip(
            batch.placements, scores.image, scores.map, strict=True
        ):
            verdict = judge(
                model,
                score,
                partial(restore_map, canvas_map, placement),
                height=placement.source_height,
                width=placement.source_width,
                min_area=min_area,
            )
            verdicts.append(verdict.is_defect)
    scores = Scores(
        np.concatenate([scores.image for scores in found]),
        np.concatenate([scores.map for scores in found]),
    )
    return replace(
        evaluation_of(stream.truth(), scores), verdicts=np.array(verdicts), min_area=min_area
    )


def _drawn_as_for(model: Model, category: Category) -> Category:
    """The category, where none of its good test images was seen; else with another split."""
    good = [sample for sample in category.test if sample.label == 0]
    if not any(_digest(sample) in model.training_files for sample in good):
        return category
    samples = []
    for sample in category.samples:
        is_unseen = sample.split == "train" and _digest(sample) not in model.training_files
        samples.append(replace(sample, split="test") if is_unseen else sample)
    return replace(category, samples=ordered(samples))


def _digest(sample: Sample) -> str:
    try:
        return file_digest(sample.path)
    except OSError:
        return ""  # no model has seen it
