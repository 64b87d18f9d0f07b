"""The guidance network: what a normal image looks like, as features of its own reconstruction."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from detector.guided.convolutions import conv_bn_relu, make_convolution, resized
from manifests.errors import ConfigError

WIDTH = 16
"""For CPUs."""

PAPER_WIDTH = 64
"""For GPUs: the width of a usual U-Net."""

# Widths at strides 2, 4, 8, 16 and 32, in units of the option.
_FACTORS = (1, 2, 4, 8, 8)


class Guidance(nn.Module):
    """A convolutional autoencoder of a normal image, the reference.

    Five convolutions of stride 2 lead to a code on a grid of stride 32; from there four steps of
    bilinear upsampling and a convolution give features at strides 16, 8, 4 and 2, and a fifth the
    image. Nothing bypasses the code, so that the features hold what can be said of the reference
    in few numbers: its normal content without its noise.

    Args:
        width: channels at stride 2; 2, 4, 8 and 8 times as many at strides 4, 8, 16 and 32.
        generator: of the weights.

    Attributes:
        channels: of the features at strides 2, 4, 8 and 16.

    Raises:
        ConfigError: no channels.

    Source: SGSF (arXiv 2209.12440; abstract only), the self-supervised guidance network; details
    as in NIGSF (IEEE TCSVT 34(6), 2024), of the same group. Differs: depth and widths, which are
    ours.
    """

    def __init__(self, *, width: int = WIDTH, generator: torch.Generator) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError("guidance width out of range", expected="at least 1", got=width)
        widths = [factor * width for factor in _FACTORS]
        self.channels: tuple[int, ...] = tuple(widths[:-1])
        self.down = nn.ModuleList(
            conv_bn_relu(before, after, generator, stride=2)
            for before, after in zip([3, *widths], widths, strict=False)
        )
        # Coarse to fine: strides 16, 8, 4, 2.
        self.up = nn.ModuleList(
            conv_bn_relu(before, after, generator)
            for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.to_rgb = make_convolution(widths[0], 3, generator)
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Reconstruct references.

        Args:
            pixels: (N, 3, H, W) float32 in [0, 1], as `preprocess` returns them; any H and W.

        Returns:
            The reconstruction (N, 3, H, W) float32 in [0, 1], and the features as `features`
            returns them.

        Source: see the class.
        """
        features = self.features(pixels)
        fine = resized(features[0], tuple(pixels.shape[2:]))
        return torch.sigmoid(self.to_rgb(fine).float()), features

    def features(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The decoder's features alone, which is all that scoring needs.

        Args:
            pixels: as for `forward`.

        Returns:
            (N, C, ceil(H / s), ceil(W / s)) for s in 2, 4, 8, 16, with C of `channels`.

        Source: see the class.
        """
        grids: list[tuple[int, int]] = []
        x = pixels
        for step in self.down:
            x = step(x)
            grids.append((x.shape[2], x.shape[3]))
        features: list[torch.Tensor] = []
        for step, grid in zip(self.up, grids[-2::-1], strict=True):
            x = step(resized(x, grid))
            features.insert(0, x)
        return features

    @staticmethod
    def preprocess(images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Images as the network takes them.

        Args:
            images: (N, H, W, 3) uint8 RGB, NumPy or torch; not modified.

        Returns:
            (N, 3, H, W) float32 in [0, 1], channels last, on the device of `images`.

        Source: ours.
        """
        if isinstance(images, np.ndarray):
            images = torch.from_numpy(np.array(images, order="C"))
        pixels = images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
        return pixels.contiguous(memory_format=torch.channels_last)
