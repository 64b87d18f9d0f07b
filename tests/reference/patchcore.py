"""Slow, literal PatchCore steps in NumPy and plain loops, float64 throughout."""

from __future__ import annotations

import math

import numpy as np


def local_mean(activation: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(C, h, w) sums over the 3×3 neighbours that exist and are in `cells` (h, w) bool, over 9."""
    _, h, w = activation.shape
    out = np.zeros(activation.shape)
    for i in range(h):
        for j in range(w):
            for y in range(max(i - 1, 0), min(i + 2, h)):
                for x in range(max(j - 1, 0), min(j + 2, w)):
                    if cells[y, x]:
                        out[:, i, j] += activation[:, y, x].astype(np.float64) / 9
    return out


def _taps(position: float, count: int) -> list[tuple[int, float]]:
    low = math.floor(position)
    fraction = position - low
    return [
        (min(max(low, 0), count - 1), 1.0 - fraction),
        (min(max(low + 1, 0), count - 1), fraction),
    ]


def upsample(values: np.ndarray, cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) to (height, width), bilinear between cell centres, weights only from `cells`."""
    h, w = values.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total = weight = 0.0
            for y, a in _taps((i + 0.5) * h / height - 0.5, h):
                for x, b in _taps((j + 0.5) * w / width - 0.5, w):
                    if cells[y, x]:
                        total += a * b * values[y, x]
                        weight += a * b
            out[i, j] = total / weight if weight > 0 else 0.0
    return out


def blur(values: np.ndarray, pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over the pixels in `pixels` (H, W) bool only, cut at 4 sigma; 0 elsewhere."""
    height, width = values.shape
    radius = math.ceil(4 * sigma)
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            if not pixels[i, j]:
                continue
            total = weight = 0.0
            for y in range(max(0, i - radius), min(height, i + radius + 1)):
                for x in range(max(0, j - radius), min(width, j + radius + 1)):
                    if pixels[y, x]:
                        g = math.exp(-((y - i) ** 2 + (x - j) ** 2) / (2 * sigma**2))
                        total += g * values[y, x]
                        weight += g
            out[i, j] = total / weight
    return out


def nearest(
    patch: np.ndarray, bank: np.ndarray, owner: np.ndarray, exclude: int | None = None
) -> tuple[float, int]:
    """Distance and index of the bank entry nearest to one patch."""
    best, index = math.inf, -1
    for k, entry in enumerate(bank):
        if exclude is not None and owner[k] == exclude:
            continue
        distance = math.dist(patch.tolist(), entry.tolist())
        if distance < best:
            best, index = distance, k
    return best, index


def refilled(
    patches: list[np.ndarray], bank: np.ndarray, owner: np.ndarray, image: int, *, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Bank and owners without an image's entries, its holes filled greedily by other images.

    `patches` are (P, D) of each image, which the bank calls `first`, `first + 1` and so on. What is
    added has the owner -1.
    """
    radius = _to_nearest(np.concatenate(patches), bank).max()
    others = np.concatenate([one for i, one in enumerate(patches) if i != image])
    keep = owner != first + image
    bank, owner = bank[keep], owner[keep]
    distances = _to_nearest(others, bank)
    while distances.max() > radius:
        added = others[distances.argmax()][None]
        bank, owner = np.vstack([bank, added]), np.append(owner, -1)
        distances = np.minimum(distances, _to_nearest(others, added))
    return bank, owner


def _to_nearest(patches: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """(P,) distances to the nearest entry, by differences."""
    patches = patches.astype(np.float64)
    distances = np.full(len(patches), np.inf)
    for entry in bank:
        distances = np.minimum(distances, np.sqrt(np.square(patches - entry).sum(1)))
    return distances


def reweighted(
    patch: np.ndarray,
    index: int,
    distance: float,
    bank: np.ndarray,
    owner: np.ndarray,
    *,
    b: int = 9,
    exclude: int | None = None,
) -> float:
    """Equation 7, straight from the formula (overflows for distances above 700)."""
    kept = [k for k in range(len(bank)) if k != index and owner[k] != exclude]
    kept.sort(key=lambda k: math.dist(bank[index].tolist(), bank[k].tolist()))
    neighbours = [index, *kept[: b - 1]]
    if len(neighbours) == 1:
        return distance
    total = sum(math.exp(math.dist(patch.tolist(), bank[k].tolist())) for k in neighbours)
    return (1.0 - math.exp(distance) / total) * distance
