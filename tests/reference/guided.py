"""Slow, literal pieces of guided segmentation: one pixel, one window, one pair at a time."""

from __future__ import annotations

import math

import numpy as np
import torch

WINDOW, SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2


def focal_loss_literally(logits, masks, gamma, valid=None) -> float:
    """Lin et al. 2017, equation 4, with probabilities as they are written there."""
    losses = []
    for place in np.ndindex(logits.shape):
        if valid is not None and not valid[place]:
            continue
        p = 1.0 / (1.0 + math.exp(-float(logits[place])))
        p_t = p if masks[place] else 1.0 - p
        losses.append(-((1.0 - p_t) ** gamma) * math.log(p_t))
    return sum(losses) / len(losses) if losses else 0.0


def ssim_literally(x: np.ndarray, y: np.ndarray, valid: np.ndarray | None = None) -> float:
    """Wang et al. 2004 of two (C, H, W), window by window; 1 where none is valid."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    values = []
    channels, height, width = x.shape
    for top in range(height - WINDOW + 1):
        for left in range(width - WINDOW + 1):
            window = np.s_[top : top + WINDOW, left : left + WINDOW]
            if valid is not None and not valid[window].all():
                continue
            for channel in range(channels):
                a, b = x[channel][window], y[channel][window]
                mean_a, mean_b = (kernel * a).sum(), (kernel * b).sum()
                var_a = (kernel * (a - mean_a) ** 2).sum()
                var_b = (kernel * (b - mean_b) ** 2).sum()
                cov = (kernel * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + C1)
                    * (2 * cov + C2)
                    / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))
                )
    return sum(values) / len(values) if values else 1.0


def reconstruction_loss_literally(found, target, valid=None) -> float:
    """Mean squared error over valid pixels, plus one minus the mean SSIM of the images."""
    squares, similarities = [], []
    for i, (a, b) in enumerate(zip(found, target, strict=True)):
        shown = None if valid is None else valid[i]
        similarities.append(ssim_literally(a, b, shown))
        for y, x in np.ndindex(a.shape[1:]):
            if shown is None or shown[y, x]:
                squares.append(np.mean((a[:, y, x] - b[:, y, x]) ** 2))
    return sum(squares) / len(squares) + 1.0 - sum(similarities) / len(similarities)


def fusion_literally(stage: np.ndarray, guidance: np.ndarray, fusion) -> np.ndarray:
    """One image (C, h, w) with guidance (G, h, w) on the same grid, in eval mode."""
    convolution, norm, _ = fusion.join
    weights = convolution.weight.detach().double().numpy()
    joined = np.concatenate([stage, guidance])
    channels, h, w = stage.shape
    hidden = np.zeros((len(weights), h, w))
    for out, y, x in np.ndindex(hidden.shape):
        total = 0.0
        for dy, dx in np.ndindex(3, 3):
            row, column = y + dy - 1, x + dx - 1
            if 0 <= row < h and 0 <= column < w:
                total += float(weights[out, :, dy, dx] @ joined[:, row, column])
        total = (total - norm.running_mean[out].item()) / math.sqrt(
            norm.running_var[out].item() + norm.eps
        )
        total = total * norm.weight[out].item() + norm.bias[out].item()
        hidden[out, y, x] = max(total, 0.0)
    mix = fusion.zero.weight.detach().double().numpy()[:, :, 0, 0]
    bias = fusion.zero.bias.detach().double().numpy()
    added = np.zeros((channels, h, w))
    for y, x in np.ndindex(h, w):
        added[:, y, x] = mix @ hidden[:, y, x] + bias
    return stage + added


def fused_stages_literally(network, encoder, pixels, guidance) -> list[torch.Tensor]:
    """The stages of a `small_networks` network run by hand, each fed with what was fused before."""
    found = []
    x = pixels
    for stage, part in enumerate(network.module.stages):
        x = part(x)
        if stage < 4:
            level = torch.nn.functional.interpolate(
                guidance[stage], x.shape[2:], mode="bilinear", align_corners=False
            )
            x = torch.stack(
                [
                    torch.from_numpy(
                        fusion_literally(
                            own.double().numpy(), of.double().numpy(), encoder.fusions[str(stage)]
                        )
                    ).float()
                    for own, of in zip(x, level, strict=True)
                ]
            )
        found.append(x)
    return found


def pooled_score_literally(values: np.ndarray, side: int, valid: np.ndarray) -> float:
    """The largest mean over the valid pixels of a window whose middle is valid."""
    half = side // 2
    best = -math.inf
    for y, x in np.argwhere(valid):
        window = np.s_[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
        best = max(best, float(values[window][valid[window]].mean()))
    return best


def nearest_literally(queries, references, count, exclude=None) -> np.ndarray:
    """Every query against every reference, sorted by similarity and then by index."""
    rows = []
    for i, query in enumerate(queries):
        ranked = [
            (-float(np.float32(query.astype(np.float64) @ reference.astype(np.float64))), j)
            for j, reference in enumerate(references)
            if exclude is None or j != exclude[i]
        ]
        rows.append([j for _, j in sorted(ranked)[:count]])
    return np.array(rows)
