"""Scores of training images, each against the bank as it would be without that image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from detector.detectors.base import Coverage, NormalBatches
from detector.memory_bank import MemoryBank
from detector.training_features import TrainingFeatures
from manifests.errors import ModelError

if TYPE_CHECKING:
    from detector.detectors.patchcore import PatchCore

Found = tuple[torch.Tensor, torch.Tensor]


def leave_one_out(
    detector: PatchCore,
    source: TrainingFeatures | NormalBatches,
    *,
    first_image: int,
    blocks: int,
    refills: Sequence[torch.Tensor] | None = None,
) -> tuple[np.ndarray, np.ndarray, Coverage]:
    """Scores training images without their own entries, and sees how far they are from the bank.

    A bank that only lacks an image's entries has holes that a bank chosen without the image has
    not: what several images show is often kept of one of them alone. Where features are in memory,
    other images fill the holes, see `refills_of`; otherwise scores are the larger for it.

    Args:
        detector: with a bank.
        source: training images, or what the detector's `collect` made of them.
        first_image: number of the first of them among the bank's images.
        blocks: see `Coverage`.
        refills: rows of `source.features` that each image's holes are filled with; None finds them.

    Returns:
        image scores (n,) and maxima of the score maps (n,), float32; and the coverage, in which
        entries of an image's own count.

    Raises:
        ModelError: fewer than two images, or a bank from one image alone.

    Source: ours; see `PatchCore.training_scores`.
    """
    n, bank = len(source), detector.bank
    if n < 2 and bool((bank.image_index == first_image).all()):
        raise ModelError(
            "training scores need other images to compare with", expected="at least 2 images", got=n
        )
    image = np.empty(n, dtype=np.float32)
    maxima = np.empty(n, dtype=np.float32)
    radius, total, rows = 0.0, 0.0, 0
    in_memory: tuple[TrainingFeatures, Searched, Sequence[torch.Tensor]] | None = None
    if isinstance(source, TrainingFeatures):
        searched = search(bank, source, first_image=first_image)
        if refills is None:
            refills = refills_of(bank, source, searched, first_image=first_image)
        in_memory = source, searched, refills
    for i, (patches, valid, boxes) in enumerate(_each_image(detector, source)):
        own = first_image + i
        if in_memory is None:
            found = bank.nearest(patches, exclude_image=own)
            covered = bank.nearest_own(patches, found[0], image=own)
            added = patches[:0]
        else:
            training, searched, filling = in_memory
            part = training.rows(i)
            found = searched.distance[part], searched.index[part]
            covered = searched.covered[part]
            added = training.features[filling[i]].to(patches.device)
        image[i], maxima[i] = _scores(detector, patches, found, added, valid, boxes, own=own)
        radius = max(radius, float(covered.max()))
        total, rows = total + float(covered.sum(dtype=torch.float64)), rows + len(covered)
    return image, maxima, Coverage(radius, total / rows, blocks, rows)


def _scores(
    detector: PatchCore,
    patches: torch.Tensor,
    found: Found,
    added: torch.Tensor,
    valid: np.ndarray,
    boxes: np.ndarray,
    *,
    own: int,
) -> tuple[np.float32, np.float32]:
    bank = detector.bank
    if len(added) and detector.config.reweight:
        # Company of the nearest entry counts, which may be one that was added.
        is_other = bank.image_index != own
        numbers = torch.full((len(added),), -1, dtype=torch.int32, device=patches.device)
        bank = MemoryBank(
            torch.cat([bank.features[is_other], added]),
            torch.cat([bank.image_index[is_other], numbers]),
        )
        found = bank.nearest(patches)
    elif len(added):
        found = torch.minimum(found[0], _exact(patches, added).amin(1)), found[1]
    scores = detector.score_found(patches, found, valid, boxes, exclude_image=own, bank=bank)
    return scores.image[0], scores.map.max()


@dataclass(frozen=True, eq=False)
class Searched:
    """What a search found of every training patch.

    Attributes:
        distance, index: of the nearest entry of another image, (N,) float32 and (N,) int64.
        covered: distance to the nearest entry of any image, (N,) float32.
    """

    distance: torch.Tensor
    index: torch.Tensor
    covered: torch.Tensor


def search(bank: MemoryBank, training: TrainingFeatures, *, first_image: int) -> Searched:
    """Finds the nearest entries of all training patches. Raises ModelError as `nearest` does."""
    parts: list[tuple[torch.Tensor, ...]] = []
    for i in range(len(training)):
        patches = training.features[training.rows(i)].to(bank.features.device)
        distance, index = bank.nearest(patches, exclude_image=first_image + i)
        parts.append((distance, index, bank.nearest_own(patches, distance, image=first_image + i)))
    return Searched(*(torch.cat(part) for part in zip(*parts, strict=True)))


def refills_of(
    bank: MemoryBank, training: TrainingFeatures, searched: Searched, *, first_image: int
) -> list[torch.Tensor]:
    """Which patches would be entries if an image were not there.

    The entries of an image are taken out, and the greedy choice goes on among the patches of the
    others: the farthest one becomes an entry, and so on, until no patch is farther from the bank
    than the farthest was before.

    Returns:
        rows of `training.features` for each image, in the order chosen.

    Source: ours; Gonzalez 1985 for the choice. It is exact: of patches whose nearest entry stays,
    none is farther than the farthest was before. It stands for choosing the whole bank again
    without each image, which the tests and docs/results.md compare it with.
    """
    radius = float(searched.covered.max())
    owner = bank.image_index[searched.index].long() - first_image
    owner[searched.covered < searched.distance] = -1  # nearest to an entry of their own image
    owner = owner.cpu()
    order = owner.argsort(stable=True)
    ends = torch.searchsorted(owner[order], torch.arange(len(training) + 1))
    refills = []
    for i in range(len(training)):
        rows = order[int(ends[i]) : int(ends[i + 1])]
        refills.append(rows[:0])
        if len(rows) == 0:
            continue
        patches = training.features[rows].to(bank.features.device)
        distance, _ = bank.nearest(patches, exclude_image=first_image + i)
        in_hole = distance > radius
        chosen = _farthest(patches[in_hole], distance[in_hole], radius)
        refills[i] = rows[in_hole.cpu()][chosen]
    return refills


def _farthest(patches: torch.Tensor, distance: torch.Tensor, radius: float) -> torch.Tensor:
    """Rows chosen greedily until none is farther than the radius."""
    chosen: list[int] = []
    while len(distance) and float(distance.max()) > radius:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, _exact(patches, patches[chosen[-1:]])[:, 0])
    return torch.tensor(chosen, dtype=torch.int64)


def _exact(patches: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    return torch.cdist(patches, entries, compute_mode="donot_use_mm_for_euclid_dist")


def _each_image(
    detector: PatchCore, source: TrainingFeatures | NormalBatches
) -> Iterator[tuple[torch.Tensor, np.ndarray, np.ndarray]]:
    """What the detector's `patches` returns, for one training image at a time."""
    if isinstance(source, TrainingFeatures):
        for i in range(len(source)):
            features = source.features[source.rows(i)].to(detector.device)
            yield features, source.valid[i : i + 1], source.boxes[i : i + 1]
        return
    for images, canvas_boxes in source:
        features, valid, boxes = detector.patches(images, canvas_boxes)
        ends = valid.sum((1, 2)).cumsum()
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            yield features[start:end], valid[i : i + 1], boxes[i : i + 1]
