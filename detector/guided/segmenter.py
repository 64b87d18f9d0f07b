"""The segmentation network: which pixels of an image differ from what its guidance shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from detector.guided.convolutions import conv_bn_relu, make_convolution, resized
from detector.guided.fused_encoder import FusedEncoder
from manifests.errors import ConfigError
from manifests.weights import Network

WIDTH = 16
"""For CPUs."""

PAPER_WIDTH = 64
"""For GPUs: the width of a usual U-Net."""

# What the first logits say of every pixel, so that the many normal ones do not drown the rest.
_PRIOR = 0.01


class Segmenter(nn.Module):
    """A U-Net over a pretrained network whose stages take in guidance.

    The decoder starts from the deepest stage; each of its steps upsamples bilinearly to the next
    finer stage's grid, concatenates that stage's (fused) output and applies two 3×3 convolutions
    with batch norm and ReLU. A 1×1 convolution gives logits at stride 2, or 4 where the network
    has no finer stage, and bilinear upsampling those of the pixels.

    Args:
        network: the pretrained network; it is copied and stays as it is.
        guidance_channels: `Guidance.channels`; None for a network without guidance.
        width: channels of the decoder at stride 2; 2, 4 and 8 times as many at 4, 8 and 16.
        freeze_stages: as for `FusedEncoder`.
        generator: of all weights that are not the network's.

    Attributes:
        encoder: the `FusedEncoder`.

    Raises:
        ConfigError: no channels, not as many stages as are to be frozen, or not four widths of
            guidance.

    Source: SGSF (arXiv 2209.12440; abstract only); details as in NIGSF (IEEE TCSVT 34(6), 2024).
    Differs: the encoder is pretrained and the fusion residual (see `Fusion`); widths are ours. The
    first logits are those of a probability of 0.01 (Lin et al. 2017, focal loss, section 4.1).
    """

    def __init__(
        self,
        network: Network,
        *,
        guidance_channels: Sequence[int] | None = None,
        width: int = WIDTH,
        freeze_stages: int = 0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError("decoder width out of range", expected="at least 1", got=width)
        self.encoder = FusedEncoder(
            network,
            guidance_channels=guidance_channels,
            freeze_stages=freeze_stages,
            generator=generator,
        )
        below = self.encoder.channels[-1]
        steps = []
        # Coarse to fine.
        for stage, skip in zip(
            self.encoder.stages[-2::-1], self.encoder.channels[-2::-1], strict=True
        ):
            out = width * 2**stage
            steps.append(
                nn.Sequential(
                    conv_bn_relu(below + skip, out, generator), conv_bn_relu(out, out, generator)
                )
            )
            below = out
        self.decoder = nn.ModuleList(steps)
        self.head = make_convolution(below, 1, generator, kernel=1)
        if self.head.bias is not None:
            nn.init.constant_(self.head.bias, math.log(_PRIOR / (1.0 - _PRIOR)))
        device = next(network.module.parameters()).device
        self.to(device).to(memory_format=torch.channels_last)

    def forward(
        self, pixels: torch.Tensor, guidance: Sequence[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Logits of every pixel being anomalous.

        Several threads may call at once.

        Args:
            pixels: (N, 3, H, W) float32 as `Network.preprocess` returns them; H and W need not be
                multiples of anything.
            guidance: (N, G, h, w) at strides 2, 4, 8 and 16, as `Guidance.features` returns them
                (detached where the segmentation is not to train the guidance); None for the same
                network without fusions.

        Returns:
            (N, H, W) float32.

        Raises:
            ValueError: guidance for a network that was made without.

        Source: see the class.
        """
        *skips, x = self.encoder(pixels, guidance)
        for step, skip in zip(self.decoder, reversed(skips), strict=True):
            x = step(torch.cat([resized(x, tuple(skip.shape[2:])), skip], dim=1))
        return resized(self.head(x).float(), tuple(pixels.shape[2:]))[:, 0]
