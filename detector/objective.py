"""What the network is trained for: heads that are thrown away, and their losses."""

from __future__ import annotations

import contextlib
from typing import cast

import torch
from torch import nn

from detector.batch_tally import BatchTally
from detector.frozen_prefix import Forward, pooled_features
from detector.patch_loss import (
    PATCH_STAGES,
    cell_counts,
    cell_loss,
    cell_targets,
    joined_features,
    make_patch_head,
)
from detector.random_stream import random_stream
from detector.stage_taps import stage_taps
from detector.train_config import TrainConfig
from detector.training_batch import TrainingBatch
from manifests.errors import ConfigError
from manifests.weights import Network, autocast

HEAD_WIDTH = 512


class Objective:
    """The heads of a training and the loss that follows from them.

    "image": cross-entropy of an MLP head on the features that the network pools at its end, or on
    the mean over the cells of `config.head_stage`. "patch": which cells of the stages that the
    detector compares were edited. "both": the sum. The pass ends with the deepest stage that is
    looked at, and what lies beyond is not trained.

    Args:
        network: says which submodules end its stages.
        module: the network's module or a copy of it, in eval mode.
        config: the schedule.
        n_features: of the pooled features.
        labels: the class names by label.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: the network has no such head stage.

    Attributes:
        n_labels: number of classes of images.
        heads: "head" (images) and "patch_head" (cells), as far as the loss needs them.

    Source: CutSwap (arXiv 2311.18332) for "image"; the others are ours.
    """

    def __init__(
        self,
        network: Network,
        module: nn.Module,
        config: TrainConfig,
        *,
        n_features: int,
        labels: tuple[str, ...],
        device: str,
    ) -> None:
        self._config = config
        self.n_labels = len(labels)
        self._device = device
        self.heads: dict[str, nn.Module] = {}
        is_image, is_patch = config.loss != "patch", config.loss != "image"
        # What the pass is to give: the cells' stages, and the one that the image head looks at.
        self._cell_taps = [network.stages[stage] for stage in PATCH_STAGES] if is_patch else []
        self._head_tap: str | None = None
        if is_image and config.head_stage is not None:
            self._head_tap = _stage_of(network, config.head_stage)
        self._is_whole = is_image and self._head_tap is None
        widths = self._widths(module, device)
        if is_image:
            if self._head_tap is not None:
                n_features = widths[self._head_tap]
            generator = random_stream(f"train|{config.seed}|head")
            self.heads["head"] = make_image_head(n_features, len(labels), generator)
        if is_patch:
            generator = random_stream(f"train|{config.seed}|patch-head")
            n_joined = sum(widths[name] for name in self._cell_taps)
            self.heads["patch_head"] = make_patch_head(n_joined, generator)
        for head in self.heads.values():
            head.to(device).train()

    def logits(
        self, module: nn.Module, inputs: torch.Tensor, *, is_frozen: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Run the network and its heads.

        Args:
            module: the network, or what follows its frozen part.
            inputs: what `module` takes.
            is_frozen: whether only the heads train.

        Returns:
            Of images (N, classes) and of cells (N, h, w), float32; None where the loss needs none.

        Source: see the class.
        """
        pooled = cells = None
        with autocast(self._device, self._config.precision):
            with torch.no_grad() if is_frozen else contextlib.nullcontext():
                pooled, features = self._features(module, inputs)
            if pooled is not None:
                pooled = self.heads["head"](pooled).float()
            if features is not None:
                cells = self.heads["patch_head"](features).float()[:, 0]
        return pooled, cells

    def loss(
        self, pooled: torch.Tensor | None, cells: torch.Tensor | None, batch: TrainingBatch
    ) -> tuple[torch.Tensor, BatchTally]:
        """What is learned from.

        Args:
            pooled, cells: of `logits`, for the images of `batch`.
            batch: labels, and for a patch loss masks.

        Returns:
            The loss, a scalar with its graph, and what the log says of it.

        Source: see the class.
        """
        losses: list[torch.Tensor] = []
        tally = BatchTally(self.n_labels)
        if pooled is not None:
            targets = torch.from_numpy(batch.labels).to(self._device)
            losses.append(nn.functional.cross_entropy(pooled, targets))
            tally.add_images(pooled.detach().argmax(dim=1).cpu().numpy(), batch.labels)
        if cells is not None:
            masks = torch.from_numpy(batch.masks).to(self._device)
            targets = cell_targets(masks, (cells.shape[1], cells.shape[2]))
            losses.append(cell_loss(cells, targets))
            tally.add_cells(cell_counts(cells.detach(), targets), losses[-1].item())
        total = sum(losses[1:], start=losses[0])
        tally.add_loss(total.item())
        return total, tally

    def _features(
        self, module: nn.Module, inputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """(N, D) pooled features and (N, D', h, w) features of cells, as far as they are needed."""
        taps = self._taps()
        if not taps:
            return pooled_features(module, inputs), None
        pooled = features = None
        with stage_taps(module, taps, is_last=not self._is_whole) as taken:
            pooled = pooled_features(module, inputs)
        if self._head_tap is not None:
            pooled = taken[self._head_tap].mean(dim=(2, 3))
        if self._cell_taps:
            features = joined_features([taken[name] for name in self._cell_taps])
        return pooled, features

    def _taps(self) -> list[str]:
        """Submodules whose outputs are needed, each once."""
        head = [] if self._head_tap is None else [self._head_tap]
        return list(dict.fromkeys([*self._cell_taps, *head]))

    @torch.no_grad()
    def _widths(self, module: nn.Module, device: str) -> dict[str, int]:
        """Channels of every submodule that is tapped, asked of the network itself."""
        taps = self._taps()
        if not taps:
            return {}
        with stage_taps(module, taps, is_last=True) as taken:
            cast(Forward, module.forward_features)(torch.zeros((1, 3, 64, 64), device=device))
        return {name: taken[name].shape[1] for name in taps}


def _stage_of(network: Network, stage: int) -> str:
    if stage not in network.stages:
        raise ConfigError(
            f"--head-stage {stage} does not fit {network.name}",
            expected=f"end, or a stage it has ({', '.join(map(str, network.stages))})",
            got=stage,
        )
    return network.stages[stage]


def make_image_head(n_features: int, n_classes: int, generator: torch.Generator) -> nn.Sequential:
    """Linear-BN-ReLU-Linear with PyTorch's usual uniform weights.

    Args:
        n_features: D.
        n_classes: C.
        generator: of the weights.

    Returns:
        (N, D) -> (N, C) logits.

    Source: CutPaste's public implementations.
    """
    linears = []
    for width_in, width_out in ((n_features, HEAD_WIDTH), (HEAD_WIDTH, n_classes)):
        linear = nn.utils.skip_init(nn.Linear, width_in, width_out)
        bound = width_in**-0.5
        nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
        nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
        linears.append(linear)
    return nn.Sequential(linears[0], nn.BatchNorm1d(HEAD_WIDTH), nn.ReLU(), linears[1])
