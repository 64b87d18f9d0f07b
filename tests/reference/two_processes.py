"""What several processes do in the tests: each writes what it found into OUT/<rank>.json.

Arguments: OUT DEVICE. Started with torchrun's environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch

from detector import trainee as trainee_module
from detector.detectors import PatchCore, PatchCoreConfig
from detector.processes import Processes
from detector.shared_bank import fit_bank_together
from detector.torchrun import torchrun_processes
from detector.train import train_extractor
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from manifests.errors import CutswapError, SetError
from manifests.geometry import Geometry
from manifests.weights import load_network
from reference.small_training import sampler_of, stop_at
from reference.training import HEIGHT, WIDTH, PaintedSet

PLAIN = TrainConfig(
    updates=5, batch=4, lr=0.05, frozen_start=2, checkpoint_every=3, seed=4, virtual_batches=2
)
TRAININGS = {
    "statistics": PLAIN,
    "accumulated": dataclasses.replace(
        PLAIN, virtual_batches=4, loss="both", ema=0.5, head_stage=3, shares=(1.0, 2.0),
        negatives=("swap", "scar"),
    ),
    "cached": dataclasses.replace(
        PLAIN, freeze_stages=2, cache_activations=True, freeze_bn=True, loss="patch"
    ),
}  # fmt: skip
CUT_AT = 4  # updates, one after a checkpoint
BANK = PatchCoreConfig(stages=(1, 2), coreset_ratio=0.02, projection_dim=8, seed=3)
GEOMETRY = Geometry(HEIGHT, WIDTH, "stretch")
N_IMAGES = 7  # no multiple of two


def small_network():
    return load_network("test_resnet", pretrained=False, seed=1)


def images() -> np.ndarray:
    return np.stack([PaintedSet().normal(i).image for i in range(N_IMAGES)])


def train(processes: Processes, config: TrainConfig, folder: Path, **settings):
    return train_extractor(
        small_network(), sampler_of(config), config, folder=folder, processes=processes, **settings
    )


def talk(processes: Processes) -> dict:
    """Every way in which processes talk."""
    rank = processes.rank
    rows = processes.collect(torch.full((rank * 2, 3), rank, dtype=torch.int32))
    return {
        "heard": processes.hear({"a": rank}),
        "nothing": processes.hear_bytes(b"" if rank == 0 else b"mine").decode(),
        "all": processes.hear_all(["x"] * (rank + 1)),
        "sum": processes.sum_(torch.tensor([1.0 + rank])).tolist(),
        "rows": None if rows is None else rows.tolist(),
        "share": list(processes.rows(7)),
    }


def watched_training(processes: Processes, out: Path) -> dict:
    """Which parameters ask for gradients and get them, from update to update."""
    seen: list = []
    real = Trainee.update

    def update(self, number, batch, **settings):
        before = [p.requires_grad for p in self.module.parameters()]
        weights = self.module.conv1[0].weight.clone()
        row = real(self, number, batch, **settings)
        after = [p.requires_grad for p in self.module.parameters()]
        seen.append([before == after == [True] * len(before),
                     bool(torch.equal(weights, self.module.conv1[0].weight)),
                     batch.rows.tolist()])  # fmt: skip
        return row

    Trainee.update = update
    try:
        train(processes, PLAIN, out / "watched")
    finally:
        Trainee.update = real
    return {"updates": seen}


def wrong_rank(processes: Processes, out: Path) -> dict:
    """One process's weights go astray at some update: what all of them are told."""
    found = {}
    for at in (1, 2, 4):
        real = Trainee.update

        def update(self, number, batch, real=real, at=at, **settings):
            row = real(self, number, batch, **settings)
            if number == at and processes.rank == 1:
                with torch.no_grad():
                    next(self.module.parameters()).mul_(1.001)
            return row

        Trainee.update = update
        try:
            train(processes, PLAIN, out / f"wrong-{at}")
            found[at] = "trained"
        except CutswapError as error:
            found[at] = f"{type(error).__name__}: {error}"
        finally:
            Trainee.update = real
    return found


def wrong_average(processes: Processes, out: Path) -> str:
    """As before, in the last act of the training."""
    real = trainee_module.WeightAverage.apply

    def apply(self) -> None:
        real(self)
        if processes.rank == 1:
            next(iter(self._values.values())).data.mul_(1.001)

    trainee_module.WeightAverage.apply = apply
    try:
        train(processes, TRAININGS["accumulated"], out / "wrong-average")
        return "trained"
    except CutswapError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        trainee_module.WeightAverage.apply = real


def cut_training(processes: Processes, out: Path) -> dict:
    """Interrupted everywhere after the same update, then taken up again by all or by the first."""
    for name in ("cut", "left"):
        with contextlib.suppress(KeyboardInterrupt):
            train(processes, PLAIN, out / name, progress=stop_at(CUT_AT, KeyboardInterrupt))
    calls: list = []
    trained = train(processes, PLAIN, out / "cut", progress=lambda update, *_: calls.append(update))
    return {"digest": trained.digest, "calls": calls}


def bank(processes: Processes) -> dict:
    rows = processes.rows(N_IMAGES)
    detector = PatchCore(small_network(), GEOMETRY, BANK)
    batches = [(images()[i : i + 1], [(0, 0, HEIGHT, WIDTH)]) for i in rows]
    scores = fit_bank_together(detector, batches, first_image=rows.start, processes=processes)
    found = {"features": detector.bank.features.tolist(),
             "owners": detector.bank.image_index.tolist(),
             "cells": detector.bank.cell.tolist()}  # fmt: skip
    return found | {"scores": None if scores is None else [one.tolist() for one in scores]}


def scenario(processes: Processes, out: Path, device: str) -> dict:
    found: dict = {"talk": talk(processes), "trainings": {}}
    for name, config in TRAININGS.items():
        trained = train(processes, config, out / name, device=device)
        weights = {
            key: value.double().cpu().flatten().tolist()
            for key, value in trained.module.state_dict().items()
            if "layer3.0.bn1" in key or key == "conv1.0.weight"
        }
        found["trainings"][name] = {"digest": trained.digest, "weights": weights}
    found["watched"] = watched_training(processes, out)
    found["wrong"] = wrong_rank(processes, out)
    found["wrong average"] = wrong_average(processes, out)
    found["cut"] = cut_training(processes, out)
    found["bank"] = bank(processes)
    return found


def main() -> None:
    """The scenario; in its last act one process fails where the other waits for it."""
    torch.set_num_threads(1)
    out, device = Path(sys.argv[1]), sys.argv[2]
    found: dict = {}
    try:
        with torchrun_processes() as processes:
            rank = processes.rank
            found |= scenario(processes, out, processes.own_device(device))
            if rank == 1:
                raise SetError("cannot be read", path="shard-00000.h5", hint="copy it again")
            processes.wait()
    except (CutswapError, SystemExit) as error:
        found["last act"] = f"{type(error).__name__}: {error}"
    (out / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
