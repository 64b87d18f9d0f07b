"""Merge and reduce: a coreset of more features than fit in memory, by way of candidates.

Features come in blocks. Each block is reduced to candidates by greedy k-centre, candidates of
several blocks are merged and reduced again where they become too many, and the bank is chosen
from what is left. Nothing here knows images, networks or files, and every step is a function of
its arguments, so that blocks may be reduced in other processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detector.coreset import PROJECTION_DIM, coreset_rows
from manifests.errors import ModelError

# Candidates per bank entry that a block's share of all features would give it, and the least part
# of a block that is kept: measured in docs/benchmarks.md.
OVERSAMPLING = 2
_LEAST_PART = 256
# A merge keeps at least this part of what it merges.
_MERGE_PART = 4

# First number of a seed, so that no two kinds of steps draw the same.
_BLOCK, _MERGE, _BANK = 1, 2, 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Features that stand for all those of consecutive images.

    Attributes:
        features: (C, D) float32 on the CPU, in the order of the images.
        origins: (C, 2) int32, image and cell of each, ascending.
        rows: the number of features that they stand for.
        level: how often the most often reduced of them were merged; 0 for a block.
    """

    features: torch.Tensor
    origins: torch.Tensor
    rows: int
    level: int = 0

    def __len__(self) -> int:
        """The number of candidates."""
        return len(self.features)


@dataclass(frozen=True)
class Reduction:
    """How a bank is chosen by merge and reduce; the same for all blocks.

    Attributes:
        bank_rows: entries wanted of `total_rows` features.
        total_rows: features of all images, or more; the sizes of candidate sets follow from it.
        capacity_rows: candidates kept at a time.
        seed: of all first picks and projections.
        projection_dim: see `k_centre`.
    """

    bank_rows: int
    total_rows: int
    capacity_rows: int
    seed: int
    projection_dim: int = PROJECTION_DIM

    def share(self, rows: int) -> int:
        """Candidates that `rows` features are to have at least, of an oversampled bank."""
        most = self.capacity_rows // 2
        oversampled = min(OVERSAMPLING * self.bank_rows, most)
        return min(rows, most, math.ceil(oversampled * rows / self.total_rows))

    def block_size(self, rows: int) -> int:
        """Candidates of a block of `rows` features."""
        wanted = max(self.share(rows), rows // _LEAST_PART, 1)
        return min(wanted, rows, max(1, self.capacity_rows // 2))

    def merged_size(self, parts: Sequence[Candidates]) -> int:
        """Candidates of a merge."""
        total = sum(map(len, parts))
        share = self.share(sum(part.rows for part in parts))
        return min(total, max(share, total // _MERGE_PART))


def reduce_block(
    features: torch.Tensor, origins: torch.Tensor, *, number: int, reduction: Reduction
) -> Candidates:
    """The candidates of one block.

    Args:
        features: (N, D) float32 on the CPU, in the order of the images; not kept.
        origins: (N, 2) int32, image and cell of each, ascending.
        number: of the block, 0 for the first one; seeds its search.

    Raises:
        ModelError: features that are not finite, or none.

    Source: ours; merging reduced sets follows the composable core-sets of Indyk et al. 2014.
    """
    if len(features) == 0:
        raise ModelError("no features to reduce")
    picks = _choose(features, reduction.block_size(len(features)), reduction, (_BLOCK, number))
    return Candidates(features[picks], origins[picks], rows=len(features))


def merge(parts: Sequence[Candidates], *, number: int, reduction: Reduction) -> Candidates:
    """One set of candidates in place of several, and smaller than they are together.

    Args:
        parts: in the order of their images.
        number: of the merge, 0 for the first one; seeds its search.
    """
    features, origins = _joined(parts)
    picks = _choose(features, reduction.merged_size(parts), reduction, (_MERGE, number))
    return Candidates(
        features[picks],
        origins[picks],
        rows=sum(part.rows for part in parts),
        level=max(part.level for part in parts) + 1,
    )


def choose_bank(
    parts: Sequence[Candidates],
    size: int,
    *,
    reduction: Reduction,
    progress: Progress | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The bank: features (size, D) and their origins (size, 2), in the order of the images.

    Args:
        parts: of all features, in the order of their images.
        size: entries wanted; all candidates where there are no more.
        progress: called with (chosen, wanted).

    Raises:
        ModelError: no candidates.
    """
    if not parts:
        raise ModelError("no normal images to fit to")
    features, origins = _joined(parts)
    picks = _choose(features, min(size, len(features)), reduction, (_BANK,), progress)
    return features[picks], origins[picks]


class CandidateTree:
    """Candidate sets of any number of blocks, never more than `reduction.capacity_rows` together.

    Sets are merged only when the next one would not fit, and those that were merged least first,
    which are the last ones: each merge adds to what a feature's candidate may be away from it.

    Source: ours.
    """

    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction
        self.parts: list[Candidates] = []
        self.merges = 0

    def __len__(self) -> int:
        """The number of candidates."""
        return sum(map(len, self.parts))

    def add(self, candidates: Candidates) -> None:
        """Takes the next block's candidates."""
        while len(self.parts) > 1 and len(self) + len(candidates) > self.reduction.capacity_rows:
            first = self._first_of_last_level(len(self.parts))
            if first == len(self.parts) - 1:
                first = self._first_of_last_level(first)
            tail = self.parts[first:]
            del self.parts[first:]
            self.parts.append(merge(tail, number=self.merges, reduction=self.reduction))
            self.merges += 1
        self.parts.append(candidates)

    def _first_of_last_level(self, end: int) -> int:
        """Where the sets begin that were merged as often as the last one before `end`."""
        level = self.parts[end - 1].level
        return next(i for i, part in enumerate(self.parts) if part.level == level)


def _choose(
    features: torch.Tensor,
    size: int,
    reduction: Reduction,
    address: tuple[int, ...],
    progress: Progress | None = None,
) -> torch.Tensor:
    """Ascending rows of a greedy k-centre coreset."""
    return coreset_rows(
        features,
        size,
        rng=np.random.default_rng([reduction.seed, *address]),
        projection_dim=reduction.projection_dim,
        progress=progress,
    )


def _joined(parts: Sequence[Candidates]) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.cat([part.features for part in parts]),
        torch.cat([part.origins for part in parts]),
    )
