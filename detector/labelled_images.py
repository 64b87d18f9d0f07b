"""Test images with their ground truth, streamed or all at once, before anything is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detector.image_stream import ImageStream
from manifests.datasets import Category, Sample
from manifests.errors import BadImages, CutswapError, DataError, ImageError
from manifests.images import (
    DEFAULT_MAX_PIXELS,
    Geometry,
    Placement,
    cropped_fraction,
    fit_mask,
    read_mask,
)


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Some test images, ready to be scored.

    Attributes:
        samples: B of them.
        canvases: (B, H, W, 3) uint8 RGB.
        boxes: (B, 4) int64 canvas boxes, `y, x, h, w` in px.
        placements: B of them, back to the originals.
        masks: (B, H, W) bool ground truth on the canvas.
        has_truth: (B,) bool, False where a defective image has no mask or an empty one.
    """

    samples: tuple[Sample, ...]
    canvases: np.ndarray
    boxes: np.ndarray
    placements: tuple[Placement, ...]
    masks: np.ndarray
    has_truth: np.ndarray


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about n test images without scoring them.

    Attributes:
        samples: those that were read, in order.
        labels: (n,) bool, True for defective.
        boxes: (n, 4) int64 canvas boxes, `y, x, h, w` in px.
        masks: (n, H, W) bool ground truth on the canvas.
        valid: (n, H, W) bool, False on padding.
        has_truth: (n,) bool, False where a defective image has no mask or an empty one: it counts
            for image metrics only.
        without_mask: sources of those images.
        excluded: sources left out because they were trained on.
        skipped: errors of unusable images that were left out on request.
        cropped: (source, fraction of its defect's area that the crop lost).
        too_small: of `without_mask`, those whose mask marks less than the canvas can show.
    """

    samples: tuple[Sample, ...]
    labels: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
    valid: np.ndarray
    has_truth: np.ndarray
    without_mask: tuple[str, ...]
    excluded: tuple[str, ...]
    skipped: tuple[CutswapError, ...]
    cropped: tuple[tuple[str, float], ...]
    too_small: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class TestImages:
    """All test images of a category in memory, to be scored by several detectors.

    Attributes:
        canvases: (n, H, W, 3) uint8 RGB.
        truth: everything else.
    """

    canvases: np.ndarray
    truth: Truth

    def __len__(self) -> int:
        """The number of images."""
        return len(self.canvases)

    def batches(self, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Canvases (B, H, W, 3) and boxes (B, 4), in order, at most `batch` at a time."""
        for start in range(0, len(self), batch):
            rows = slice(start, start + batch)
            yield self.canvases[rows], self.truth.boxes[rows]


class LabelledStream:
    """A category's test images in batches, files that were trained on left out.

    `truth` gives, after the last batch, what all of them had in common; the canvases are not kept.

    Args:
        geometry: the canvas.
        training_files: SHA-256 of files to leave out.
        training_pixels: digests of canvases to leave out, whatever file they come from.
        batch: images at a time.
        max_pixels: larger images are refused.
        skip_bad: leave unusable images and masks out instead of failing after the last one.
        progress: called with (images read, images).

    Raises:
        DataError: the category has no test images.
    """

    def __init__(
        self,
        category: Category,
        geometry: Geometry,
        *,
        training_files: frozenset[str],
        training_pixels: frozenset[str] = frozenset(),
        batch: int,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        skip_bad: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not category.test:
            raise DataError(
                "no test images",
                path=category.root,
                expected="a test/ folder, or defective images",
                hint="use cutswap-det score for images without labels",
            )
        self.category = category
        self.geometry = geometry
        self.max_pixels = max_pixels
        self.skip_bad = skip_bad
        self.progress = progress
        self._images = ImageStream(
            [sample.path for sample in category.test],
            geometry,
            batch=batch,
            max_pixels=max_pixels,
            skip_bad=skip_bad,
            exclude=training_files,
            exclude_pixels=training_pixels,
        )
        self._kept: list[Sample] = []
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._mask_errors: list[CutswapError] = []
        self._cropped: list[tuple[str, float]] = []
        self._too_small: list[str] = []

    def __iter__(self) -> Iterator[LabelledBatch]:
        """Yields the batches, once.

        Raises:
            DataError: all images were trained on or unusable.
            BadImages: unreadable images, or masks missing or of another size, unless `skip_bad`.
        """
        tests = self.category.test
        for loaded in self._images:
            samples, canvases, placements, masks = [], [], [], []
            for image in loaded:
                sample = tests[image.index]
                try:
                    mask = self._mask(sample, image.placement)
                except ImageError as error:
                    self._mask_errors.append(error)
                    continue
                samples.append(sample)
                canvases.append(image.canvas)
                placements.append(image.placement)
                masks.append(mask)
            if samples:
                batch = LabelledBatch(
                    samples=tuple(samples),
                    canvases=np.stack(canvases),
                    boxes=np.array([one.canvas_box for one in placements], dtype=np.int64),
                    placements=tuple(placements),
                    masks=np.stack(masks),
                    has_truth=np.array(
                        [s.label == 0 or m.any() for s, m in zip(samples, masks, strict=True)]
                    ),
                )
                self._kept += samples
                self._parts.append((batch.boxes, batch.masks, batch.has_truth))
                yield batch
            if self.progress is not None:
                self.progress(loaded[-1].index + 1, len(tests))
        if self._mask_errors and not self.skip_bad:
            raise BadImages(self._mask_errors)
        if not self._kept:
            excluded, errors = len(self._images.excluded), len(self._images.errors)
            raise DataError(
                "no test image left",
                path=self.category.root,
                got=f"{excluded} trained on, {errors + len(self._mask_errors)} unusable",
                hint="test on images that the model has not seen",
            )

    def truth(self) -> Truth:
        """Of all batches; call it after the last one."""
        boxes, masks, has_truth = map(np.concatenate, zip(*self._parts, strict=True))
        return Truth(
            samples=tuple(self._kept),
            labels=np.array([sample.label == 1 for sample in self._kept]),
            boxes=boxes,
            masks=masks,
            valid=_valid_pixels(boxes, self.geometry),
            has_truth=has_truth,
            without_mask=tuple(
                sample.source
                for sample, known in zip(self._kept, has_truth, strict=True)
                if not known
            ),
            excluded=tuple(self.category.test[i].source for i in self._images.excluded),
            skipped=(*self._images.errors, *self._mask_errors),
            cropped=tuple(self._cropped),
            too_small=tuple(self._too_small),
        )

    def _mask(self, sample: Sample, placement: Placement) -> np.ndarray:
        """(H, W) bool ground truth on the canvas; empty where the layout has none."""
        truth = _original_mask(sample, self.category, placement, self.max_pixels)
        if truth is None:
            return np.zeros((self.geometry.height, self.geometry.width), dtype=bool)
        if (lost := cropped_fraction(truth, placement)) > 0:
            self._cropped.append((sample.source, lost))
        fitted = fit_mask(truth, placement)
        if lost < 1 and truth.any() and not fitted.any():
            self._too_small.append(sample.source)
        return fitted


def load_test_images(
    geometry: Geometry,
    training_files: frozenset[str],
    category: Category,
    *,
    training_pixels: frozenset[str] = frozenset(),
    batch: int = 8,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TestImages:
    """Reads a category's test images once, 5 bytes per pixel of the canvas each.

    Args:
        training_files, training_pixels: of images to leave out, see `LabelledStream`.

    Raises:
        DataError: no test images, or all were trained on.
        BadImages: unreadable images, or masks missing or of another size, unless `skip_bad`.
    """
    stream = LabelledStream(
        category,
        geometry,
        training_files=training_files,
        training_pixels=training_pixels,
        batch=batch,
        max_pixels=max_pixels,
        skip_bad=skip_bad,
        progress=progress,
    )
    canvases = np.concatenate([labelled.canvases for labelled in stream])
    return TestImages(canvases, stream.truth())


def _valid_pixels(boxes: Sequence[Sequence[int]] | np.ndarray, geometry: Geometry) -> np.ndarray:
    valid = np.zeros((len(boxes), geometry.height, geometry.width), dtype=bool)
    for inside, (y, x, h, w) in zip(valid, boxes, strict=True):
        inside[y : y + h, x : x + w] = True
    return valid if geometry.roi is None else valid & geometry.roi.mask


def _original_mask(
    sample: Sample, category: Category, placement: Placement, max_pixels: int
) -> np.ndarray | None:
    """(H0, W0) bool ground truth in original pixels; None where there is nothing to see."""
    if sample.label == 0 or sample.mask is None:
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
