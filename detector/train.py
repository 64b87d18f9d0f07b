"""Trains the extractor to tell normals from negatives; its heads are thrown away afterwards.

Whatever an update depends on follows from the seed and its number. A training that is interrupted
and goes on from its checkpoint therefore ends with the weights of one that never was, bit for bit
on one machine with one number of threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector.activation_cache import ActivationCache
from detector.processes import ALONE, Processes
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from detector.training_batch import TrainingBatch
from detector.training_log import TRAINING_CSV as TRAINING_CSV
from detector.training_log import log_columns
from detector.training_log import read_training_csv as read_training_csv
from detector.training_loop import Course, deterministic_cudnn, run_updates
from detector.training_run import Batches, describe_activations, describe_run
from detector.virtual_batches import check_virtual_batches
from manifests.errors import ConfigError
from manifests.weights import Network

Progress = Callable[[int, int, float, float], None]  # updates done, of how many, loss, accuracy


def train_extractor(
    network: Network,
    sampler: Batches,
    config: TrainConfig,
    *,
    device: str = "cpu",
    folder: Path,
    progress: Progress | None = None,
    cache: ActivationCache | None = None,
    processes: Processes = ALONE,
) -> Network:
    """Train a copy of a network to tell normals from negatives and return it without its head.

    Every update a batch passes colour jitter, backbone, global pooling and an MLP head
    (Linear-BN-ReLU-Linear); SGD follows the cross-entropy, or the loss that the schedule names
    (`detector.objective`). With `config.cache_activations` an image passes jitter and the frozen
    part of the backbone once, when it is first drawn: its jitter then follows from its number in
    the set alone and stays the same in all updates and for all seeds.

    The folder gets `training.csv`, one row per update, and a checkpoint every
    `config.checkpoint_every` updates, on Ctrl-C and at the end; the next call with the same
    arguments goes on from it. `detector.checkpoint.remove_checkpoint`
    removes it, when the model is complete or to start afresh.

    With `config.virtual_batches` over 1 a batch is split into so many equal parts, each with its
    own batch-norm statistics (`detector.virtual_batches`); the loss is the mean of theirs. Several
    processes share the virtual batches out, join gradients and statistics in every update, and end
    with the weights that one would, but for the order of sums. That their copies are the same, bit
    for bit, is checked at the start, after the frozen start, at every checkpoint and at the end.
    The first of them alone writes, and reads, the folder; how many there are is no part of a
    training, so that one begun by two may be ended by one.

    Args:
        network: where training starts; never changed.
        sampler: batches of `config.batch` normals drawn with `config.seed`, and of the negatives
            that the schedule names.
        config: the schedule.
        device: "cpu" or "cuda".
        folder: made where it is missing.
        progress: called after every update.
        cache: activations that other trainings have left and later ones may use; None for one of
            its own. For `config.cache_activations` only.
        processes: that train together, all of them with the same arguments but for the folder.

    Returns:
        A network with its own digest, on `device`, in eval mode, its parameters frozen.

    Raises:
        ConfigError: config and sampler, or config and network, do not fit, or the activations would
            take more than half of the machine's memory.
        ModelError: loss or weights are no longer finite (`Diverged`), the folder's checkpoint is
            damaged or belongs to another training, or the cache holds activations of another set,
            network, freeze, jitter, precision or device, or the processes' weights differ.
        OutputError: the folder cannot be written.
        PeerLost: another process has gone; after the checkpoint was written.
        KeyboardInterrupt: after the checkpoint was written.

    Source: CutSwap (arXiv 2311.18332); the warm-up of the head alone from CutPaste's public
    implementations.
    Differs: while the backbone is frozen its batch norms keep their statistics too, so that frozen
    means unchanged; dropout and drop path stay off, for they would draw from global random state.
    """
    folder = Path(folder)
    _need_agreement(sampler, config)
    check_virtual_batches(
        sampler.counts, config.virtual_batches, processes.count, labels=sampler.labels
    )
    if cache is not None and not config.cache_activations:
        raise ConfigError(
            "there is a cache of activations, but the schedule does not use it",
            expected="cache_activations=True",
            got="cache_activations=False",
        )
    if 0 < config.updates <= config.frozen_start:
        warnings.warn(
            f"only the head is trained: --frozen-start {config.frozen_start} is not under "
            f"--updates {config.updates}, so the extractor stays as it is",
            stacklevel=2,
        )
    trainee = Trainee(network, config, labels=sampler.labels, device=device, processes=processes)
    look_up = None
    if config.cache_activations:
        cache = ActivationCache() if cache is None else cache  # an empty one is false
        cache.claim(describe_activations(network, sampler, config, device))
        look_up = _look_up(cache, trainee, sampler, config, processes)

    def step(update: int, batch: TrainingBatch) -> list[float]:
        activations = None if look_up is None else look_up(batch.rows)
        return trainee.update(update, batch, activations=activations)

    def tell(done: int, total: int, row: Sequence[float]) -> None:
        if progress is not None:
            progress(done, total, row[2], row[3])

    with deterministic_cudnn():
        return run_updates(
            trainee,
            step,
            _reader(sampler, config, processes),
            course=Course(
                run=describe_run(network, sampler, config),
                columns=log_columns(sampler.labels, loss=config.loss),
                updates=config.updates,
                checkpoint_every=config.checkpoint_every,
                milestones={config.frozen_start: "the weights after the frozen start"},
            ),
            folder=folder,
            device=device,
            progress=tell,
            processes=processes,
        )


def _need_agreement(sampler: Batches, config: TrainConfig) -> None:
    """Raises ConfigError where a sampler draws other batches than the schedule says."""
    kinds = sampler.labels[1:]
    wanted = {
        "batch": config.batch,
        "seed": config.seed,
        "negatives": config.negatives or kinds,
        "shares": config.shares or (1.0,) * len(kinds),
        "levels": config.levels,
    }
    found = {
        "batch": sampler.normals_per_batch,
        "seed": sampler.seed,
        "negatives": kinds,
        "shares": sampler.shares,
        "levels": sampler.levels,
    }
    names = [name for name in wanted if found[name] != wanted[name]]
    if names:
        raise ConfigError(
            f"sampler and training do not agree on {' and '.join(names)}",
            expected=", ".join(f"{name}={wanted[name]}" for name in names),
            got=", ".join(f"{name}={found[name]}" for name in names),
        )


def _reader(
    sampler: Batches, config: TrainConfig, processes: Processes
) -> Callable[[int], TrainingBatch]:
    """What reads the batch of an update: only this process's part of it, and of that only what its
    loss and a cache leave to be read."""
    asked: dict[str, Any] = {}
    if not processes.is_alone:
        asked["part"] = (processes.rank, processes.count)
    if config.cache_activations:
        asked["with_images"] = False
    if config.loss != "image":
        asked["with_masks"] = True
    return partial(sampler.batch, **asked)


def _look_up(
    cache: ActivationCache,
    trainee: Trainee,
    sampler: Batches,
    config: TrainConfig,
    processes: Processes,
) -> Callable[[np.ndarray], torch.Tensor]:
    """What finds the activations of a batch's rows; raises where memory will not do for all."""

    def compute(row: int) -> torch.Tensor:
        return trainee.activation(sampler.image(row), row)

    with deterministic_cudnn():
        cache.reserve(
            sampler.rows,
            n_most=config.updates * sum(sampler.counts) // processes.count,
            compute=compute,
            n_caches=processes.count_here,
        )
    return partial(cache.take, compute=compute)
