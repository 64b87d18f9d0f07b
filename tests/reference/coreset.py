"""Slow, literal greedy k-centre: every feature's distance to every pick, one pick at a time."""

from __future__ import annotations

import numpy as np


def k_centre(points: np.ndarray, picks: int, *, first: int) -> np.ndarray:
    """Indices (picks,) into (N, D) float32 points; ties go to the lowest index."""
    points = points.astype(np.float32)
    chosen = [first]
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    while len(chosen) < picks:
        difference = points - points[chosen[-1]]
        distance = np.sqrt(np.square(difference).sum(axis=1, dtype=np.float64))
        nearest = np.minimum(nearest, distance.astype(np.float32))
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


def more_centres(points: np.ndarray, centres: np.ndarray, picks: int) -> np.ndarray:
    """Indices (picks,) into (N, D) points, chosen where `centres` (M, D) were chosen before."""
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    for centre in centres.astype(np.float32):
        distance = np.sqrt(np.square(points - centre).sum(axis=1, dtype=np.float64))
        nearest = np.minimum(nearest, distance.astype(np.float32))
    chosen: list[int] = []
    while len(chosen) < picks:
        chosen.append(int(nearest.argmax()))
        distance = np.sqrt(np.square(points - points[chosen[-1]]).sum(axis=1, dtype=np.float64))
        nearest = np.minimum(nearest, distance.astype(np.float32))
        nearest[chosen] = -1.0
    return np.array(chosen)


def covering_radius(points: np.ndarray, chosen: np.ndarray) -> float:
    """The largest distance of a point to its nearest chosen one."""
    difference = points[:, None].astype(np.float64) - points[chosen][None].astype(np.float64)
    return float(np.sqrt(np.square(difference).sum(axis=2)).min(axis=1).max())
