"""CAVGA trained on small images, once per run."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch

from detector.cavga.losses import WEAKLY_SUPERVISED, LossWeights
from detector.cavga.networks import CavgaNetworks, CavgaShape
from detector.cavga.trainee import CavgaBatch, CavgaTrainee
from detector.train_config import TrainConfig
from reference.small_guided import forged
from reference.small_networks import BOXES, FULL, GEOMETRY, make_images, make_network

SHAPE = CavgaShape(
    latent="spatial",
    latent_channels=4,
    latent_stage=3,
    width=4,
    is_weak=False,
    canvas=(GEOMETRY.height, GEOMETRY.width),
)
CONFIG = TrainConfig(updates=60, batch=6, lr=0.005, weight_decay=0.0, jitter=0.0)


def batch_of(update: int, *, is_weak: bool = False, padded: bool = False) -> CavgaBatch:
    """Six normals, and three anomalies where they are known."""
    normals = make_images(6, seed=200 + update)
    boxes = [*BOXES, FULL] if padded else [FULL] * 6
    if not is_weak:
        return CavgaBatch(normals, np.array(boxes, dtype=np.int64), 6)
    images = np.concatenate([normals, forged(normals[:3], update)[0]])
    return CavgaBatch(images, np.array([*boxes, *boxes[:3]], dtype=np.int64), 6)


def new_networks(shape: CavgaShape = SHAPE, **settings) -> CavgaNetworks:
    options = {"seed": 0, "is_trained": False, "device": "cpu"} | settings
    return CavgaNetworks.make(make_network(), shape, **options)


def new_trainee(
    networks: CavgaNetworks, config: TrainConfig = CONFIG, *, normaliser: str = "sigmoid", **weights
) -> CavgaTrainee:
    is_weak = networks.classifier is not None
    return CavgaTrainee(
        networks,
        config,
        weights=WEAKLY_SUPERVISED if is_weak else LossWeights(**weights),
        normaliser=normaliser,
        mean_image=make_images(64, seed=7).mean(axis=0, dtype=np.float32),
    )


@functools.cache
def trained(shape: CavgaShape = SHAPE) -> Mapping[str, torch.Tensor]:
    """What training leaves beside the encoder, which stays as it was but for its last stage."""
    networks = new_networks(shape, freeze_stages=3)
    for parameter in networks.encoder.parameters():
        parameter.requires_grad_(False)
    # Grad-CAM needs a graph through the feature map, not weights that are trained.
    networks.encoder.backbone.stages[3][0].bias.requires_grad_(True)
    trainee = new_trainee(networks)
    for update in range(CONFIG.updates):
        trainee.update(update, batch_of(update, is_weak=shape.is_weak, padded=update % 2 == 1))
    return trainee.finish()[1]
