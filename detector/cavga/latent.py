"""What the encoder says of an image: mean and variance of a latent, with or without a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from detector.cavga.initial_weights import SLOPE, make_conv, make_linear
from manifests.errors import ConfigError

HIDDEN = 128
MAX_LOG_VARIANCE = 10.0
# A latent starts with little noise, so that the decoder hears something before the divergence from
# the prior has had time to silence it.
FIRST_LOG_VARIANCE = -4.0


@dataclass(frozen=True, eq=False)
class Latent:
    """A normal distribution per value of the latent.

    Attributes:
        mean: (B, Z, h, w), or (B, Z) of a flat latent.
        log_variance: of the same shape, natural logarithm, within ±10.
    """

    mean: torch.Tensor
    log_variance: torch.Tensor

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """Draw once, so that gradients reach mean and variance.

        Args:
            generator: of the noise, on the CPU: the draws are the same on every device.

        Returns:
            Of `mean`'s shape, dtype and device.

        Source: Kingma and Welling 2014, section 2.4.
        """
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + (0.5 * self.log_variance).exp() * noise.to(self.mean.device)


class LatentHead(nn.Module):
    """A latent that keeps the grid of the feature map.

    3×3 convolution, LeakyReLU, then a 1×1 convolution each for mean and variance: with a linear
    head the gradients that weigh the channels for attention would be the same for every image.
    There is no normalisation over the batch, so that each image's attention is its own.

    Args:
        in_channels: C of the feature map.
        latent_channels: Z.
        generator: of the weights; None for none yet, see `make_conv`.
        hidden: channels between the convolutions.

    Attributes:
        grid_channels: of what `to_grid` returns: Z.

    Raises:
        ConfigError: a number of channels below 1.

    Source: the paper for a latent with a grid; the head is ours.
    """

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        *,
        generator: torch.Generator | None,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__()
        check_positive(latent_channels=latent_channels, hidden=hidden)
        self.grid_channels = latent_channels
        self.body = nn.Sequential(make_conv(in_channels, hidden, 3, generator), nn.LeakyReLU(SLOPE))
        self.mean = make_conv(hidden, latent_channels, 1, generator, gain=1.0)
        self.log_variance = make_conv(hidden, latent_channels, 1, generator, gain=0.0)

    def forward(self, features: torch.Tensor) -> Latent:
        """(B, C, h, w) feature map -> latent of (B, Z, h, w)."""
        hidden = self.body(features)
        return Latent(self.mean(hidden), _bounded(self.log_variance(hidden)))

    def to_grid(self, values: torch.Tensor) -> torch.Tensor:
        """What the decoder takes: (B, Z, h, w) as it is."""
        return values


class FlatLatentHead(nn.Module):
    """A latent without a grid: the hidden feature map flattened, and a linear layer back.

    For the ablation. It belongs to one size of canvas.

    Args:
        in_channels: C of the feature map.
        latent_values: Z.
        grid: (h, w) of the feature map.
        grid_channels: channels of what `to_grid` returns.
        generator: of the weights; None for none yet, see `make_conv`.
        hidden: channels of the flattened map.

    Raises:
        ConfigError: a number of channels or cells below 1.

    Source: the paper compares with a flattened latent; its layers are ours.
    """

    def __init__(
        self,
        in_channels: int,
        latent_values: int,
        *,
        grid: tuple[int, int],
        grid_channels: int,
        generator: torch.Generator | None,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__()
        h, w = grid
        check_positive(
            latent_values=latent_values, grid_channels=grid_channels, hidden=hidden, h=h, w=w
        )
        self.grid_channels = grid_channels
        self._grid = (h, w)
        self.body = nn.Sequential(make_conv(in_channels, hidden, 3, generator), nn.LeakyReLU(SLOPE))
        self.mean = make_linear(hidden * h * w, latent_values, generator, gain=1.0)
        self.log_variance = make_linear(hidden * h * w, latent_values, generator, gain=0.0)
        self.back = make_linear(latent_values, grid_channels * h * w, generator, gain=1.0)

    def forward(self, features: torch.Tensor) -> Latent:
        """(B, C, h, w) feature map, of the grid given -> latent of (B, Z)."""
        hidden = self.body(features).flatten(1)
        return Latent(self.mean(hidden), _bounded(self.log_variance(hidden)))

    def to_grid(self, values: torch.Tensor) -> torch.Tensor:
        """What the decoder takes: (B, Z) -> (B, grid_channels, h, w)."""
        back: torch.Tensor = self.back(values).unflatten(1, (self.grid_channels, *self._grid))
        return back


def check_positive(**counts: int) -> None:
    """Raises ConfigError, with the name, for a count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} out of range", expected="at least 1", got=count)


def _bounded(values: torch.Tensor) -> torch.Tensor:
    """Within ±10, smoothly: exp() never overflows and no gradient is cut off."""
    return MAX_LOG_VARIANCE * torch.tanh((values + FIRST_LOG_VARIANCE) / MAX_LOG_VARIANCE)
