"""Regions above a threshold, filled pixel by pixel."""

from __future__ import annotations

import numpy as np


def regions_of(map: np.ndarray, threshold: float) -> list[dict]:
    """Every region as a dict, of the highest peak first, then in reading order of the peaks."""
    height, width = map.shape
    seen: set[tuple[int, int]] = set()
    found = []
    for start_y in range(height):
        for start_x in range(width):
            if (start_y, start_x) in seen or not map[start_y, start_x] > threshold:
                continue
            pixels, stack = [], [(start_y, start_x)]
            seen.add((start_y, start_x))
            while stack:
                y, x = stack.pop()
                pixels.append((y, x))
                for near_y in (y - 1, y, y + 1):
                    for near_x in (x - 1, x, x + 1):
                        if not (0 <= near_y < height and 0 <= near_x < width):
                            continue
                        if (near_y, near_x) in seen or not map[near_y, near_x] > threshold:
                            continue
                        seen.add((near_y, near_x))
                        stack.append((near_y, near_x))
            found.append(_described(map, sorted(pixels)))
    return sorted(found, key=lambda one: (-one["peak"], one["peak_at"]))


def _described(map: np.ndarray, pixels: list[tuple[int, int]]) -> dict:
    rows, columns = [y for y, _ in pixels], [x for _, x in pixels]
    peak_at = pixels[0]
    for pixel in pixels:
        if map[pixel] > map[peak_at]:
            peak_at = pixel
    return {
        "box": (
            min(rows),
            min(columns),
            max(rows) - min(rows) + 1,
            max(columns) - min(columns) + 1,
        ),
        "area_px": len(pixels),
        "peak": float(map[peak_at]),
        "peak_at": peak_at,
        "centroid": (sum(rows) / len(rows), sum(columns) / len(columns)),
    }
