"""The image score of a segmentation: its largest mean over a window."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from detector.score_map import REFERENCE_PX

WINDOW_PX = 5

PAPER_WINDOW_PX = 21


def window_side(window_px: int, height: int, width: int) -> int:
    """Side in px of the window for a canvas: the odd number nearest to its share of 256 px.

    Args:
        window_px: side for a canvas whose shorter side is 256 px, 1 or more.
        height, width: of the canvas, in px.

    Returns:
        An odd number, 1 or more.

    Source: NIGSF (IEEE TCSVT 34(6), 2024): 21 px at 256 px. Differs: it grows with the canvas, and
    5 px is our default: small defects drown in a large window (docs/results.md).
    """
    return max(1, 2 * round((window_px * min(height, width) / REFERENCE_PX - 1.0) / 2.0) + 1)


def pooled_scores(
    maps: torch.Tensor, *, window_px: int = WINDOW_PX, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """The largest of the means over windows centred on the valid pixels of each map.

    Windows are cut where the canvas ends, and only valid pixels count in a mean: padding adds
    nothing and takes nothing away, and a constant map scores its constant.

    Args:
        maps: (B, H, W) float32.
        window_px: side of the windows, see `window_side`.
        valid: (B, H, W) bool with at least one valid pixel each; None for all.

    Returns:
        (B,) float32.

    Raises:
        ValueError: a map without a valid pixel, or shapes that differ.

    Source: NIGSF (IEEE TCSVT 34(6), 2024). Differs: means of what exists, where zeros outside
    would hide defects along the border.
    """
    if valid is None:
        valid = torch.ones_like(maps, dtype=torch.bool)
    if valid.shape != maps.shape or valid.dtype != torch.bool or not valid.any(2).any(1).all():
        raise ValueError(f"valid must be {tuple(maps.shape)} bool, with a pixel in every map")
    side = window_side(window_px, *maps.shape[1:])
    total = _window_sums(torch.where(valid, maps, 0.0), side)
    count = _window_sums(valid.to(maps.dtype), side)
    # A valid pixel is in its own window, so that no mean that counts is one of nothing.
    means = (total / count.clamp_min(0.5)).masked_fill(~valid, -torch.inf)
    return means.amax(dim=(1, 2))


def _window_sums(values: torch.Tensor, side: int) -> torch.Tensor:
    """Sums over windows of (B, H, W), zeros outside: one axis after the other."""
    half = side // 2
    rows = F.avg_pool2d(values[:, None], (side, 1), stride=1, padding=(half, 0), divisor_override=1)
    both = F.avg_pool2d(rows, (1, side), stride=1, padding=(0, half), divisor_override=1)
    return both[:, 0]
