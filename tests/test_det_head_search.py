"""Large banks are searched by a bound: the same entries as by looking at all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detector import head_search, memory_bank
from detector.head_search import CHUNK, GROUP, HeadSearch, find_head
from detector.memory_bank import MemoryBank
from manifests.errors import ModelError


@pytest.fixture(autouse=True)
def small_heads(monkeypatch):
    """Heads at sizes that a literal search can follow, and several blocks."""
    monkeypatch.setattr(head_search, "_LEAST_ENTRIES", 2)
    monkeypatch.setattr(head_search, "_HEAD_STEP", 4)
    monkeypatch.setattr(memory_bank, "_BLOCK_ROWS", 70)
    monkeypatch.setattr(head_search, "_BLOCK_ROWS", 40)


def features_of(count: int, *, seed: int, dim: int = 24, wide: int = 4) -> torch.Tensor:
    """Most variance in a few rotated directions, as features have it."""
    source = np.random.default_rng(seed)
    scale = np.where(np.arange(dim) < wide, 6.0, 0.5)
    rotation = np.linalg.qr(np.random.default_rng(99).normal(size=(dim, dim)))[0]
    values = source.normal(size=(count, dim)) * scale
    return torch.from_numpy((values @ rotation + 3.0).astype(np.float32))


def bank_of(count: int, **options) -> MemoryBank:
    owner = torch.arange(count, dtype=torch.int32) // 30
    return MemoryBank(features_of(count, seed=1, **options), owner)


def by_differences(bank: MemoryBank, patches: torch.Tensor, exclude=None) -> tuple:
    """Distances to all entries, none left out of the search."""
    every = (patches[:, None] - bank.features[None]).square().sum(2).sqrt()
    if exclude is not None:
        own = torch.as_tensor(exclude).reshape(-1, 1) == bank.image_index[None]
        every = every.masked_fill(own, torch.inf)
    return every.min(1)


@pytest.mark.parametrize("count", [300, CHUNK, 2 * CHUNK + 5, 3 * CHUNK - GROUP])
@pytest.mark.parametrize("exclude", [None, 3, "each"])
def test_equals_differences(count, exclude):
    bank = bank_of(count)
    patches = torch.cat([features_of(90, seed=2), bank.features[:7], bank.features[:3] + 1e-3])
    if exclude == "each":
        exclude = torch.arange(100, dtype=torch.int32) % (count // 30)
    distance, index = bank.nearest(patches, exclude_image=exclude)
    assert bank._find_head() is not None
    expected = by_differences(bank, patches, exclude)
    assert torch.equal(index, expected.indices)
    torch.testing.assert_close(distance, expected.values, rtol=1e-5, atol=1e-6)
    if exclude is None:
        assert distance[90:97].tolist() == [0.0] * 7


def test_equal_entries_give_the_first():
    features = features_of(500, seed=1)
    features[400] = features[30] = features[490]
    bank = MemoryBank(features, torch.zeros(500, dtype=torch.int32))
    distance, index = bank.nearest(features[490:491] + 0.01)
    assert bank._find_head() is not None
    assert index.tolist() == [30]
    assert float(distance) > 0


def test_patches_far_from_all_entries_are_looked_up_everywhere():
    bank = bank_of(600)
    # Far away in a direction outside of the head all bounds are nearly alike.
    head = bank._find_head()
    outside = torch.ones(24) - head.directions @ (head.directions.T @ torch.ones(24))
    patches = torch.cat([features_of(5, seed=3), features_of(20, seed=4) + 1e3 * outside])
    distance, _ = bank.nearest(patches, exclude_image=torch.arange(25, dtype=torch.int32) % 20)
    expected = by_differences(bank, patches, torch.arange(25) % 20)
    torch.testing.assert_close(distance, expected.values, rtol=1e-5, atol=0)


def test_bounds_are_bounds():
    entries, patches = features_of(300, seed=1), features_of(50, seed=2)
    mean = entries.mean(0)
    search = find_head(entries - mean)
    least = search.least_bounds(patches - mean, None, None)
    exact = (patches[:, None].double() - entries[None].double()).square().sum(2) / 2
    exact = torch.cat([exact, torch.full((50, 1), torch.inf)], dim=1)
    # The entries as the search has sorted them, group by group; 300 is padding.
    groups = search._entry.view(-1, GROUP)
    assert sorted(groups[groups < 300].tolist()) == list(range(300))
    nearest = exact[:, groups].amin(2)
    lengths = (patches - mean).double().square().sum(1, keepdim=True) / 2
    assert torch.equal(torch.isinf(least), torch.isinf(nearest))
    known = ~torch.isinf(nearest)
    assert (least + lengths <= nearest + 1e-4)[known].all()
    # And not far below: the head holds most of the variance.
    assert float(((least + lengths) / nearest)[known].median()) > 0.8


def test_few_groups_are_looked_at(monkeypatch):
    bank, patches = bank_of(2000), features_of(200, seed=2)
    looked = []
    real = torch.addmm
    monkeypatch.setattr(
        torch, "addmm", lambda add, a, b, **how: looked.append(len(a)) or real(add, a, b, **how)
    )
    bank.nearest(patches)
    groups = 2000 / GROUP
    assert 200 <= sum(looked) < 0.4 * 200 * groups


def test_groups_hold_entries_that_are_alike():
    points = features_of(1000, seed=5)
    order = head_search._order(points, 128)
    assert sorted(order.tolist()) == list(range(1000))
    leaves = order.split(128)
    assert all(torch.equal(leaf, leaf.sort().values) for leaf in leaves)
    spread = sum(float(points[leaf].var(0).sum()) * len(leaf) for leaf in leaves) / 1000
    assert spread < 0.7 * float(points.var(0).sum())


def test_no_head_where_it_would_not_pay(monkeypatch):
    even = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 24)).astype(np.float32))
    assert find_head(even) is None
    assert find_head(torch.zeros(500, 24)) is None
    assert isinstance(find_head(features_of(500, seed=1) - 3.0), HeadSearch)
    monkeypatch.setattr(head_search, "_LEAST_ENTRIES", 501)
    assert find_head(features_of(500, seed=1)) is None


def test_nothing_left_is_refused():
    bank = MemoryBank(features_of(400, seed=1), torch.full((400,), 4, dtype=torch.int32))
    assert bank._find_head() is not None
    with pytest.raises(ModelError, match="left out"):
        bank.nearest(features_of(3, seed=2), exclude_image=4)
