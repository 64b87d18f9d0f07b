"""Patch features of the training images, as a bank is chosen from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from detector.features import cell_origins
from manifests.errors import ModelError


@dataclass(frozen=True, eq=False)
class TrainingFeatures:
    """Features of all valid cells of n images, image after image.

    Attributes:
        features: (N, D) float32 on the CPU; image i owns rows offsets[i] to offsets[i + 1].
        offsets: (n + 1,) int64.
        valid: (n, h, w) bool.
        boxes: (n, 4) int64 canvas boxes, `y, x, h, w` in px.
    """

    features: torch.Tensor
    offsets: np.ndarray
    valid: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        """The number of images."""
        return len(self.valid)

    def rows(self, image: int) -> slice:
        """Where an image's features are."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def origins(self) -> torch.Tensor:
        """(N, 2) int32, image and cell of every row."""
        return cell_origins(self.valid)


def join_features(
    parts: Iterable[tuple[torch.Tensor, np.ndarray, np.ndarray]], *, images: int
) -> TrainingFeatures:
    """Joins batches of (features (P, D), valid (B, h, w), boxes (B, 4)) of `images` images.

    Memory for all of them is taken at once and touched as it is filled, so that there never are two
    copies.

    Raises:
        ModelError: no batches.
    """
    out: torch.Tensor | None = None
    end = 0
    valid: list[np.ndarray] = []
    boxes: list[np.ndarray] = []
    for features, cells, canvas_boxes in parts:
        if out is None:
            out = torch.empty((images * cells[0].size, features.shape[1]), dtype=features.dtype)
        out[end : end + len(features)] = features.cpu()
        end += len(features)
        valid.append(cells)
        boxes.append(canvas_boxes)
    if out is None:
        raise ModelError("no normal images to fit to")
    shown = np.concatenate(valid)
    return TrainingFeatures(
        features=out[:end],
        offsets=np.concatenate([[0], np.cumsum(shown.sum((1, 2)))]),
        valid=shown,
        boxes=np.concatenate(boxes),
    )
