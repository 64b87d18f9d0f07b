"""How much of the three-way task do visible seams solve?

Trains on one set and measures the accuracy, per class, on images held out of training: as the same
set shows them, and as another does that differs from it in its seams alone (build both with the
same options and seeds but `--feather`). What the accuracy loses is what the seams were worth.

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
from manifests.negative import Negative, Normal
from manifests.negative_set import NegativeSet
from manifests.weights import load_network

KINDS = ("swap", "scar")


class PartOfSet:
    """The negatives of some normals of a set, as a `TripletSampler` takes them."""

    def __init__(self, negative_set: NegativeSet, digests: frozenset[str]) -> None:
        owners = negative_set.negative_normal
        is_kept = np.array(
            [negative_set.normal(i).digest in digests for i in range(negative_set.n_normals)]
        )
        self._set = negative_set
        self._rows = np.flatnonzero(is_kept[owners])
        self.digest = negative_set.digest
        self.n_normals = negative_set.n_normals
        self.negative_normal = owners[self._rows]
        self.negative_policy = np.asarray(negative_set.negative_policy)[self._rows]
        self.negative_level = negative_set.negative_level[self._rows]

    def normal(self, index: int) -> Normal:
        return self._set.normal(index)

    def negative_image(self, index: int) -> np.ndarray:
        return self._set.negative_image(int(self._rows[index]))

    def __getitem__(self, index: int) -> Negative:
        return self._set[int(self._rows[index])]


def split(negative_set: NegativeSet) -> tuple[frozenset[str], frozenset[str]]:
    """Digests of the normals to train on and of those held out, a quarter; equal in both sets."""
    digests = sorted(negative_set.normal(i).digest for i in range(negative_set.n_normals))
    return frozenset(digests[len(digests) // 4 :]), frozenset(digests[: len(digests) // 4])


def sampler_of(
    negative_set: NegativeSet, digests: frozenset[str], config: TrainConfig
) -> TripletSampler:
    """Batches of part of a set."""
    return TripletSampler(
        PartOfSet(negative_set, digests),
        batch=config.batch,
        seed=config.seed,
        negatives=config.negatives,
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
    """Mean accuracy of normals and of every kind."""
    rows = []
    for number in range(batches):
        # `update` reports how the batch was judged before the step, and only a copy takes the step.
        row = copy.deepcopy(trainee).update(config.updates, sampler.batch(number))
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
    seen, held_out = split(opened[0])
    if split(opened[1]) != (seen, held_out):
        parser.error("the sets are not of the same images")
    print(f"trained on {len(seen)} images, measured on {len(held_out)} others\n")
    print("| trained on | measured on | normal | swap | scar |")
    print("|---|---|---|---|---|")
    for own, negative_set in zip(arguments.sets, opened, strict=True):
        trainee = trained(sampler_of(negative_set, seen, config), config)
        for other, measured in zip(arguments.sets, opened, strict=True):
            sampler = sampler_of(measured, held_out, config)
            found = accuracies(trainee, sampler, config, arguments.batches)
            cells = " | ".join(f"{value:.3f}" for value in found)
            print(f"| {own.parent.name} | {other.parent.name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
