"""Cell embeddings: the feature map that a network pools before it classifies."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from detector.frozen_prefix import Forward
from manifests.errors import ConfigError, ModelError
from manifests.weights import Network, autocast

_PROBE_PX = 64


class CellEmbeddings:
    """The last feature map of a network, one embedding per cell, whose mean is the image's.

    It is what timm's `forward_features` gives: for networks that classify the plain mean of that
    map (EfficientNet, ResNet, DenseNet, RegNet) the mean over all cells is exactly the vector
    before the classifier. Others work on after pooling (VGG's fully connected layers, MobileNetV3's
    last convolution, ConvNeXt's norm); that part is not a mean over cells and is left out, so that
    one rule holds for all networks.

    Args:
        network: weights and preprocessing, in eval mode.
        precision: "fp32" or "bf16", for the forward pass; the embeddings are float32 either way.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: a network without such a feature map.
        ModelError: the network is in training mode.

    Source: Li et al. 2021 (CutPaste), the representation that its density is fitted to. Differs:
    where a network works on after pooling, its pooled feature map is taken instead.
    """

    def __init__(self, network: Network, *, precision: str = "fp32", device: str = "cpu") -> None:
        self.network = network
        self.precision = precision
        self.device = device
        if network.module.training:
            raise ModelError(
                "the network is in training mode", hint="call .eval(): its embeddings would drift"
            )
        if not hasattr(network.module, "forward_features"):
            raise ConfigError(
                f"{network.name} has no pooled feature map", hint="try another --network"
            )
        # Asked of the network itself, as its width is described nowhere for all architectures.
        probe = self._activation(np.zeros((1, _PROBE_PX, _PROBE_PX, 3), np.uint8))
        if probe.ndim != 4:
            raise ConfigError(
                f"{network.name} has no pooled feature map",
                expected="(B, C, h, w)",
                got=tuple(probe.shape),
                hint="try another --network",
            )
        self.dim = probe.shape[1]

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        """Embeddings of a batch of (B, H, W, 3) uint8 RGB images.

        Returns:
            (B, h, w, D) float32 on `device`, finite.

        Raises:
            ModelError: embeddings that are not finite.
        """
        cells = self._activation(images).permute(0, 2, 3, 1).contiguous()
        if not torch.isfinite(cells.sum()):
            raise ModelError(
                "embeddings are not finite",
                hint="the extractor has diverged: train it again with a lower learning rate",
            )
        return cells

    @torch.inference_mode()
    def _activation(self, images: np.ndarray) -> torch.Tensor:
        pixels = self.network.preprocess(torch.tensor(np.ascontiguousarray(images)).to(self.device))
        with autocast(self.device, self.precision):
            return cast(Forward, self.network.module.forward_features)(pixels).float()
