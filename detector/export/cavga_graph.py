"""CAVGA as a graph: its attention's gradients written out, since runtimes derive nothing."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from detector.cavga.attention import attention
from detector.cavga.classifier import NORMAL
from detector.cavga.initial_weights import SLOPE
from detector.cavga.latent import LatentHead
from detector.cavga.losses import squared_errors
from detector.cavga.networks import CavgaNetworks
from detector.detectors import Cavga
from detector.export.canvas_graph import InspectedPixels, MapGraph, shown_pixels


class CavgaGraph(nn.Module):
    """`Cavga.score` of a fixed number of images.

    The latent's mean is linear in the head's hidden map, and that is a convolution and a LeakyReLU
    of the features. What derives the evidence (the mean's mean, or the logit of "normal") by the
    hidden map is therefore a constant, and the rest of the chain one transposed convolution.

    Source: as `Cavga`; the derivative is the chain rule, which the tests compare with autograd.
    """

    slopes: torch.Tensor

    def __init__(self, detector: Cavga) -> None:
        super().__init__()
        networks, config, geometry = detector.networks, detector.config, detector.geometry
        self.canvas = (geometry.height, geometry.width)
        self.inspected = InspectedPixels(geometry)
        self.normaliser = config.normaliser
        self.networks = networks
        self.encoder = copy.deepcopy(networks.encoder)
        # A tracer has to see every module return.
        self.encoder.ends_early = False
        self.head, self.decoder = networks.head, networks.decoder
        blank = torch.zeros((1, 3, *self.canvas))
        with torch.no_grad():
            hidden = self.head.body(self.encoder(blank)[-1])
        self.register_buffer("slopes", _by_hidden(networks, tuple(hidden.shape[1:])))
        self.map = MapGraph(geometry, self.canvas, config.sigma_px) if config.sigma_px > 0 else None

    def forward(
        self, image: torch.Tensor, canvas_box: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B,) and maps (B, H, W) of (B, H, W, 3) uint8 images."""
        shown = None if canvas_box is None else shown_pixels(canvas_box, self.canvas)
        pixels, colours = self.networks.inputs(self.inspected(image), shown)
        features = self.encoder(pixels)[-1]
        rebuilt = self.decoder(self.head.to_grid(self.head(features).mean), self.canvas)
        weights = self._by_features(features).sum((2, 3), keepdim=True)
        evidence = (weights * features).sum(1)
        maps = 1.0 - attention(evidence, self.normaliser, size=self.canvas)
        if shown is None and self.inspected.mask is not None:
            shown = self.inspected.mask[None]
        score = squared_errors(rebuilt, colours, shown=shown)
        if shown is not None:
            maps = maps * shown
        return score, maps if self.map is None else self.map(maps, canvas_box)

    def _by_features(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) gradients of the evidence's scalar by the features."""
        convolution = self.head.body[0]
        assert isinstance(convolution, nn.Conv2d) and not isinstance(convolution.padding, str)
        raised = convolution(features) > 0
        slopes = torch.where(raised, self.slopes, self.slopes * SLOPE)
        return F.conv_transpose2d(slopes, convolution.weight, padding=convolution.padding)


def _by_hidden(networks: CavgaNetworks, shape: tuple[int, int, int]) -> torch.Tensor:
    """(1, C, h, w) gradient, by the head's hidden map, of what the attention derives.

    Args:
        networks: as they score.
        shape: of the hidden map, (C, h, w).
    """
    head, classifier = networks.head, networks.classifier
    with torch.inference_mode(False), torch.enable_grad():
        # Everything from here on is linear: the gradient is the same at any point.
        hidden = torch.zeros((1, *shape), requires_grad=True)
        mean = head.mean(hidden if isinstance(head, LatentHead) else hidden.flatten(1))
        scalar = mean.mean() if classifier is None else classifier(mean)[0, NORMAL]
        (gradient,) = torch.autograd.grad(scalar, hidden)
    return gradient.detach()
