"""Banks chosen block by block: against the literal rules, and within their bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detector import merge_reduce
from detector.coreset import k_centre
from detector.memory_budget import FeatureBudget
from detector.merge_reduce import CandidateTree, Reduction, choose_bank, merge, reduce_block
from detector.streamed_bank import stream_bank
from manifests.errors import ModelError
from reference import coreset as literal_coreset
from reference import merge_reduce as literal

DIM = 5


def points_of(n: int, seed: int = 0) -> np.ndarray:
    """(n, DIM) float32 in clusters, as features are."""
    source = np.random.default_rng(seed)
    centres = source.normal(size=(9, DIM)) * 6
    return (centres[source.integers(9, size=n)] + source.normal(size=(n, DIM))).astype(np.float32)


def parts_of(points: np.ndarray, counts: list[int], per_image: int = 4):
    """Batches of features, whole images each, and image and cell of each feature."""
    start = images = 0
    for count in counts:
        row = np.arange(count)
        origins = np.stack([images + row // per_image, row % per_image], axis=1)
        yield torch.from_numpy(points[start : start + count]), torch.from_numpy(origins).int()
        start, images = start + count, images + -(-count // per_image)


def origins_of(image: int, count: int) -> torch.Tensor:
    """(count, 2) int32 of the first cells of one image."""
    return torch.tensor([[image, cell] for cell in range(count)], dtype=torch.int32)


def budget_of(rows: int) -> FeatureBudget:
    """One whose blocks hold so many rows."""
    unit = FeatureBudget(10**9, DIM, 128).row_bytes
    return FeatureBudget(2 * rows * unit, DIM, 128)


@pytest.mark.parametrize("seed", range(8))
def test_equals_literal(seed):
    source = np.random.default_rng(1000 + seed)
    counts = source.integers(20, 60, size=int(source.integers(4, 12))).tolist()
    n = sum(counts)
    bank = int(source.integers(3, 12))
    capacity = int(source.integers(2 * bank, 6 * bank))
    reduction = Reduction(bank_rows=bank, total_rows=n + 7, capacity_rows=capacity, seed=seed)
    points = points_of(n, seed)
    found = stream_bank(
        parts_of(points, counts), reduction=reduction, budget=budget_of(60), size_of=lambda _: bank
    )
    # Every batch is over half a block: blocks are batches, or two where they are small.
    blocks, filled = [], 0
    for count in counts:
        if filled + count > 60:
            blocks.append(filled)
            filled = 0
        filled += count
    blocks.append(filled)
    rows, merges = literal.bank_rows(
        points,
        blocks,
        bank=bank,
        total=n + 7,
        capacity=capacity,
        seed=seed,
        oversampling=merge_reduce.OVERSAMPLING,
        least_part=merge_reduce._LEAST_PART,
        merge_part=merge_reduce._MERGE_PART,
    )
    assert found.features.tolist() == points[rows].tolist()
    assert (found.blocks, found.merges) == (len(blocks), merges)


def test_hand_computed():
    # Blocks 0 1 9 and 0 4 9 of one image each; a bank of two, oversampled, has four candidates, two
    # per block. Greedy from any first pick takes 9 and one of the others in each, and of those
    # four two that are at least 5 apart.
    reduction = Reduction(bank_rows=2, total_rows=6, capacity_rows=100, seed=0)
    blocks = [torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.0], [4.0], [9.0]])]
    parts = [
        reduce_block(block, origins_of(i, 3), number=i, reduction=reduction)
        for i, block in enumerate(blocks)
    ]
    assert [(len(part), part.rows, part.level) for part in parts] == [(2, 3, 0)] * 2
    for part in parts:
        assert float(part.features.max()) == 9.0 and float(part.features.min()) <= 4.0
    features, origins = choose_bank(parts, 2, reduction=reduction)
    assert float(features.max() - features.min()) >= 5.0
    assert origins.tolist() == sorted(origins.tolist())
    # Every entry is the feature of its image's cell.
    for (image, cell), entry in zip(origins.tolist(), features, strict=True):
        assert torch.equal(blocks[image][cell], entry)


def test_merging_is_bounded_and_loses_no_image_order(monkeypatch):
    monkeypatch.setattr(merge_reduce, "_LEAST_PART", 8)
    n, bank = 20_000, 40
    reduction = Reduction(bank_rows=bank, total_rows=n, capacity_rows=160, seed=0)
    tree = CandidateTree(reduction)
    points = torch.from_numpy(points_of(n, 3))
    for number in range(200):
        rows = slice(100 * number, 100 * number + 100)
        origins = origins_of(number, 100)
        block = reduce_block(points[rows], origins, number=number, reduction=reduction)
        tree.add(block)
        assert len(tree) <= 160
    assert tree.merges > 5
    assert sum(part.rows for part in tree.parts) == n
    levels = [part.level for part in tree.parts]
    assert levels == sorted(levels, reverse=True) and levels[0] <= math.log2(200)
    origins = torch.cat([part.origins for part in tree.parts]).tolist()
    assert origins == sorted(origins) and origins[0][0] < 20 and origins[-1][0] == 199
    assert len(tree) >= bank
    assert len(choose_bank(tree.parts, bank, reduction=reduction)[0]) == bank


def test_covering_radius_is_within_the_sum_of_both_steps():
    n, bank = 4000, 60
    points = points_of(n, 4)
    reduction = Reduction(bank_rows=bank, total_rows=n, capacity_rows=1000, seed=1)
    parts = [
        reduce_block(
            torch.from_numpy(points[i : i + 500]),
            origins_of(i // 500, 500),
            number=i // 500,
            reduction=reduction,
        )
        for i in range(0, n, 500)
    ]
    features, _ = choose_bank(parts, bank, reduction=reduction)

    def radius(these: np.ndarray, entries: np.ndarray) -> float:
        return literal_coreset.covering_radius(
            np.concatenate([these, entries]), np.arange(len(these), len(these) + len(entries))
        )

    candidates = torch.cat([part.features for part in parts]).numpy()
    found = radius(points, features.numpy())
    assert found <= radius(points, candidates) + radius(candidates, features.numpy()) + 1e-5
    chosen = k_centre(torch.from_numpy(points), bank, rng=np.random.default_rng(0))
    exact = radius(points, points[chosen.numpy()])
    # Twice the best is all that exact greedy promises; blocks should cost far less than that.
    assert found <= 1.5 * exact


def test_entries_are_features_of_their_images_and_the_seed_matters():
    points = points_of(600, 5)
    banks = []
    for seed in (0, 0, 1):
        reduction = Reduction(bank_rows=20, total_rows=600, capacity_rows=90, seed=seed)
        found = stream_bank(
            parts_of(points, [40] * 15),
            reduction=reduction,
            budget=budget_of(120),
            size_of=lambda rows: rows // 30,
        )
        banks.append(found.features)
        assert len(found.features) == 20 and found.blocks == 5
        for entry, (image, cell) in zip(found.features, found.origins.tolist(), strict=True):
            assert entry.tolist() == points[4 * image + cell].tolist()
    assert torch.equal(banks[0], banks[1])
    assert not torch.equal(banks[0], banks[2])


def test_wide_features_are_projected_and_kept_unprojected():
    source = np.random.default_rng(0)
    points = source.normal(size=(300, 40)).astype(np.float32)
    banks = []
    for dim in (2, 40):
        reduction = Reduction(
            bank_rows=10, total_rows=300, capacity_rows=90, seed=0, projection_dim=dim
        )
        block = reduce_block(
            torch.from_numpy(points), origins_of(0, 300), number=0, reduction=reduction
        )
        assert block.features.shape == (20, 40)
        assert all((points == entry).all(1).any() for entry in block.features.numpy())
        banks.append(block.features)
    assert not torch.equal(*banks)


def test_numbers_seed_the_steps():
    points = torch.from_numpy(points_of(300, 6))
    origins = origins_of(0, 300)
    reduction = Reduction(bank_rows=10, total_rows=600, capacity_rows=60, seed=0)
    one, other = (reduce_block(points, origins, number=k, reduction=reduction) for k in (0, 1))
    assert not torch.equal(one.features, other.features)
    merged = [merge([one, other], number=k, reduction=reduction) for k in (0, 0, 1)]
    assert torch.equal(merged[0].features, merged[1].features)
    assert merged[0].rows == 600 and merged[0].level == 1
    assert len(merged[0]) < len(one) + len(other) or len(merged[0]) == reduction.share(600)


def test_fewer_candidates_than_entries_are_all_kept():
    reduction = Reduction(bank_rows=50, total_rows=30, capacity_rows=200, seed=0)
    points = torch.from_numpy(points_of(30))
    block = reduce_block(points, torch.zeros(30).int(), number=0, reduction=reduction)
    assert torch.equal(choose_bank([block], 50, reduction=reduction)[0], points)


def test_nothing_and_not_finite_are_refused():
    reduction = Reduction(bank_rows=2, total_rows=30, capacity_rows=20, seed=0)
    with pytest.raises(ModelError, match="no features"):
        reduce_block(torch.zeros(0, 3), torch.zeros(0).int(), number=0, reduction=reduction)
    with pytest.raises(ModelError, match="no normal images"):
        choose_bank([], 3, reduction=reduction)
    points = torch.zeros(30, 3)
    points[4, 1] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        reduce_block(points, torch.zeros(30).int(), number=0, reduction=reduction)
    with pytest.raises(ModelError, match="no normal images"):
        stream_bank(iter(()), reduction=reduction, budget=budget_of(100), size_of=lambda _: 2)
