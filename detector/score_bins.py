"""Image scores in units of their threshold, and the bins that all our histograms count them in."""

from __future__ import annotations

import math

import numpy as np

MAX_BINS = 48


def relative_values(values: np.ndarray, threshold: float) -> np.ndarray:
    """Raw scores over their threshold."""
    # A bank that holds every training patch gives a threshold of zero; what exceeds it is still
    # above 1 then.
    return values / np.float32(max(threshold, 1e-12))


def relative_scores(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Scores over the threshold, float64: above 1 exactly where a score is above the threshold.

    A division rounds, and a verdict must not depend on that.
    """
    relative = relative_values(scores, threshold).astype(np.float64)
    above = np.nextafter(1.0, 2.0)
    return np.where(scores > threshold, np.maximum(relative, above), np.minimum(relative, 1.0))


def score_edges(relative: np.ndarray) -> np.ndarray:
    """Edges of at most `MAX_BINS` equal bins over scores and the threshold, one edge at it.

    Without an edge at 1 a bar would hold images of both verdicts.

    Args:
        relative: (n,) scores over the threshold, finite.
    """
    values = np.append(relative.astype(np.float64), 1.0)
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        return np.array([0.5, 1.0, 1.5])
    width = (high - low) / (MAX_BINS - 2)
    below, above = math.ceil((1 - low) / width), math.ceil((high - 1) / width)
    return 1 + width * np.arange(-max(below, 1), max(above, 1) + 1)


def score_counts(relative: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Scores per bin, above its lower edge and up to its upper one, as verdicts are.

    A score of exactly 1 is not called defective, so it belongs to the bin below.
    """
    inside = np.clip(np.searchsorted(edges, relative, side="left") - 1, 0, len(edges) - 2)
    return np.bincount(inside, minlength=len(edges) - 1)
