"""Short trainings on the painted set: their samplers, their logs, and what interrupts them."""

from __future__ import annotations

import copy

import torch

from detector.dataset import TripletSampler
from detector.train import TRAINING_CSV, read_training_csv, train_extractor
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from reference.training import PaintedSet, train_literally

LABELS = ("normal", "swap", "scar")


class Killed(Exception):
    """Stands for a kill: nothing may be written on the way out."""


def stop_at(at: int, kind: type[BaseException] = Killed):
    """A `progress` that raises after this update."""

    def stop(update: int, *_values) -> None:
        if update == at:
            raise kind

    return stop


def sampler_of(config: TrainConfig, source: PaintedSet | None = None) -> TripletSampler:
    return TripletSampler(
        source or PaintedSet(),
        batch=config.batch,
        seed=config.seed,
        negatives=config.negatives,
        shares=config.shares,
        levels=config.levels,
    )


def fit(network, config: TrainConfig, folder, **settings):
    return train_extractor(network, sampler_of(config), config, folder=folder, **settings)


def fit_with_log(network, config: TrainConfig, folder):
    return fit(network, config, folder), log_of(folder)


def image_batches(network, config: TrainConfig) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels of every update."""
    batches = []
    for update in range(config.updates):
        batch = sampler_of(config).batch(update)
        batches.append((network.preprocess(batch.images), torch.from_numpy(batch.labels)))
    return batches


def fit_literally(network, config: TrainConfig, batches, *, head: str = "head", **settings):
    """The literal loop from where `fit` starts, too: its module, losses and averages."""
    module = copy.deepcopy(network.module)
    losses, averages = train_literally(
        module,
        Trainee(network, config, labels=LABELS, device="cpu").heads[head],
        batches,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        frozen_start=config.frozen_start,
        freeze_bn=config.freeze_bn,
        **settings,
    )
    return module, losses, averages


def log_of(folder) -> list[dict[str, float]]:
    """The log without its wall times."""
    rows = read_training_csv(folder / TRAINING_CSV)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same(found, expected) -> None:
    """Bit for bit, the counters that the digest leaves out included."""
    state = expected.module.state_dict()
    for name, tensor in found.module.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert found.digest == expected.digest
