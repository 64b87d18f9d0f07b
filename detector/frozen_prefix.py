"""The part of a network that is never trained, and the rest of it as a network of its own."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from detector.stage_taps import stage_taps
from manifests.errors import ConfigError
from manifests.weights import Network

Forward = Callable[..., torch.Tensor]
"""A pass through a part of a timm network, of which torch's types know nothing."""
PROBE_PX = 64
_PROBE_IMAGES = 2


def pooled_features(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Run a timm network up to its classifier.

    Args:
        module: the network.
        inputs: (N, 3, H, W) as `Network.preprocess` returns them.

    Returns:
        (N, D), globally pooled.

    Source: CutSwap (arXiv 2311.18332).
    """
    features = cast(Forward, module.forward_features)(inputs)
    return cast(Forward, module.forward_head)(features, pre_logits=True).flatten(1)


def probe(module: nn.Module, device: str) -> tuple[int, dict[nn.Module, int]]:
    """Run the network once: how many features it gives, and in which order its modules finish.

    Args:
        module: the network, in eval mode.
        device: where it is.

    Returns:
        D, and module -> rank of its (last) end.

    Source: ours.
    """
    finished: list[nn.Module] = []
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for part in module.modules():
            handle = part.register_forward_hook(lambda part, _in, _out: finished.append(part))
            hooks.callback(handle.remove)
        n_features = pooled_features(
            module, torch.zeros((1, 3, PROBE_PX, PROBE_PX), device=device)
        ).shape[1]
    return n_features, {part: rank for rank, part in enumerate(finished)}


def frozen_modules(
    network: Network, module: nn.Module, ranks: dict[nn.Module, int], n_stages: int
) -> set[nn.Module]:
    """Everything that runs up to the end of stage `n_stages - 1`: the stem and the stages under it.

    The order of execution decides, not that of definition, so that no parameter before the last
    frozen one is left to train: autograd then builds no graph there and keeps no activation.

    Args:
        network: says which submodule ends a stage.
        module: the network's module or a copy of it.
        ranks: of `module`, by `probe`.
        n_stages: 0 for nothing.

    Raises:
        ConfigError: the network does not have that stage.

    Source: ours.
    """
    if n_stages == 0:
        return set()
    if n_stages - 1 not in network.stages:
        raise ConfigError(
            f"--freeze-stages {n_stages} does not fit {network.name}",
            expected=f"0, or one more than a stage it has ({', '.join(map(str, network.stages))})",
            got=n_stages,
        )
    last = ranks[module.get_submodule(network.stages[n_stages - 1])]
    return {inner for part, rank in ranks.items() if rank <= last for inner in part.modules()}


class FrozenPrefix:
    """A network cut in two at the end of its last frozen stage.

    `suffix` is a copy of the network's structure over the same weights, in which every module that
    belongs to the frozen part is replaced by an identity, so that `suffix(activations(x))` is
    `module(x)`. That holds where nothing but the last frozen stage's output passes the cut; it is
    tried once on a random input, and must hold to the last bit.

    Args:
        network: says which submodule ends a stage.
        module: its module or a copy of it, in eval mode.
        ranks: of `module`, by `probe`.
        n_stages: how many stages are frozen, at least 1.
        device: where `module` is.

    Attributes:
        suffix: what is left to run, a module with the same submodules' names and parameters.

    Raises:
        ConfigError: the network cannot be cut there, or does not have the stage.

    Source: ours.
    """

    def __init__(
        self,
        network: Network,
        module: nn.Module,
        ranks: dict[nn.Module, int],
        n_stages: int,
        *,
        device: str,
    ) -> None:
        frozen = frozen_modules(network, module, ranks, n_stages)
        self._module = module
        self._cut = network.stages[n_stages - 1]
        # Weights and statistics are handed through, not copied: what trains in the suffix is the
        # network's own.
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        self.suffix = copy.deepcopy(module, shared)
        last = ranks[module.get_submodule(self._cut)]
        _replace(module, self.suffix, frozen, ranks, last)
        if not self._is_whole(device):
            raise ConfigError(
                f"--cache-activations cannot be used with {network.name} frozen up to stage "
                f"{n_stages - 1}: more than that stage's output is needed after it",
                hint="pass another --freeze-stages, or leave out --cache-activations",
            )

    @torch.no_grad()
    def activations(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the frozen part.

        Args:
            inputs: (N, 3, H, W) as `Network.preprocess` returns them.

        Returns:
            (N, C, h, w), the output of the last frozen stage.

        Source: ours.
        """
        with stage_taps(self._module, [self._cut], is_last=True) as taken:
            cast(Forward, self._module.forward_features)(inputs)
        return taken[self._cut]

    @torch.no_grad()
    def _is_whole(self, device: str) -> bool:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn((_PROBE_IMAGES, 3, PROBE_PX, PROBE_PX), generator=generator)
        inputs = inputs.to(device=device, memory_format=torch.channels_last)
        expected = pooled_features(self._module, inputs)
        try:
            found = pooled_features(self.suffix, self.activations(inputs))
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError):
            return False  # e.g. shapes that do not meet, or a layer asked for its weights
        return torch.equal(found, expected)


def _replace(
    module: nn.Module,
    copied: nn.Module,
    frozen: set[nn.Module],
    ranks: dict[nn.Module, int],
    last: int,
) -> None:
    """Put identities into `copied` for the outermost parts of `module` that are wholly frozen."""
    for name, child in module.named_children():
        has_ended = child in frozen and all(ranks.get(part, -1) <= last for part in child.modules())
        if has_ended:
            setattr(copied, name, nn.Identity())
        else:
            _replace(child, getattr(copied, name), frozen, ranks, last)
