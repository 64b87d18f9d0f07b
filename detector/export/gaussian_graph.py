"""The Gaussian as a graph."""

from __future__ import annotations

import torch
from torch import nn

from detector.detectors import GaussianDetector
from detector.export.canvas_graph import InspectedPixels, MapGraph, inspected_cells, shown_cells
from detector.export.feature_graph import CellGraph


class GaussianGraph(nn.Module):
    """`GaussianDetector.score` of a fixed number of images.

    The distance is the length of the offset after a triangular factor of the inverse covariance,
    P = L Lᵀ: a sum of squares, which float32 holds where a product with P itself would cancel.

    Source: as `GaussianDetector`.
    """

    mean: torch.Tensor
    factor: torch.Tensor
    turned: torch.Tensor
    inside: torch.Tensor | None

    def __init__(self, detector: GaussianDetector) -> None:
        super().__init__()
        geometry = detector.geometry
        self.canvas = (geometry.height, geometry.width)
        self.cells = CellGraph(detector.network)
        distribution = detector.distribution.to("cpu")
        factor = torch.linalg.cholesky(distribution.precision)
        self.register_buffer("mean", distribution.mean.float())
        # Twice: OpenVINO 2026.4 takes one for the other where a constant is used with and without
        # being transposed.
        self.register_buffer("factor", factor.float())
        self.register_buffer("turned", factor.T.float().contiguous())
        blank = torch.zeros((1, *self.canvas, 3), dtype=torch.uint8)
        with torch.no_grad():
            _, h, w, _ = self.cells(blank).shape
        self.grid = (h, w)
        self.inspected = InspectedPixels(geometry)
        self.register_buffer("inside", inspected_cells(self.grid, geometry))
        self.map = MapGraph(geometry, self.grid, detector.config.sigma_px)

    def forward(
        self, image: torch.Tensor, canvas_box: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B,) and maps (B, H, W) of (B, H, W, 3) uint8 images."""
        offsets = self.cells(self.inspected(image)) - self.mean  # (B, h, w, D)
        shown = self.inside
        if canvas_box is not None:
            shown = shown_cells(canvas_box, self.grid, self.canvas)
        if shown is None:
            delta = offsets.mean((1, 2))
        else:
            shown = shown.float()
            offsets = offsets * shown[..., None]
            delta = offsets.sum((1, 2)) / shown.sum((1, 2))[:, None]
        whitened = delta @ self.factor  # (B, D)
        direction = whitened @ self.turned
        parts = (offsets.flatten(1, 2) @ direction[:, :, None]).view(-1, *self.grid)
        return whitened.square().sum(1).sqrt(), self.map(parts.clamp(min=0.0), canvas_box)
