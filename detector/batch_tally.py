"""What the log says of an update, added up over the parts of its batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from detector.patch_loss import balanced_accuracy
from detector.processes import Processes

_N_CELL_COUNTS = 4


class BatchTally:
    """Losses and counts of one virtual batch, or of several together.

    Accuracies are those of all images and cells together. Losses are means over virtual batches,
    each with its own weights of cells, as training follows them.

    Args:
        n_labels: number of classes of images.

    Source: ours.
    """

    def __init__(self, n_labels: int) -> None:
        self._n_labels = n_labels
        self.losses = np.zeros(2)  # the sum, and the cells' part of it
        self.images = np.zeros((2, n_labels))  # right ones and all, by label
        self.cells = np.zeros(_N_CELL_COUNTS)  # see detector.patch_loss.cell_counts

    def add_loss(self, loss: float) -> None:
        self.losses[0] += loss

    def add_images(self, found: np.ndarray, labels: np.ndarray) -> None:
        """Images (N,) int64 as they were recognised, and their labels."""
        self.images[0] += np.bincount(labels[found == labels], minlength=self._n_labels)
        self.images[1] += np.bincount(labels, minlength=self._n_labels)

    def add_cells(self, counts: Sequence[int], loss: float) -> None:
        """Cells as `cell_counts` counts them, and their loss."""
        self.cells += counts
        self.losses[1] += loss

    def add(self, other: BatchTally) -> None:
        """Take in another virtual batch."""
        self.losses += other.losses
        self.images += other.images
        self.cells += other.cells

    def share(self, processes: Processes) -> None:
        """Take in what the other processes have; all then have the same."""
        if processes.is_alone:
            return
        parts = (self.losses, self.images, self.cells)
        total = processes.sum_(torch.from_numpy(np.concatenate([part.ravel() for part in parts])))
        start = 0
        for part in parts:
            part[:] = total.numpy()[start : start + part.size].reshape(part.shape)
            start += part.size

    def loss(self, n_virtual: int) -> float:
        """The mean over virtual batches."""
        return float(self.losses[0] / n_virtual)

    def columns(self, n_virtual: int) -> list[float]:
        """The values of the log's columns from `accuracy` on (`detector.training_log`)."""
        columns: list[float] = []
        if self.images.any():
            right, n = self.images
            columns += [float(right.sum() / n.sum()), *(right / n).tolist()]
        if self.cells.any():
            accuracy = balanced_accuracy(self.cells.astype(np.int64).tolist())
            loss = float(self.losses[1] / n_virtual)
            columns += [loss, accuracy] if columns else [accuracy, accuracy]
        return columns
