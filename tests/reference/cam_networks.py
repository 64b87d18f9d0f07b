"""Networks with class activations worth comparing, and two photographs for them."""

from __future__ import annotations

import cv2
import numpy as np
import timm
import torch
from skimage import data
from torch import nn

from manifests.stages import find_stages
from manifests.weights import Network, state_digest

HEIGHT_PX, WIDTH_PX = 64, 96


def photos(height=HEIGHT_PX, width=WIDTH_PX):
    pictures = (data.chelsea(), data.coffee())
    return np.stack(
        [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in pictures]
    )


def as_network(module, levels, *, mean=(120.0, 115.0, 100.0), std=(58.0, 57.0, 56.0)):
    module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Network(
        name="test",
        module=module,
        digest=state_digest(module),
        mean=mean,
        std=std,
        levels=levels,
        stages={},
        source="random",
    )


def lively(module):
    """Batch-norms away from the identity, and from the zero that some residual blocks start at."""
    generator = torch.Generator().manual_seed(3)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.copy_(torch.rand(layer.weight.shape, generator=generator) + 0.5)
            layer.bias.data.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.2)
    return module


def lively_resnet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = lively(timm.create_model("resnet18"))
    return as_network(module, find_stages("resnet18", module.eval()))
