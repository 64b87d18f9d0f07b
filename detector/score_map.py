"""Score map: patch distances as a smooth map over the canvas, and one number per image."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch

REFERENCE_PX = 256
SIGMA_PX = 4.0

# A Gaussian is cut where it has fallen to 3e-4 of its peak.
TRUNCATE = 4.0


def score_map(
    distances: torch.Tensor,
    height: int,
    width: int,
    *,
    sigma_px: float = SIGMA_PX,
    valid: np.ndarray | None = None,
    canvas_boxes: Sequence[Sequence[int]] | np.ndarray | None = None,
    roi: np.ndarray | None = None,
) -> torch.Tensor:
    """Upsample patch distances bilinearly and blur them, without help from outside the image.

    Both steps are weighted means over valid cells and pixels only: a constant map stays constant
    up to the border, and padding neither adds nor darkens. Both are separable and linear, so they
    are two small matrix products per image.

    Args:
        distances: (B, h, w) float32.
        height, width: canvas in px.
        sigma_px: standard deviation of the blur for a canvas whose shorter side is 256 px, in px;
            it grows with that side; 0 for no blur.
        valid: (B, h, w) bool, the cells that show the source, a filled rectangle per image unless
            there is a region of interest.
        canvas_boxes: (B, 4) `y, x, h, w` in px, the pixels that do. Both or neither of these.
        roi: (height, width) bool, the pixels that are inspected; None for all.

    Returns:
        (B, height, width) float32, 0 in padding and outside the region of interest.

    Raises:
        ValueError: `valid` without `canvas_boxes` or the reverse, or not a filled rectangle.

    Source: Roth et al. 2022, section 3.3. Differs: sigma scales with the canvas, and weights are
    normalised at borders instead of reflecting the map.
    """
    if (valid is None) != (canvas_boxes is None):
        raise ValueError("valid and canvas_boxes go together")
    batch, h, w = distances.shape
    sigma = sigma_px * min(height, width) / REFERENCE_PX
    out = torch.zeros((batch, height, width), device=distances.device)
    for i in range(batch):
        box = (0, 0, height, width) if canvas_boxes is None else canvas_boxes[i]
        cells = np.ones((h, w), dtype=bool) if valid is None else np.asarray(valid[i])
        rows, columns = np.asarray(cells.any(1)), np.asarray(cells.any(0))
        if roi is not None:
            rows, columns = filled(rows), filled(columns)
        is_rectangle = np.array_equal(cells, rows[:, None] & columns[None, :])
        if not cells.any() or (roi is None and not is_rectangle):
            raise ValueError("valid cells are not a filled rectangle")
        y, x, box_h, box_w = (int(value) for value in box)
        down = axis_weights(rows.tobytes(), height, y, box_h, sigma).to(distances.device)
        across = axis_weights(columns.tobytes(), width, x, box_w, sigma).to(distances.device)
        # Invalid cells have weight 0, but 0 times an infinite distance would be NaN.
        patch = distances[i].masked_fill(~torch.from_numpy(cells).to(distances.device), 0.0)
        map = down @ patch @ across.T
        if not is_rectangle:  # what the cells outside the region would have weighed goes to others
            weight = torch.from_numpy(cells).to(distances.device, torch.float32)
            map = map / (down @ weight @ across.T).clamp_min(torch.finfo(torch.float32).tiny)
        out[i, y : y + box_h, x : x + box_w] = map
    if roi is not None:
        out.masked_fill_(~torch.from_numpy(roi.copy()).to(out.device), 0.0)
    return out


def filled(line: np.ndarray) -> np.ndarray:
    """(n,) bool, True from the first True to the last."""
    return np.logical_or.accumulate(line) & np.logical_or.accumulate(line[::-1])[::-1]


def image_scores(distances: torch.Tensor, *, valid: np.ndarray | None = None) -> torch.Tensor:
    """The largest patch distance of each image, unblurred and without padding.

    Args:
        distances: (B, h, w) float32.
        valid: (B, h, w) bool with at least one valid cell each, or None for all.

    Returns:
        (B,) float32.

    Source: Roth et al. 2022, equation 6.
    """
    return distances.flatten(1).gather(1, worst_cells(distances, valid=valid)[:, None])[:, 0]


def worst_cells(distances: torch.Tensor, *, valid: np.ndarray | None = None) -> torch.Tensor:
    """(B,) int64 row-major position of each image's largest valid distance, the first of equals.

    Source: Roth et al. 2022, equation 6 (the test patch m_t).
    """
    flat = distances.flatten(1)
    if valid is not None:
        outside = ~torch.from_numpy(np.ascontiguousarray(valid)).flatten(1).to(flat.device)
        flat = flat.masked_fill(outside, -torch.inf)
    return flat.argmax(1)


# Most images of a set have the same box, and making the weights takes longer than using them.
# A row per pixel: 4 MB for 1024 px of a map that has a cell per pixel already.
@functools.lru_cache(maxsize=16)
def axis_weights(
    valid_cells: bytes, pixels: int, start: int, length: int, sigma: float
) -> torch.Tensor:
    """(length, cells) float32: upsampling, then blur, along one axis; rows sum to 1."""
    cells = np.frombuffer(valid_cells, dtype=bool)
    count = len(cells)
    centres = (np.arange(start, start + length) + 0.5) * (count / pixels) - 0.5
    low = np.clip(np.floor(centres), 0, count - 1).astype(int)
    high = np.minimum(low + 1, count - 1)
    fraction = np.clip(centres - low, 0.0, 1.0)
    rows = np.arange(length)
    upsample = np.zeros((length, count))
    np.add.at(upsample, (rows, low), 1.0 - fraction)
    np.add.at(upsample, (rows, high), fraction)
    upsample *= cells
    # Pixels between invalid cells only (a box thinner than a cell) take the nearest valid one.
    stranded = upsample.sum(1) < 1e-9
    valid = cells.nonzero()[0]
    nearest = valid[np.abs(centres[stranded, None] - valid[None, :]).argmin(1)]
    upsample[stranded, nearest] = 1.0
    upsample /= upsample.sum(1, keepdims=True)
    if sigma <= 0.0:
        return torch.from_numpy(upsample).float()
    offset = rows[:, None] - rows[None, :]
    blur = np.exp(-0.5 * np.square(offset / sigma))
    blur[np.abs(offset) > math.ceil(TRUNCATE * sigma)] = 0.0
    blur /= blur.sum(1, keepdims=True)
    return torch.from_numpy(blur @ upsample).float()
