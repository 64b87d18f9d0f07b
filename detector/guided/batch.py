"""What one update of guided segmentation sees: images, their masks, and what guides each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from detector.dataset import TripletSampler
from detector.training_batch import TrainingBatch

_REFERENCE_STREAM = 3


class NormalSource(Protocol):
    """The part of `manifests.negative_set.NegativeSet` that references come from."""

    def normal(self, index: int) -> Any: ...  # has .image (H, W, 3) uint8 and .canvas_box


@dataclass(frozen=True, eq=False)
class GuidedBatch:
    """Images and references of one update.

    Attributes:
        images: normals first, then their negatives, with masks.
        boxes: (N, 4) int64, `y, x, h, w` of what is not padding in each image.
        references: (B, H, W, 3) uint8, one per normal; None where there is no guidance.
        reference_boxes: (B, 4) int64.
        guide: (N,) int64, which of the references guides each image.
    """

    images: TrainingBatch
    boxes: np.ndarray
    references: np.ndarray | None
    reference_boxes: np.ndarray | None
    guide: np.ndarray


class GuidedBatches:
    """Reads the batches of guided segmentation.

    A normal and the negatives made of it have one reference, another normal among its most similar
    ones: guidance is computed once for all of them.

    Args:
        negative_set: where normals come from; open.
        sampler: of images.
        neighbours: (n_normals, n) int64, the normals most similar to each, itself not among them;
            None for no guidance.

    Source: NIGSF (IEEE TCSVT 34(6), 2024): one of the five most similar normals, at random.
    Differs: one draw per normal and update, not per image.
    """

    def __init__(
        self, negative_set: NormalSource, sampler: TripletSampler, neighbours: np.ndarray | None
    ) -> None:
        self._set = negative_set
        self._sampler = sampler
        self._neighbours = neighbours

    def __call__(self, update: int) -> GuidedBatch:
        """The batch of an update, by its number from 0; the same whenever it is asked for.

        Raises:
            SetError: a shard that cannot be read.
        """
        sampler = self._sampler
        images = sampler.batch(update, with_masks=True)
        count = sampler.normals_per_batch
        guide = np.concatenate([np.arange(n) % count for n in sampler.counts])
        rows = images.rows[:count]
        boxes = np.array([self._set.normal(int(row)).canvas_box for row in rows], dtype=np.int64)
        references = reference_boxes = None
        if self._neighbours is not None:
            rng = np.random.default_rng([sampler.seed, _REFERENCE_STREAM, update])
            picks = rng.integers(self._neighbours.shape[1], size=count)
            chosen = [self._set.normal(int(row)) for row in self._neighbours[rows, picks]]
            references = np.stack([normal.image for normal in chosen])
            reference_boxes = np.array([normal.canvas_box for normal in chosen], dtype=np.int64)
        return GuidedBatch(images, boxes[guide], references, reference_boxes, guide)
