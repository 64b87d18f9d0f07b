"""Scores a category's test images and keeps what metrics and pictures need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detector.image_stream import ImageStream
from detector.model import Model
from manifests.datasets import Category, Sample
from manifests.errors import BadImages, CutswapError, DataError, ImageError
from manifests.images import cropped_fraction, fit_mask, read_mask


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


def evaluate(
    model: Model,
    category: Category,
    *,
    max_pixels: int,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores every test image that the model was not trained on.

    Raises:
        DataError: the category has no test images, or all were trained on.
        BadImages: unreadable images, or masks missing or of another size, unless `skip_bad`.
    """
    tests = category.test
    if not tests:
        raise DataError(
            "no test images",
            path=category.root,
            expected="a test/ folder, or defective images",
            hint="use cutswap-det score for images without labels",
        )
    stream = ImageStream(
        [sample.path for sample in tests],
        model.geometry,
        batch=model.config.batch,
        max_pixels=max_pixels,
        skip_bad=skip_bad,
        exclude=model.training_files,
    )
    kept: list[Sample] = []
    scores, maps, masks, valid, has_truth = [], [], [], [], []
    mask_errors: list[CutswapError] = []
    cropped: list[tuple[str, float]] = []
    for batch in stream:
        ready = []
        for loaded in batch:
            sample = tests[loaded.index]
            try:
                truth = _truth(sample, category, loaded.placement, max_pixels)
            except ImageError as error:
                mask_errors.append(error)
                continue
            ready.append((loaded, sample, truth))
        if not ready:
            continue
        found = model.detector.score(
            np.stack([loaded.canvas for loaded, _, _ in ready]),
            [loaded.placement.canvas_box for loaded, _, _ in ready],
        )
        scores.append(found.image)
        maps.append(found.map)
        for loaded, sample, truth in ready:
            y, x, h, w = loaded.placement.canvas_box
            inside = np.zeros((model.geometry.height, model.geometry.width), dtype=bool)
            inside[y : y + h, x : x + w] = True
            mask = np.zeros_like(inside) if truth is None else fit_mask(truth, loaded.placement)
            if truth is not None and (lost := cropped_fraction(truth, loaded.placement)) > 0:
                cropped.append((sample.source, lost))
            kept.append(sample)
            masks.append(mask)
            valid.append(inside)
            has_truth.append(sample.label == 0 or bool(mask.any()))
        if progress is not None:
            progress(batch[-1].index + 1, len(tests))
    if mask_errors and not skip_bad:
        raise BadImages(mask_errors)
    if not kept:
        raise DataError(
            "no test image left",
            path=category.root,
            got=f"{len(stream.excluded)} trained on, {len(stream.errors)} unusable",
            hint="test on images that the model has not seen",
        )
    return Evaluation(
        samples=tuple(kept),
        scores=np.concatenate(scores),
        labels=np.array([sample.label == 1 for sample in kept]),
        maps=np.concatenate(maps),
        masks=np.stack(masks),
        valid=np.stack(valid),
        has_truth=np.array(has_truth),
        without_mask=tuple(
            sample.source for sample, known in zip(kept, has_truth, strict=True) if not known
        ),
        excluded=tuple(tests[index].source for index in stream.excluded),
        skipped=(*stream.errors, *mask_errors),
        cropped=tuple(cropped),
    )


def _truth(sample: Sample, category: Category, placement, max_pixels: int) -> np.ndarray | None:
    """(H0, W0) bool ground truth in original pixels; None where the layout has none."""
    if sample.label == 0:
        return np.zeros((placement.source_height, placement.source_width), dtype=bool)
    if sample.mask is None:
        return None
    mask = read_mask(sample.mask, binarise_at=category.mask_binarise_at, max_pixels=max_pixels)
    expected = (placement.source_height, placement.source_width)
    if mask.shape != expected:
        raise ImageError(
            f"mask of another size than its image {sample.source}",
            path=sample.mask,
            expected=f"{expected[0]}x{expected[1]}",
            got=f"{mask.shape[0]}x{mask.shape[1]}",
            hint="repair the mask, or pass --skip-bad",
        )
    return mask
