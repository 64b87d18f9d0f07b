"""A network's features as a part of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from detector.export.canvas_graph import shown_cells
from detector.features import FeatureExtractor, local_mean, upsample
from detector.stage_reader import StageReader
from manifests.folding import folded_network
from manifests.weights import Network


class FeatureGraph(nn.Module):
    """The patch features of one `FeatureExtractor`.

    Args:
        extractor: its network is read a second time; it stays as it is.

    Source: as `FeatureExtractor`.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.own = folded_network(extractor.network)
        self.reader = StageReader(
            self.own.module,
            [self.own.stages[stage] for stage in extractor.stages],
            ends_early=False,
        )
        # Registered, so that the weights have names in the graph.
        self.network = self.reader.module

    def forward(self, images: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        """Features.

        Args:
            images: (B, H, W, 3) uint8 RGB.
            box: (B, 4) int64 where the canvas has padding, else None.

        Returns:
            (B, h, w, D) float32.
        """
        canvas = (images.shape[1], images.shape[2])
        activations = self.reader(self.own.preprocess(images))
        finest = (activations[0].shape[2], activations[0].shape[3])
        levels = []
        for activation in activations:
            cells = None
            if box is not None:
                grid = (activation.shape[2], activation.shape[3])
                cells = shown_cells(box, grid, canvas)[:, None].float()
            levels.append(upsample(local_mean(activation, cells), cells, finest))
        return torch.cat(levels, dim=1).permute(0, 2, 3, 1)


class CellGraph(nn.Module):
    """The cell embeddings of one network; see `CellEmbeddings`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.own = folded_network(network)
        self.network = self.own.module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 RGB -> (B, h, w, D) float32."""
        forward = cast(Callable[[torch.Tensor], torch.Tensor], self.network.forward_features)
        return forward(self.own.preprocess(images)).permute(0, 2, 3, 1)
