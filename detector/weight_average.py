"""The moving average of a network's weights over training."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class WeightAverage:
    """An exponential moving average of tensors, starting from what they are now.

    After update t (from 0) it moves to `d * average + (1 - d) * value`, with
    `d = min(decay, (1 + t) / (10 + t))`: the small decay of the first updates lets the average
    leave its start, which would otherwise weigh on it for `1 / (1 - decay)` updates.

    Args:
        values: the tensors that training changes in place, floating point, by name.
        decay: in (0, 1).

    Attributes:
        averages: name -> average, of the shape, dtype and device of its tensor.

    Source: averaging of iterates by Polyak & Juditsky 1992; exponential, with this warm-up, as in
    TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, values: Mapping[str, torch.Tensor], *, decay: float) -> None:
        self._values = dict(values)
        self._decay = decay
        self.averages = {name: tensor.detach().clone() for name, tensor in values.items()}

    @torch.no_grad()
    def follow(self, t: int) -> None:
        """Take in what the tensors are after update `t`, counted from the first that changes them.

        Source: see the class.
        """
        decay = min(self._decay, (1 + t) / (10 + t))
        for name, average in self.averages.items():
            average.lerp_(self._values[name], 1.0 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Write the averages into the tensors, as the last act of a training."""
        for name, average in self.averages.items():
            self._values[name].copy_(average)
