"""Guided segmentation as a graph, the references' pixels included."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from detector.detectors import GuidedSegmentation
from detector.export.canvas_graph import InspectedPixels, MapGraph, shown_cells, shown_pixels
from detector.export.feature_graph import CellGraph
from detector.guided.guidance import Guidance
from detector.guided.pooled_score import window_side


class GuidedGraph(nn.Module):
    """`GuidedSegmentation.score` of a fixed number of images.

    Source: as `GuidedSegmentation`.
    """

    images: torch.Tensor
    embeddings: torch.Tensor

    def __init__(self, detector: GuidedSegmentation) -> None:
        super().__init__()
        geometry, config = detector.geometry, detector.config
        self.canvas = (geometry.height, geometry.width)
        self.inspected = InspectedPixels(geometry)
        self.side = window_side(config.window_px, *self.canvas)
        self.own = detector.networks.network
        self.segmenter = copy.deepcopy(detector.networks.segmenter)
        # A tracer has to see every module return.
        self.segmenter.encoder.ends_early = False
        self.map = MapGraph(geometry, self.canvas, config.sigma_px) if config.sigma_px > 0 else None
        self.guidance = None
        references = detector.references
        if references is None or detector.untuned is None:
            return
        self.guidance = detector.networks.guidance
        self.cells = CellGraph(detector.untuned)
        state = references.state()
        shown = shown_pixels(state["references/canvas_box"].long(), self.canvas)
        # Padding is 0 to the guidance, whatever is there.
        self.register_buffer("images", state["references/image"] * shown[..., None])
        self.register_buffer("embeddings", state["references/embedding"].double())

    def forward(
        self, image: torch.Tensor, canvas_box: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B,) and maps (B, H, W) of (B, H, W, 3) uint8 images."""
        image = self.inspected(image)
        features = None
        if self.guidance is not None:
            reference = self.images[self._most_similar(image, canvas_box)]
            features = self.guidance.features(Guidance.preprocess(reference))
        pixels = self.own.preprocess(image)
        shown = None
        if canvas_box is not None:
            shown = shown_pixels(canvas_box, self.canvas).float()
            pixels = pixels * shown[:, None]
        elif self.inspected.mask is not None:
            shown = self.inspected.mask[None].float()
        probabilities = torch.sigmoid(self.segmenter(pixels, features))
        if shown is not None:
            probabilities = probabilities * shown
        score = self._pooled(probabilities, shown)
        if self.map is None:
            return score, probabilities
        return score, self.map(probabilities, canvas_box)

    def _most_similar(self, image: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        """(B,) the reference of every image; of equals the first, as `retrieval.nearest`."""
        cells = self.cells(image).double()
        if box is not None:
            grid = (cells.shape[1], cells.shape[2])
            cells = cells * shown_cells(box, grid, self.canvas).double()[..., None]
        query = F.normalize(cells.sum((1, 2)), dim=1).float().double()
        return (query @ self.embeddings.T).float().argmax(1)

    def _pooled(self, maps: torch.Tensor, shown: torch.Tensor | None) -> torch.Tensor:
        """`pooled_scores` of maps that are 0 in padding."""
        counted = torch.ones_like(maps) if shown is None else shown
        means = self._window_means(maps) / self._window_means(counted).clamp(min=0.5 / self.side**2)
        if shown is not None:
            means = torch.where(shown > 0.5, means, torch.full_like(means, -1.0))
        return means.amax((1, 2))

    def _window_means(self, values: torch.Tensor) -> torch.Tensor:
        """Sums over windows divided by a whole window, zeros outside."""
        half = self.side // 2
        rows = F.avg_pool2d(values[:, None], (self.side, 1), stride=1, padding=(half, 0))
        return F.avg_pool2d(rows, (1, self.side), stride=1, padding=(0, half))[:, 0]
