"""Training: against a literal loop, what it returns and logs, and how it fails."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from detector import trainee as trainee_module
from detector.checkpoint import CHECKPOINT_NAME
from detector.diverged import Diverged
from detector.train import TRAINING_CSV, read_training_csv, train_extractor
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from manifests.errors import ConfigError, ModelError, OutputError
from manifests.weights import load_network, state_digest
from reference.small_training import (
    LABELS,
    fit,
    fit_literally,
    fit_with_log,
    image_batches,
    log_of,
    sampler_of,
)

SMALL = TrainConfig(updates=7, batch=3, lr=0.05, frozen_start=2, checkpoint_every=3, seed=4)


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """A training that nothing interrupts: the network and its log."""
    return fit_with_log(network, SMALL, tmp_path_factory.mktemp("whole"))


# ---- the algorithm ------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_training_equals_the_literal_loop(network, tmp_path, freeze_bn):
    config = dataclasses.replace(
        SMALL, updates=5, jitter=0.0, weight_decay=0.01, freeze_bn=freeze_bn
    )
    trained = fit(network, config, tmp_path)
    module, losses, _ = fit_literally(
        network,
        config,
        image_batches(network, config),
        to_features=lambda module, inputs: module.global_pool(module.forward_features(inputs)),
    )
    # Rounding, which differs with the number of threads, grows with every update.
    assert [row["loss"] for row in log_of(tmp_path)] == pytest.approx(losses, abs=5e-4)
    before = network.module.state_dict()
    for name, tensor in trained.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        # Measured by how far training moved the tensor, so that a lost term cannot hide.
        error = (tensor - module.state_dict()[name]).abs().max()
        change = (tensor - before[name]).abs().max()
        assert error <= 0.02 * change + 1e-6, name
    assert (trained.module.conv1[0].weight - before["conv1.0.weight"]).abs().max() > 5e-3


def test_cosine_cycle_by_hand():
    config = TrainConfig(updates=8, lr=0.4)
    expected = [0.4, 0.2 + 0.2 * math.sqrt(0.5), 0.2, 0.2 - 0.2 * math.sqrt(0.5), 0.0]
    rates = [config.lr_at(update) for update in (0, 2, 4, 6, 8)]
    assert rates == pytest.approx(expected, abs=1e-15)
    assert all(config.lr_at(u) > config.lr_at(u + 1) for u in range(8))


def test_an_easy_task_is_learnt(network, tmp_path):
    config = TrainConfig(updates=16, batch=8, lr=0.03, frozen_start=2, freeze_bn=True)
    fit(network, config, tmp_path)
    log = log_of(tmp_path)
    assert log[0]["loss"] == pytest.approx(math.log(3), abs=0.5)
    assert np.mean([row["loss"] for row in log[-3:]]) < 0.2
    assert log[-1]["accuracy"] == log[-1]["accuracy_scar"] == 1.0


def test_the_head_is_ours_and_depends_on_the_seed_only(network):
    def head(seed: int):
        config = dataclasses.replace(SMALL, seed=seed)
        return Trainee(network, config, labels=LABELS, device="cpu").heads["head"]

    state = torch.random.get_rng_state()
    first, again, other = head(1), head(1), head(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [type(layer).__name__ for layer in first] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    bound = first[0].in_features ** -0.5
    assert 0.9 * bound < first[0].weight.abs().max() <= bound
    assert first[3].out_features == 3


def test_jitter_reaches_training(network, tmp_path, whole):
    plain = fit(network, dataclasses.replace(SMALL, jitter=0.0), tmp_path)
    assert plain.digest != whole[0].digest


def test_every_update_jitters_anew(network, tmp_path, monkeypatch):
    states = []

    def spy(images, *, jitter, generator, **_where):
        states.append(bytes(generator.get_state().numpy()))
        return images

    monkeypatch.setattr(trainee_module, "colour_jitter", spy)
    for seed in (4, 5):
        fit(network, dataclasses.replace(SMALL, updates=3, seed=seed), tmp_path / str(seed))
    assert len(set(states)) == len(states) == 6


def test_bf16_trains_close_to_fp32(network, tmp_path, whole):
    trained = fit(network, dataclasses.replace(SMALL, precision="bf16"), tmp_path)
    assert trained.digest != whole[0].digest
    assert {p.dtype for p in trained.module.parameters()} == {torch.float32}
    losses = [row["loss"] for row in log_of(tmp_path)]
    assert losses == pytest.approx([row["loss"] for row in whole[1]], abs=0.15)


# ---- what comes back, and what is left alone ----------------------------------------------------


def test_the_trained_network_is_ready_to_use(network, whole):
    trained, log = whole
    assert trained.digest == state_digest(trained.module) != network.digest
    assert not trained.module.training
    assert not any(part.training for part in trained.module.modules())
    assert not any(p.requires_grad or p.grad is not None for p in trained.module.parameters())
    assert trained.module.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert (trained.name, trained.stages, trained.mean) == (
        network.name,
        network.stages,
        network.mean,
    )
    assert len(log) == SMALL.updates


def test_statistics_train_by_default(network, whole):
    before, after = network.module.state_dict(), whole[0].module.state_dict()
    assert not torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    n_trained = SMALL.updates - SMALL.frozen_start
    assert after["bn1.num_batches_tracked"] - before["bn1.num_batches_tracked"] == n_trained


def test_the_network_passed_in_and_global_state_stay_as_they_are(network, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    state = torch.random.get_rng_state()
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    fit(network, dataclasses.replace(SMALL, updates=3), tmp_path)
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(p.requires_grad for p in network.module.parameters())
    assert not any(part._forward_hooks for part in network.module.modules())
    assert not network.module.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert flags == (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)


def test_no_updates_leave_the_network_as_it_is(network, tmp_path):
    trained = fit(network, TrainConfig(updates=0, batch=3), tmp_path)
    assert trained.digest == network.digest
    assert trained.module is not network.module
    assert read_training_csv(tmp_path / TRAINING_CSV) == []


def test_log_and_progress_tell_the_same(network, tmp_path):
    calls = []
    config = dataclasses.replace(SMALL, updates=4)
    fit(network, config, tmp_path, progress=lambda *values: calls.append(values))
    lines = (tmp_path / TRAINING_CSV).read_text().splitlines()
    assert lines[0] == (
        "update,lr,loss,accuracy,accuracy_normal,accuracy_swap,accuracy_scar,seconds"
    )
    rows = read_training_csv(tmp_path / TRAINING_CSV)
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    for number, (row, (update, total, loss, accuracy)) in enumerate(zip(rows, calls, strict=True)):
        assert (update, total) == (number + 1, 4)
        assert row["lr"] == pytest.approx(config.lr_at(number), rel=1e-8)
        assert (row["loss"], row["accuracy"]) == pytest.approx((loss, accuracy), rel=1e-8)
        per_class = [row[f"accuracy_{name}"] for name in LABELS]
        assert row["accuracy"] == pytest.approx(np.mean(per_class), abs=1e-6)
        assert all(round(3 * value, 6) in (0, 1, 2, 3) for value in per_class)
        assert row["seconds"] > 0


# ---- mistakes -----------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_update_and_way_out(network, tmp_path):
    config = dataclasses.replace(SMALL, lr=1e30, frozen_start=0, checkpoint_every=1)
    with pytest.raises(Diverged, match=r"update \d of 7.*--lr \(it was 1e\+30\)"):
        fit(network, config, tmp_path)
    assert not (tmp_path / CHECKPOINT_NAME).exists()
    # So the way out works as it is named.
    fit(network, dataclasses.replace(config, updates=1, lr=1e-3), tmp_path)


def test_weights_that_are_not_finite_are_never_returned(network, tmp_path, monkeypatch):
    def step(self, closure=None):
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(float("nan"))

    monkeypatch.setattr(trainee_module.torch.optim.SGD, "step", step)
    config = dataclasses.replace(SMALL, updates=1, frozen_start=0)
    with pytest.raises(Diverged, match="a weight is not finite"):
        fit(network, config, tmp_path)


def test_sampler_and_config_must_agree(network, tmp_path):
    for change in ({"batch": 4}, {"seed": 5}):
        with pytest.raises(ConfigError, match="do not agree"):
            train_extractor(
                network,
                sampler_of(SMALL),
                dataclasses.replace(SMALL, **change),
                folder=tmp_path,
            )


def test_a_folder_that_cannot_be_written_is_an_output_error(network, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        fit(network, SMALL, tmp_path / "file" / "model")


def test_a_log_that_is_none_is_refused(tmp_path):
    path = tmp_path / TRAINING_CSV
    for content in (None, "update,loss\n1,abc\n", "update,loss\n1\n", "update,loss\n1,2,3\n"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(ModelError, match=r"training\.csv"):
            read_training_csv(path)
