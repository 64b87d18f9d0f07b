"""Segmenter and guidance being trained: one update, and what it gives in the end."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from detector.guided.batch import GuidedBatch
from detector.guided.losses import focal_loss, reconstruction_loss
from detector.guided.networks import GuidedNetworks, shown_pixels
from detector.jitter import colour_jitter
from detector.module_trainee import ModuleTrainee
from detector.random_stream import random_stream
from detector.train_config import TrainConfig
from manifests.devices import images_on
from manifests.weights import Network, autocast, state_digest

COLUMNS = ("update", "lr", "loss", "accuracy", "focal_loss", "reconstruction_loss", "seconds")
"""Of the training's log; `accuracy` is the mean of those of marked and of unmarked pixels."""

Result = tuple[Network, dict[str, torch.Tensor]]


class GuidedTrainee(ModuleTrainee):
    """A segmenter, and what guides it, between updates.

    Args:
        networks: new ones; they are trained in place.
        config: the schedule.

    Source: NIGSF (IEEE TCSVT 34(6), 2024): focal loss of the segmentation plus squared error and
    1 - SSIM of the reconstructed reference, Adam. Differs: the learning rate follows one cosine
    cycle; colour jitter of the images that are segmented; the losses are added with weight 1.
    """

    def __init__(self, networks: GuidedNetworks, config: TrainConfig) -> None:
        modules = networks.modules()
        super().__init__(modules, {"all": tuple(modules)}, config)
        self._networks = networks

    def update(self, update: int, batch: GuidedBatch) -> list[float]:
        """Do one update.

        Args:
            update: its number, from 0.
            batch: of it.

        Returns:
            The log's columns but the last.

        Raises:
            Diverged: a loss is not finite.
        """
        lr = self.set_rate(update)
        self._set_mode()
        optimiser = self.optimisers["all"]
        optimiser.zero_grad(set_to_none=True)
        focal, reconstruction, accuracy = self._losses(update, batch)
        loss = focal + reconstruction
        values = [loss.item(), focal.item(), reconstruction.item()]
        self.need_finite(update, {"loss": values[0]})
        loss.backward()
        optimiser.step()
        return [update + 1, lr, values[0], accuracy, *values[1:]]

    def _losses(self, update: int, batch: GuidedBatch) -> tuple[torch.Tensor, torch.Tensor, float]:
        networks, config = self._networks, self.config
        device = networks.device
        jittered = colour_jitter(
            images_on(device, batch.images.required_images()),
            jitter=config.jitter,
            generator=random_stream(f"guided|{config.seed}|jitter|{update}"),
        )
        pixels = networks.inputs(jittered, batch.boxes)
        masks = torch.from_numpy(batch.images.masks).to(device)
        shown = _on(shown_pixels(batch.boxes, *masks.shape[1:]), device)
        reconstruction = torch.zeros((), device=device)
        with autocast(device, config.precision):
            features = None
            if networks.guidance is not None:
                if batch.references is None or batch.reference_boxes is None:
                    raise ValueError("guidance needs a batch with references")
                references = networks.references(
                    images_on(device, batch.references), batch.reference_boxes
                )
                rebuilt, of_references = networks.guidance(references)
                reconstruction = reconstruction_loss(
                    rebuilt,
                    references,
                    valid=_on(shown_pixels(batch.reference_boxes, *masks.shape[1:]), device),
                )
                guide = torch.from_numpy(batch.guide).to(device)
                features = [feature[guide] for feature in of_references]
            logits = networks.segmenter(pixels, features)
        focal = focal_loss(logits, masks, valid=shown)
        return focal, reconstruction, _accuracy(logits.detach(), masks, shown)

    def _set_mode(self) -> None:
        for module in self.modules.values():
            module.train()
        # Dropout and stochastic depth would draw from the global random state.
        backbone = self._networks.segmenter.encoder.backbone.eval()
        for module in backbone.modules() if not self.config.freeze_bn else ():
            is_trained = any(one.requires_grad for one in module.parameters(recurse=False))
            if isinstance(module, _BatchNorm) and is_trained:
                module.train()

    def finish(self) -> Result:
        """The trained encoder as a network of its own, and everything else by name.

        Raises:
            Diverged: a weight is not finite.
        """
        self.end()
        networks = self._networks
        learned = networks.learned()
        encoder = networks.segmenter.encoder
        encoder.close()
        module = encoder.backbone
        return replace(networks.network, module=module, digest=state_digest(module)), learned


def _on(pixels: torch.Tensor | None, device: str) -> torch.Tensor | None:
    return None if pixels is None else pixels.to(device)


def _accuracy(logits: torch.Tensor, masks: torch.Tensor, shown: torch.Tensor | None) -> float:
    """The mean of the shares of marked and of unmarked pixels that are recognised."""
    called = logits > 0
    counted = torch.ones_like(masks) if shown is None else shown
    shares = [
        (called[counted & masks]).float().mean(),
        (~called[counted & ~masks]).float().mean(),
    ]
    present = [share.item() for share in shares if torch.isfinite(share)]
    return sum(present) / len(present)
