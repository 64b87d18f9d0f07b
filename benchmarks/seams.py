"""How much of the three-way task do visible seams solve?

Trains on one set and measures the accuracy, per class, on batches that training has not seen: of
the same set, and of another that differs from it in its seams alone (build both with the same
options and seeds but `--feather`). What the accuracy loses is what the seams were worth.

    python benchmarks/seams.py HARD_SET BLENDED_SET [--updates N] [--batches N]
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np

from detector.dataset import TripletSampler
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from manifests.allocator import keep_freed_memory
from manifests.negative_set import NegativeSet
from manifests.weights import load_network

KINDS = ("swap", "scar")


def sampler_of(negative_set: NegativeSet, config: TrainConfig) -> TripletSampler:
    """Batches of a set."""
    return TripletSampler(
        negative_set, batch=config.batch, seed=config.seed, negatives=config.negatives
    )


def trained(sampler: TripletSampler, config: TrainConfig) -> Trainee:
    """The network with its head after all updates."""
    network = load_network("efficientnet_lite0")
    trainee = Trainee(network, config, labels=sampler.labels, device="cpu")
    for update in range(config.updates):
        trainee.update(update, sampler.batch(update))
    return trainee


def accuracies(
    trainee: Trainee, sampler: TripletSampler, config: TrainConfig, batches: int
) -> np.ndarray:
    """Mean accuracy of normals and of every kind on batches after those of the training."""
    rows = []
    for number in range(batches):
        update = config.updates + number
        # `update` reports how the batch was judged before the step, and only a copy takes the step.
        row = copy.deepcopy(trainee).update(update, sampler.batch(update))
        rows.append(row[-len(sampler.labels) :])
    return np.mean(rows, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs=2, type=Path, help="folders of two sets")
    parser.add_argument("--updates", type=int, default=128)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.01)
    arguments = parser.parse_args()
    keep_freed_memory()
    config = TrainConfig(
        updates=arguments.updates,
        lr=arguments.lr,
        freeze_bn=True,
        freeze_stages=2,
        frozen_start=10,
        head_stage=3,
        negatives=KINDS,
    )
    opened = [NegativeSet.open(folder) for folder in arguments.sets]
    samplers = [sampler_of(negative_set, config) for negative_set in opened]
    print("| trained on | measured on | normal | swap | scar |")
    print("|---|---|---|---|---|")
    for own, sampler in zip(arguments.sets, samplers, strict=True):
        trainee = trained(sampler, config)
        for other, measured in zip(arguments.sets, samplers, strict=True):
            found = accuracies(trainee, measured, config, arguments.batches)
            cells = " | ".join(f"{value:.3f}" for value in found)
            print(f"| {own.parent.name} | {other.parent.name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
