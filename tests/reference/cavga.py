"""CAVGA's attention and losses literally: one image, one cell, one value after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch


def gradient_literally(
    score: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor, step: float = 1e-6
) -> np.ndarray:
    """(C, h, w) central differences of a scalar of one image's (1, C, h, w) features."""
    gradient = np.zeros(features.shape[1:])
    for place in np.ndindex(*gradient.shape):
        values = []
        for sign in (1, -1):
            moved = features.clone()
            moved[(0, *place)] += sign * step
            values.append(score(moved).item())
        gradient[place] = (values[0] - values[1]) / (2 * step)
    return gradient


def evidence_literally(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """(h, w) of one image's (C, h, w) features and gradient."""
    channels, height, width = features.shape
    evidence = np.zeros((height, width))
    for k in range(channels):
        weight = 0.0
        for i in range(height):
            for j in range(width):
                weight += gradient[k, i, j]
        for i in range(height):
            for j in range(width):
                evidence[i, j] += weight * features[k, i, j]
    return evidence


def normalise_literally(evidence: np.ndarray, normaliser: str) -> np.ndarray:
    """(h, w) evidence of one image -> values in [0, 1]."""
    out = np.zeros_like(evidence)
    level = math.sqrt(sum(e * e for e in evidence.flat) / evidence.size + 1e-6)
    for place, e in np.ndenumerate(evidence):
        if normaliser == "sigmoid":
            out[place] = 1 / (1 + math.exp(-e / 0.25))
        else:
            raised = (e + math.sqrt(e * e + (level / 4) ** 2)) / 2
            out[place] = raised / (raised + level / 10)
    return out


def upsample_literally(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, between the centres of cells; outside them the nearest."""
    out = np.zeros(size)
    for place in np.ndindex(*size):
        corners = []
        for at, n_out, n_in in zip(place, size, values.shape, strict=True):
            centre = min(max((at + 0.5) * n_in / n_out - 0.5, 0.0), n_in - 1.0)
            low = min(int(centre), n_in - 1)
            part = centre - low
            corners.append(((low, 1 - part), (min(low + 1, n_in - 1), part)))
        out[place] = sum(wy * wx * values[y, x] for y, wy in corners[0] for x, wx in corners[1])
    return out


def attention_literally(
    score: Callable[[torch.Tensor], torch.Tensor],
    features: torch.Tensor,
    normaliser: str,
    size: tuple[int, int],
) -> np.ndarray:
    """(B, H, W) of (B, C, h, w) features; `score` takes one image's and gives a scalar."""
    maps = []
    for image in features.detach():
        gradient = gradient_literally(score, image[None])
        evidence = evidence_literally(image.numpy(), gradient)
        maps.append(upsample_literally(normalise_literally(evidence, normaliser), size))
    return np.stack(maps)


def cross_entropy_literally(logits: np.ndarray, targets: np.ndarray) -> float:
    """-mean[x log p + (1 - x) log(1 - p)], p the sigmoid of the logits."""
    total = 0.0
    for logit, target in zip(logits.flat, targets.flat, strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= target * math.log(p) + (1 - target) * math.log(1 - p)
    return total / logits.size


def divergence_literally(mean: np.ndarray, log_variance: np.ndarray) -> float:
    """Of one image's latent from N(0, I): the expectation, by quadrature, of the log ratio."""
    total = 0.0
    for mu, lv in zip(mean.flat, log_variance.flat, strict=True):
        sigma = math.exp(lv / 2)
        z = mu + sigma * np.linspace(-12, 12, 24001)
        density = np.exp(-(((z - mu) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
        log_ratio = -(((z - mu) / sigma) ** 2) / 2 - math.log(sigma) + z**2 / 2
        total += float((density * log_ratio).sum() * (z[1] - z[0]))
    return total


def guided_literally(attention: np.ndarray, logits: np.ndarray, labels: list[int]) -> float:
    """The sum over normal images called normal of mean(1 - A_normal + A_anomalous), over B."""
    total = 0.0
    for (normal, anomalous), (for_normal, for_anomalous), label in zip(
        attention, logits, labels, strict=True
    ):
        if label == 0 and for_normal >= for_anomalous:
            total += np.mean(1 - normal + anomalous)
    return total / len(labels)


def slope_literally(
    loss: Callable[[], torch.Tensor], parameter: torch.Tensor, place: tuple, step: float = 1e-6
) -> float:
    """Central difference of a loss in one value of a parameter, which is put back."""
    values = []
    original = parameter.data[place].item()
    for sign in (1, -1):
        parameter.data[place] = original + sign * step
        values.append(loss().item())
    parameter.data[place] = original
    return (values[0] - values[1]) / (2 * step)


def directional_slope_literally(
    loss: Callable[[], torch.Tensor],
    parameters: list[torch.Tensor],
    directions: list[torch.Tensor],
    step: float,
) -> float:
    """Central difference of a loss when all parameters move together, and are put back."""
    values = []
    originals = [parameter.data.clone() for parameter in parameters]
    for sign in (1, -1):
        for parameter, original, direction in zip(parameters, originals, directions, strict=True):
            parameter.data = original + sign * step * direction
        values.append(loss().item())
    for parameter, original in zip(parameters, originals, strict=True):
        parameter.data = original
    return (values[0] - values[1]) / (2 * step)
