"""What a training is made from, and where it runs: what decides whether it may go on."""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
import torch

from detector.checkpoint import Checkpoint
from detector.processes import Processes
from detector.train_config import TrainConfig
from detector.training_batch import TrainingBatch
from manifests.weights import Network


class Batches(Protocol):
    """Where training batches come from; `detector.dataset.TripletSampler` is one."""

    normals_per_batch: int
    seed: int
    labels: tuple[str, ...]
    shares: tuple[float, ...]
    levels: tuple[int, ...]
    counts: tuple[int, ...]
    rows: np.ndarray
    set_digest: str

    def batch(
        self,
        update: int,
        *,
        with_images: bool = True,
        with_masks: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> TrainingBatch: ...

    def image(self, row: int) -> np.ndarray: ...


def describe_activations(
    network: Network, sampler: Batches, config: TrainConfig, device: str
) -> dict[str, object]:
    """Everything the cached activations depend on, by name.

    Source: ours.
    """
    return {
        "set_digest": sampler.set_digest,
        "network": network.name,
        "network_digest": network.digest,
        "freeze_stages": config.freeze_stages,
        "jitter": config.jitter,
        "precision": config.precision,
        "device": torch.device(device).type,
    }


def describe_run(network: Network, sampler: Batches, config: TrainConfig) -> dict[str, object]:
    """Everything the weights depend on, in plain JSON types; `checkpoint_every` is not part of it.

    Source: ours.
    """
    run: dict[str, object] = dict(config.to_json())
    del run["checkpoint_every"]
    run |= {"network": network.name, "network_digest": network.digest}
    return run | {"set_digest": sampler.set_digest, "labels": list(sampler.labels)}


def environment(device: str, processes: Processes) -> dict[str, object]:
    """What the last bits of the weights may depend on besides.

    Source: ours.
    """
    is_cuda = torch.device(device).type == "cuda"
    found: dict[str, object] = {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    # Left out by one, as checkpoints were before there could be more.
    return found if processes.is_alone else found | {"processes": processes.count}


def warn_of_drift(saved: Checkpoint, environment: dict[str, object]) -> None:
    """Warn where a training goes on elsewhere than it was saved.

    Source: ours.
    """
    before, now = {"processes": 1, **saved.environment}, {"processes": 1, **environment}
    names = [name for name in now if before.get(name) != now[name]]
    if names:
        changes = ", ".join(f"{name} {before.get(name)} -> {now[name]}" for name in names)
        warnings.warn(
            f"training goes on from update {saved.update} in another environment ({changes}): "
            "the weights may differ in their last bits from those of one run",
            stacklevel=3,
        )
