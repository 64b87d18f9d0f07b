"""Tells photographs from reconstructions."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from detector.cavga.initial_weights import SLOPE, make_conv, make_linear
from detector.cavga.latent import check_positive
from manifests.errors import ConfigError

WIDTH = 16
PAPER_WIDTH = 64
N_LAYERS = 5
MAX_FACTOR = 8
_FIRST_STEPS = 20
_EPS = 1e-12


class Discriminator(nn.Module):
    """4×4 convolutions of stride 2 with LeakyReLU, the mean over the last grid, a linear layer.

    In training mode every pass moves the estimates of the convolutions' norms by a step; in eval
    mode nothing changes.

    Args:
        generator: of the weights.
        width: channels of the first convolution; they double with each, up to 8 times as many.
        n_layers: convolutions; images must have sides of at least 2 ** n_layers px.

    Raises:
        ConfigError: a width or a number of layers below 1.

    Source: the paper uses DCGAN's discriminator (Radford et al. 2016; read elsewhere: pretrained
    on CelebA, whose weights we do not have). Differs: spectral normalisation (Miyato et al. 2018)
    in place of batch norm. A batch of photographs and one of reconstructions would be told apart
    by their batch statistics, batches are small, and a bounded slope keeps the discriminator's
    loss from falling to zero, where it would teach nothing. The mean over the grid takes any
    canvas.
    """

    def __init__(
        self, *, generator: torch.Generator, width: int = WIDTH, n_layers: int = N_LAYERS
    ) -> None:
        super().__init__()
        check_positive(width=width, n_layers=n_layers)
        self._min_side_px = 2**n_layers
        widths = [3, *(width * min(2**n, MAX_FACTOR) for n in range(n_layers))]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [_SpectralConv(width_in, width_out, generator), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers)
        self.last = make_linear(widths[-1], 1, generator, gain=1.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Tell images apart.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].

        Returns:
            (B,) logits, above 0 for photographs.

        Raises:
            ConfigError: images too small for the number of layers.
        """
        if min(images.shape[2:]) < self._min_side_px:
            raise ConfigError(
                "images too small for the discriminator",
                expected=f"sides of at least {self._min_side_px} px",
                got=f"{images.shape[2]}×{images.shape[3]}",
            )
        hidden = self.layers(2.0 * images - 1.0)
        logits: torch.Tensor = self.last(hidden.mean(dim=(2, 3)))
        return logits[:, 0]


class _SpectralConv(nn.Module):
    """4×4 convolution of stride 2 whose weight, as a (C', C · 16) matrix, has norm 1."""

    left: torch.Tensor

    def __init__(self, width_in: int, width_out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.conv = make_conv(width_in, width_out, 4, generator, stride=2)
        direction = torch.randn(width_out, generator=generator)
        self.register_buffer("left", F.normalize(direction, dim=0, eps=_EPS))
        for _ in range(_FIRST_STEPS):
            self._step()

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        if self.training:
            self._step()
        # Of the moment: a later step must not change what this pass's backward reads.
        left = self.left.clone()
        matrix = self.conv.weight.flatten(1)
        with torch.no_grad():
            right = F.normalize(matrix.T @ left, dim=0, eps=_EPS)
        norm = left @ (matrix @ right)
        return F.conv2d(grid, self.conv.weight / norm, self.conv.bias, stride=2, padding=1)

    @torch.no_grad()
    def _step(self) -> None:
        """One step of the power iteration."""
        matrix = self.conv.weight.flatten(1)
        right = F.normalize(matrix.T @ self.left, dim=0, eps=_EPS)
        self.left.copy_(F.normalize(matrix @ right, dim=0, eps=_EPS))
