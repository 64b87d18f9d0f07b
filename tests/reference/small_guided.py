"""Guided segmentation trained on a handful of small images with bright patches, once per run."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch

from detector.guided.batch import GuidedBatch
from detector.guided.networks import GuidedNetworks
from detector.guided.trainee import GuidedTrainee
from detector.train_config import TrainConfig
from detector.training_batch import TrainingBatch
from reference.small_networks import BOXES, FULL, GEOMETRY, make_images, make_network

WIDTH = 4
CONFIG = TrainConfig(updates=60, batch=4, lr=0.02, weight_decay=0.0, jitter=0.0, freeze_bn=True)


def forged(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with one box of a colour of its own each, and where it is."""
    rng = np.random.default_rng(seed)
    edited, masks = images.copy(), np.zeros(images.shape[:3], dtype=bool)
    for image, mask in zip(edited, masks, strict=True):
        h, w = rng.integers(4, 14, size=2)
        y, x = rng.integers(0, GEOMETRY.height - h), rng.integers(0, GEOMETRY.width - w)
        image[y : y + h, x : x + w] = rng.integers(0, 256, size=3)
        mask[y : y + h, x : x + w] = True
    return edited, masks


def batch_of(update: int, *, is_guided: bool = True, padded: bool = False) -> GuidedBatch:
    """Four normals, three negatives of each, and their references."""
    normals = make_images(4, seed=100 + update)
    parts, masks = [normals], [np.zeros(normals.shape[:3], dtype=bool)]
    for number in range(3):
        edited, mask = forged(normals, 1000 * number + update)
        parts.append(edited)
        masks.append(mask)
    boxes = np.array((BOXES if padded else [FULL] * 4)[:4], dtype=np.int64)
    guide = np.tile(np.arange(4), 4)
    return GuidedBatch(
        images=TrainingBatch(
            labels=np.repeat(np.arange(2), [4, 12]),
            rows=np.arange(16),
            images=np.concatenate(parts),
            masks=np.concatenate(masks),
        ),
        boxes=boxes[guide],
        references=make_images(4, seed=500 + update) if is_guided else None,
        reference_boxes=boxes if is_guided else None,
        guide=guide,
    )


def new_networks(*, is_guided: bool = True, **settings) -> GuidedNetworks:
    options = {"width": WIDTH, "seed": 0, "device": "cpu"} | settings
    return GuidedNetworks.make(make_network(), is_guided=is_guided, **options)


@functools.cache
def trained(*, is_guided: bool = True) -> Mapping[str, torch.Tensor]:
    """What training leaves beside the encoder, which stays as it was."""
    networks = new_networks(is_guided=is_guided, freeze_stages=4)
    trainee = GuidedTrainee(networks, CONFIG)
    for update in range(CONFIG.updates):
        trainee.update(update, batch_of(update, is_guided=is_guided, padded=update % 2 == 1))
    return trainee.finish()[1]
