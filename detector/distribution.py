"""A normal distribution of embeddings, and how much each cell adds to an image's distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from manifests.errors import ModelError

MIN_IMAGES = 3

# Embeddings are float32: below this part of their squared length, variance is rounding.
_ROUNDING = 1e-10
# Directions with less than this part of the mean variance make distances that mean nothing.
_SINGULAR = 1e-12


@dataclass(frozen=True, eq=False)
class Distribution:
    """Mean and inverse covariance.

    Attributes:
        mean: (D,) float64.
        precision: (D, D) float64, symmetric and positive definite.
        shrinkage: weight of the scaled identity in the covariance, in [0, 1].
    """

    mean: torch.Tensor
    precision: torch.Tensor
    shrinkage: float

    def to(self, device: str) -> Distribution:
        """The same on another device."""
        return Distribution(self.mean.to(device), self.precision.to(device), self.shrinkage)

    def distances(self, cells: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Mahalanobis distances of images, and what their cells add to the squares of them.

        With x the mean of an image's valid cells e_ij, the squared distance
        (x - mu)^T P (x - mu) is the mean over those cells of (x - mu)^T P (e_ij - mu), because the
        second factor is linear in e_ij. The parts are exact and may be negative.

        Args:
            cells: (B, h, w, D) of any float dtype; computed in float64.
            valid: (B, h, w) bool, at least one per image.

        Returns:
            distances (B,) and parts (B, h, w), both float64; parts are 0 outside `valid`.

        Source: Li et al. 2021 for the distance; the attribution is ours.
        """
        weight = valid.to(torch.float64)
        offsets = (cells.to(torch.float64) - self.mean) * weight[..., None]
        delta = offsets.sum((1, 2)) / weight.sum((1, 2))[:, None]  # (B, D), x - mu
        direction = delta @ self.precision
        parts = (offsets.flatten(1, 2) @ direction[:, :, None]).view(weight.shape)
        squared = (delta * direction).sum(1)
        # Rounding may leave a hair under 0 for an image that lies on the mean.
        return squared.clamp(min=0.0).sqrt(), parts


def fit_distribution(embeddings: np.ndarray) -> Distribution:
    """Mean and Ledoit-Wolf covariance of (n, D) embeddings, in float64 on the CPU.

    Shrinking towards the scaled identity makes the covariance invertible with fewer images than
    dimensions. Two images are too few even so: every one of them lies equally far on one line, from
    which the rule concludes that nothing needs shrinking.

    Raises:
        ModelError: fewer than three embeddings, or too many of them equal.

    Source: Ledoit & Wolf 2004, as in scikit-learn. Differs: Li et al. 2021 do not say how they
    keep the covariance invertible.
    """
    from sklearn.covariance import ledoit_wolf

    n = len(embeddings)
    if n < MIN_IMAGES:
        raise ModelError(
            "a distribution needs more images", expected=f"at least {MIN_IMAGES} images", got=n
        )
    values = np.asarray(embeddings, dtype=np.float64)
    mean = values.mean(0)
    covariance, shrinkage = ledoit_wolf(values)
    variance = float(np.trace(covariance))
    factor, failed_at = torch.linalg.cholesky_ex(torch.from_numpy(covariance))
    least = float(factor.diagonal().min()) ** 2
    is_flat = variance <= _ROUNDING * float(mean @ mean)
    if int(failed_at) or is_flat or least < _SINGULAR * variance / len(mean):
        raise ModelError(
            "the covariance of the embeddings cannot be inverted",
            got=f"{n} images, of which too many look the same to the network",
            hint="build the set from more and different images",
        )
    precision = torch.cholesky_inverse(factor)
    return Distribution(
        mean=torch.from_numpy(mean),
        precision=(precision + precision.T) / 2.0,
        shrinkage=float(shrinkage),
    )
