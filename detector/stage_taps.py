"""Reads what submodules of a network give while it runs, and stops it when that is all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class AllTaken(Exception):
    """Raised in a forward pass to end it early; whoever hangs the hooks catches it."""


@contextmanager
def stage_taps(
    module: nn.Module, names: Sequence[str], *, is_last: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """Take the outputs of submodules in the one forward pass inside the context.

    Args:
        module: the network.
        names: of submodules that the pass runs.
        is_last: stop the pass as soon as all of them have run. The context is then left there and
            what follows the pass inside it is skipped.

    Yields:
        A dict that fills with name -> output as autograd sees it.

    Source: ours.
    """
    taken: dict[str, torch.Tensor] = {}
    handles = []

    def tap(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            taken[name] = output
            if is_last and len(taken) == len(names):
                raise AllTaken

        return hook

    try:
        for name in names:
            handles.append(module.get_submodule(name).register_forward_hook(tap(name)))
        yield taken
    except AllTaken:
        pass
    finally:
        for handle in handles:
            handle.remove()
