"""A small convolutional network with seeded weights, and images for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from manifests.images import Geometry
from manifests.weights import Network

GEOMETRY = Geometry(height=32, width=48)
FULL = (0, 0, 32, 48)
BOXES = [FULL, (0, 8, 32, 32), (8, 0, 16, 48), FULL, (4, 4, 22, 40)]


class Stages(nn.Module):
    """2×2 convolutions of stride 2; the last feature map is what a classifier would pool."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.stages(pixels)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.forward_features(pixels).mean((2, 3))


def make_network(channels: int = 8, seed: int = 0, depth: int = 4) -> Network:
    """Random weights, without touching the global generator."""
    generator = torch.Generator().manual_seed(seed)
    stages = []
    width = 3
    for _ in range(depth):
        with torch.random.fork_rng(devices=[]):
            convolution = nn.Conv2d(width, channels, 2, stride=2)
        for parameter in convolution.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.data = values / (4 * width) ** 0.5
        stages.append(nn.Sequential(convolution, nn.ReLU()))
        width = channels
    return Network(
        name="small",
        module=Stages(stages).eval().requires_grad_(False),
        digest=f"{seed:064d}",
        mean=(127.0, 127.0, 127.0),
        std=(64.0, 64.0, 64.0),
        levels={},
        stages={stage: f"stages.{stage}" for stage in range(depth)},
        source="random",
    )


def make_images(count: int, seed: int = 0, geometry: Geometry = GEOMETRY) -> np.ndarray:
    """Noise around a shared gradient, R != G != B."""
    source = np.random.default_rng(seed)
    gradient = np.linspace(40, 160, geometry.width)[None, None, :, None]
    shape = (count, geometry.height, geometry.width, 3)
    values = gradient * np.array([1.0, 0.7, 0.4]) + source.normal(0, 20, shape)
    return np.clip(values, 0, 255).astype(np.uint8)


def batches(images: np.ndarray, boxes=None, batch: int = 4) -> Batches:
    """Pairs of images and boxes, as `Detector.fit` takes them."""
    return Batches(images, [FULL] * len(images) if boxes is None else boxes, batch)


class Batches:
    """Images in memory; `passes` counts how often they were read."""

    def __init__(self, images: np.ndarray, boxes, batch: int) -> None:
        self.images, self.boxes, self.batch = images, boxes, batch
        self.passes = 0

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self):
        self.passes += 1
        for start in range(0, len(self.images), self.batch):
            rows = slice(start, start + self.batch)
            yield self.images[rows], self.boxes[rows]


def defect(image: np.ndarray) -> np.ndarray:
    """The image with a patch of a colour that no other has."""
    damaged = image.copy()
    damaged[8:20, 20:30] = (250, 5, 250)
    return damaged
