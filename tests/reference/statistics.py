"""Literal statistics: images really repeated, pixels really counted one by one, in plain loops."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from detector.metrics import image_metrics, pixel_metrics


def repeated_metrics(
    scores: np.ndarray,
    labels: np.ndarray,
    maps: np.ndarray,
    masks: np.ndarray,
    valid: np.ndarray,
    has_truth: np.ndarray,
    weights: np.ndarray,
) -> dict[str, float | None]:
    """The exact metrics of a test set in which image i is there weights[i] times."""
    rows = [i for i, weight in enumerate(weights) for _ in range(weight)]
    known = [i for i in rows if has_truth[i]]
    image = image_metrics(scores[rows], labels[rows])
    pixel = pixel_metrics(maps[known], masks[known], valid[known])
    return {
        "image_auroc": image.auroc,
        "image_ap": image.ap,
        "pixel_auroc": pixel.auroc,
        "pixel_ap": pixel.ap,
        "aupro": pixel.aupro,
    }


def binned_auroc(bad: np.ndarray, good: np.ndarray) -> float:
    """The share of (defective, good) pixel pairs in the right order, one bin being one score."""
    won = 0.0
    for bin_bad, n_bad in enumerate(bad):
        for bin_good, n_good in enumerate(good):
            won += n_bad * n_good * (float(bin_bad > bin_good) + 0.5 * float(bin_bad == bin_good))
    return won / (sum(bad) * sum(good))


def binned_ap(
    bad: np.ndarray, good: np.ndarray, *, copies: float = 1.0, steps: int = 2000
) -> float:
    """AP with every bin cut into slices that each hold their share of both kinds of pixels.

    A slice's precision counts half a defective pixel (of `copies` copies) with it.
    """
    tp = fp = area = 0.0
    for n_bad, n_good in zip(bad[::-1], good[::-1], strict=True):
        for _ in range(steps):
            middle_tp = tp + n_bad / steps / 2 + copies / 2
            middle_fp = fp + n_good / steps / 2
            area += n_bad / steps * middle_tp / (middle_tp + middle_fp)
            tp, fp = tp + n_bad / steps, fp + n_good / steps
    return area / sum(bad)


def binned_aupro(
    components: list[np.ndarray], good: np.ndarray, *, fpr_limit: float = 0.3, steps: int = 3000
) -> float:
    """Mean overlap of the components at many false-positive rates, each read off the curve."""
    fpr, overlap = [0.0], [0.0]
    for place in range(len(good) - 1, -1, -1):
        fpr.append(float(sum(good[place:]) / sum(good)))
        shares = [float(part[place:].sum() / part.sum()) for part in components]
        overlap.append(sum(shares) / len(shares))
    total = 0.0
    for step in range(steps):
        x = (step + 0.5) / steps * fpr_limit
        right = next(i for i, end in enumerate(fpr) if end > x)
        left = right - 1
        part = (x - fpr[left]) / (fpr[right] - fpr[left])
        total += overlap[left] + part * (overlap[right] - overlap[left])
    return total / steps


def interval(differences: list[float], draws: list[float], t_quantile: float) -> tuple:
    """(mean, low, high) of a paired difference, with sums written out."""
    n = len(differences)
    mean = sum(differences) / n
    seed_sd = math.sqrt(sum((value - mean) ** 2 for value in differences) / (n - 1))
    centre = sum(draws) / len(draws)
    boot_sd = math.sqrt(sum((value - centre) ** 2 for value in draws) / (len(draws) - 1))
    half = math.sqrt((t_quantile * seed_sd / math.sqrt(n)) ** 2 + (1.96 * boot_sd) ** 2)
    return mean, mean - half, mean + half


def validation(sources: list[str], defects: list[str], *, seed: int, share: float) -> set[str]:
    """Names of the validation part."""
    chosen = set()
    for defect in set(defects):
        names = [name for name, kind in zip(sources, defects, strict=True) if kind == defect]
        hashed = [
            (hashlib.sha256(f"validation|{seed}|{name}".encode()).hexdigest(), name)
            for name in names
        ]
        count = round(share * len(names))
        if len(names) >= 5 and count == 0:
            count = 1
        chosen |= {name for _, name in sorted(hashed)[:count]}
    return chosen
