"""Patch features of the training images, as a bank is chosen from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

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

    def owners(self) -> torch.Tensor:
        """(N,) int32, the image of every row."""
        counts = torch.from_numpy(np.diff(self.offsets))
        return torch.repeat_interleave(torch.arange(len(self), dtype=torch.int32), counts)


def join_features(
    parts: Iterable[tuple[torch.Tensor, np.ndarray, np.ndarray]],
) -> TrainingFeatures:
    """Joins batches of (features (P, D), valid (B, h, w), boxes (B, 4)).

    Raises:
        ModelError: no batches.
    """
    chunks: list[torch.Tensor] = []
    valid: list[np.ndarray] = []
    boxes: list[np.ndarray] = []
    for features, cells, canvas_boxes in parts:
        chunks.append(features.cpu())
        valid.append(cells)
        boxes.append(canvas_boxes)
    if not chunks:
        raise ModelError("no normal images to fit to")
    shown = np.concatenate(valid)
    return TrainingFeatures(
        features=_join(chunks),
        offsets=np.concatenate([[0], np.cumsum(shown.sum((1, 2)))]),
        valid=shown,
        boxes=np.concatenate(boxes),
    )


def _join(chunks: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate along the first axis, releasing each chunk once copied; empties the list.

    The result's memory is touched only as it is filled, so the peak is one copy, not two.
    """
    total = sum(len(chunk) for chunk in chunks)
    out = torch.empty((total, chunks[0].shape[1]), dtype=chunks[0].dtype)
    end = total
    while chunks:
        chunk = chunks.pop()
        out[end - len(chunk) : end] = chunk
        end -= len(chunk)
    return out
