"""What guided segmentation learns from: marked pixels, and a reconstruction of the reference."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F

GAMMA = 2.0
SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_MIDDLE = 0.5


def focal_loss(
    logits: torch.Tensor,
    masks: torch.Tensor,
    *,
    gamma: float = GAMMA,
    valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of `(1 - p)^gamma * -log(p)` over pixels, p the probability of what a pixel is.

    Args:
        logits: (B, H, W), of a pixel being anomalous.
        masks: (B, H, W) bool, the anomalous pixels.
        gamma: at least 0; 0 is cross-entropy.
        valid: (B, H, W) bool, the pixels that count; None for all.

    Returns:
        The loss, a scalar of at least float32; 0 where no pixel counts.

    Raises:
        ValueError: shapes that differ, masks that are not bool, or a negative gamma.

    Source: Lin et al. 2017 (arXiv 1708.02002), equation 4, without class weights, as NIGSF (IEEE
    TCSVT 34(6), 2024) uses it.
    """
    _check_masks(logits, masks, "masks")
    if gamma < 0.0:
        raise ValueError(f"gamma is negative: {gamma}")
    logits = _at_least_float32(logits)
    # softplus(wrong) is -log p, and sigmoid(wrong) is 1 - p: nothing over- or underflows to NaN.
    wrong = torch.where(masks, -logits, logits)
    losses = F.softplus(wrong) * torch.exp(gamma * F.logsigmoid(wrong))
    if valid is None:
        return losses.mean()
    _check_masks(logits, valid, "valid")
    return torch.where(valid, losses, 0.0).sum() / valid.sum().clamp_min(1)


def ssim(x: torch.Tensor, y: torch.Tensor, *, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Structural similarity of images, the mean over all windows of 11×11 px inside them.

    Windows weigh their pixels with a Gaussian of sigma 1.5 px. Those that would reach over the
    border are left out, so that no pixel is made up, and so are those that hold an invalid pixel.

    Args:
        x, y: (B, C, H, W) floating point in [0, 1], at least 11×11 px.
        valid: (B, H, W) bool, or None for all.

    Returns:
        (B,) at least float32, in [-1, 1]; 1 where no window is valid. Computed in at least float32
        even inside autocast: variances are differences of almost equal numbers.

    Raises:
        ValueError: shapes that differ, or images smaller than a window.

    Source: Wang et al. 2004, equation 13, with its constants 0.01 and 0.03 and data range 1, per
    channel.
    """
    if x.shape != y.shape or x.ndim != 4 or min(x.shape[2:]) < SSIM_WINDOW_PX:
        raise ValueError(
            f"SSIM takes two batches (B, C, H, W) of at least {SSIM_WINDOW_PX}x{SSIM_WINDOW_PX} px,"
            f" not {tuple(x.shape)} and {tuple(y.shape)}"
        )
    with torch.autocast(x.device.type, enabled=False):
        # Shifting changes no variance, and leaves less to cancel.
        x, y = _at_least_float32(x) - _MIDDLE, _at_least_float32(y) - _MIDDLE
        mean_x, mean_y = _smooth(x), _smooth(y)
        covariance = _smooth(x * y) - mean_x * mean_y
        # Of the variances only the sum is needed.
        variances = _smooth(x.square() + y.square()) - mean_x.square() - mean_y.square()
        mean_x, mean_y = mean_x + _MIDDLE, mean_y + _MIDDLE
        product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
        similarity = (2.0 * product + _C1) * (2.0 * covariance + _C2)
        similarity = (similarity / ((squares + _C1) * (variances + _C2))).mean(dim=1)
    if valid is None:
        return similarity.mean(dim=(1, 2))
    _check_masks(x[:, 0], valid, "valid")
    # A window is valid where the smallest of its pixels is.
    windows = -F.max_pool2d(-valid[:, None].to(similarity.dtype), SSIM_WINDOW_PX, stride=1)[:, 0]
    n_windows = windows.sum(dim=(1, 2))
    total = (similarity * windows).sum(dim=(1, 2))
    return torch.where(n_windows > 0, total / n_windows.clamp_min(1.0), 1.0)


def reconstruction_loss(
    reconstruction: torch.Tensor, target: torch.Tensor, *, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error plus `1 - SSIM`.

    Args:
        reconstruction, target: (B, 3, H, W) in [0, 1], at least 11×11 px.
        valid: (B, H, W) bool, the pixels that count; None for all.

    Returns:
        The loss, a scalar of at least float32.

    Raises:
        ValueError: shapes that differ, or images smaller than a window of the SSIM.

    Source: NIGSF (IEEE TCSVT 34(6), 2024).
    """
    dissimilarity = 1.0 - ssim(reconstruction, target, valid=valid).mean()
    squares = (_at_least_float32(reconstruction) - _at_least_float32(target)).square()
    if valid is None:
        return squares.mean() + dissimilarity
    squares = torch.where(valid, squares.mean(dim=1), 0.0)
    return squares.sum() / valid.sum().clamp_min(1) + dissimilarity


def _smooth(x: torch.Tensor) -> torch.Tensor:
    """Gaussian means of the windows inside (B, C, H, W), one axis after the other."""
    channels = x.shape[1]
    weights = torch.tensor(_window(), dtype=x.dtype, device=x.device)
    down = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    across = weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(x, down, groups=channels), across, groups=channels)


@functools.cache
def _window() -> tuple[float, ...]:
    offsets = range(-(SSIM_WINDOW_PX // 2), SSIM_WINDOW_PX // 2 + 1)
    weights = [math.exp(-0.5 * (offset / SSIM_SIGMA_PX) ** 2) for offset in offsets]
    return tuple(weight / sum(weights) for weight in weights)


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_masks(values: torch.Tensor, masks: torch.Tensor, name: str) -> None:
    if masks.dtype != torch.bool or masks.shape != values.shape:
        raise ValueError(
            f"{name} must be {tuple(values.shape)} bool, not {tuple(masks.shape)} {masks.dtype}"
        )
