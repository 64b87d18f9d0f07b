"""Weak colour jitter: the paper's only augmentation, applied to normals and negatives alike.

Parameters are drawn first and applied afterwards, so a draw can be kept, repeated and tested. A
per-pixel colour change commutes with a swap of two patches, which is why it belongs here and not
into the negative set: the stored pixels stay what they are and every update still sees new colours.
"""

from __future__ import annotations

import numpy as np
import torch

from manifests.errors import ConfigError

MAX_JITTER = 0.5
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)
_BLOCK_VALUES = 1 << 17  # pixels per block on the CPU: about a dozen planes of it stay in the cache


def draw_factors(count: int, *, jitter: float, generator: torch.Generator) -> torch.Tensor:
    """Draw the colour change of every image of a batch.

    Args:
        count: number of images B.
        jitter: half-width of the uniform draws, in [0, 0.5].
        generator: a CPU generator; the only source of randomness.

    Returns:
        (B, 4) float32 on the CPU: brightness, contrast and saturation factors in
        [1 - jitter, 1 + jitter], and a hue shift in [-jitter, jitter] as a part of a full turn.

    Raises:
        ConfigError: `jitter` outside [0, 0.5].

    Source: CutPaste (Li et al. 2021), "colour jitter 0.1"; which four changes is ours.
    """
    if not 0.0 <= jitter <= MAX_JITTER:
        raise ConfigError(
            "jitter is out of range",
            expected=f"0 to {MAX_JITTER}",
            got=jitter,
            hint=f"pass --jitter between 0 and {MAX_JITTER}",
        )
    spread = (2.0 * torch.rand((count, 4), generator=generator) - 1.0) * jitter
    return spread + torch.tensor([1.0, 1.0, 1.0, 0.0])


def apply_factors(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue of a batch, in this order.

    Args:
        images: (B, H, W, 3) RGB, uint8 in 0..255 or float32 in [0, 1], on any device. Not changed.
        factors: (B, 4) as `draw_factors` returns them.

    Returns:
        (B, H, W, 3) of the same dtype and device, contiguous. Every value is clipped to its range
        after brightness, contrast and saturation each.

    Raises:
        TypeError: another dtype.
        ValueError: another shape.

    Source: ours; the four operations are torchvision's `adjust_*`.
    Differs: uint8 images are computed in float32 and rounded once at the end, whereas torchvision
    truncates to 8 bits after each of its steps and so darkens every image a little.
    """
    if images.dtype not in (torch.uint8, torch.float32):
        raise TypeError(f"images must be uint8 or float32, not {images.dtype}")
    if images.ndim != 4 or images.shape[3] != 3 or factors.shape != (images.shape[0], 4):
        raise ValueError(
            f"images must be (B, H, W, 3) with (B, 4) factors, "
            f"not {tuple(images.shape)} with {tuple(factors.shape)}"
        )
    count, height, width, _ = images.shape
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    factors = factors.to(device=images.device, dtype=torch.float32)
    # Images are independent of each other, so the block length changes speed only: on a CPU some
    # thirty passes over one image that stays in the cache beat thirty passes over the batch.
    on_cpu = images.device.type == "cpu"
    block = max(1, _BLOCK_VALUES // max(1, height * width)) if on_cpu else max(1, count)
    for start in range(0, count, block):
        stop = min(start + block, count)
        planes = images[start:stop].permute(3, 0, 1, 2).to(torch.float32, copy=True).contiguous()
        if images.dtype == torch.uint8:
            planes *= 1.0 / 255.0
        planes = _shift_colours(planes, factors[start:stop])  # (3, b, H, W)
        if images.dtype == torch.uint8:
            planes = (planes * 255.0).round_().clamp_(0.0, 255.0)
        out[start:stop] = planes.permute(1, 2, 3, 0)
    return out


def colour_jitter(
    images: torch.Tensor,
    *,
    jitter: float,
    generator: torch.Generator,
    places: np.ndarray | None = None,
    n_whole: int | None = None,
) -> torch.Tensor:
    """Draw one colour change per image and apply it; see `draw_factors` and `apply_factors`.

    Args:
        images: (B, H, W, 3) RGB, uint8 in 0..255 or float32 in [0, 1].
        jitter: half-width of the draws, in [0, 0.5]; 0 returns the images as they are.
        generator: a CPU generator; it advances by 4 draws per image, also where `jitter` is 0.
        places: (B,) int64, where the images stand in a batch of `n_whole`, for all of which there
            are draws: an image's colours then do not depend on how the batch is split. None where
            they are the whole.

    Returns:
        (B, H, W, 3) of the same dtype and device.

    Raises:
        ConfigError: `jitter` outside [0, 0.5].

    Source: CutPaste (Li et al. 2021).
    """
    n_drawn = images.shape[0] if n_whole is None else n_whole
    factors = draw_factors(n_drawn, jitter=jitter, generator=generator)
    if places is not None:
        factors = factors[torch.from_numpy(places)]
    return apply_factors(images, factors) if jitter > 0.0 else images


def _shift_colours(planes: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Apply (b, 4) `factors` to the (3, b, H, W) float `planes` in [0, 1], which it overwrites."""
    brightness, contrast, saturation, hue = (column.view(-1, 1, 1) for column in factors.unbind(1))
    planes.mul_(brightness).clamp_(0.0, 1.0)
    mean = _grey(planes).mean(dim=(1, 2), keepdim=True)
    planes.mul_(contrast).add_(mean * (1.0 - contrast)).clamp_(0.0, 1.0)
    grey = _grey(planes)
    planes.mul_(saturation).add_(grey.mul_(1.0 - saturation)).clamp_(0.0, 1.0)
    return _shift_hue(planes, hue)


def _grey(planes: torch.Tensor) -> torch.Tensor:
    red, green, blue = _GREY_WEIGHTS
    return planes[0].mul(red).add_(planes[1], alpha=green).add_(planes[2], alpha=blue)


def _shift_hue(planes: torch.Tensor, hue: torch.Tensor) -> torch.Tensor:
    """Turn the hue of (3, b, H, W) planes by (b, 1, 1) parts of a turn.

    The usual way by HSV divides by the value and multiplies it back. Keeping minimum and chroma
    instead, a channel is `low + chroma * ramp(hue)` with one trapezoid ramp per channel.
    """
    red, green, blue = planes
    low, high = torch.aminmax(planes, dim=0)
    chroma = high - low
    # The position on the hexagon in sixths of a turn. Where chroma is 0 it does not matter; the
    # tiny floor only keeps the quotient finite.
    scale = chroma.clamp_min(1e-12).reciprocal_()
    from_red = (green - blue).mul_(scale)
    from_green = (blue - red).mul_(scale).add_(2.0)
    from_blue = (red - green).mul_(scale).add_(4.0)
    turn = torch.where(
        red == high, from_red, torch.where(green == high, from_green, from_blue, out=from_blue)
    )
    turn.add_(6.0 * hue).remainder_(6.0)
    out = torch.empty_like(planes)
    torch.sub(turn, 3.0, out=out[0]).abs_().sub_(1.0)
    torch.sub(turn, 2.0, out=out[1]).abs_().neg_().add_(2.0)
    torch.sub(turn, 4.0, out=out[2]).abs_().neg_().add_(2.0)
    return out.clamp_(0.0, 1.0).mul_(chroma).add_(low)
