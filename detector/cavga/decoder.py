"""From a latent's grid back to an image."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from detector.cavga.initial_weights import make_conv
from detector.cavga.latent import check_positive
from manifests.errors import ConfigError

WIDTH = 16
PAPER_WIDTH = 64
MAX_FACTOR = 8
GROUP_CHANNELS = 8


class Decoder(nn.Module):
    """Residual blocks, each of which doubles the grid and halves the channels, down to `width`.

    Args:
        in_channels: Z of the latent's grid.
        stride: px of the image per cell of the grid, a power of two.
        generator: of the weights; None for none yet, see `make_conv`.
        width: channels at full resolution; the coarsest grid has at most 8 times as many. 64 is the
            size of the paper's model family; a block costs 27 · width² products per pixel.

    Raises:
        ConfigError: a stride that is not a power of two from 2 on, a width below 1.

    Source: the paper says "residual" and points to BigGAN (read elsewhere; Brock et al. 2019,
    figure 15b), from which the order of layers is taken. Differs: group norm, which treats each
    image for itself, in place of batch norm, so that an image is reconstructed at test time as it
    was in training; each block's first convolution runs before the grid is doubled, which saves
    three quarters of it.
    """

    def __init__(
        self,
        in_channels: int,
        stride: int,
        *,
        generator: torch.Generator | None,
        width: int = WIDTH,
    ) -> None:
        super().__init__()
        if stride < 2 or stride & (stride - 1):
            raise ConfigError("stride out of range", expected="a power of two", got=stride)
        check_positive(in_channels=in_channels, width=width)
        n_blocks = int(math.log2(stride))
        widths = [width * min(2**n, MAX_FACTOR) for n in range(n_blocks, -1, -1)]
        self.stride = stride
        self.first = make_conv(in_channels, widths[0], 3, generator)
        self.blocks = nn.Sequential(*(_UpBlock(*pair, generator) for pair in pairwise(widths)))
        self.norm = _norm(width)
        self.last = make_conv(width, 3, 3, generator, gain=1.0)

    def logits(self, grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The image before the sigmoid, which is what the reconstruction loss takes.

        Args:
            grid: (B, Z, h, w).
            size: (H, W) px of the image; where h · stride and w · stride differ from it, the
                result is interpolated bilinearly.

        Returns:
            (B, 3, H, W) RGB, unbounded.
        """
        hidden = self.blocks(self.first(grid))
        logits: torch.Tensor = self.last(F.relu(self.norm(hidden)))
        if tuple(logits.shape[2:]) != tuple(size):
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits

    def forward(self, grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The image: (B, 3, H, W) RGB in [0, 1], for a grid and size as `logits` takes them."""
        return torch.sigmoid(self.logits(grid, size))


class _UpBlock(nn.Module):
    """(B, C, h, w) -> (B, C', 2h, 2w)."""

    def __init__(self, width_in: int, width_out: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norm1 = _norm(width_in)
        self.conv1 = make_conv(width_in, width_out, 3, generator)
        self.norm2 = _norm(width_out)
        self.conv2 = make_conv(width_out, width_out, 3, generator, gain=1.0)
        self.shortcut = make_conv(width_in, width_out, 1, generator, gain=1.0)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        hidden = _double(self.conv1(F.relu(self.norm1(grid))))
        hidden = self.conv2(F.relu(self.norm2(hidden)))
        joined: torch.Tensor = hidden + _double(self.shortcut(grid))
        return joined


def _double(grid: torch.Tensor) -> torch.Tensor:
    return F.interpolate(grid, scale_factor=2.0, mode="nearest")


def _norm(width: int) -> nn.GroupNorm:
    """Groups of 8 channels, or one of all where that does not come out even."""
    return nn.GroupNorm(1 if width % GROUP_CHANNELS else width // GROUP_CHANNELS, width)
