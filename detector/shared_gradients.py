"""Gradients as means over the processes of a run."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from detector.processes import Processes, peers_expected


class SharedGradients:
    """Runs a forward pass whose backward pass leaves the mean gradients of all processes.

    DistributedDataParallel waits for every parameter it knows of, so it is shown those that take
    part, and shown others when others do. They keep `requires_grad`. Alone, nothing is wrapped.

    Args:
        run: the forward pass; what it returns must depend on all parameters that take part.
        processes: that share the gradients.
        device: "cpu", or "cuda" with the number of a GPU.

    Source: PyTorch's DistributedDataParallel (Li et al. 2020).
    """

    def __init__(self, run: Callable[..., Any], processes: Processes, *, device: str) -> None:
        self._run = run
        self._processes = processes
        self._device = device
        self._wrapped: nn.parallel.DistributedDataParallel | None = None

    def take_part(self, parameters: Sequence[nn.Parameter]) -> None:
        """Say whose gradients there will be, on all processes at the same time.

        Raises:
            PeerLost: another process has gone.
        """
        if self._processes.is_alone:
            return
        self._wrapped = None  # the hooks of the one before go first
        # Of a 1x1 kernel both memory formats are the same bytes under different strides.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with peers_expected():
            self._wrapped = nn.parallel.DistributedDataParallel(
                _Participants(self._run, parameters),
                process_group=self._processes.group_of(self._device),
                gradient_as_bucket_view=True,
            )

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """The forward pass."""
        if self._wrapped is None:
            return self._run(*arguments, **settings)
        with peers_expected():
            return self._wrapped(*arguments, **settings)

    def keep_local(self) -> AbstractContextManager[None]:
        """Context of passes after which more are to come before gradients are shared."""
        return contextlib.nullcontext() if self._wrapped is None else self._wrapped.no_sync()

    def backward(self, loss: torch.Tensor) -> None:
        """The backward pass. Raises PeerLost where another process has gone."""
        if self._wrapped is None:
            loss.backward()
            return
        with peers_expected():
            loss.backward()


def reached_parameters(
    run: Callable[[], Sequence[torch.Tensor | None]],
    parameters: Sequence[nn.Parameter],
    *,
    modules: Sequence[nn.Module],
) -> list[nn.Parameter]:
    """Those parameters that what a forward pass gives depends on.

    Args:
        run: the pass, on any input.
        parameters: to choose from.
        modules: in evaluation mode meanwhile, so that a look moves no statistics.

    Source: ours.
    """
    was_training = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        sums = [output.sum() for output in run() if output is not None]
        total = sum(sums[1:], start=sums[0])
        slopes = torch.autograd.grad(total, list(parameters), allow_unused=True)
    finally:
        for module, training in zip(modules, was_training, strict=True):
            module.training = training
    pairs = zip(parameters, slopes, strict=True)
    return [parameter for parameter, slope in pairs if slope is not None]


class _Participants(nn.Module):
    """Some parameters of some modules, and a forward pass that uses them.

    It has no buffers: batch norms' statistics are shared by a rule of their own.
    """

    def __init__(self, run: Callable[..., Any], parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.participants = nn.ParameterList(parameters)
        self._run = run

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        return self._run(*arguments, **settings)
