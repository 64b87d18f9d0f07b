"""Layers whose weights follow from a generator, never from the global random state."""

from __future__ import annotations

import math

import torch
from torch import nn

SLOPE = 0.2  # of LeakyReLU below zero, DCGAN's


def make_conv(
    width_in: int,
    width_out: int,
    kernel: int,
    generator: torch.Generator | None,
    *,
    stride: int = 1,
    gain: float = 2.0,
) -> nn.Conv2d:
    """A convolution with uniform weights of variance gain / fan-in and no bias to start with.

    Args:
        width_in, width_out: channels.
        kernel: side of the kernel, in cells; the grid is padded by (kernel - 1) // 2 zeros.
        generator: of the weights; None for a layer without, on the device "meta".
        stride: in cells.
        gain: 2 before a ReLU (He's), 1 where nothing follows, 0 for no weights at all.

    Returns:
        (B, width_in, h, w) -> (B, width_out, h', w').

    Source: He et al. 2015, equation 10, for the variance.
    """
    padding = (kernel - 1) // 2
    conv: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d, width_in, width_out, kernel, stride=stride, padding=padding, **_place(generator)
    )
    _fill(conv, width_in * kernel**2, gain, generator)
    return conv


def make_linear(
    width_in: int, width_out: int, generator: torch.Generator | None, *, gain: float = 2.0
) -> nn.Linear:
    """A linear layer with uniform weights of variance gain / fan-in and no bias to start with.

    Args:
        width_in, width_out, generator, gain: as for `make_conv`.

    Returns:
        (B, width_in) -> (B, width_out).

    Source: He et al. 2015, equation 10, for the variance.
    """
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, width_in, width_out, **_place(generator))
    _fill(linear, width_in, gain, generator)
    return linear


def _place(generator: torch.Generator | None) -> dict[str, str]:
    return {} if generator is not None else {"device": "meta"}


def _fill(
    layer: nn.Conv2d | nn.Linear, fan_in: int, gain: float, generator: torch.Generator | None
) -> None:
    if generator is None:
        return
    bound = math.sqrt(3.0 * gain / fan_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
