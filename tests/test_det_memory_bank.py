"""The memory bank: nearest entries, own entries left out, equation 7."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detector import memory_bank
from detector.memory_bank import MemoryBank
from manifests.errors import ConfigError, ModelError
from reference import patchcore as literal


def tensors(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(size=shape) * scale
    return torch.from_numpy(values.astype(np.float32))


def make_bank(m: int = 150, dim: int = 6, images: int = 7, seed: int = 0) -> MemoryBank:
    owner = np.sort(np.random.default_rng(seed).integers(images, size=m)).astype(np.int32)
    return MemoryBank(tensors(m, dim, seed=seed), torch.from_numpy(owner))


def test_hand_computed():
    bank = MemoryBank(
        torch.tensor([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]]),
        torch.tensor([0, 1, 1], dtype=torch.int32),
    )
    patches = torch.tensor([[0.0, 1.0], [3.0, 4.0], [10.0, 2.0]])
    distance, index = bank.nearest(patches)
    assert distance.tolist() == [1.0, 0.0, 2.0]
    assert index.tolist() == [0, 1, 2]
    distance, index = bank.nearest(patches, exclude_image=1)
    assert index.tolist() == [0, 0, 0]
    assert distance.tolist() == pytest.approx([1.0, 5.0, math.sqrt(104)])


@pytest.mark.parametrize("block", [64, 4 * 192, 4 * 1024 * 1024])
@pytest.mark.parametrize("m", [1, 63, 64, 65, 150])
def test_equals_literal(m, block, monkeypatch):
    monkeypatch.setattr(memory_bank, "_BLOCK_ELEMENTS", block)
    bank = make_bank(m)
    patches = tensors(23, 6, seed=5)
    distance, index = bank.nearest(patches)
    for p, patch in enumerate(patches.numpy()):
        expected, k = literal.nearest(patch, bank.features.numpy(), bank.image_index.numpy())
        assert index[p] == k
        assert float(distance[p]) == pytest.approx(expected, rel=1e-5)


def test_one_or_many_excluded_images_equal_literal(monkeypatch):
    monkeypatch.setattr(memory_bank, "_BLOCK_ELEMENTS", 5 * 192)
    bank = make_bank()
    patches = tensors(21, 6, seed=6)
    each = torch.arange(21, dtype=torch.int32) % 7
    together = bank.nearest(patches, exclude_image=each)
    assert not torch.equal(together[1], bank.nearest(patches)[1])
    for p, patch in enumerate(patches.numpy()):
        image = int(each[p])
        alone = bank.nearest(patches[p : p + 1], exclude_image=image)
        expected, k = literal.nearest(
            patch, bank.features.numpy(), bank.image_index.numpy(), exclude=image
        )
        assert int(alone[1]) == int(together[1][p]) == k
        assert bank.image_index[k] != image
        assert float(together[0][p]) == float(alone[0]) == pytest.approx(expected, rel=1e-5)


def test_a_bank_entry_is_at_distance_zero_far_from_the_origin():
    features = tensors(200, 32, seed=7) + 5000.0
    bank = MemoryBank(features, torch.zeros(200, dtype=torch.int32))
    distance, index = bank.nearest(features)
    assert index.tolist() == list(range(200))
    assert float(distance.abs().max()) == 0.0


def test_small_distances_survive_cancellation():
    features = tensors(50, 64, seed=8, scale=30.0) + 1000.0
    patches = features.clone()
    patches[:, 0] += 0.25
    distance, index = MemoryBank(features, torch.zeros(50, dtype=torch.int32)).nearest(patches)
    assert index.tolist() == list(range(50))
    assert distance.tolist() == pytest.approx([0.25] * 50, rel=1e-3)


def test_inputs_are_not_modified():
    features, patches = tensors(10, 3, seed=1), tensors(4, 3, seed=2)
    copies = features.clone(), patches.clone()
    bank = MemoryBank(features, torch.arange(10, dtype=torch.int32))
    distance, index = bank.nearest(patches, exclude_image=3)
    before = distance.clone()
    bank.reweight(patches, index, distance)
    assert torch.equal(features, copies[0])
    assert torch.equal(patches, copies[1])
    assert torch.equal(distance, before)


def test_nothing_left_to_compare_with():
    bank = MemoryBank(tensors(3, 2, seed=0), torch.full((3,), 4, dtype=torch.int32))
    with pytest.raises(ModelError, match="coreset"):
        bank.nearest(tensors(2, 2, seed=1), exclude_image=4)
    assert len(bank.nearest(tensors(2, 2, seed=1), exclude_image=0)[0]) == 2


@pytest.mark.parametrize("b", [2, 9, 400])
@pytest.mark.parametrize("exclude", [None, 2])
def test_reweight_equals_literal(b, exclude):
    bank = make_bank()
    patches = tensors(12, 6, seed=9, scale=2.0)
    distance, index = bank.nearest(patches, exclude_image=exclude)
    found = bank.reweight(patches, index, distance, b=b, exclude_image=exclude)
    for p, patch in enumerate(patches.numpy()):
        expected = literal.reweighted(
            patch,
            int(index[p]),
            float(distance[p]),
            bank.features.numpy(),
            bank.image_index.numpy(),
            b=b,
            exclude=exclude,
        )
        assert float(found[p]) == pytest.approx(expected, rel=1e-4)
        assert 0.0 <= found[p] <= distance[p]


def test_reweight_hand_computed():
    # m* at distance 1, one neighbour at distance 2: 1 - e / (e + e^2) = 1 / (1 + 1/e).
    bank = MemoryBank(torch.tensor([[1.0], [-2.0]]), torch.zeros(2, dtype=torch.int32))
    patch, index = torch.tensor([[0.0]]), torch.tensor([0])
    found = bank.reweight(patch, index, torch.tensor([1.0]))
    assert float(found) == pytest.approx(1.0 / (1.0 + math.exp(-1.0)))


def test_reweight_does_not_overflow():
    bank = MemoryBank(torch.tensor([[0.0], [4000.0]]), torch.zeros(2, dtype=torch.int32))
    patch = torch.tensor([[-9000.0]])
    distance, index = bank.nearest(patch)
    assert float(bank.reweight(patch, index, distance)) == 9000.0


def test_reweight_with_copies_in_the_bank_counts_the_entry_itself():
    # All nine copies are equally far: the weight is 1 - 1/9 whichever of them is m*.
    bank = MemoryBank(torch.zeros(20, 2), torch.zeros(20, dtype=torch.int32))
    patch = torch.tensor([[3.0, 4.0]])
    for index in (0, 19):
        found = bank.reweight(patch, torch.tensor([index]), torch.tensor([5.0]))
        assert float(found) == pytest.approx(5.0 * 8 / 9)


def test_reweight_is_skipped_without_neighbours():
    alone = MemoryBank(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int32))
    patch, index, distance = torch.ones(1, 2), torch.tensor([0]), torch.tensor([math.sqrt(2)])
    assert torch.equal(alone.reweight(patch, index, distance), distance)
    # Only entries of the excluded image beside m*: as good as alone.
    bank = MemoryBank(torch.tensor([[0.0, 0.0], [9.0, 9.0]]), torch.tensor([0, 1]).int())
    assert torch.equal(bank.reweight(patch, index, distance, exclude_image=1), distance)
    assert bank.reweight(patch, index, distance) < distance


@pytest.mark.parametrize(
    ("features", "owner", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int32), "bank features"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32), "bank features"),
        (torch.zeros(4, 3).double(), torch.zeros(4, dtype=torch.int32), "bank features"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int32), "image_index"),
        (torch.zeros(4, 3), torch.zeros(4), "image_index"),
        (torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.int32), "not finite"),
    ],
)
def test_malformed_banks_are_refused(features, owner, message):
    with pytest.raises(ModelError, match=message):
        MemoryBank(features, owner)


def test_patches_of_another_width_and_bad_b_are_refused():
    bank = make_bank()
    with pytest.raises(ModelError, match="do not fit the bank"):
        bank.nearest(torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="neighbourhood"):
        bank.reweight(torch.zeros(1, 6), torch.tensor([0]), torch.tensor([1.0]), b=0)
