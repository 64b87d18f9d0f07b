"""Trains guided segmentation from a negative set: who guides whom, then update after update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from detector.dataset import TripletSampler
from detector.embeddings import CellEmbeddings
from detector.guided.batch import GuidedBatches
from detector.guided.networks import GuidedNetworks
from detector.guided.retrieval import embeddings, nearest
from detector.guided.trainee import COLUMNS, GuidedTrainee, Result
from detector.normal_images import NormalImages
from detector.train_config import TrainConfig
from detector.training_loop import Course, deterministic_cudnn, run_updates
from detector.training_run import describe_run
from manifests.negative_set import NegativeSet
from manifests.weights import Network

NEIGHBOURS = 5
"""Normals that may guide an image in training."""
NEGATIVES_PER_NORMAL = 3.0
"""Of all kinds together, where no shares are named."""

_EMBEDDING_BATCH = 16


def train_guided(
    network: Network,
    negative_set: NegativeSet,
    sampler: TripletSampler,
    config: TrainConfig,
    *,
    is_guided: bool,
    width: int | None,
    folder: Path,
    left_out: np.ndarray | None = None,
    device: str = "cpu",
    progress: Callable[[int, int, Sequence[float]], None] | None = None,
    looking: Callable[[int, int], None] | None = None,
) -> Result:
    """Train a copy of a network to segment what negatives have that normals have not.

    Args:
        network: where the encoder starts; never changed. It also decides which normals are alike.
        negative_set: open; `sampler` draws from it.
        sampler: of batches with masks.
        config: the schedule.
        is_guided: whether a similar normal guides the segmentation.
        width: of decoder and guidance; None for the default.
        folder: of checkpoint and log; see `run_updates`.
        left_out: (n_normals,) bool, normals that guide nobody; None for none.
        device: "cpu" or "cuda".
        progress: called after every update with updates done, of how many, and the log's row.
        looking: called with (images, images in all) while normals are compared.

    Returns:
        The trained encoder, and the weights of everything else by name.

    Raises:
        ConfigError: not as many stages as are to be frozen.
        ModelError: too few normals to guide each other, or a training that diverged.
        OutputError: the folder cannot be written.

    Source: SGSF (arXiv 2209.12440; abstract only); details as in NIGSF (IEEE TCSVT 34(6), 2024).
    Differs: see `GuidedBatches`, `GuidedTrainee` and `Segmenter`.
    """
    neighbours = None
    if is_guided:
        neighbours = _neighbours(network, negative_set, left_out, device, looking)
    networks = GuidedNetworks.make(
        network,
        is_guided=is_guided,
        width=width,
        seed=config.seed,
        freeze_stages=config.freeze_stages,
        device=device,
    )
    trainee = GuidedTrainee(networks, config)
    run = describe_run(network, sampler, config)
    with deterministic_cudnn():
        return run_updates(
            trainee,
            trainee.update,
            GuidedBatches(negative_set, sampler, neighbours),
            course=Course(
                run=run | {"detector": "guided-seg", "guidance": is_guided, "width": width},
                columns=COLUMNS,
                updates=config.updates,
                checkpoint_every=config.checkpoint_every,
            ),
            folder=folder,
            device=device,
            progress=progress,
        )


def _neighbours(
    network: Network,
    negative_set: NegativeSet,
    left_out: np.ndarray | None,
    device: str,
    looking: Callable[[int, int], None] | None,
) -> np.ndarray:
    """(n_normals, n) int64, the normals most similar to each, itself not among them.

    Rows of normals that are left out mean nothing, and none of the others names them.
    """
    cells = CellEmbeddings(network, device=device)
    images = NormalImages(
        negative_set, _EMBEDDING_BATCH, start_pass=None if looking is None else lambda: looking
    )
    found = torch.cat([embeddings(cells, *batch) for batch in images])
    kept = np.flatnonzero(np.ones(len(found), bool) if left_out is None else ~left_out)
    some = found[torch.from_numpy(kept).to(found.device)]
    rows = torch.arange(len(some), device=some.device)
    chosen = nearest(some, some, count=min(NEIGHBOURS, len(some) - 1), exclude=rows)
    neighbours = np.zeros((len(found), chosen.shape[1]), dtype=np.int64)
    neighbours[kept] = kept[chosen.cpu().numpy()]
    return neighbours
