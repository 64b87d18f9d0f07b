"""Interrupted trainings: they end as if nothing had happened, or say why they cannot."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

from detector import train as train_module
from detector import trainee as trainee_module
from detector.checkpoint import read_checkpoint, remove_checkpoint
from detector.train import TRAINING_CSV, train_extractor
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from detector.training_run import describe_run
from manifests.errors import ModelError
from manifests.weights import load_network
from reference.small_training import (
    LABELS,
    Killed,
    assert_same,
    fit,
    fit_with_log,
    log_of,
    sampler_of,
    stop_at,
)

SMALL = TrainConfig(updates=7, batch=3, lr=0.05, frozen_start=2, checkpoint_every=3, seed=4)


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """What all the others must end as: the network of a whole training, and its log."""
    return fit_with_log(network, SMALL, tmp_path_factory.mktemp("whole"))


def assert_same_training(trained, log, whole) -> None:
    assert_same(trained, whole[0])
    assert log == whole[1]


@pytest.mark.parametrize(
    ("kind", "at"),
    [(KeyboardInterrupt, 1), (KeyboardInterrupt, 3), (KeyboardInterrupt, 5), (KeyboardInterrupt, 7)]
    + [(Killed, 2), (Killed, 4), (Killed, 7)],
)
def test_an_interrupted_training_ends_the_same(network, tmp_path, whole, kind, at):
    # 1 is inside the frozen start, 2 its end, 3 a checkpoint, 4 and 5 follow one, 7 is the last.
    def interrupt(update: int, _total: int, _loss: float, _accuracy: float) -> None:
        if update == at:
            raise kind

    with pytest.raises(kind):
        fit(network, SMALL, tmp_path, progress=interrupt)
    calls = []
    trained = fit(network, SMALL, tmp_path, progress=lambda update, *_: calls.append(update))
    saved = at if kind is KeyboardInterrupt or at == SMALL.updates else at - at % 3
    assert calls == list(range(saved + 1, 8))
    assert_same_training(trained, log_of(tmp_path), whole)


def test_an_interrupt_in_the_middle_of_an_update_saves_the_one_before(
    network, tmp_path, whole, monkeypatch
):
    class Broken(torch.optim.SGD):
        n_steps = 0

        def step(self, closure=None):
            Broken.n_steps += 1
            loss = super().step(closure)
            if Broken.n_steps == 5:
                raise KeyboardInterrupt  # weights and momenta are already the next ones
            return loss

    monkeypatch.setattr(trainee_module.torch.optim, "SGD", Broken)
    with pytest.raises(KeyboardInterrupt):
        fit(network, SMALL, tmp_path)
    monkeypatch.undo()
    resumed = []
    trained = fit(network, SMALL, tmp_path, progress=lambda update, *_: resumed.append(update))
    assert resumed == [5, 6, 7]
    assert_same_training(trained, log_of(tmp_path), whole)


def test_interrupted_at_every_update_in_turn(network, tmp_path, whole):
    def interrupt(_update: int, _total: int, _loss: float, _accuracy: float) -> None:
        raise KeyboardInterrupt

    for _ in range(SMALL.updates):
        with pytest.raises(KeyboardInterrupt):
            fit(network, SMALL, tmp_path, progress=interrupt)
    assert_same_training(fit(network, SMALL, tmp_path), log_of(tmp_path), whole)


def test_a_finished_training_is_not_repeated(network, tmp_path, whole):
    fit(network, SMALL, tmp_path)
    (tmp_path / TRAINING_CSV).unlink()

    def fail(*_values) -> None:
        raise AssertionError("trained again")

    assert_same_training(fit(network, SMALL, tmp_path, progress=fail), log_of(tmp_path), whole)


def test_an_interrupt_while_reading_a_batch_is_saved(network, tmp_path, whole):
    sampler = sampler_of(SMALL)
    read = sampler.batch

    def batch(update: int):
        if update == 4:
            raise KeyboardInterrupt
        return read(update)

    sampler.batch = batch
    with pytest.raises(KeyboardInterrupt):
        train_extractor(network, sampler, SMALL, folder=tmp_path)
    assert_same_training(fit(network, SMALL, tmp_path), log_of(tmp_path), whole)


def test_how_often_checkpoints_are_written_changes_nothing_else(network, tmp_path, whole):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(4))
    config = dataclasses.replace(SMALL, checkpoint_every=1)
    assert_same_training(fit(network, config, tmp_path), log_of(tmp_path), whole)


@pytest.mark.parametrize(
    ("change", "named"), [({"lr": 0.01}, "lr=0.01"), ({"freeze_bn": True}, "freeze_bn=True")]
)
def test_a_checkpoint_of_other_options_is_refused(network, tmp_path, change, named):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(3))
    other = dataclasses.replace(SMALL, **change)
    with pytest.raises(ModelError, match=named) as caught:
        fit(network, other, tmp_path)
    assert "--overwrite" in str(caught.value)
    remove_checkpoint(tmp_path)
    assert fit(network, other, tmp_path).digest != network.digest


def test_a_checkpoint_of_another_set_or_network_is_refused(network, tmp_path):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(3))
    sampler = sampler_of(SMALL)
    sampler.set_digest = "ef" * 32
    with pytest.raises(ModelError, match="set_digest"):
        train_extractor(network, sampler, SMALL, folder=tmp_path)
    other = load_network("test_resnet", pretrained=False, seed=2)
    with pytest.raises(ModelError, match="network_digest"):
        fit(other, SMALL, tmp_path)


def test_tensors_that_do_not_fit_are_refused(network, tmp_path):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(3))
    run = describe_run(network, sampler_of(SMALL), SMALL)
    saved = read_checkpoint(tmp_path, run=run)
    trainee = Trainee(network, SMALL, labels=LABELS, device="cpu")
    rows = tuple(saved.tensors["log"].shape)
    before = trainee.module.conv1[0].weight.clone()
    for tensors in (
        {name: t for name, t in saved.tensors.items() if name != "module/bn1.running_var"},
        {**saved.tensors, "module/bn1.running_var": torch.ones(1)},
        {**saved.tensors, "momentum/module/nothing": torch.ones(1)},
        {**saved.tensors, "log": torch.ones((1, 1), dtype=torch.float64)},
    ):
        with pytest.raises(ModelError, match="does not fit"):
            trainee.restore(dataclasses.replace(saved, tensors=tensors), tmp_path, rows=rows)
    assert torch.equal(trainee.module.conv1[0].weight, before)


def test_another_number_of_threads_is_said_aloud(network, tmp_path, monkeypatch):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Killed):
            fit(network, SMALL, tmp_path, progress=stop_at(6))
    monkeypatch.setattr(train_module.torch, "get_num_threads", lambda: 77)
    with pytest.warns(UserWarning, match=r"from update 6 in another environment \(threads .* 77"):
        fit(network, SMALL, tmp_path)
