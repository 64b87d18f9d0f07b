"""A negative set as a torch dataset, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from detector.dataset import NegativeSource, kinds_of
from manifests.errors import ConfigError, ModelError


class ShardDataset(Dataset):
    """Every normal and every negative of a set once, with its class.

    Normals come first, then the negatives in the set's order. It can be sent to the worker
    processes of a `DataLoader`, which open the shards themselves, and holds no pixels: a sample is
    one read of its own bytes wherever it lies, so that any order will do, also of a set that is
    larger than memory.

    Args:
        negative_set: an open set; it is read, never changed, and stays open.
        negatives: the policies that are the other classes, in the order of their labels from 1 on;
            empty for all that the set has, in the order of its recipe.
        with_masks: whether a sample has its mask.
        transform: applied to every image (H, W, 3) uint8; None leaves it as it is.

    Attributes:
        labels: the class names by label, `("normal", *negatives)`.
        targets: (n,) int64, the label of every sample, for samplers that weigh the classes.

    Raises:
        ConfigError: a kind twice, or "normal" among them.
        ModelError: the set has no negative of a kind.

    Source: ours.
    """

    def __init__(
        self,
        negative_set: NegativeSource,
        *,
        negatives: Sequence[str] = (),
        with_masks: bool = False,
        transform: Callable[[np.ndarray], Any] | None = None,
    ) -> None:
        kinds = tuple(negatives) or kinds_of(negative_set)
        if len(set(kinds)) != len(kinds) or "normal" in kinds:
            raise ConfigError("negatives must be different policies", got=", ".join(kinds))
        policies = np.asarray(negative_set.negative_policy)
        missing = [kind for kind in kinds if not (policies == kind).any()]
        if missing:
            raise ModelError(
                f"the negative set has no {' and no '.join(missing)} negatives",
                got=", ".join(sorted(set(policies.tolist()))),
                hint="name others, or build it again with these --policies",
            )
        self._set = negative_set
        self._with_masks = with_masks
        self._transform = transform
        self.labels: tuple[str, ...] = ("normal", *kinds)
        n_normals = int(negative_set.n_normals)
        label_of = np.zeros(len(policies), dtype=np.int64)
        for label, kind in enumerate(kinds, start=1):
            label_of[policies == kind] = label
        rows = np.flatnonzero(label_of)
        self.targets = np.concatenate([np.zeros(n_normals, dtype=np.int64), label_of[rows]])
        self._rows = np.concatenate([np.arange(n_normals), rows])
        self._n_normals = n_normals

    def __len__(self) -> int:
        """The number of samples."""
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, int] | tuple[Any, int, torch.Tensor]:
        """A sample.

        Returns:
            The image, (H, W, 3) uint8 RGB or what `transform` made of it, and its label; with
            masks also the edited pixels, (H, W) bool, none in a normal.

        Raises:
            IndexError: there is no such sample.
            SetError: a shard that cannot be read.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"sample {index} of {count}")
        index %= count
        row, label = int(self._rows[index]), int(self.targets[index])
        mask = None
        if index < self._n_normals:
            image = self._set.normal(row).image
            if self._with_masks:
                mask = np.zeros(image.shape[:2], dtype=bool)
        elif self._with_masks:
            negative = self._set[row]
            image, mask = negative.image, negative.mask
        else:
            image = self._set.negative_image(row)
        shown = torch.from_numpy(image) if self._transform is None else self._transform(image)
        return (shown, label) if mask is None else (shown, label, torch.from_numpy(mask))
