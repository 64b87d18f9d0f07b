"""PatchCore as a graph."""

from __future__ import annotations

import torch
from torch import nn

from detector.detectors import PatchCore
from detector.export.canvas_graph import InspectedPixels, MapGraph, inspected_cells, shown_cells
from detector.export.feature_graph import FeatureGraph
from detector.export.search_graph import SearchGraph


class PatchCoreGraph(nn.Module):
    """`PatchCore.score` of a fixed number of images.

    Source: as `PatchCore`.
    """

    inside: torch.Tensor | None

    def __init__(self, detector: PatchCore) -> None:
        super().__init__()
        geometry, config = detector.geometry, detector.config
        self.canvas = (geometry.height, geometry.width)
        self.grid = detector.extractor.grid(*self.canvas)
        self.is_reweighted = config.reweight
        self.features = nn.ModuleList(map(FeatureGraph, detector.extractor.extractors))
        self.search = SearchGraph(detector.bank)
        self.inspected = InspectedPixels(geometry)
        self.register_buffer("inside", inspected_cells(self.grid, geometry))
        self.map = MapGraph(geometry, self.grid, config.sigma_px)

    def forward(
        self, image: torch.Tensor, canvas_box: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B,) and maps (B, H, W) of (B, H, W, 3) uint8 images."""
        image = self.inspected(image)
        parts = [one(image, canvas_box) for one in self.features]
        patches = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=3)).flatten(0, 2)
        distance, row = self.search(patches)
        cells = distance.view(-1, *self.grid)
        counted = distance.view(len(cells), -1)
        shown = self.inside
        if canvas_box is not None:
            shown = shown_cells(canvas_box, self.grid, self.canvas)
        if shown is not None:
            counted = torch.where(shown.flatten(1), counted, torch.full_like(counted, -1.0))
        if not self.is_reweighted:
            return counted.amax(1), self.map(cells, canvas_box)
        worst = counted.argmax(1) + torch.arange(len(cells)) * counted.shape[1]
        score = self.search.reweight(patches[worst], row[worst], distance[worst])
        return score, self.map(cells, canvas_box)
