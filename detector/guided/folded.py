"""The networks as they score: without batch norms, which are folded into the convolutions."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from detector.guided.guidance import Guidance
from detector.guided.segmenter import Segmenter
from manifests.folding import folded_network
from manifests.weights import Network


def folded(segmenter: Segmenter, guidance: Guidance | None) -> tuple[Segmenter, Guidance | None]:
    """Copies for scoring, whose batch norms are part of the convolutions before them.

    Args:
        segmenter: in eval mode; not changed.
        guidance: the same; None for a segmenter without.

    Returns:
        The copies, which cannot be trained any more and give the same within float32 rounding
        (`folded_network`); the networks themselves where they cannot be folded.

    Raises:
        ValueError: a network in training mode.

    Source: ours.
    """
    pair = _Pair(segmenter, guidance)
    encoder = segmenter.encoder
    names = [f"segmenter.encoder.backbone.{name}" for name in encoder.names]
    # What `folded_network` looks at: a module that runs on noise, and what is tapped in it.
    whole = Network(
        name="guided",
        module=pair,
        digest="",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        levels={},
        stages=dict(zip(encoder.stages, names, strict=True)),
        source="random",
    )
    found = cast(_Pair, folded_network(whole).module)
    return found.segmenter, found.guidance


class _Pair(nn.Module):
    """Both networks in one pass over the same pixels."""

    def __init__(self, segmenter: Segmenter, guidance: Guidance | None) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.guidance = guidance
        self.training = segmenter.training or (guidance is not None and guidance.training)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        guidance = None if self.guidance is None else self.guidance.features(pixels)
        logits: torch.Tensor = self.segmenter(pixels, guidance)
        return logits
