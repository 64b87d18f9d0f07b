"""Where the source lies on the canvas, as tensors: what a graph knows of padding.

Only a letterboxed canvas has padding. Its graph takes the box as a second input and works all
weights out of it, as `features.valid_cells` and `score_map.axis_weights` do beforehand. On any
other canvas it is known beforehand what counts, all or a region of interest: weights are constants.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from detector.features import valid_cells
from detector.score_map import REFERENCE_PX, TRUNCATE, axis_weights, filled
from manifests.geometry import Geometry

IMAGE, CANVAS_BOX = "image", "canvas_box"


def takes_box(geometry: Geometry) -> bool:
    """Whether images on this canvas come with padding, so that a graph must be told where."""
    return geometry.fit == "letterbox"


def inspected_cells(grid: tuple[int, int], geometry: Geometry) -> torch.Tensor | None:
    """(1, h, w) bool, cells of the region of interest on a canvas without padding; None for all."""
    if geometry.roi is None:
        return None
    box = (0, 0, geometry.height, geometry.width)
    return torch.from_numpy(valid_cells(grid, geometry, box)[None])


class InspectedPixels(nn.Module):
    """Makes everything black that lies outside the region of interest, as `fit_image` does."""

    mask: torch.Tensor | None

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        mask = None if geometry.roi is None else torch.from_numpy(geometry.roi.mask.copy())
        self.register_buffer("mask", mask)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 of the same."""
        if self.mask is None:
            return image
        return torch.where(self.mask[..., None], image, torch.zeros_like(image))


def shown_cells(box: torch.Tensor, grid: tuple[int, int], canvas: tuple[int, int]) -> torch.Tensor:
    """(B, h, w) bool: `features.valid_cells` of boxes that are known only when the graph runs.

    Args:
        box: (B, 4) int64 `y, x, h, w` in px.
        grid: (h, w) cells.
        canvas: (H, W) px.

    Source: ours.
    """
    rows = _axis_cells(box[:, 0:1], box[:, 2:3], grid[0], canvas[0])
    columns = _axis_cells(box[:, 1:2], box[:, 3:4], grid[1], canvas[1])
    return rows[:, :, None] & columns[:, None, :]


def shown_pixels(box: torch.Tensor, canvas: tuple[int, int]) -> torch.Tensor:
    """(B, H, W) bool, which pixels are not padding, of (B, 4) boxes."""
    rows = _inside(box[:, 0:1], box[:, 2:3], canvas[0])
    columns = _inside(box[:, 1:2], box[:, 3:4], canvas[1])
    return rows[:, :, None] & columns[:, None, :]


class MapGraph(nn.Module):
    """`score_map` as a part of a graph: values of cells as a smooth map over the canvas.

    Args:
        geometry: the canvas.
        grid: (h, w) cells.
        sigma_px: blur, as for `score_map`.

    Source: as `score_map`.
    """

    down: torch.Tensor
    across: torch.Tensor
    inside: torch.Tensor | None
    shares: torch.Tensor | None

    def __init__(self, geometry: Geometry, grid: tuple[int, int], sigma_px: float) -> None:
        super().__init__()
        self.canvas = (geometry.height, geometry.width)
        self.grid = grid
        sigma = sigma_px * min(self.canvas) / REFERENCE_PX
        if not takes_box(geometry):
            self._keep_weights(geometry, sigma)
            return
        for name, cells, pixels in zip(("down", "across"), grid, self.canvas, strict=True):
            centres = (np.arange(pixels) + 0.5) * (cells / pixels) - 0.5
            self.register_buffer(f"{name}_centres", torch.from_numpy(centres).float())
            self.register_buffer(f"{name}_upsample", _upsampling(centres, cells))
            self.register_buffer(f"{name}_blur", _blurring(pixels, sigma))

    def forward(self, cells: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        """The map.

        Args:
            cells: (B, h, w) float32, finite; what lies in padding does not count.
            box: (B, 4) int64 where the canvas has padding, else None.

        Returns:
            (B, H, W) float32, 0 in padding.
        """
        if box is None:
            if self.inside is not None:
                cells = cells * self.inside
            found = self.down @ cells @ self.across.T
            return found if self.shares is None else found * self.shares
        down = self._weights("down", box[:, 0:1], box[:, 2:3], axis=0)
        across = self._weights("across", box[:, 1:2], box[:, 3:4], axis=1)
        return down @ cells @ across.transpose(1, 2)

    def _keep_weights(self, geometry: Geometry, sigma: float) -> None:
        """What is known beforehand: weights of both axes, and what a region of interest leaves."""
        cells = inspected_cells(self.grid, geometry)
        rows, columns = np.ones(self.grid[0], bool), np.ones(self.grid[1], bool)
        if cells is not None:
            rows, columns = filled(cells[0].any(1).numpy()), filled(cells[0].any(0).numpy())
        height, width = self.canvas
        down = axis_weights(rows.tobytes(), height, 0, height, sigma)
        across = axis_weights(columns.tobytes(), width, 0, width, sigma)
        self.register_buffer("down", down.clone())
        self.register_buffer("across", across.clone())
        inside = shares = None
        if cells is not None and geometry.roi is not None:
            # What cells outside the region would have weighed goes to others, and of nothing but
            # the region there is a map.
            inside = cells[0].float()
            weight = (down @ inside @ across.T).clamp_min(torch.finfo(torch.float32).tiny)
            region = torch.from_numpy(geometry.roi.mask.copy())
            shares = torch.where(region, 1.0 / weight, torch.zeros(()))
        self.register_buffer("inside", inside)
        self.register_buffer("shares", shares)

    def _weights(
        self, name: str, start: torch.Tensor, length: torch.Tensor, *, axis: int
    ) -> torch.Tensor:
        """(B, pixels, cells): `score_map.axis_weights`, with rows of zeros outside the box."""
        pixels, cells = self.canvas[axis], self.grid[axis]
        valid = _axis_cells(start, length, cells, pixels)[:, None, :]  # (B, 1, cells)
        inside = _inside(start, length, pixels).float()  # (B, pixels)
        upsample: torch.Tensor = getattr(self, f"{name}_upsample") * valid.float()
        total = upsample.sum(2, keepdim=True)
        # Pixels between invalid cells only take the nearest valid one.
        away = (getattr(self, f"{name}_centres")[:, None] - torch.arange(cells)).abs()
        away = torch.where(valid, away, torch.full_like(away, float(cells + pixels)))
        nearest = away.argmin(2, keepdim=True) == torch.arange(cells)
        upsample = torch.where(total < 1e-9, nearest.float(), upsample / total.clamp(min=1e-9))
        blur: torch.Tensor = getattr(self, f"{name}_blur") * inside[:, None, :]
        # A pixel outside has weights too, of no use; a box is never empty for one inside.
        blur = blur / blur.sum(2, keepdim=True).clamp(min=1e-12)
        weights: torch.Tensor = (blur @ upsample) * inside[:, :, None]
        return weights


def _axis_cells(start: torch.Tensor, length: torch.Tensor, cells: int, pixels: int) -> torch.Tensor:
    """(B, cells) bool; starts and lengths are (B, 1) int64."""
    # Whole numbers, as `features.valid_cells` has them; the smallest, since a runtime may compare
    # distances as float32, which holds them up to 2**24.
    common = math.gcd(pixels, cells)
    pixels, cells_by = pixels // common, cells // common
    centres = (2 * torch.arange(cells) + 1) * pixels
    inside = (centres >= 2 * cells_by * start) & (centres < 2 * cells_by * (start + length))
    away = (centres - (2 * start + length) * cells_by).abs().float()
    nearest = away.argmin(1, keepdim=True) == torch.arange(cells)
    return inside | (nearest & ~inside.any(1, keepdim=True))


def _inside(start: torch.Tensor, length: torch.Tensor, pixels: int) -> torch.Tensor:
    at = torch.arange(pixels)
    return (at >= start) & (at < start + length)


def _upsampling(centres: np.ndarray, cells: int) -> torch.Tensor:
    """(pixels, cells) float32 bilinear weights of a full axis."""
    low = np.clip(np.floor(centres), 0, cells - 1).astype(int)
    high = np.minimum(low + 1, cells - 1)
    fraction = np.clip(centres - low, 0.0, 1.0)
    weights = np.zeros((len(centres), cells))
    rows = np.arange(len(centres))
    np.add.at(weights, (rows, low), 1.0 - fraction)
    np.add.at(weights, (rows, high), fraction)
    return torch.from_numpy(weights).float()


def _blurring(pixels: int, sigma: float) -> torch.Tensor:
    """(pixels, pixels) float32 Gaussian weights before they are normalised."""
    offset = np.arange(pixels)[:, None] - np.arange(pixels)[None, :]
    if sigma <= 0.0:
        return torch.from_numpy((offset == 0).astype(np.float32))
    blur = np.exp(-0.5 * np.square(offset / sigma))
    blur[np.abs(offset) > math.ceil(TRUNCATE * sigma)] = 0.0
    return torch.from_numpy(blur).float()
