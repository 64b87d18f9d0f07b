"""A memory bank from more features than the memory budget holds, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from detector.memory_budget import FeatureBudget, check_bank, check_batch
from detector.merge_reduce import CandidateTree, Reduction, choose_bank, reduce_block
from manifests.errors import ModelError


@dataclass(frozen=True, eq=False)
class StreamedBank:
    """A bank and how it was chosen.

    Attributes:
        features: (M, D) float32 on the CPU.
        origins: (M, 2) int32, image and cell of each entry, ascending.
        blocks, merges: what was reduced.
    """

    features: torch.Tensor
    origins: torch.Tensor
    blocks: int
    merges: int


def stream_bank(
    parts: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    reduction: Reduction,
    budget: FeatureBudget,
    size_of: Callable[[int], int],
    progress: Callable[[int, int], None] | None = None,
) -> StreamedBank:
    """Reads features once and keeps one block of them at a time.

    Args:
        parts: batches of features (P, D) of consecutive images and their origins (P, 2) int32, as
            `features.cell_origins` numbers images and cells.
        reduction: how blocks are reduced.
        budget: what a block holds; it holds whole batches.
        size_of: entries of a bank of so many features.
        progress: called with (chosen, wanted) while the bank is chosen from the candidates.

    Raises:
        ModelError: no batches, features that are not finite, or a budget that does not hold the
            bank or one batch.

    Source: ours.
    """
    tree, rows, blocks = stream_candidates(parts, reduction=reduction, budget=budget)
    features, origins = choose_bank(
        tree.parts, size_of(rows), reduction=reduction, progress=progress
    )
    return StreamedBank(features, origins, blocks=blocks, merges=tree.merges)


def stream_candidates(
    parts: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    reduction: Reduction,
    budget: FeatureBudget,
) -> tuple[CandidateTree, int, int]:
    """The first half of `stream_bank`: candidates, and of how many features and blocks they are.

    Args and Raises: as there.
    """
    check_bank(budget, reduction.bank_rows)
    tree = CandidateTree(reduction)
    rows = blocks = 0
    for features, origins in _blocks(parts, budget):
        tree.add(reduce_block(features, origins, number=blocks, reduction=reduction))
        rows, blocks = rows + len(features), blocks + 1
    if not blocks:
        raise ModelError("no normal images to fit to")
    return tree, rows, blocks


def _blocks(
    parts: Iterable[tuple[torch.Tensor, torch.Tensor]], budget: FeatureBudget
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Features (N, D) and origins (N, 2) of consecutive batches; each is valid until the next."""
    buffer: torch.Tensor | None = None
    sources = torch.empty((0, 2), dtype=torch.int32)
    block_rows = budget.block_rows
    filled = 0
    for features, origins in parts:
        check_batch(budget, len(features))
        if buffer is None:
            # One buffer for all blocks: its pages are touched as it is filled.
            buffer = torch.empty((block_rows, features.shape[1]), dtype=features.dtype)
            sources = torch.empty((block_rows, 2), dtype=torch.int32)
        if filled + len(features) > block_rows:
            yield buffer[:filled], sources[:filled]
            filled = 0
        end = filled + len(features)
        buffer[filled:end] = features.cpu()
        sources[filled:end] = origins
        filled = end
    if buffer is not None and filled:
        yield buffer[:filled], sources[:filled]
