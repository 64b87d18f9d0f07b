"""Threshold: the score that a stated part of normal images stays below."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from manifests.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Threshold:
    """A score limit with what it is worth; a score above `value` is anomalous.

    Attributes:
        value: the limit, in units of the score.
        n: number of normal scores it was fitted to.
        target_rate: wanted part of normal images above it, in (0, 1).
        achievable_rate: the part guaranteed on average over training sets, if normal images are
            exchangeable: `target_rate`, or 1/(n+1) where n is too small for it.
    """

    value: float
    n: int
    target_rate: float
    achievable_rate: float

    @property
    def is_reached(self) -> bool:
        """False where there were too few normal images for the target rate."""
        return self.achievable_rate <= self.target_rate

    def rate_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Between which rates the true part of normal images above `value` lies.

        `achievable_rate` is its mean over training sets; of one such set, with the k-th smallest of
        n scores as its limit, it follows Beta(n + 1 - k, k), whatever the scores' distribution. The
        interval leaves `(1 - confidence) / 2` of that on each side. It says what n images can show,
        not how much normal images will change.

        Args:
            confidence: above 0, under 1.

        Source: Vovk 2012 (arXiv 1209.2673), proposition 2a.
        """
        # Here, as `inspect` would wait for it where nobody asks.
        from scipy.special import betaincinv

        rank = _rank(self.n, self.target_rate)
        tail = (1.0 - confidence) / 2.0
        low, high = betaincinv(self.n + 1 - rank, rank, [tail, 1.0 - tail])
        return float(low), float(high)

    def to_json(self) -> dict[str, float | int]:
        """The fields as JSON values."""
        return {
            "value": self.value,
            "n": self.n,
            "target_rate": self.target_rate,
            "achievable_rate": self.achievable_rate,
        }


def fit_threshold(scores: np.ndarray, target_rate: float) -> Threshold:
    """Conformal quantile: the k-th smallest score, k = ceil((n + 1)(1 - target_rate)).

    A further normal image exceeds it with probability at most `target_rate`. Where k > n that
    cannot be had from n scores: the largest score is taken, which 1/(n+1) of images exceed.

    Args:
        scores: (n,) float, of normal images, each taken without its own patches.
        target_rate: in (0, 1).

    Raises:
        ConfigError: `target_rate` out of range.
        ModelError: no scores, or scores that are not finite.

    Source: Vovk et al. 2005 (split conformal prediction). Differs: the scores come from leaving
    each image's own patches out of one bank instead of from a separate calibration set, so the
    rate is approximate.
    """
    if not 0.0 < target_rate < 1.0:
        raise ConfigError("target rate out of range", expected="0 < rate < 1", got=target_rate)
    values = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1))
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        raise ModelError("no threshold without finite scores of normal images", got=f"{n} scores")
    k = _wanted_rank(n, target_rate)
    rate = target_rate if k <= n else 1.0 / (n + 1)
    return Threshold(float(values[_rank(n, target_rate) - 1]), n, target_rate, rate)


def relative_to(threshold: float, score: float | np.floating) -> float:
    """A score in units of a threshold; above 1 is above it.

    A bank that holds every training patch gives a threshold of zero, by which nothing can be
    divided and no JSON be written: 1e-12 stands for it.
    """
    return float(score / max(threshold, 1e-12))


def _wanted_rank(n: int, target_rate: float) -> int:
    # (1 - 0.05) * 20 is 19.000000000000004 in binary: such noise must not cost a rank.
    return math.ceil((n + 1) * (1.0 - target_rate) - 1e-9)


def _rank(n: int, target_rate: float) -> int:
    """Which of n sorted scores is the limit, from 1."""
    return max(1, min(_wanted_rank(n, target_rate), n))
