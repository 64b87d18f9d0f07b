"""Features of several networks side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from detector.features import Box, FeatureExtractor
from manifests.errors import ConfigError, ModelError


class JoinedFeatures:
    """Features of several extractors, each as it is, concatenated along D.

    Every extractor runs on its own, also where their networks share frozen layers: two networks
    take twice the time of one, and the features twice the memory.

    Args:
        extractors: in the order of their features.

    Raises:
        ConfigError: no extractor.

    Source: ours.
    """

    def __init__(self, extractors: Sequence[FeatureExtractor]) -> None:
        if not extractors:
            raise ConfigError("no features to join", expected="at least one extractor", got=0)
        self.extractors = tuple(extractors)
        self.dim = sum(extractor.dim for extractor in extractors)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the features of `height`×`width` images."""
        return self.extractors[0].grid(height, width)

    def __call__(
        self, images: np.ndarray, *, canvas_boxes: np.ndarray | Sequence[Box] | None = None
    ) -> torch.Tensor:
        """(B, h, w, D) float32 features of a batch; see `FeatureExtractor`.

        Raises:
            ModelError: features that are not finite, or of different grids.
        """
        parts = [extractor(images, canvas_boxes=canvas_boxes) for extractor in self.extractors]
        grids = [tuple(part.shape[1:3]) for part in parts]
        if len(set(grids)) > 1:
            raise ModelError("features of different grids cannot be joined", got=grids)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
