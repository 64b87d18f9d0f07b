"""Modules that Adam trains, between updates: what is saved of them, and how they go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from detector.checkpoint import Checkpoint, tensors_digest
from detector.diverged import diverged
from detector.train_config import TrainConfig
from manifests.digest import bytes_digest
from manifests.errors import ModelError
from manifests.weights import Network

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class ModuleTrainee:
    """Some modules and the optimisers of their parameters.

    Args:
        modules: by name; parameters that require gradients are trained.
        optimisers: which modules each optimiser trains, by its name.
        config: the schedule: `lr`, `weight_decay` and `updates`.
        betas: of Adam.

    Attributes:
        modules: as given.
        optimisers: by name.

    Source: Kingma & Ba 2015 (Adam).
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimisers: Mapping[str, Sequence[str]],
        config: TrainConfig,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.modules = dict(modules)
        self.config = config
        self._trained = {
            f"{part}/{name}": parameter
            for part, module in self.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.optimisers = {
            name: torch.optim.Adam(
                [
                    parameter
                    for path, parameter in self._trained.items()
                    if path.partition("/")[0] in parts
                ],
                lr=config.lr,
                betas=betas,
                weight_decay=config.weight_decay,
            )
            for name, parts in optimisers.items()
        }

    def set_rate(self, update: int) -> float:
        """Gives all optimisers the learning rate of an update, by its number from 0."""
        lr = self.config.lr_at(update)
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = lr
        return lr

    def need_finite(self, update: int, losses: Mapping[str, float]) -> None:
        """Raises Diverged where a loss of the update, by its number from 0, is not finite."""
        for name, value in losses.items():
            if not np.isfinite(value):
                raise diverged(update + 1, self.config, f"the {name} is {value}")

    def tensors(self, log: np.ndarray) -> dict[str, torch.Tensor]:
        """Copies of everything the next update depends on, and the log, by name."""
        tensors = {name: tensor.detach().clone() for name, tensor in self._state().items()}
        for name, moments in self._moments().items():
            for key, tensor in moments.items():
                tensors[f"adam/{name}/{key}"] = tensor.detach().clone()
        tensors["log"] = torch.from_numpy(log.copy())
        return tensors

    def restore(self, saved: Checkpoint, folder: Path, *, rows: tuple[int, int]) -> np.ndarray:
        """Take over a checkpoint of the same run.

        Args:
            saved: the checkpoint.
            folder: where it lies, for the error.
            rows: the shape that its log must have.

        Returns:
            The log, float64 of that shape.

        Raises:
            ModelError: names or shapes are not those of these modules.
        """
        state = self._state()
        expected = {**state, "log": torch.empty(rows, dtype=torch.float64)}
        for name, parameter in self._trained.items():
            expected[f"adam/{name}/step"] = torch.empty(())
            expected |= {f"adam/{name}/{key}": parameter for key in _MOMENTS[1:]}
        wrong = sorted({*state, "log"} - saved.tensors.keys()) + [
            name
            for name, tensor in saved.tensors.items()
            if name not in expected
            or (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype)
        ]
        moments = {name: _moments_of(name, saved) for name in self._trained}
        for name, found in moments.items():
            if found:  # none are there before a parameter's first gradient; some of them never are
                wrong += [f"adam/{name}/{key}" for key in _MOMENTS if key not in found]
        if wrong or saved.update > self.config.updates:
            raise ModelError(
                "the checkpoint does not fit this network",
                path=folder,
                got=", ".join(wrong[:3]) or f"update {saved.update}",
                hint="pass --overwrite to train from the start",
            )
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved.tensors[name])
            for optimiser in self.optimisers.values():
                for name, parameter in self._of(optimiser).items():
                    found = moments[name]
                    if not found:
                        continue
                    # In the parameter's own memory layout, as the optimiser would have made them.
                    optimiser.state[parameter] = {"step": found["step"].clone()} | {
                        key: torch.empty_like(parameter).copy_(found[key]) for key in _MOMENTS[1:]
                    }
        return saved.tensors["log"].numpy().copy()

    def digest(self) -> str:
        """SHA-256 of weights, statistics and moments."""
        return tensors_digest(self.tensors(np.empty((0, 0))))

    def end(self) -> None:
        """Puts all modules into eval mode, without gradients; nothing can be trained afterwards.

        Raises:
            Diverged: a weight is not finite.
        """
        if not all(torch.isfinite(tensor).all() for tensor in self._state().values()):
            raise diverged(self.config.updates, self.config, "a weight is not finite")
        for module in self.modules.values():
            module.eval().requires_grad_(False)
            module.zero_grad(set_to_none=True)

    def result_digest(self, result: tuple[Network, Mapping[str, torch.Tensor]]) -> str:
        """SHA-256 of a trained network and of what else was trained."""
        network, learned = result
        return bytes_digest(f"{network.digest} {tensors_digest(learned)}".encode("ascii"))

    def _state(self) -> dict[str, torch.Tensor]:
        return {
            f"{part}/{name}": tensor
            for part, module in self.modules.items()
            for name, tensor in module.state_dict().items()
        }

    def _of(self, optimiser: torch.optim.Adam) -> dict[str, nn.Parameter]:
        own = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
        return {name: one for name, one in self._trained.items() if id(one) in own}

    def _moments(self) -> dict[str, dict[str, torch.Tensor]]:
        return {
            name: {key: optimiser.state[parameter][key] for key in _MOMENTS}
            for optimiser in self.optimisers.values()
            for name, parameter in self._of(optimiser).items()
            if optimiser.state.get(parameter)
        }


def _moments_of(name: str, saved: Checkpoint) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of a parameter's moments, by the optimiser's names."""
    kept = {key: saved.tensors.get(f"adam/{name}/{key}") for key in _MOMENTS}
    return {key: tensor for key, tensor in kept.items() if tensor is not None}


def plain_tensors(module: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """A module's weights and statistics as they are stored, on the CPU, without counters.

    Args:
        module: its name in the store is `prefix`.
    """
    return {
        f"{prefix}/{name}": tensor.detach().to("cpu").contiguous()
        for name, tensor in module.state_dict().items()
        if not _is_counter(name)
    }


def load_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Takes over what `plain_tensors` gave.

    Args:
        module: may be on the device "meta": it then takes the tensors as they are.
        tensors: others than those with this prefix are left alone.

    Raises:
        ModelError: names, types or shapes are not the module's.
    """
    start = f"{prefix}/"
    own = {name: one for name, one in tensors.items() if name.startswith(start)}
    state = module.state_dict()
    wanted = {start + name: one for name, one in state.items() if not _is_counter(name)}
    odd = sorted(wanted.keys() ^ own.keys())
    if odd:
        raise ModelError(f"malformed {prefix}", got=", ".join(odd[:3])[:200], hint="fit again")
    for name, tensor in wanted.items():
        if (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
            raise ModelError(
                f"{name[:80]} is of another network or other options",
                expected=f"{tensor.dtype} {tuple(tensor.shape)}",
                got=f"{own[name].dtype} {tuple(own[name].shape)}",
                hint="fit again",
            )
    values = {name.removeprefix(start): tensor for name, tensor in own.items()}
    # Counters of batch norms change nothing in eval mode.
    values |= {name: torch.zeros_like(one, device="cpu") for name, one in state.items()
               if _is_counter(name)}  # fmt: skip
    module.load_state_dict(values, assign=True)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
