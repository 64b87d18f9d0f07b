"""Reads the stages of a network that no longer changes, in any number of threads at once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence

import torch
from torch import nn

from detector.stage_taps import AllTaken


class StageReader:
    """The outputs of submodules of a network, without running what comes after them.

    The modules are copied and their tensors shared, so that the network given stays as it is and
    the reader's own hooks can stay in place: hanging them in anew for every pass, as `stage_taps`
    does, is not possible while another thread runs the network.

    Args:
        module: in eval mode.
        names: of submodules that a pass runs.
        ends_early: a pass ends with the last of them. An exception does that, and who traces a pass
            needs every module to return.

    Attributes:
        module: the copy, with the reader's hooks: it runs by way of the reader only.

    Source: ours.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], *, ends_early: bool = True) -> None:
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        self.module = copy.deepcopy(module, shared)
        self._names = tuple(names)
        self._ends_early = ends_early
        self._own = threading.local()
        for name in self._names:
            self.module.get_submodule(name).register_forward_hook(self._hook(name))

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The outputs for a batch of pixels, (B, C, h, w) each, in the order of the names."""
        taken = self._own.taken = {}
        try:
            self.module(pixels)
        except AllTaken:
            pass
        finally:
            del self._own.taken
        return [taken[name] for name in self._names]

    def _hook(self, name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            taken = self._own.taken
            taken[name] = output
            if self._ends_early and len(taken) == len(self._names):
                raise AllTaken

        return hook
