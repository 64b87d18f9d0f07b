"""Literal metrics: one pass over all scores for every threshold, in plain loops."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import ndimage


def pair_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of (defective, good) pairs in the right order; a tie is half a pair."""
    bad, good = scores[labels == 1], scores[labels == 0]
    won = sum(float(b > g) + 0.5 * float(b == g) for b in bad for g in good)
    return won / (len(bad) * len(good))


def best_f1(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The best F1 over every distinct score, and the highest threshold that reaches it."""
    best = (-1.0, 0.0)
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        tp = int((called & (labels == 1)).sum())
        f1 = 2 * tp / (int(called.sum()) + int((labels == 1).sum()))
        if f1 > best[0]:
            best = (f1, threshold)
    return best


def aupro(
    maps: np.ndarray, masks: np.ndarray, valid: np.ndarray, *, fpr_limit: float = 0.3
) -> float:
    """Per-region overlap, averaged over components, at every distinct score, then trapezia."""
    masks = masks & valid
    components = []  # (image, (H, W) bool)
    for image, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        components += [(image, labels == number) for number in range(1, count + 1)]
    good = valid & ~masks
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(maps[valid].tolist()), reverse=True):
        called = maps >= threshold
        fpr = (called & good).sum() / good.sum()
        overlaps = [(called[image] & part).sum() / part.sum() for image, part in components]
        curve.append((float(fpr), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x1 <= fpr_limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < fpr_limit:
            y_limit = y0 + (y1 - y0) * (fpr_limit - x0) / (x1 - x0)
            area += (fpr_limit - x0) * (y0 + y_limit) / 2
    return area / fpr_limit
