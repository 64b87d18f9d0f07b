"""The scores behind the thresholds of a model whose bank has grown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from detector.calibration import OTHERS, Calibration
from detector.detectors import PatchCore
from detector.detectors.base import Coverage
from detector.detectors.training_scores import leave_one_out, refills_of, search
from detector.hold_out import held_out
from detector.memory_bank import MemoryBank
from detector.model import Model
from detector.normal_list import FittedNormal
from detector.normal_pixels import NormalCanvases, NormalPixels
from manifests.errors import ModelError


def updated_calibration(
    model: Model,
    own: tuple[np.ndarray, np.ndarray],
    normals: Sequence[FittedNormal],
    known: NormalPixels,
    old_bank: MemoryBank,
    progress: Callable[[int, int], None],
) -> tuple[Calibration, int]:
    """Scores of the new images and of those before, and how many of these are upper bounds.

    Args:
        own: of the new images.
        normals: the others that are in the bank.
        known: where their pixels are, if anywhere.
        old_bank: as it was before.
        progress: called with (images read, images) where they are scored again.

    Raises:
        ModelError: old scores that are no bounds, or normals whose pixels cannot be had.

    Source: ours. A distance to the nearest of more entries is no larger, and a map is a mean of
    distances with weights that are not negative. What fills the holes of an image that is left out
    is what filled them before, so that the model without it has grown as the model has.
    """
    before = model.calibration
    detector = model.detector
    assert isinstance(detector, PatchCore)
    old = before.image, before.map_maximum
    # Of images that the bank does not hold nobody has more than their scores.
    is_bound = known.is_empty or before.source == OTHERS
    if is_bound and detector.config.reweight:
        raise ModelError(
            "with --reweight, scores before an update are no bounds of those after it",
            hint="give the model's normals with --set or --data"
            if before.source != OTHERS
            else "update the model as it was before it was recalibrated",
        )
    if not is_bound:
        batches = NormalCanvases(known, normals, model.config.batch, progress=progress)
        image, maxima, _ = _left_out(detector, batches, old_bank)
        counted = _counted(model, normals)
        old = image[counted], maxima[counted]
    image, maxima = (np.concatenate([a, b]) for a, b in zip(old, own, strict=True))
    return Calibration.of(image, maxima, before.source), len(before) if is_bound else 0


def _left_out(
    detector: PatchCore, batches: NormalCanvases, old_bank: MemoryBank
) -> tuple[np.ndarray, np.ndarray, Coverage]:
    if not detector.fits(len(batches)):
        return leave_one_out(detector, batches, first_image=0, blocks=1)
    training = detector.collect(batches)
    searched = search(old_bank, training, first_image=0)
    refills = refills_of(old_bank, training, searched, first_image=0)
    return leave_one_out(detector, training, first_image=0, blocks=1, refills=refills)


def _counted(model: Model, normals: Sequence[FittedNormal]) -> np.ndarray:
    """(n,) bool: the normals whose scores the thresholds come from, as at the fit."""
    counted = np.ones(len(normals), dtype=bool)
    train = model.config.train
    if train.hold_out:
        first = len(normals) - model.added_normals
        digests = [one.pixel_digest for one in normals[:first]]
        counted[:first] = held_out(digests, train.hold_out, train.seed)
    return counted
