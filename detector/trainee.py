"""The network being trained: a copy of the extractor with heads, an optimiser and its freezes."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard, cast

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from detector.batch_tally import BatchTally
from detector.checkpoint import Checkpoint, tensors_digest
from detector.diverged import diverged
from detector.frozen_prefix import PROBE_PX, FrozenPrefix, frozen_modules, probe
from detector.jitter import colour_jitter
from detector.objective import Objective
from detector.processes import ALONE, Processes
from detector.random_stream import random_stream
from detector.shared_gradients import SharedGradients, reached_parameters
from detector.train_config import TrainConfig
from detector.training_batch import TrainingBatch
from detector.virtual_batches import RunningStatistics
from detector.weight_average import WeightAverage
from manifests.devices import images_on
from manifests.errors import ModelError
from manifests.weights import Network, autocast, state_digest


class Trainee:
    """A copy of a network with heads and optimiser, between updates.

    Args:
        network: what to copy.
        config: the schedule.
        labels: the class names by label.
        device: "cpu" or "cuda", of several processes with the number of its GPU.
        processes: that train the same copy, each on its part of every batch.

    Attributes:
        module: the copy.
        heads: what is trained with it and thrown away, by name.

    Raises:
        ConfigError: the network does not have as many stages as are to be frozen, or cannot be cut
            behind them.

    Source: CutSwap (arXiv 2311.18332).
    """

    def __init__(
        self,
        network: Network,
        config: TrainConfig,
        *,
        labels: tuple[str, ...],
        device: str,
        processes: Processes = ALONE,
    ) -> None:
        self._network = network
        self._config = config
        self._device = device
        self._processes = processes
        self.module = copy.deepcopy(network.module).eval()
        self.module.to(device).to(memory_format=torch.channels_last)
        n_features, ranks = probe(self.module, device)
        frozen = frozen_modules(network, self.module, ranks, config.freeze_stages)
        self._prefix: FrozenPrefix | None = None
        # What updates run: the whole network, or what follows its frozen part, over the same
        # weights.
        self._running = self.module
        if config.cache_activations:
            self._prefix = FrozenPrefix(
                network, self.module, ranks, config.freeze_stages, device=device
            )
            self._running = self._prefix.suffix
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        for module in frozen:
            module.requires_grad_(False)
        self._batch_norms = [
            cast(_BatchNorm, self._running.get_submodule(name))
            for name, module in self.module.named_modules()
            if _is_batch_norm(module) and module not in frozen
        ]
        self._objective = Objective(
            network, self.module, config, n_features=n_features, labels=labels, device=device
        )
        self.heads = self._objective.heads
        self._trained = {
            f"{part}/{name}": parameter
            for part, module in self._parts().items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._average: WeightAverage | None = None
        if config.ema > 0.0:
            self._average = WeightAverage(self._moving(), decay=config.ema)
        self._optimiser = torch.optim.SGD(
            self._trained.values(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self._gradients = SharedGradients(self._logits, processes, device=device)
        # Whether the gradients that are shared now are those of the frozen start; none are yet.
        self._is_sharing_frozen: bool | None = None

    def update(
        self, update: int, batch: TrainingBatch, *, activations: torch.Tensor | None = None
    ) -> list[float]:
        """Do one update.

        Args:
            update: its number, from 0.
            batch: this process's part, with images, or without where there are activations.
            activations: (N, C, h, w), of `activation` for every image; for `cache_activations`.

        Returns:
            The log's columns but the last: updates done, learning rate, loss, accuracies; the same
            on all processes.

        Raises:
            Diverged: the loss is not finite.
            PeerLost: another process has gone.
        """
        config = self._config
        is_frozen = update < config.frozen_start
        if is_frozen != self._is_sharing_frozen and not self._processes.is_alone:
            self._gradients.take_part(self._reached(is_frozen=is_frozen))
            self._is_sharing_frozen = is_frozen
        for batch_norm in self._batch_norms:
            batch_norm.train(not is_frozen and not config.freeze_bn)
        lr = config.lr_at(update)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.zero_grad(set_to_none=True)
        tally = self._descend(update, batch, activations, is_frozen=is_frozen)
        tally.share(self._processes)
        value = tally.loss(config.virtual_batches)
        if not np.isfinite(value):
            raise diverged(update + 1, config, f"the loss is {value}")
        self._optimiser.step()
        if self._average is not None and not is_frozen:
            self._average.follow(update - config.frozen_start)
        return [update + 1, lr, value, *tally.columns(config.virtual_batches)]

    def _descend(
        self,
        update: int,
        batch: TrainingBatch,
        activations: torch.Tensor | None,
        *,
        is_frozen: bool,
    ) -> BatchTally:
        """Leave the mean gradients of all virtual batches, and move the running statistics.

        This process's virtual batches run one after the other, each with its own statistics.
        """
        config = self._config
        n_here = config.virtual_batches // self._processes.count
        statistics: RunningStatistics | None = None
        if config.virtual_batches > 1:
            statistics = RunningStatistics(
                [*self._batch_norms, *(m for m in self._head_modules() if _is_batch_norm(m))]
            )
        total = BatchTally(self._objective.n_labels)
        for number in range(n_here):
            part = batch.part(number, n_here)
            if activations is None:
                inputs = self._inputs(part, f"train|{config.seed}|jitter|{update}")
            else:
                inputs = activations
                if n_here > 1:
                    inputs = inputs[torch.from_numpy(batch.inside(number, n_here))]
                inputs = inputs.to(self._device).to(
                    torch.float32, memory_format=torch.channels_last
                )
            is_last = number == n_here - 1
            with contextlib.nullcontext() if is_last else self._gradients.keep_local():
                pooled, cells = self._gradients(inputs, is_frozen=is_frozen)
                loss, tally = self._objective.loss(pooled, cells, part)
                self._gradients.backward(loss / n_here)
            total.add(tally)
            if statistics is not None:
                statistics.take()
        if statistics is not None:
            statistics.settle(config.virtual_batches, self._processes)
        return total

    @torch.no_grad()
    def activation(self, image: np.ndarray, row: int) -> torch.Tensor:
        """Run the frozen part on one image, for `cache_activations`.

        Args:
            image: (H, W, 3) uint8 RGB.
            row: its number in the set, which alone decides its colour jitter.

        Returns:
            (1, C, h, w) on the device, the end of the last frozen stage.
        """
        inputs = self._jittered(image[None], f"jitter|{row}")
        with autocast(self._device, self._config.precision):
            return cast(FrozenPrefix, self._prefix).activations(inputs)

    def _inputs(self, batch: TrainingBatch, stream: str) -> torch.Tensor:
        images = batch.required_images()
        return self._jittered(images, stream, places=batch.places, n_whole=batch.n_whole)

    def _jittered(
        self,
        images: np.ndarray,
        stream: str,
        *,
        places: np.ndarray | None = None,
        n_whole: int | None = None,
    ) -> torch.Tensor:
        """(N, H, W, 3) uint8 images, jittered, as the network's (N, 3, H, W) input."""
        batch = colour_jitter(
            images_on(self._device, images),
            jitter=self._config.jitter,
            generator=random_stream(stream),
            places=places,
            n_whole=n_whole,
        )
        return self._network.preprocess(batch).to(self._device)

    def _logits(
        self, inputs: torch.Tensor, *, is_frozen: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return self._objective.logits(self._running, inputs, is_frozen=is_frozen)

    def _reached(self, *, is_frozen: bool) -> list[torch.nn.Parameter]:
        """The parameters that get gradients: not those behind the last stage that is looked at."""
        inputs = torch.zeros((1, 3, PROBE_PX, PROBE_PX), device=self._device)
        if self._prefix is not None:
            inputs = self._prefix.activations(inputs)
        return reached_parameters(
            lambda: self._logits(inputs, is_frozen=is_frozen),
            list(self._trained.values()),
            modules=[*self._batch_norms, *self._head_modules()],
        )

    def _head_modules(self) -> list[torch.nn.Module]:
        return [module for head in self.heads.values() for module in head.modules()]

    def digest(self) -> str:
        """SHA-256 of weights, statistics, momenta and averages, to compare with others' copies."""
        return tensors_digest(self.tensors(np.empty((0, 0))))

    def tensors(self, log: np.ndarray) -> dict[str, torch.Tensor]:
        """Copies of everything the next update depends on, and the log, by name."""
        tensors = {name: tensor.detach().clone() for name, tensor in self._state().items()}
        for name, parameter in self._trained.items():
            buffer = self._optimiser.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum/{name}"] = buffer.detach().clone()
        if self._average is not None:
            for name, tensor in self._average.averages.items():
                tensors[f"average/{name}"] = tensor.clone()
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
            ModelError: names or shapes are not those of this network, heads and schedule.
        """
        state = self._state()
        if self._average is not None:
            state |= {f"average/{name}": t for name, t in self._average.averages.items()}
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
        """The trained network, or its average over training, without heads, with its own digest.

        Nothing can be trained afterwards.

        Raises:
            Diverged: a weight is not finite.
        """
        if not all(torch.isfinite(tensor).all() for tensor in self.module.state_dict().values()):
            raise diverged(self._config.updates, self._config, "a weight is not finite")
        if self._average is not None:
            self._average.apply()
        self.module.eval().requires_grad_(False)
        self.module.zero_grad(set_to_none=True)
        return replace(self._network, module=self.module, digest=state_digest(self.module))

    def result_digest(self, result: Network) -> str:
        """SHA-256 of a trained network's weights."""
        return state_digest(result.module)

    def _parts(self) -> dict[str, torch.nn.Module]:
        return {"module": self.module, **self.heads}

    def _state(self) -> dict[str, torch.Tensor]:
        return {
            f"{part}/{name}": tensor
            for part, module in self._parts().items()
            for name, tensor in module.state_dict().items()
        }

    def _moving(self) -> dict[str, torch.Tensor]:
        """What training changes in the network: weights, and statistics where they are not kept."""
        statistics = {
            id(tensor)
            for batch_norm in self._batch_norms
            if not self._config.freeze_bn
            for tensor in batch_norm.buffers()
            if tensor.is_floating_point()
        }
        return {
            f"module/{name}": tensor
            for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers())
            if tensor.requires_grad or id(tensor) in statistics
        }


def _is_batch_norm(module: torch.nn.Module) -> TypeGuard[_BatchNorm]:
    return isinstance(module, _BatchNorm)
