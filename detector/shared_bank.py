"""PatchCore's memory bank from several processes, each with its share of the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from detector.coreset import coreset_size, k_centre
from detector.detectors.base import Batch
from detector.detectors.patchcore import PatchCore
from detector.memory_bank import MemoryBank
from detector.processes import Processes


def fit_bank_together(
    detector: PatchCore,
    batches: Iterable[Batch],
    *,
    first_image: int,
    processes: Processes,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Give the detectors of all processes the same bank, and score the training images against it.

    Every process reduces the features of its images to as many as the whole bank will hold, by the
    greedy k-centre; the first process chooses the bank among all of these in the same way. For one
    seed and number of processes it is always the same bank. Its covering radius is at most four
    times the best possible, where that of one search over all features is at most twice; measured
    radii are in docs/scale.md.

    Args:
        detector: one per process, of the same network, geometry and config; gets the bank.
        batches: of this process's images, as `PatchCore.fit` takes them; at least one.
        first_image: number of the first of them among all. The shares of the processes follow one
            another in the order of their ranks.
        processes: that take part.
        progress: called with (patches chosen, patches wanted) of this process's part.

    Returns:
        What `PatchCore.training_scores` returns, for all images in order, on the first process;
        None on the others.

    Raises:
        ModelError: images that do not fit, or a bank from one image alone.
        PeerLost: another process has gone.

    Source: Malkomes et al. 2015, "Fast distributed k-center clustering with outliers on massive
    data", for the two rounds and the factor of four.
    """
    training = detector.collect(batches)
    config = detector.config
    n_all = int(processes.sum_(torch.tensor([len(training.features)])))
    wanted = coreset_size(n_all, config.coreset_ratio, config.coreset_max)
    own = _choose(detector, training.features, wanted, progress)
    owners = training.owners()[own] + first_image
    features = processes.collect(training.features[own].contiguous())
    owners = processes.collect(owners.to(torch.int32))
    parts: dict[str, torch.Tensor] = {}
    if processes.is_first:
        final = _choose(detector, features, wanted, None)
        parts = {"features": features[final], "image_index": owners[final]}
    parts = processes.hear_tensors(parts)
    detector.adopt_bank(MemoryBank(parts["features"].to(detector.device), parts["image_index"]))
    image = torch.empty(len(training))
    maxima = torch.empty(len(training))
    for i in range(len(training)):
        scores = detector.score_features(
            training.features[training.rows(i)].to(detector.device),
            training.valid[i : i + 1],
            training.boxes[i : i + 1],
            exclude_image=first_image + i,
        )
        image[i], maxima[i] = float(scores.image[0]), float(scores.map.max())
    image, maxima = processes.collect(image), processes.collect(maxima)
    return (image.numpy(), maxima.numpy()) if processes.is_first else None


def _choose(
    detector: PatchCore,
    features: torch.Tensor,
    wanted: int,
    progress: Callable[[int, int], None] | None,
) -> torch.Tensor:
    """Rows of the features that are kept, ascending; all where there are no more than wanted."""
    if len(features) <= wanted:
        return torch.arange(len(features))
    picks = k_centre(
        features,
        wanted,
        rng=np.random.default_rng(detector.config.seed),
        projection_dim=detector.config.projection_dim,
        progress=progress,
    )
    return picks.sort().values
