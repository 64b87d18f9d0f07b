"""A memory bank that takes in patches of further images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from detector.coreset import coreset_size, more_centres
from detector.detectors import PatchCore
from detector.explanation import find_cells
from detector.memory_bank import MemoryBank
from detector.normal_list import FittedNormal
from detector.normal_pixels import NormalPixels
from detector.training_features import TrainingFeatures
from manifests.errors import ConfigError, ModelError


def new_entries(
    detector: PatchCore, rows: int, entries: int | None, coreset_ratio: float | None
) -> int:
    """How many entries are to be added of so many patches.

    Args:
        rows: patches of the new images.
        entries: how many are wanted; None for a share.
        coreset_ratio: that share; None for the fit's.

    Raises:
        ConfigError: `entries` is more than there are, or than the fit's `coreset_max` leaves.
        ModelError: `coreset_max` leaves none.
    """
    ratio = detector.config.coreset_ratio if coreset_ratio is None else coreset_ratio
    wanted = coreset_size(rows, ratio) if entries is None else entries
    most = detector.config.coreset_max
    room = rows if most is None else most - len(detector.bank)
    if room < 1:
        raise ModelError(
            "the bank is full",
            expected=f"at most {most} entries (--coreset-max of its fit)",
            got=len(detector.bank),
            hint="fit again with a larger --coreset-max",
        )
    if entries is not None and entries > min(rows, room):
        raise ConfigError(
            "--entries is more than can be added",
            expected=f"at most {max(0, min(rows, room))}",
            got=entries,
        )
    return min(wanted, room)


def grown_bank(
    detector: PatchCore,
    bank: MemoryBank,
    training: TrainingFeatures,
    *,
    first_image: int,
    count: int,
    progress: Callable[[int, int], None] | None,
) -> MemoryBank:
    """The bank with `count` of the new features, which the greedy search would choose next.

    Args:
        bank: with cells.
        training: the new images' features.
        first_image: number of the first of them.
        progress: called with (patches chosen, patches wanted).

    Returns:
        The old entries in their places, then the new ones in the order of their images.
    """
    config = detector.config
    picks = more_centres(
        training.features,
        bank.features.cpu(),
        count,
        rng=np.random.default_rng(config.seed),
        projection_dim=config.projection_dim,
        progress=progress,
    )
    picks = picks.sort().values
    origins = training.origins()[picks] + torch.tensor([first_image, 0], dtype=torch.int32)
    assert bank.cell is not None
    before = torch.stack([bank.image_index.cpu(), bank.cell.cpu()], dim=1)
    features = torch.cat([bank.features.cpu(), training.features[picks]])
    return MemoryBank.of(features.to(detector.device), torch.cat([before, origins]))


def located_bank(
    detector: PatchCore, known: NormalPixels, normals: Sequence[FittedNormal]
) -> MemoryBank:
    """The bank of a model of version 5 with the cells of its entries, found from the normals.

    Raises:
        ModelError: entries of images that are none of the normals, or normals without pixels.
    """
    bank = detector.bank
    cell = torch.zeros_like(bank.image_index)
    for image in bank.image_index.unique().tolist():
        if not 0 <= image < len(normals):
            raise ModelError("has entries of images that the set does not hold", got=image)
        rows = (bank.image_index == image).nonzero()[:, 0]
        normal = normals[image]
        found = find_cells(detector, bank.features[rows], known.canvas(normal), normal.canvas_box)
        cell[rows] = found.to(torch.int32)
    return MemoryBank(bank.features, bank.image_index, cell)
