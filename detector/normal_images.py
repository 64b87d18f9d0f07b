"""The normal images of a set, in batches, as often as a detector wants to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from manifests.negative_set import NegativeSet

Pass = Callable[[int, int], None]


class NormalImages:
    """A set's normal images in order, as `Detector.fit` takes them.

    Args:
        negative_set: open for as long as this is read.
        batch: images at a time.
        rows: of the set, consecutive; None for all.
        start_pass: called at the start of each pass; what it returns is called with
            (images read, images).
    """

    def __init__(
        self,
        negative_set: NegativeSet,
        batch: int,
        *,
        rows: range | None = None,
        start_pass: Callable[[], Pass] | None = None,
    ) -> None:
        self._negative_set = negative_set
        self._batch = batch
        self._rows = range(negative_set.n_normals) if rows is None else rows
        self._start_pass = start_pass

    def __len__(self) -> int:
        """The number of images."""
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[np.ndarray, list[tuple[int, int, int, int]]]]:
        """Yields images (B, H, W, 3) uint8 and their canvas boxes."""
        progress = None if self._start_pass is None else self._start_pass()
        for start in range(0, len(self), self._batch):
            part = self._rows[start : start + self._batch]
            normals = [self._negative_set.normal(row) for row in part]
            yield np.stack([normal.image for normal in normals]), [n.canvas_box for n in normals]
            if progress is not None:
                progress(start + len(part), len(self))
