"""Virtual batches in one process: against copies of the network, by hand, and what is refused."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from detector.batch_tally import BatchTally
from detector.config import FitConfig
from detector.jitter import colour_jitter
from detector.patch_loss import balanced_accuracy, cell_counts
from detector.processes import ALONE
from detector.random_stream import random_stream
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from detector.training_batch import part_places
from detector.virtual_batches import RunningStatistics, check_virtual_batches
from manifests.errors import ConfigError
from manifests.weights import load_network
from reference.small_training import (
    LABELS,
    assert_same,
    fit,
    image_batches,
    log_of,
    sampler_of,
    stop_at,
)
from reference.training import PaintedSet, cross_entropy_literally
from reference.virtual_batches import parts_literally, train_in_parts_literally

SMALL = TrainConfig(
    updates=4, batch=4, lr=0.05, frozen_start=1, checkpoint_every=2, seed=4, virtual_batches=2
)


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


# ---- the rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_parts", [2, 4])
def test_training_equals_copies_of_the_network_averaged(network, tmp_path, n_parts):
    config = dataclasses.replace(SMALL, jitter=0.0, weight_decay=0.01, virtual_batches=n_parts)
    trained = fit(network, config, tmp_path)
    module = copy.deepcopy(network.module)
    losses = train_in_parts_literally(
        module,
        Trainee(network, config, labels=LABELS, device="cpu").heads["head"],
        image_batches(network, config),
        n_parts=n_parts,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        frozen_start=config.frozen_start,
        to_features=lambda module, inputs: module.global_pool(module.forward_features(inputs)),
        to_loss=cross_entropy_literally,
    )
    assert [row["loss"] for row in log_of(tmp_path)] == pytest.approx(losses, abs=1e-4)
    before = network.module.state_dict()
    for name, tensor in trained.module.state_dict().items():
        change = (tensor - before[name]).abs().max()
        error = (tensor - module.state_dict()[name]).abs().max()
        assert error <= 0.02 * change + 1e-6, name
    n_moved = config.updates - config.frozen_start
    assert trained.module.bn1.num_batches_tracked - before["bn1.num_batches_tracked"] == n_moved


def test_virtual_batches_are_another_training(network, tmp_path):
    fit(network, SMALL, tmp_path / "two")
    fit(network, dataclasses.replace(SMALL, virtual_batches=1), tmp_path / "one")
    two, one = log_of(tmp_path / "two"), log_of(tmp_path / "one")
    # What the head's own batch norm sees differs from the first update on, but not much.
    assert two[0]["loss"] != one[0]["loss"]
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=0.5)


def test_running_statistics_by_hand():
    batch_norm = torch.nn.BatchNorm1d(1, momentum=0.5).train()
    idle = torch.nn.BatchNorm1d(1).train()
    frozen = torch.nn.BatchNorm1d(1).eval()
    for one in (batch_norm, idle, frozen):
        one.running_mean.fill_(0.1)
        one.running_var.fill_(3.0)
    expected = batch_norm(torch.tensor([[1.0], [3.0]]))  # any call moves it; put back below
    batch_norm.running_mean.fill_(0.1)
    batch_norm.running_var.fill_(3.0)
    batch_norm.num_batches_tracked.fill_(7)
    statistics = RunningStatistics([batch_norm, idle, frozen])
    for values in ([[1.0], [3.0]], [[6.0], [12.0]], [[0.0], [6.0]]):
        found = batch_norm(torch.tensor(values))
        # Each is normalised with its own: two values become -1 and 1.
        assert torch.allclose(found, expected, atol=1e-4)
        statistics.take()
        assert float(batch_norm.running_mean) == pytest.approx(0.1)
    statistics.settle(3, ALONE)
    # Means 2, 9, 3; variances 2, 18, 18: half way towards their means.
    assert float(batch_norm.running_mean) == pytest.approx((0.1 + 14 / 3) / 2)
    assert float(batch_norm.running_var) == pytest.approx((3.0 + 38 / 3) / 2)
    assert int(batch_norm.num_batches_tracked) == 8
    for one in (idle, frozen):
        assert torch.equal(one.running_mean, torch.tensor([0.1]))
        assert int(one.num_batches_tracked) == 0


def test_cells_and_caches_train_by_virtual_batches(network, tmp_path):
    plain = dataclasses.replace(SMALL, loss="both", freeze_stages=2, jitter=0.0)
    cached = dataclasses.replace(plain, cache_activations=True)
    fit(network, plain, tmp_path / "plain")
    fit(network, cached, tmp_path / "cached")
    rows, others = log_of(tmp_path / "plain"), log_of(tmp_path / "cached")
    assert rows != others
    assert [r["loss"] for r in others] == pytest.approx([r["loss"] for r in rows], abs=5e-3)


# ---- how a batch is split -----------------------------------------------------------------------


@pytest.mark.parametrize("n_parts", [1, 2, 4])
def test_parts_are_slices_of_every_class(n_parts):
    counts = (8, 4, 12)
    labels = np.repeat([0, 1, 2], counts)
    parts = [part_places(counts, number, n_parts) for number in range(n_parts)]
    assert [part.tolist() for part in parts] == parts_literally(labels, n_parts)
    assert sorted(np.concatenate(parts)) == list(range(24))
    # A part of a part is a part.
    halves = [np.array(part)[part_places(np.array(counts) // n_parts, k, 2)]
              for part in parts for k in range(2)]  # fmt: skip
    whole = [part_places(counts, number, 2 * n_parts) for number in range(2 * n_parts)]
    assert all(np.array_equal(half, one) for half, one in zip(halves, whole, strict=True))


@pytest.mark.parametrize("shares", [(), (0.5, 2.0)])
def test_what_the_processes_read_is_the_batch_that_one_draws(shares):
    config = dataclasses.replace(SMALL, negatives=("swap", "scar"), shares=shares)
    for update in (0, 3):
        whole = sampler_of(config).batch(update, with_masks=True)
        parts = [
            sampler_of(config).batch(update, with_masks=True, part=(rank, 2)) for rank in range(2)
        ]
        for name in ("labels", "rows", "images", "masks"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            order = np.argsort(np.concatenate([part.places for part in parts]))
            assert np.array_equal(joined[order], getattr(whole, name)), name
        split = [whole.part(rank, 2) for rank in range(2)]
        for part, one in zip(parts, split, strict=True):
            assert np.array_equal(part.rows, one.rows) and np.array_equal(part.places, one.places)
            assert part.n_whole == one.n_whole == len(whole.labels)
            assert set(part.labels) == {0, 1, 2}


def test_an_image_has_the_same_colours_however_the_batch_is_split():
    images = torch.from_numpy(np.stack([PaintedSet().normal(i).image for i in range(6)]))
    whole = colour_jitter(images, jitter=0.2, generator=random_stream("a"))
    places = np.array([1, 4, 5])
    part = colour_jitter(
        images[places], jitter=0.2, generator=random_stream("a"), places=places, n_whole=6
    )
    assert torch.equal(part, whole[places])
    other = colour_jitter(images[places], jitter=0.2, generator=random_stream("a"))
    assert not torch.equal(other, part)


# ---- the log ------------------------------------------------------------------------------------


def test_the_log_tells_of_the_whole_batch():
    logits = torch.tensor([[[2.0, -1.0, -3.0]], [[0.5, 1.0, -2.0]]])
    targets = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]])
    labels, found = np.array([0, 1, 0, 1]), np.array([0, 0, 0, 1])
    total = BatchTally(2)
    for half, loss in ((slice(0, 1), 1.0), (slice(1, 2), 3.0)):
        part = BatchTally(2)
        images = slice(2 * half.start, 2 * half.stop)
        part.add_images(found[images], labels[images])
        part.add_cells(cell_counts(logits[half], targets[half]), loss)
        part.add_loss(loss + 0.5)
        total.add(part)
    assert total.loss(2) == 2.5
    accuracy = balanced_accuracy(cell_counts(logits, targets))
    assert accuracy == pytest.approx((1 / 2 + 2 / 4) / 2)
    # Not the mean of the halves' balanced accuracies, (3/4 + 1/3) / 2.
    assert total.columns(2) == pytest.approx([0.75, 1.0, 0.5, 2.0, accuracy])


# ---- what is recorded and refused ---------------------------------------------------------------


def test_one_virtual_batch_leaves_no_trace_in_records():
    plain = TrainConfig()
    assert "virtual_batches" not in plain.to_json()
    assert "virtual_batches" not in FitConfig().to_json()["train"]
    assert TrainConfig(**plain.to_json()) == plain
    config = FitConfig(train=SMALL)
    assert config.to_json()["train"]["virtual_batches"] == 2
    assert FitConfig.from_json(config.to_json()) == config


def test_an_interrupted_training_of_parts_goes_on_the_same(network, tmp_path):
    whole = fit(network, SMALL, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(network, SMALL, tmp_path / "cut", progress=stop_at(3, KeyboardInterrupt))
    assert_same(fit(network, SMALL, tmp_path / "cut"), whole)


def test_batches_that_cannot_be_split_are_refused(network, tmp_path):
    with pytest.raises(ConfigError, match=r"--virtual-batches .*divisor of --batch 4, got 3"):
        dataclasses.replace(SMALL, virtual_batches=3)
    with pytest.raises(ConfigError, match="--virtual-batches cannot be used"):
        dataclasses.replace(SMALL, virtual_batches=0)
    uneven = dataclasses.replace(SMALL, negatives=("swap", "scar"), shares=(1.0, 0.25))
    with pytest.raises(ConfigError, match=r"scar images cannot be split.*multiple of 2.*got 1"):
        fit(network, uneven, tmp_path)
    with pytest.raises(ConfigError, match=r"shared out evenly \(expected --virtual-batches 3"):
        check_virtual_batches((4, 4), 4, 3, labels=("normal", "swap"))
