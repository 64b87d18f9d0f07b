"""One update after the other: reading ahead, log, checkpoints, and what is done when it stops.

Whatever is trained, it is trained here. What an update depends on follows from its number alone,
so that a training that is interrupted and goes on from its checkpoint ends with the weights of one
that never was, bit for bit on one machine with one number of threads. On a GPU that holds as far as
backward passes repeat themselves there; that of bilinear interpolation does not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from detector.checkpoint import (
    Checkpoint,
    checkpoint_from_bytes,
    checkpoint_to_bytes,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from detector.diverged import Diverged
from detector.prefetch import Prefetch
from detector.processes import ALONE, PeerLost, Processes
from detector.stop_signals import ignore_stops
from detector.training_log import TRAINING_CSV, append_training_csv, write_training_csv
from detector.training_run import environment, warn_of_drift

Result = TypeVar("Result")
Batch = TypeVar("Batch")


class Learner(Protocol[Result]):
    """Something that is trained, between updates."""

    def tensors(self, log: np.ndarray) -> dict[str, torch.Tensor]:
        """Copies of everything the next update depends on, and the log, by name."""
        ...

    def restore(self, saved: Checkpoint, folder: Path, *, rows: tuple[int, int]) -> np.ndarray:
        """Take over a checkpoint and return its log, float64 of shape `rows`.

        Raises:
            ModelError: names or shapes are not this learner's.
        """
        ...

    def digest(self) -> str:
        """SHA-256 of the state, to compare with the copies of other processes."""
        ...

    def finish(self) -> Result:
        """What was learned; nothing can be trained afterwards. Raises Diverged."""
        ...

    def result_digest(self, result: Result) -> str:
        """SHA-256 of what `finish` gave."""
        ...


@dataclass(frozen=True)
class Course:
    """What one training consists of.

    Attributes:
        run: everything the result depends on, in plain JSON types; a checkpoint goes on only with
            the same run.
        columns: of the log: what a step returns, and `seconds`.
        updates: how many there are.
        checkpoint_every: updates between two checkpoints.
        milestones: numbers of updates done after which the copies of all processes are compared,
            beside those with a checkpoint, and what is compared in words.
    """

    run: Mapping[str, object]
    columns: Sequence[str]
    updates: int
    checkpoint_every: int
    milestones: Mapping[int, str] = field(default_factory=dict)


def run_updates(
    learner: Learner[Result],
    step: Callable[[int, Any], list[float]],
    read: Callable[[int], Any],
    *,
    course: Course,
    folder: Path,
    device: str,
    progress: Callable[[int, int, Sequence[float]], None] | None = None,
    processes: Processes = ALONE,
) -> Result:
    """Train to the end, from the folder's checkpoint where there is one.

    The folder gets `training.csv`, one row per update, and a checkpoint every
    `course.checkpoint_every` updates, on Ctrl-C and at the end. Of several processes the first one
    alone writes, and reads, the folder; that their copies are the same, bit for bit, is checked at
    the start, at the milestones, at every checkpoint and at the end.

    Args:
        learner: what is trained.
        step: does one update: from its number, from 0, and what was read for it to the log's
            columns but the last.
        read: reads what an update needs, in a thread, while the one before runs.
        course: what the training consists of.
        folder: made where it is missing.
        device: "cpu" or "cuda".
        progress: called after every update with updates done, of how many, and the row of the log.
        processes: that train together, all of them with the same arguments but for the folder.

    Returns:
        What `learner.finish` gives.

    Raises:
        Diverged: loss or weights are no longer finite.
        ModelError: the folder's checkpoint is damaged or belongs to another training, or the
            processes' weights differ.
        OutputError: the folder cannot be written.
        PeerLost: another process has gone; after the checkpoint was written.
        KeyboardInterrupt: after the checkpoint was written.

    Source: ours.
    """
    surroundings = environment(device, processes)
    saved = _read_together(folder, course.run, processes)
    columns = list(course.columns)
    log = np.empty((0, len(columns)))
    if saved is not None:
        log = learner.restore(saved, folder, rows=(saved.update, log.shape[1]))
        warn_of_drift(saved, surroundings)
    processes.need_same("the weights to start from", learner.digest)
    if processes.is_first:
        write_training_csv(folder / TRAINING_CSV, columns, log)
    # What a checkpoint would hold now. It is replaced in one assignment after a whole update, so an
    # interrupt in the middle of one finds the state before it, and not something half-way.
    moment = Checkpoint(course.run, len(log), surroundings, learner.tensors(log))
    n_written = moment.update
    try:
        keys = range(moment.update, course.updates)
        with Prefetch(read, keys) as batches:
            started = time.perf_counter()
            for update, batch in zip(keys, batches, strict=True):
                row = step(update, batch)
                now = time.perf_counter()
                log = np.vstack([log, [*row, now - started]])
                started = now
                moment = replace(moment, update=update + 1, tensors=learner.tensors(log))
                if processes.is_first:
                    append_training_csv(folder / TRAINING_CSV, log[-1])
                is_last = moment.update == course.updates
                if moment.update % course.checkpoint_every == 0 or is_last:
                    # Before it is written, so that what is gone on from is what all had.
                    processes.need_same(f"the weights after update {moment.update}", learner.digest)
                    if processes.is_first:
                        write_checkpoint(folder, moment)
                    n_written = moment.update
                elif moment.update in course.milestones:
                    processes.need_same(course.milestones[moment.update], learner.digest)
                if progress is not None:
                    progress(moment.update, course.updates, row)
        result = learner.finish()
        processes.need_same("the trained network", lambda: learner.result_digest(result))
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
    return result


def _read_together(
    folder: Path, run: Mapping[str, object], processes: Processes
) -> Checkpoint | None:
    """The checkpoint that the first process finds, on all of them."""
    saved = read_checkpoint(folder, run=run) if processes.is_first else None
    if processes.is_alone:
        return saved
    data = processes.hear_bytes(b"" if saved is None else checkpoint_to_bytes(saved))
    return checkpoint_from_bytes(data) if data else None


@contextlib.contextmanager
def deterministic_cudnn() -> Iterator[None]:
    """cuDNN with repeatable algorithms while training, then as it was."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
