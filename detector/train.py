"""Trains the extractor to tell normals from negatives; its heads are thrown away afterwards.

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector.activation_cache import ActivationCache
from detector.checkpoint import (
    Checkpoint,
    checkpoint_from_bytes,
    checkpoint_to_bytes,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from detector.prefetch import Prefetch
from detector.processes import ALONE, PeerLost, Processes
from detector.stop_signals import ignore_stops
from detector.train_config import TrainConfig
from detector.trainee import Diverged, Trainee
from detector.training_batch import TrainingBatch
from detector.training_log import TRAINING_CSV as TRAINING_CSV
from detector.training_log import (
    append_training_csv,
    log_columns,
    write_training_csv,
)
from detector.training_log import read_training_csv as read_training_csv
from detector.training_run import (
    Batches,
    describe_activations,
    describe_run,
    environment,
    warn_of_drift,
)
from detector.virtual_batches import check_virtual_batches
from manifests.errors import ConfigError
from manifests.weights import Network, state_digest

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
    run = describe_run(network, sampler, config)
    surroundings = environment(device, processes)
    saved = _read_together(folder, run, processes)
    columns = log_columns(sampler.labels, loss=config.loss)
    log = np.empty((0, len(columns)))
    if saved is not None:
        log = trainee.restore(saved, folder, rows=(saved.update, log.shape[1]))
        warn_of_drift(saved, surroundings)
    processes.need_same("the weights to start from", trainee.digest)
    if processes.is_first:
        write_training_csv(folder / TRAINING_CSV, columns, log)
    # What a checkpoint would hold now. It is replaced in one assignment after a whole update, so an
    # interrupt in the middle of one finds the state before it, and not something half-way.
    moment = Checkpoint(run, len(log), surroundings, trainee.tensors(log))
    n_written = moment.update
    try:
        keys = range(moment.update, config.updates)
        reader = _reader(sampler, config, processes)
        with _deterministic_cudnn(), Prefetch(reader, keys) as batches:
            started = time.perf_counter()
            for update, batch in zip(keys, batches, strict=True):
                activations = None if look_up is None else look_up(batch.rows)
                row = trainee.update(update, batch, activations=activations)
                now = time.perf_counter()
                log = np.vstack([log, [*row, now - started]])
                started = now
                moment = replace(moment, update=update + 1, tensors=trainee.tensors(log))
                if processes.is_first:
                    append_training_csv(folder / TRAINING_CSV, log[-1])
                if moment.update % config.checkpoint_every == 0 or moment.update == config.updates:
                    # Before it is written, so that what is gone on from is what all had.
                    processes.need_same(f"the weights after update {moment.update}", trainee.digest)
                    if processes.is_first:
                        write_checkpoint(folder, moment)
                    n_written = moment.update
                elif moment.update == config.frozen_start:
                    processes.need_same("the weights after the frozen start", trainee.digest)
                if progress is not None:
                    progress(moment.update, config.updates, row[2], row[3])
        trained = trainee.finish()
        processes.need_same("the trained network", lambda: state_digest(trained.module))
    except (KeyboardInterrupt, PeerLost):
        if not processes.is_alone:
            ignore_stops()
        if processes.is_first and moment.update > n_written:
            write_checkpoint(folder, moment)
        raise
    except Diverged:
        # The same options would end here again, so there is nothing worth going on from, and other
        # options must not find a checkpoint that is not theirs.
        if processes.is_first:
            remove_checkpoint(folder)
        raise
    return trained


def _read_together(folder: Path, run: dict[str, object], processes: Processes) -> Checkpoint | None:
    """The checkpoint that the first process finds, on all of them."""
    saved = read_checkpoint(folder, run=run) if processes.is_first else None
    if processes.is_alone:
        return saved
    data = processes.hear_bytes(b"" if saved is None else checkpoint_to_bytes(saved))
    return checkpoint_from_bytes(data) if data else None


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

    with _deterministic_cudnn():
        cache.reserve(
            sampler.rows,
            n_most=config.updates * sum(sampler.counts) // processes.count,
            compute=compute,
            n_caches=processes.count_here,
        )
    return partial(cache.take, compute=compute)


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
