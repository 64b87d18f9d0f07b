"""Training on cells: the loss of every cell, alone and beside the image's."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from detector.patch_loss import cell_targets, joined_features
from detector.train_config import TrainConfig
from manifests.weights import load_network
from reference.small_training import fit, fit_literally, log_of, sampler_of
from reference.training import PaintedSet, cell_loss_literally

SMALL = TrainConfig(updates=5, batch=3, lr=0.05, frozen_start=1, checkpoint_every=2, seed=4)


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


def test_patch_training_equals_the_literal_loop(network, tmp_path):
    config = dataclasses.replace(SMALL, jitter=0.0, loss="patch", updates=3)
    trained = fit(network, config, tmp_path)
    batches = []
    for update in range(config.updates):
        batch = sampler_of(config).batch(update, with_masks=True)
        targets = cell_targets(torch.from_numpy(batch.masks), (5, 7))
        batches.append((network.preprocess(batch.images), targets))

    def to_features(module, inputs):
        stem = module.maxpool(module.act1(module.bn1(module.conv1(inputs))))
        second = module.layer2(module.layer1(stem))
        return joined_features([second, module.layer3(second)])

    module, losses, _ = fit_literally(
        network,
        config,
        batches,
        head="patch_head",
        to_features=to_features,
        to_loss=lambda logits, targets: cell_loss_literally(logits[:, 0], targets),
    )
    assert [row["loss"] for row in log_of(tmp_path)] == pytest.approx(losses, abs=1e-4)
    before, expected = network.module.state_dict(), module.state_dict()
    for name, tensor in trained.module.state_dict().items():
        if name.startswith(("layer4.", "fc.")):  # beyond the deeper stage nothing is run
            assert torch.equal(tensor, before[name]), name
        elif not name.endswith("num_batches_tracked"):
            error = (tensor - expected[name]).abs().max()
            change = (tensor - before[name]).abs().max()
            assert error <= 0.02 * change + 1e-6, name
            assert change > 0, name


def test_cells_are_learnt(network, tmp_path):
    config = TrainConfig(updates=18, batch=8, lr=0.1, frozen_start=2, freeze_bn=True, loss="patch")
    fit(network, config, tmp_path)
    log = log_of(tmp_path)
    assert list(log[0]) == ["update", "lr", "loss", "accuracy", "patch_accuracy"]
    assert all(row["accuracy"] == row["patch_accuracy"] for row in log)
    assert log[0]["accuracy"] < 0.7
    assert log[-1]["accuracy"] > 0.9


def test_both_losses_are_added(network, tmp_path):
    logs = {}
    for loss in ("image", "patch", "both"):
        config = dataclasses.replace(SMALL, loss=loss, updates=6)
        fit(network, config, tmp_path / loss)
        logs[loss] = log_of(tmp_path / loss)
    both = logs["both"][0]
    assert list(both) == [*logs["image"][0], "patch_loss", "patch_accuracy"]
    # Before the first step all three are the same network with the same heads.
    assert both["patch_loss"] == pytest.approx(logs["patch"][0]["loss"], rel=1e-6)
    assert both["loss"] == pytest.approx(logs["image"][0]["loss"] + both["patch_loss"], rel=1e-6)
    assert both["accuracy"] == logs["image"][0]["accuracy"]
    assert both["patch_accuracy"] == logs["patch"][0]["accuracy"]
    # After it they go different ways, which rounding alone does not explain.
    last = {loss: log[-1]["loss"] for loss, log in logs.items()}
    assert abs(last["both"] - last["image"] - last["patch"]) > 0.01


def test_masks_are_read_only_where_they_are_needed(network, tmp_path, monkeypatch):
    def refuse(self, index: int):
        raise AssertionError("a mask was read")

    monkeypatch.setattr(PaintedSet, "__getitem__", refuse)
    fit(network, dataclasses.replace(SMALL, updates=2), tmp_path / "image")
    with pytest.raises(AssertionError, match="mask"):
        fit(network, dataclasses.replace(SMALL, updates=2, loss="patch"), tmp_path / "patch")
