"""Convolutions whose weights follow from a generator, and what lies between two of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def make_convolution(
    width_in: int,
    width_out: int,
    generator: torch.Generator,
    *,
    kernel: int = 3,
    stride: int = 1,
    has_bias: bool = True,
) -> nn.Conv2d:
    """A convolution with PyTorch's usual uniform weights, drawn without global random state.

    Args:
        width_in, width_out: channels.
        generator: of the weights.
        kernel: side in cells, odd; the border is padded with zeros by half of it.
        stride: 1 or 2; the output's sides are those of the input divided by it, rounded up.
        has_bias: whether there is a bias, which a batch norm behind would undo.

    Returns:
        (N, width_in, h, w) -> (N, width_out, ceil(h / stride), ceil(w / stride)).

    Source: ours.
    """
    convolution: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d, width_in, width_out, kernel, stride=stride, padding=kernel // 2, bias=has_bias
    )
    bound = (width_in * kernel**2) ** -0.5
    nn.init.uniform_(convolution.weight, -bound, bound, generator=generator)
    if convolution.bias is not None:
        nn.init.uniform_(convolution.bias, -bound, bound, generator=generator)
    return convolution


def conv_bn_relu(
    width_in: int, width_out: int, generator: torch.Generator, *, stride: int = 1
) -> nn.Sequential:
    """3×3 convolution, batch norm and ReLU, the unit that everything here is built of.

    Args and shapes: as `make_convolution`.

    Source: NIGSF (IEEE TCSVT 34(6), 2024).
    """
    return nn.Sequential(
        make_convolution(width_in, width_out, generator, stride=stride, has_bias=False),
        nn.BatchNorm2d(width_out),
        nn.ReLU(inplace=True),
    )


def resized(features: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """Features on another grid, bilinearly; as they are where it is their own.

    Args:
        features: (N, C, h, w).
        grid: (h', w').

    Returns:
        (N, C, h', w').

    Source: ours.
    """
    if tuple(features.shape[2:]) == tuple(grid):
        return features
    return F.interpolate(features, grid, mode="bilinear", align_corners=False)
