"""Trains CAVGA from a negative set's normal images, and watches it for collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from detector.cavga.collapse import find_collapses
from detector.cavga.losses import WEAKLY_SUPERVISED, LossWeights
from detector.cavga.networks import CavgaNetworks, CavgaShape, mean_image
from detector.cavga.trainee import (
    COLUMNS,
    WEAK_COLUMNS,
    CavgaBatch,
    CavgaTrainee,
    Result,
    figures_of,
)
from detector.normal_images import NormalImages
from detector.train_config import TrainConfig
from detector.training_log import TRAINING_CSV, read_training_csv
from detector.training_loop import Course, deterministic_cudnn, run_updates
from manifests.negative_set import NegativeSet
from manifests.weights import Network

_READ_AT_ONCE = 16


def train_cavga(
    network: Network,
    negative_set: NegativeSet,
    read: Callable[[int], CavgaBatch],
    config: TrainConfig,
    *,
    shape: CavgaShape,
    expansion: float,
    normaliser: str,
    run: dict[str, object],
    folder: Path,
    device: str = "cpu",
    progress: Callable[[int, int, Sequence[float]], None] | None = None,
    looking: Callable[[int, int], None] | None = None,
) -> tuple[Result, tuple[str, ...]]:
    """Train the networks of CAVGA around a copy of a network.

    Args:
        network: where the encoder starts; never changed.
        negative_set: open, for the mean of its normal images.
        read: the batch of an update.
        config: the schedule.
        shape: of the networks.
        expansion: weight of attention expansion; weakly supervised, there is none.
        normaliser: of the attention, a name in `attention.NORMALISERS`.
        run: everything beside these that the result depends on, in plain JSON types.
        folder: of checkpoint and log; see `run_updates`.
        device: "cpu" or "cuda".
        progress: called after every update with updates done, of how many, and the log's row.
        looking: called with (images, images in all) while the mean image is computed.

    Returns:
        The trained encoder and the weights of everything else that scoring needs; and what there is
        to say of collapse, in one line each.

    Raises:
        ConfigError: networks that do not fit together.
        ModelError: a training that diverged.
        OutputError: the folder cannot be written.

    Source: CAVGA (arXiv 1911.08616). Differs: see `CavgaTrainee`.
    """
    images = NormalImages(
        negative_set, _READ_AT_ONCE, start_pass=None if looking is None else lambda: looking
    )
    networks = CavgaNetworks.make(
        network,
        shape,
        seed=config.seed,
        freeze_stages=config.freeze_stages,
        is_trained=False,
        device=device,
    )
    weights = WEAKLY_SUPERVISED if shape.is_weak else LossWeights(expansion=expansion)
    trainee = CavgaTrainee(
        networks,
        config,
        weights=weights,
        normaliser=normaliser,
        mean_image=mean_image(images),
    )
    own = {"detector": "cavga", "normaliser": normaliser, "expansion": expansion}
    course = Course(
        run=run | own | vars(shape),
        columns=WEAK_COLUMNS if shape.is_weak else COLUMNS,
        updates=config.updates,
        checkpoint_every=config.checkpoint_every,
    )
    with deterministic_cudnn():
        result = run_updates(
            trainee,
            trainee.update,
            read,
            course=course,
            folder=folder,
            device=device,
            progress=progress,
        )
    log = read_training_csv(folder / TRAINING_CSV)
    collapses = find_collapses(figures_of(row) for row in log)
    return result, tuple(str(collapse) for collapse in collapses)
