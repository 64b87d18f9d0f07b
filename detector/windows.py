"""Batches of windows: what a training on tiles sees of large images."""

from __future__ import annotations

import numpy as np

from detector.dataset import TripletSampler
from detector.training_batch import TrainingBatch

_WINDOW_STREAM = 3


class WindowSampler:
    """The batches of another sampler, each image cut to a square window (`Batches`).

    The window of a negative holds an edited pixel, each as likely as the others. That of a normal
    is the window of one of its negatives in the batch: were it drawn anywhere, saliency would tell
    the classes apart, for edits lie where it is high. Windows follow from the seed, the number of
    the update and the image's place in its batch.

    Args:
        whole: draws the images; its masks say where the windows of negatives may lie.
        tile_px: side of a window; images that are smaller along an axis stay whole there.

    Source: ours.
    """

    def __init__(self, whole: TripletSampler, tile_px: int) -> None:
        self._whole = whole
        self._tile_px = tile_px
        self.normals_per_batch = whole.normals_per_batch
        self.seed = whole.seed
        self.labels = whole.labels
        self.shares = whole.shares
        self.levels = whole.levels
        self.counts = whole.counts
        self.rows = whole.rows
        self.set_digest = whole.set_digest
        self.n_usable = whole.n_usable
        self.n_skipped = whole.n_skipped
        self.is_with_replacement = whole.is_with_replacement

    def batch(
        self,
        update: int,
        *,
        with_images: bool = True,
        with_masks: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> TrainingBatch:
        """The windows that one update sees; see `TripletSampler.batch`.

        Returns:
            images (N, h, w, 3) and masks (N, h, w), at most `tile_px` along either axis.

        Raises:
            SetError: a shard that cannot be read.
        """
        drawn = self._whole.batch(update, with_images=with_images, with_masks=True, part=part)
        assert drawn.masks is not None
        corners = self._corners(update, drawn)
        return TrainingBatch(
            labels=drawn.labels,
            rows=drawn.rows,
            images=None if drawn.images is None else self._cut(drawn.images, corners),
            masks=self._cut(drawn.masks, corners) if with_masks else None,
            places=drawn.places,
            n_whole=drawn.n_whole,
        )

    def image(self, row: int) -> np.ndarray:
        """One whole image; see `TripletSampler.image`."""
        return self._whole.image(row)

    def _corners(self, update: int, drawn: TrainingBatch) -> np.ndarray:
        """(N, 2) int64, rows and columns of the windows' upper left corners."""
        assert drawn.masks is not None
        n = len(drawn.labels)
        places = np.arange(n) if drawn.places is None else drawn.places
        corners = np.zeros((n, 2), dtype=np.int64)
        room = np.maximum(np.array(drawn.masks.shape[1:]) - self._tile_px, 0)
        is_normal = drawn.labels == 0
        streams = [
            np.random.default_rng([self.seed, _WINDOW_STREAM, update, int(place)])
            for place in places
        ]
        for i in np.flatnonzero(~is_normal):
            edited = np.argwhere(drawn.masks[i])
            if not len(edited):
                corners[i] = streams[i].integers(room + 1)
                continue
            pixel = edited[streams[i].integers(len(edited))]
            low = np.clip(pixel - self._tile_px + 1, 0, room)
            corners[i] = streams[i].integers(low, np.minimum(pixel, room) + 1)
        # Image k of a kind belongs to normal k modulo B. A normal without one here, as with shares
        # under 1, takes the window of some negative all the same.
        starts = np.cumsum([0, *self.counts[:-1]])
        owners = (places - starts[drawn.labels]) % self.normals_per_batch
        negatives = np.flatnonzero(~is_normal)
        for normal in np.flatnonzero(is_normal):
            own = negatives[owners[negatives] == owners[normal]]
            chosen = own if len(own) else negatives
            corners[normal] = corners[chosen[streams[normal].integers(len(chosen))]]
        return corners

    def _cut(self, images: np.ndarray, corners: np.ndarray) -> np.ndarray:
        side = self._tile_px
        return np.stack(
            [one[y : y + side, x : x + side] for one, (y, x) in zip(images, corners, strict=True)]
        )
