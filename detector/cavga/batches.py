"""Where CAVGA's batches come from: normal images, and anomalous ones where some are known."""

from __future__ import annotations

import numpy as np

from detector.anomalous_images import AnomalousImages
from detector.cavga.trainee import CavgaBatch
from detector.dataset import TripletSampler
from manifests.errors import ModelError
from manifests.negative_set import NegativeSet

_EPOCH_STREAM, _REPLACEMENT_STREAM, _ANOMALY_STREAM = 4, 5, 6
ANOMALOUS_SHARE = 0.5
"""Anomalous images per normal one."""


class NormalBatches:
    """Batches of normal images alone.

    An epoch is a random order of the normals cut into whole batches; where there are fewer than a
    batch holds, they are drawn with replacement. A batch depends on seed and number only.

    Args:
        negative_set: open.
        batch: normals per update.
        seed: of all draws.
        anomalous: images known to be anomalous, half as many of which join each batch.
        left_out: (n_normals,) bool, normals that are not drawn; None for none.

    Raises:
        ModelError: no normal is left.
    """

    def __init__(
        self,
        negative_set: NegativeSet,
        *,
        batch: int,
        seed: int,
        anomalous: AnomalousImages | None = None,
        left_out: np.ndarray | None = None,
    ) -> None:
        self._set = negative_set
        is_used = np.ones(negative_set.n_normals, bool) if left_out is None else ~left_out
        self._rows = np.flatnonzero(is_used)
        if not len(self._rows):
            raise ModelError("no normal images to train on", path=negative_set.path)
        self._batch = batch
        self._seed = seed
        self._anomalous = anomalous

    def __call__(self, update: int) -> CavgaBatch:
        """The batch of an update, by its number from 0. Raises SetError."""
        total, count = len(self._rows), self._batch
        if total < count:
            rng = np.random.default_rng([self._seed, _REPLACEMENT_STREAM, update])
            rows = rng.integers(total, size=count)
        else:
            epoch, part = divmod(update, total // count)
            rng = np.random.default_rng([self._seed, _EPOCH_STREAM, epoch])
            rows = rng.permutation(total)[part * count : (part + 1) * count]
        normals = [self._set.normal(int(row)) for row in self._rows[rows]]
        images = [normal.image for normal in normals]
        boxes = [normal.canvas_box for normal in normals]
        if self._anomalous is not None:
            rng = np.random.default_rng([self._seed, _ANOMALY_STREAM, update])
            wanted = max(1, round(ANOMALOUS_SHARE * count))
            for number in rng.integers(len(self._anomalous), size=wanted):
                images.append(self._anomalous.images[number])
                boxes.append(self._anomalous.boxes[number])
        return CavgaBatch(np.stack(images), np.array(boxes, dtype=np.int64), count)


class NegativeBatches:
    """Batches of normal images and of negatives made of them, which stand for anomalies.

    Args:
        negative_set: open; `sampler` draws from it.
        sampler: of images.
    """

    def __init__(self, negative_set: NegativeSet, sampler: TripletSampler) -> None:
        self._set = negative_set
        self._sampler = sampler

    def __call__(self, update: int) -> CavgaBatch:
        """The batch of an update, by its number from 0. Raises SetError."""
        batch = self._sampler.batch(update)
        count = self._sampler.normals_per_batch
        boxes = np.array(
            [self._set.normal(int(row)).canvas_box for row in batch.rows[:count]], dtype=np.int64
        )
        guide = np.concatenate([np.arange(n) % count for n in self._sampler.counts])
        return CavgaBatch(batch.required_images(), boxes[guide], count)
