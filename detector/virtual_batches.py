"""Virtual batches: the equal parts of a batch whose batch-norm statistics are their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from detector.processes import Processes
from manifests.errors import ConfigError


def check_virtual_batches(
    counts: Sequence[int], n_virtual: int, n_processes: int, *, labels: Sequence[str]
) -> None:
    """Raises ConfigError where batches cannot be split, or their parts not be shared out.

    Args:
        counts: images of each class in a batch, by label.
        n_virtual: virtual batches of an update.
        n_processes: that share them.
        labels: the class names by label.

    Source: ours.
    """
    if n_virtual % n_processes:
        raise ConfigError(
            "the virtual batches cannot be shared out evenly",
            expected=f"--virtual-batches {n_processes} or a multiple of it, for {n_processes} "
            "processes",
            got=n_virtual,
        )
    for count, label in zip(counts, labels, strict=True):
        if count % n_virtual:
            raise ConfigError(
                f"the batch's {label} images cannot be split evenly",
                expected=f"a multiple of {n_virtual} (--virtual-batches)",
                got=count,
                hint="change --batch, the shares of --negatives, or --virtual-batches",
            )


class RunningStatistics:
    """Running statistics of batch norms over the virtual batches of one update.

    Each virtual batch moves them from where the update found them, and the update moves them by the
    mean of these moves: `r + mean_v(m * (s_v - r))`, with momentum m and statistics s_v of batch v.
    So the order of the virtual batches does not matter, processes can work on them at the same
    time, and an update forgets as much of the past as it does with one batch. Batch norms that do
    not run stay as they are.

    Args:
        batch_norms: in training mode, the same on all processes.

    Source: virtual ("ghost") batches from Hoffer et al. 2017, "Train longer, generalize better".
    Differs: there every virtual batch moves the statistics of the one before, which needs an order.
    """

    def __init__(self, batch_norms: Sequence[_BatchNorm]) -> None:
        # Their counters of batches among them: they move by one per update.
        self._tensors = [
            tensor
            for batch_norm in batch_norms
            if batch_norm.training
            for tensor in batch_norm.buffers()
        ]
        self._before = [tensor.clone() for tensor in self._tensors]
        self._moves = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in self._tensors]

    @torch.no_grad()
    def take(self) -> None:
        """Note what one virtual batch has done, and undo it for the next."""
        for tensor, before, move in zip(self._tensors, self._before, self._moves, strict=True):
            move += tensor
            move -= before
            tensor.copy_(before)

    @torch.no_grad()
    def settle(self, n_virtual: int, processes: Processes) -> None:
        """Move by the mean over all virtual batches of all processes.

        Args:
            n_virtual: how many there are in all.
            processes: that share them.
        """
        if not self._tensors:
            return
        total = processes.sum_(torch.cat([move.flatten() for move in self._moves]))
        sizes = [move.numel() for move in self._moves]
        for tensor, move in zip(self._tensors, total.split(sizes), strict=True):
            tensor.add_((move / n_virtual).view_as(tensor).to(tensor.dtype))
