"""Trains the extractor to tell normals, swaps and scars apart; the head is thrown away afterwards.

Whatever an update depends on follows from the seed and its number. A training that is interrupted
and goes on from its checkpoint therefore ends with the weights of one that never was, bit for bit
on one machine with one number of threads.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from detector.checkpoint import (
    Checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from detector.dataset import Prefetch
from detector.train_config import TrainConfig
from detector.trainee import Diverged, Trainee
from detector.training_log import TRAINING_CSV as TRAINING_CSV
from detector.training_log import (
    append_training_csv,
    log_columns,
    write_training_csv,
)
from detector.training_log import read_training_csv as read_training_csv
from manifests.errors import ConfigError
from manifests.weights import Network

Progress = Callable[[int, int, float, float], None]  # updates done, of how many, loss, accuracy


class Batches(Protocol):
    """Where training batches come from; `detector.dataset.TripletSampler` is one."""

    normals_per_batch: int
    seed: int
    labels: tuple[str, ...]
    set_digest: str

    def batch(self, update: int) -> tuple[np.ndarray, np.ndarray]: ...


def train_extractor(
    network: Network,
    sampler: Batches,
    config: TrainConfig,
    *,
    device: str = "cpu",
    folder: Path,
    progress: Progress | None = None,
) -> Network:
    """Train a copy of a network on the 3-way task and return it without its head.

    Every update a batch passes colour jitter, backbone, global pooling and an MLP head
    (Linear-BN-ReLU-Linear); SGD follows the cross-entropy. The folder gets `training.csv`, one row
    per update, and a checkpoint every `config.checkpoint_every` updates, on Ctrl-C and at the end;
    the next call with the same arguments goes on from it. `detector.checkpoint.remove_checkpoint`
    removes it, when the model is complete or to start afresh.

    Args:
        network: where training starts; never changed.
        sampler: batches of `config.batch` normals drawn with `config.seed`.
        config: the schedule.
        device: "cpu" or "cuda".
        folder: made where it is missing.
        progress: called after every update.

    Returns:
        A network with its own digest, on `device`, in eval mode, its parameters frozen.

    Raises:
        ConfigError: config and sampler, or config and network, do not fit.
        ModelError: loss or weights are no longer finite (`Diverged`), or the folder's checkpoint is
            damaged or belongs to another training.
        OutputError: the folder cannot be written.
        KeyboardInterrupt: after the checkpoint was written.

    Source: CutSwap (arXiv 2311.18332); the warm-up of the head alone from CutPaste's public
    implementations.
    Differs: while the backbone is frozen its batch norms keep their statistics too, so that frozen
    means unchanged; dropout and drop path stay off, for they would draw from global random state.
    """
    folder = Path(folder)
    if (sampler.normals_per_batch, sampler.seed) != (config.batch, config.seed):
        raise ConfigError(
            "sampler and training do not agree on batch and seed",
            expected=(config.batch, config.seed),
            got=(sampler.normals_per_batch, sampler.seed),
        )
    if 0 < config.updates <= config.frozen_start:
        warnings.warn(
            f"only the head is trained: --frozen-start {config.frozen_start} is not under "
            f"--updates {config.updates}, so the extractor stays as it is",
            stacklevel=2,
        )
    trainee = Trainee(network, config, labels=sampler.labels, device=device)
    run = _describe_run(network, sampler, config)
    environment = _environment(device)
    saved = read_checkpoint(folder, run=run)
    log = np.empty((0, len(log_columns(sampler.labels))))
    if saved is not None:
        log = trainee.restore(saved, folder, rows=(saved.update, log.shape[1]))
        _warn_of_drift(saved, environment)
    write_training_csv(folder / TRAINING_CSV, sampler.labels, log)
    # What a checkpoint would hold now. It is replaced in one assignment after a whole update, so an
    # interrupt in the middle of one finds the state before it, and not something half-way.
    moment = Checkpoint(run, len(log), environment, trainee.tensors(log))
    n_written = moment.update
    try:
        keys = range(moment.update, config.updates)
        with _deterministic_cudnn(), Prefetch(sampler.batch, keys) as batches:
            started = time.perf_counter()
            for update, (images, labels) in zip(keys, batches, strict=True):
                row = trainee.update(update, images, labels)
                now = time.perf_counter()
                log = np.vstack([log, [*row, now - started]])
                started = now
                moment = replace(moment, update=update + 1, tensors=trainee.tensors(log))
                append_training_csv(folder / TRAINING_CSV, log[-1])
                if moment.update % config.checkpoint_every == 0 or moment.update == config.updates:
                    write_checkpoint(folder, moment)
                    n_written = moment.update
                if progress is not None:
                    progress(moment.update, config.updates, row[2], row[3])
        trained = trainee.finish()
    except KeyboardInterrupt:
        if moment.update > n_written:
            write_checkpoint(folder, moment)
        raise
    except Diverged:
        # The same options would end here again, so there is nothing worth going on from, and other
        # options must not find a checkpoint that is not theirs.
        remove_checkpoint(folder)
        raise
    return trained


def _describe_run(network: Network, sampler: Batches, config: TrainConfig) -> dict[str, object]:
    """Everything the weights depend on; `checkpoint_every` is not part of it."""
    run: dict[str, object] = dict(config.to_json())
    del run["checkpoint_every"]
    run |= {"network": network.name, "network_digest": network.digest}
    return run | {"set_digest": sampler.set_digest, "labels": list(sampler.labels)}


def _environment(device: str) -> dict[str, object]:
    """What the last bits of the weights may depend on besides."""
    is_cuda = torch.device(device).type == "cuda"
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _warn_of_drift(saved: Checkpoint, environment: dict[str, object]) -> None:
    names = [name for name in environment if saved.environment.get(name) != environment[name]]
    if names:
        changes = ", ".join(
            f"{name} {saved.environment.get(name)} -> {environment[name]}" for name in names
        )
        warnings.warn(
            f"training goes on from update {saved.update} in another environment ({changes}): "
            "the weights may differ in their last bits from those of one run",
            stacklevel=3,
        )


@contextlib.contextmanager
def _deterministic_cudnn() -> Iterator[None]:
    """cuDNN with repeatable algorithms while training, then as it was."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
