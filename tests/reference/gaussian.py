"""Slow, literal Gaussian density in plain loops, float64 throughout."""

from __future__ import annotations

import numpy as np


def mean_cell(cells: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(D,) mean of the cells (h, w, D) that are in `valid` (h, w)."""
    chosen = [cells[y, x].astype(np.float64) for y, x in np.argwhere(valid)]
    return sum(chosen) / len(chosen)


def ledoit_wolf(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and shrinkage of (n, D), straight from Ledoit & Wolf 2004, lemma 3.2-3.4."""
    n, dim = rows.shape
    mean = sum(rows) / n
    centred = rows - mean
    sample = sum(np.outer(row, row) for row in centred) / n
    scale = np.trace(sample) / dim
    spread = np.sum((sample - scale * np.eye(dim)) ** 2) / dim
    error = sum(np.sum((np.outer(row, row) - sample) ** 2) for row in centred) / n**2 / dim
    shrinkage = min(error, spread) / spread
    return mean, (1 - shrinkage) * sample + shrinkage * scale * np.eye(dim), shrinkage


def score(cells, valid, mean, covariance) -> tuple[float, np.ndarray]:
    """Mahalanobis distance of one image, and the part of its square that each cell adds."""
    delta = mean_cell(cells, valid) - mean
    direction = np.linalg.solve(covariance, delta)
    parts = np.zeros(valid.shape)
    for y, x in np.argwhere(valid):
        parts[y, x] = sum((cells[y, x].astype(np.float64) - mean) * direction)
    return float(np.sqrt(delta @ direction)), parts
