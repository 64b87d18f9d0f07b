"""Which cells were edited: the loss on the very features that the detector compares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

PATCH_STAGES = (2, 3)
HEAD_WIDTH = 64
MIN_COVERED = 0.25
MAX_WEIGHT = 50.0
_SLACK = 1e-6  # over a quarter as a float32 mean, which may miss an exact quarter by 6e-8


def make_patch_head(n_features: int, generator: torch.Generator) -> nn.Sequential:
    """1×1 convolution to 64, ReLU, 1×1 convolution to one logit per cell.

    Args:
        n_features: channels D of the joined features.
        generator: of its weights, PyTorch's usual uniform ones.

    Returns:
        (N, D, h, w) -> (N, 1, h, w).

    Source: ours.
    """
    convs = []
    for width_in, width_out in ((n_features, HEAD_WIDTH), (HEAD_WIDTH, 1)):
        conv = nn.utils.skip_init(nn.Conv2d, width_in, width_out, 1)
        bound = width_in**-0.5
        nn.init.uniform_(conv.weight, -bound, bound, generator=generator)
        nn.init.uniform_(conv.bias, -bound, bound, generator=generator)
        convs.append(conv)
    return nn.Sequential(convs[0], nn.ReLU(), convs[1])


def joined_features(activations: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join stages on the grid of the first.

    Args:
        activations: (N, C, h, w) of every stage, the finest grid first.

    Returns:
        (N, D, h, w) float32, the others upsampled bilinearly; D is the sum of their C.

    Source: Roth et al. 2022, section 3.1. Differs: without the 3×3 mean that scoring takes before,
    so that a cell answers for itself.
    """
    finest = tuple(activations[0].shape[2:])
    levels = [
        activation.float()
        if tuple(activation.shape[2:]) == finest
        else F.interpolate(activation.float(), finest, mode="bilinear", align_corners=False)
        for activation in activations
    ]
    return torch.cat(levels, dim=1)


def cell_targets(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Which cells were edited: those that the mask covers by more than a quarter.

    Args:
        masks: (N, H, W) bool.
        grid: (h, w) cells.

    Returns:
        (N, h, w) float32, 0 or 1, on the device of `masks`. Where the grid does not divide the
        image, cells overlap by a pixel.

    Source: ours.
    """
    covered = F.adaptive_avg_pool2d(masks.to(torch.float32), grid)
    return (covered > MIN_COVERED + _SLACK).to(torch.float32)


def cell_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean binary logistic loss over cells, edited ones weighing `#unedited / #edited`, at most 50.

    Args:
        logits: (N, h, w) float32.
        targets: (N, h, w) float32, 0 or 1.

    Returns:
        The loss, a scalar; where no cell was edited, that of the others alone.

    Source: ours.
    """
    n_edited = targets.sum()
    weight = ((targets.numel() - n_edited) / n_edited.clamp_min(1.0)).clamp_max(MAX_WEIGHT)
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)


def cell_counts(logits: torch.Tensor, targets: torch.Tensor) -> list[int]:
    """How many unedited cells are recognised, how many there are, and the same of edited ones.

    A logit over 0 is an edited cell.

    Args:
        logits, targets: as for `cell_loss`.

    Source: ours.
    """
    is_right = (logits > 0) == (targets > 0)
    counts: list[int] = []
    for value in (0, 1):
        is_one = targets == value
        counts += [int((is_right & is_one).sum()), int(is_one.sum())]
    return counts


def balanced_accuracy(counts: Sequence[int]) -> float:
    """Mean of the parts of unedited and of edited cells that are recognised; of one class alone
    where there is no other.

    Args:
        counts: as `cell_counts` returns them.

    Source: ours.
    """
    pairs = zip(counts[0::2], counts[1::2], strict=True)
    parts = [np.float32(n_right) / np.float32(n) for n_right, n in pairs if n]
    return float(np.mean(parts, dtype=np.float32))
