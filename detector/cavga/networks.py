"""The networks of CAVGA together: made, put into tensors, and made again of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from detector.cavga import decoder as decoders
from detector.cavga import discriminator as discriminators
from detector.cavga.classifier import LatentClassifier
from detector.cavga.decoder import Decoder
from detector.cavga.discriminator import Discriminator
from detector.cavga.latent import FlatLatentHead, LatentHead
from detector.guided.fused_encoder import FusedEncoder
from detector.guided.networks import shown_pixels
from detector.module_trainee import load_tensors, plain_tensors
from detector.random_stream import random_stream
from manifests.errors import ConfigError
from manifests.weights import Network

LATENTS = ("spatial", "flat")
HEAD, DECODER, CLASSIFIER = "head", "decoder", "classifier"
_DISCRIMINATOR = "discriminator"


@dataclass(frozen=True)
class CavgaShape:
    """What the networks of CAVGA are like.

    Attributes:
        latent: "spatial", a latent with a grid, or "flat", one without.
        latent_channels: Z of a spatial latent; a flat one has as many values in all as a spatial
            one, divided by the cells of its grid.
        latent_stage: the stage whose feature map the latent and the attention are of.
        width: channels of decoder and discriminator at their finest; None for `decoder.WIDTH`.
        is_weak: whether there is a classifier of the latent.
        canvas: (H, W) px.
    """

    latent: str
    latent_channels: int
    latent_stage: int
    width: int | None
    is_weak: bool
    canvas: tuple[int, int]


@dataclass(frozen=True, eq=False)
class CavgaNetworks:
    """Encoder, latent, decoder, discriminator and, weakly supervised, classifier.

    Attributes:
        network: the encoder's preprocessing; its module is not run.
        encoder: gives the feature map as the last of its stages.
        discriminator: None in a model that is only to score.
        classifier: None without weak supervision.
    """

    network: Network
    encoder: FusedEncoder
    head: LatentHead | FlatLatentHead
    decoder: Decoder
    discriminator: Discriminator | None
    classifier: LatentClassifier | None
    device: str

    @classmethod
    def make(
        cls,
        network: Network,
        shape: CavgaShape,
        *,
        seed: int,
        freeze_stages: int = 0,
        is_trained: bool,
        device: str,
    ) -> CavgaNetworks:
        """New ones around a copy of `network`.

        Args:
            is_trained: False for training: with weights that follow from the seed and a
                discriminator. True for what `take` is to fill: the layers take no memory before,
                however large a stranger's model says they are.

        Raises:
            ConfigError: a stage that the network has not, or so many frozen that the feature map
                would not be trained.
        """
        stage = shape.latent_stage
        if stage not in network.stages:
            raise ConfigError(
                f"--latent-stage {stage} does not fit {network.name}",
                expected=", ".join(map(str, network.stages)),
                got=stage,
            )
        if freeze_stages > stage:
            raise ConfigError(
                f"the feature map of --latent-stage {stage} is frozen",
                expected=f"--freeze-stages {stage} or less",
                got=freeze_stages,
            )
        stream = random_stream(f"cavga|{seed}|weights")
        generator = None if is_trained else stream
        stages = {number: path for number, path in network.stages.items() if number <= stage}
        encoder = FusedEncoder(
            replace(network, stages=stages), freeze_stages=freeze_stages, generator=stream
        )
        channels = encoder.channels[-1]
        stride = 2 ** (stage + 1)
        grid = _grid_of(encoder, shape.canvas)
        width = shape.width or decoders.WIDTH
        head: LatentHead | FlatLatentHead
        if shape.latent == "flat":
            head = FlatLatentHead(
                channels,
                shape.latent_channels,
                grid=grid,
                grid_channels=shape.latent_channels,
                generator=generator,
            )
            n_values = shape.latent_channels
        else:
            head = LatentHead(channels, shape.latent_channels, generator=generator)
            n_values = shape.latent_channels * grid[0] * grid[1]
        decoder = Decoder(head.grid_channels, stride, generator=generator, width=width)
        discriminator = classifier = None
        if not is_trained:
            discriminator = Discriminator(
                generator=stream,
                width=shape.width or discriminators.WIDTH,
                n_layers=min(discriminators.N_LAYERS, min(shape.canvas).bit_length() - 1),
            )
        if shape.is_weak:
            classifier = LatentClassifier(n_values, generator=generator)
        networks = cls(network, encoder, head, decoder, discriminator, classifier, device)
        if not is_trained:
            for module in networks.modules().values():
                module.to(device).to(memory_format=torch.channels_last)
        return networks

    def modules(self) -> dict[str, nn.Module]:
        """All of them by name."""
        found = {"encoder": self.encoder, HEAD: self.head, DECODER: self.decoder}
        others = {_DISCRIMINATOR: self.discriminator, CLASSIFIER: self.classifier}
        return found | {name: module for name, module in others.items() if module is not None}

    def learned(self) -> dict[str, torch.Tensor]:
        """Weights of all that scoring needs but the encoder, by name, on the CPU."""
        return {
            name: tensor
            for prefix, module in self._kept().items()
            for name, tensor in plain_tensors(module, prefix).items()
        }

    def names(self) -> set[str]:
        """The names of what `learned` gives."""
        return {
            f"{prefix}/{name}"
            for prefix, module in self._kept().items()
            for name in module.state_dict()
        }

    def take(self, learned: Mapping[str, torch.Tensor]) -> None:
        """Takes over what `learned` gave. Raises ModelError where it does not fit."""
        for prefix, module in self._kept().items():
            load_tensors(module, learned, prefix)
        for module in self.modules().values():
            module.to(self.device).to(memory_format=torch.channels_last)
            module.eval().requires_grad_(False)

    def inputs(
        self, images: torch.Tensor, shown: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the encoder takes and what the decoder is to give; padding is 0 in both.

        Args:
            images: (N, H, W, 3) uint8 on the device.
            shown: (N, H, W) bool there, False in padding; None where there is none.

        Returns:
            (N, 3, H, W) as `Network.preprocess` gives it, and colours in [0, 1].
        """
        pixels = self.network.preprocess(images)
        colours = images.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        colours = colours.contiguous(memory_format=torch.channels_last)
        if shown is not None:
            inside = shown[:, None]
            pixels, colours = pixels * inside, colours * inside
        return pixels, colours

    def _kept(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {HEAD: self.head, DECODER: self.decoder}
        return found if self.classifier is None else found | {CLASSIFIER: self.classifier}


def mean_image(batches: Iterable[tuple[np.ndarray, Any]]) -> np.ndarray:
    """The mean of all images of batches of images and boxes, (H, W, 3) float32 in 0 to 255.

    Each pixel's mean is over the images that show something there; 0 where none does.
    """
    total: np.ndarray | float = 0.0
    count: np.ndarray | float = 0.0
    for images, boxes in batches:
        shown = shown_pixels(np.asarray(boxes), *images.shape[1:3])
        inside = np.ones(images.shape[:3], bool) if shown is None else shown.numpy()
        total = total + (images * inside[..., None]).sum(axis=0, dtype=np.float64)
        count = count + inside.sum(axis=0)[..., None]
    mean: np.ndarray = total / np.maximum(count, 1)
    return mean.astype(np.float32)


def _grid_of(encoder: FusedEncoder, canvas: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the last stage's feature map.

    Asked of the network itself, as networks round their grids up or down; without memory for what
    it computes.
    """
    with torch.no_grad():
        probe = copy.deepcopy(encoder).to("meta")(torch.zeros((1, 3, *canvas), device="meta"))[-1]
    return probe.shape[2], probe.shape[3]
