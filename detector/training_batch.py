"""What one training update sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images of one update, normals first, then one kind of negatives after the other.

    Attributes:
        labels: (N,) int64, 0 for normal, then the kinds in the order of the sampler's `labels`.
        rows: (N,) int64, which image of the set each is: normal i is row i, negative j is row
            n_normals + j.
        images: (N, H, W, 3) uint8 RGB; None where they were not asked for.
        masks: (N, H, W) bool, the edited pixels, none in a normal; None where not asked for.
        places: (N,) int64, where each image stands in the batch of the whole update; None where
            this is the whole.
        n_whole: images in the batch of the whole update, where this is a part of it.
    """

    labels: np.ndarray
    rows: np.ndarray
    images: np.ndarray | None = field(default=None, repr=False)
    masks: np.ndarray | None = field(default=None, repr=False)
    places: np.ndarray | None = None
    n_whole: int | None = None

    def part(self, number: int, of: int) -> TrainingBatch:
        """One of `of` equal parts, each with as many images of every class; see `part_places`.

        Source: ours.
        """
        if of == 1:
            return self
        inside = self.inside(number, of)
        whole = np.arange(len(self.labels)) if self.places is None else self.places
        return TrainingBatch(
            labels=self.labels[inside],
            rows=self.rows[inside],
            images=None if self.images is None else self.images[inside],
            masks=None if self.masks is None else self.masks[inside],
            places=whole[inside],
            n_whole=len(self.labels) if self.n_whole is None else self.n_whole,
        )

    def required_images(self) -> np.ndarray:
        """The images. Raises ValueError where they were not asked for."""
        if self.images is None:
            raise ValueError("this batch was drawn without its images")
        return self.images

    def inside(self, number: int, of: int) -> np.ndarray:
        """Where the images of a part stand in this batch, int64."""
        return part_places(np.unique(self.labels, return_counts=True)[1].tolist(), number, of)


def part_places(counts: Sequence[int], number: int, of: int) -> np.ndarray:
    """Where the images of one part of a batch stand in it: a slice of every class, in order.

    A part of a part is a part: part i of m of part j of n is part `j * m + i` of `m * n`.

    Args:
        counts: images of each class, by label; `of` divides all of them.
        number: of the part, from 0.
        of: how many parts there are.

    Returns:
        (sum(counts) / of,) int64, ascending.

    Source: ours.
    """
    ends = np.cumsum(counts)
    slices = [
        np.arange(end - n + n * number // of, end - n + n * (number + 1) // of)
        for n, end in zip(counts, ends, strict=True)
    ]
    return np.concatenate(slices)
