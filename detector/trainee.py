"""The network being trained: a copy of the extractor with a head, an optimiser and its freezes."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.checkpoint import Checkpoint
from detector.jitter import colour_jitter
from detector.train_config import TrainConfig
from manifests.errors import ConfigError, ModelError
from manifests.weights import Network, autocast, state_digest

HEAD_WIDTH = 512
_PROBE_PX = 64


class Diverged(ModelError):
    """A training whose loss or weights are no longer finite."""


class Trainee:
    """A copy of a network with head and optimiser, between updates.

    Args:
        network: what to copy.
        config: the schedule.
        labels: the class names by label.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: the network does not have as many stages as are to be frozen.

    Source: CutSwap (arXiv 2311.18332).
    """

    def __init__(
        self, network: Network, config: TrainConfig, *, labels: tuple[str, ...], device: str
    ) -> None:
        self._network = network
        self._config = config
        self._labels = labels
        self._device = device
        self.module = copy.deepcopy(network.module).eval()
        self.module.to(device=device, memory_format=torch.channels_last)
        n_features, completed = _probe(self.module, device)
        frozen = _frozen_modules(network, self.module, completed, config.freeze_stages)
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        for module in frozen:
            module.requires_grad_(False)
        self._batch_norms = [
            module
            for module in self.module.modules()
            if isinstance(module, _BatchNorm) and module not in frozen
        ]
        self.head = _make_head(n_features, len(labels), seed=config.seed).to(device).train()
        self._trained = {
            f"{part}/{name}": parameter
            for part, module in (("module", self.module), ("head", self.head))
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._optimiser = torch.optim.SGD(
            self._trained.values(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def update(self, update: int, images: np.ndarray, labels: np.ndarray) -> list[float]:
        """Do one update.

        Args:
            update: its number, from 0.
            images: (N, H, W, 3) uint8 RGB.
            labels: (N,) int64.

        Returns:
            Updates done, learning rate, loss, accuracy, then the accuracy of every class.

        Raises:
            Diverged: the loss is not finite.
        """
        config = self._config
        is_frozen = update < config.frozen_start
        for batch_norm in self._batch_norms:
            batch_norm.train(not is_frozen and not config.freeze_bn)
        lr = config.lr_at(update)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        batch = torch.from_numpy(images).to(self._device)
        targets = torch.from_numpy(labels).to(self._device)
        generator = _generator(config.seed, f"jitter|{update}")
        batch = colour_jitter(batch, jitter=config.jitter, generator=generator)
        inputs = self._network.preprocess(batch).to(self._device)
        with autocast(self._device, config.precision):
            with torch.no_grad() if is_frozen else contextlib.nullcontext():
                features = _pooled_features(self.module, inputs)  # (N, D)
            logits = self.head(features).float()
        loss = nn.functional.cross_entropy(logits, targets)
        value = loss.item()
        if not np.isfinite(value):
            raise _diverged(update + 1, config, f"the loss is {value}")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        is_right = (logits.detach().argmax(dim=1) == targets).cpu().numpy()
        per_class = [float(is_right[labels == label].mean()) for label in range(len(self._labels))]
        return [update + 1, lr, value, float(is_right.mean()), *per_class]

    def tensors(self, log: np.ndarray) -> dict[str, torch.Tensor]:
        """Copies of everything the next update depends on, and the log, by name."""
        tensors = {name: tensor.detach().clone() for name, tensor in self._state().items()}
        for name, parameter in self._trained.items():
            buffer = self._optimiser.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum/{name}"] = buffer.detach().clone()
        tensors["log"] = torch.from_numpy(log.copy())
        return tensors

    def restore(self, saved: Checkpoint, folder: Path, *, rows: tuple[int, int]) -> np.ndarray:
        """Take over a checkpoint.

        Args:
            saved: of the same run.
            folder: where it lies, for the error.
            rows: the shape that its log must have.

        Returns:
            The log, float64 of that shape.

        Raises:
            ModelError: names or shapes are not those of this network, head and schedule.
        """
        state = self._state()
        momenta = {f"momentum/{name}": parameter for name, parameter in self._trained.items()}
        expected = {**state, **momenta, "log": torch.empty(rows, dtype=torch.float64)}
        required = state.keys() | {"log"}
        wrong = sorted(required - saved.tensors.keys()) + [
            name
            for name, tensor in saved.tensors.items()
            if name not in expected
            or (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype)
        ]
        if wrong or saved.update > self._config.updates:
            raise ModelError(
                "the checkpoint does not fit this network",
                path=folder,
                got=", ".join(wrong[:3]) or f"update {saved.update}",
                hint="pass --overwrite to train from the start",
            )
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved.tensors[name])
            for name, parameter in momenta.items():
                if name in saved.tensors:
                    # In the parameter's own memory layout, as the optimiser would have made it.
                    buffer = torch.empty_like(parameter).copy_(saved.tensors[name])
                    self._optimiser.state[parameter]["momentum_buffer"] = buffer
        return saved.tensors["log"].numpy().copy()

    def finish(self) -> Network:
        """The trained network, without head, with its own digest.

        Raises:
            Diverged: a weight is not finite.
        """
        if not all(torch.isfinite(tensor).all() for tensor in self.module.state_dict().values()):
            raise _diverged(self._config.updates, self._config, "a weight is not finite")
        self.module.eval().requires_grad_(False)
        self.module.zero_grad(set_to_none=True)
        return replace(self._network, module=self.module, digest=state_digest(self.module))

    def _state(self) -> dict[str, torch.Tensor]:
        return {
            f"{part}/{name}": tensor
            for part, module in (("module", self.module), ("head", self.head))
            for name, tensor in module.state_dict().items()
        }


def _diverged(update: int, config: TrainConfig, what: str) -> Diverged:
    return Diverged(
        f"training diverged at update {update} of {config.updates}: {what}",
        hint=f"pass a lower --lr (it was {config.lr:g})",
    )


def _pooled_features(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) network inputs to the (N, D) features before the classifier (a timm model)."""
    return module.forward_head(module.forward_features(inputs), pre_logits=True).flatten(1)


def _make_head(n_features: int, n_classes: int, *, seed: int) -> nn.Sequential:
    """Linear-BN-ReLU-Linear with PyTorch's usual uniform weights, from a generator of its own."""
    generator = _generator(seed, "head")
    linears = []
    for width_in, width_out in ((n_features, HEAD_WIDTH), (HEAD_WIDTH, n_classes)):
        linear = nn.utils.skip_init(nn.Linear, width_in, width_out)
        bound = width_in**-0.5
        nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
        nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
        linears.append(linear)
    return nn.Sequential(linears[0], nn.BatchNorm1d(HEAD_WIDTH), nn.ReLU(), linears[1])


def _generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for one use of one training; streams do not overlap in practice."""
    digest = hashlib.sha256(f"train|{seed}|{stream}".encode("ascii")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _probe(module: nn.Module, device: str) -> tuple[int, dict[nn.Module, int]]:
    """Run the network once: how many features it gives, and in which order its modules finish."""
    finished: list[nn.Module] = []
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for part in module.modules():
            handle = part.register_forward_hook(lambda part, _in, _out: finished.append(part))
            hooks.callback(handle.remove)
        n_features = _pooled_features(
            module, torch.zeros((1, 3, _PROBE_PX, _PROBE_PX), device=device)
        ).shape[1]
    return n_features, {part: rank for rank, part in enumerate(finished)}


def _frozen_modules(
    network: Network, module: nn.Module, ranks: dict[nn.Module, int], n_stages: int
) -> set[nn.Module]:
    """Everything that runs up to the end of stage `n_stages - 1`: the stem and the stages under it.

    The order of execution decides, not that of definition, so that no parameter before the last
    frozen one is left to train: autograd then builds no graph there and keeps no activation.
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
