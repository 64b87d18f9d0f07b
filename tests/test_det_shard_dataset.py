"""A set as a torch dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import cutswap
from detector.shard_dataset import ShardDataset
from manifests.errors import ConfigError, ModelError
from manifests.negative_set import NegativeSet


@pytest.fixture
def negative_set(built: Path, category_name: str):
    with NegativeSet.open(built / category_name) as opened:
        yield opened


def test_holds_every_image_of_the_set_once_with_its_class(negative_set):
    dataset = cutswap.ShardDataset(negative_set, with_masks=True)
    assert dataset.labels == ("normal", "swap", "scar")
    assert len(dataset) == negative_set.n_normals + len(negative_set)
    samples = [dataset[index] for index in range(len(dataset))]
    for i in range(negative_set.n_normals):
        image, label, mask = samples[i]
        assert np.array_equal(image, negative_set.normal(i).image)
        assert label == 0 and mask.dtype == torch.bool and not mask.any()
    for j, negative in enumerate(negative_set):
        image, label, mask = samples[negative_set.n_normals + j]
        assert np.array_equal(image, negative.image)
        assert dataset.labels[label] == negative.policy
        assert np.array_equal(mask, negative.mask)
    assert dataset.targets.tolist() == [label for _, label, _ in samples]


def test_some_kinds_in_the_order_of_their_labels(negative_set):
    dataset = ShardDataset(negative_set, negatives=["scar"])
    assert dataset.labels == ("normal", "scar")
    scars = np.flatnonzero(negative_set.negative_policy == "scar")
    assert len(dataset) == negative_set.n_normals + len(scars)
    image, label = dataset[len(dataset) - 1]
    assert label == 1
    assert np.array_equal(image, negative_set.negative_image(int(scars[-1])))
    assert np.array_equal(dataset[-1][0], image)


def test_a_loader_with_a_worker_process_gives_the_same(negative_set):
    dataset = ShardDataset(negative_set, with_masks=True, transform=_as_chw)
    loader = DataLoader(dataset, batch_size=7, num_workers=1)
    images, labels, masks = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert images.shape == (len(dataset), 3, *negative_set.normal(0).image.shape[:2])
    assert labels.tolist() == dataset.targets.tolist()
    middle = len(dataset) // 2
    assert torch.equal(images[middle], dataset[middle][0])
    assert torch.equal(masks[middle], dataset[middle][2])


def _as_chw(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def test_refuses_what_is_not_there(negative_set):
    with pytest.raises(ModelError, match="no cutpaste negatives"):
        ShardDataset(negative_set, negatives=["cutpaste"])
    with pytest.raises(ConfigError, match="different policies"):
        ShardDataset(negative_set, negatives=["swap", "swap"])
    dataset = ShardDataset(negative_set)
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[index]
