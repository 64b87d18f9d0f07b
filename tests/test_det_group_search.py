"""Large banks are searched by a bound: the same entries as by looking at all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detector import group_search, memory_bank, rounded_bound
from detector.entry_groups import GROUP, leaves
from detector.group_search import find_search
from detector.head_bound import CHUNK, HeadBound
from detector.memory_bank import MemoryBank
from detector.rounded_bound import RoundedBound
from manifests.errors import ModelError


@pytest.fixture(autouse=True, params=["head", "rounded"])
def bound(request, monkeypatch):
    """Either bound, at sizes that a literal search can follow, in several blocks and chunks."""
    monkeypatch.setattr(group_search, "has_fast_bf16", lambda device: request.param == "rounded")
    monkeypatch.setattr(rounded_bound, "CHUNK", CHUNK)
    monkeypatch.setattr(group_search, "_LEAST_ENTRIES", 2)
    monkeypatch.setattr(group_search, "_HEAD_STEP", 4)
    monkeypatch.setattr(memory_bank, "_BLOCK_ROWS", 70)
    monkeypatch.setattr(group_search, "_BLOCK_ROWS", 40)
    return request.param


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
    assert bank._find_search() is not None
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
    assert bank._find_search() is not None
    assert index.tolist() == [30]
    assert float(distance) > 0


def test_patches_far_from_all_entries_are_looked_up_everywhere():
    bank = bank_of(600)
    # Far away in a direction in which the entries hardly differ, so that all bounds are alike.
    centred = bank.features - bank.features.mean(0)
    outside = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, 0]
    patches = torch.cat([features_of(5, seed=3), features_of(20, seed=4) + 3e3 * outside])
    distance, _ = bank.nearest(patches, exclude_image=torch.arange(25, dtype=torch.int32) % 20)
    expected = by_differences(bank, patches, torch.arange(25) % 20)
    torch.testing.assert_close(distance, expected.values, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_bounds_are_bounds(bound, scale):
    entries, patches = features_of(300, seed=1) * scale, features_of(50, seed=2) * scale
    patches[:10] = entries[:10]
    patches[10:20] = entries[10:20] + 0.01 * scale
    mean = entries.mean(0)
    search = find_search(entries - mean)
    assert type(search.bound) is {"head": HeadBound, "rounded": RoundedBound}[bound]
    least = search.bound.least(patches - mean, None, None)
    exact = (patches[:, None].double() - entries[None].double()).square().sum(2) / 2
    exact = torch.cat([exact, torch.full((50, 1), torch.inf)], dim=1)
    # The entries as the search has sorted them, group by group; 300 is padding.
    groups = search.groups.entry.view(-1, GROUP)
    assert sorted(groups[groups < 300].tolist()) == list(range(300))
    nearest = exact[:, groups].amin(2)
    assert (least <= nearest + 1e-4 * scale**2).all()
    # And not far below.
    assert float((least[20:] / nearest[20:]).median()) > {"head": 0.8, "rounded": 0.9}[bound]


def test_groups_without_any_entry_that_counts_have_no_bound():
    owner = torch.arange(400, dtype=torch.int32) // 100
    search = find_search(features_of(400, seed=1) - 3.0)
    owners = search.groups.owners(owner)
    is_own = (owners == 2) | (owners == -1)
    least = search.bound.least(features_of(30, seed=2) - 3.0, owners, 2)
    assert torch.equal(torch.isinf(least), is_own.view(-1, GROUP).all(1).expand(30, -1))
    each = torch.arange(30, dtype=torch.int32) % 4
    one_by_one = torch.cat(
        [
            search.bound.least(features_of(30, seed=2)[i : i + 1] - 3.0, owners, int(each[i]))
            for i in range(30)
        ]
    )
    together = search.bound.least(features_of(30, seed=2) - 3.0, owners, each)
    torch.testing.assert_close(together, one_by_one, rtol=1e-2, atol=1e-3)


def test_bits_of_the_rounded_bound_are_taken_upwards():
    values = torch.rand(10_000) * torch.logspace(-30, 30, 10_000)
    assert (rounded_bound._upwards(values).double() >= values.double()).all()
    parts = rounded_bound._in_three(values).double().sum(1)
    assert ((parts - values.double()).abs() <= values.double() * 2.0**-23).all()
    assert rounded_bound._in_three(torch.tensor([torch.inf])).tolist() == [[torch.inf, 0.0, 0.0]]


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
    order = leaves(points, 128)
    assert sorted(order.tolist()) == list(range(1000))
    groups = order.split(128)
    assert all(torch.equal(leaf, leaf.sort().values) for leaf in groups)
    spread = sum(float(points[leaf].var(0).sum()) * len(leaf) for leaf in groups) / 1000
    assert spread < 0.7 * float(points.var(0).sum())


def test_no_search_where_it_would_not_pay(monkeypatch, bound):
    even = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 24)).astype(np.float32))
    # A rounded bound is as good in all directions.
    assert (find_search(even) is None) == (bound == "head")
    assert find_search(torch.zeros(500, 24)) is None
    assert find_search(features_of(500, seed=1) - 3.0) is not None
    monkeypatch.setattr(group_search, "_LEAST_ENTRIES", 501)
    assert find_search(features_of(500, seed=1)) is None


def test_nothing_left_is_refused():
    bank = MemoryBank(features_of(400, seed=1), torch.full((400,), 4, dtype=torch.int32))
    assert bank._find_search() is not None
    with pytest.raises(ModelError, match="left out"):
        bank.nearest(features_of(3, seed=2), exclude_image=4)
