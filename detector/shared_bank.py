"""PatchCore's memory bank from several processes, each with its share of the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch

from detector.detectors.base import Coverage, NormalBatches
from detector.detectors.patchcore import PatchCore
from detector.memory_bank import MemoryBank
from detector.processes import Processes
from detector.training_features import TrainingFeatures

Progress = Callable[[int, int], None]


def fit_bank_together(
    detector: PatchCore,
    batches: NormalBatches,
    *,
    first_image: int,
    processes: Processes,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Give the detectors of all processes the same bank, and score the training images against it.

    Every process reduces the features of its images to as many as the whole bank will hold, by the
    greedy k-centre; the first process chooses the bank among all of these in the same way. Where
    the memory budget, which is that of each process, does not hold the features of its images, it
    keeps the candidates of merge and reduce instead. For one seed and number of processes it is
    always the same bank. Its covering radius is at most four times the best possible, where that of
    one search over all features is at most twice; measured radii are in docs/scale.md.

    Args:
        detector: one per process, of the same network, geometry and config; gets the bank.
        batches: this process's images, as `PatchCore.fit` takes them; at least one.
        first_image: number of the first of them among all. The shares of the processes follow one
            another in the order of their ranks.
        processes: that take part.
        progress: called with (patches chosen, patches wanted) of this process's part.

    Returns:
        What `PatchCore.training_scores` returns, for all images in order, on the first process;
        None on the others. The first one's detector has the `coverage` of all images.

    Raises:
        ModelError: images that do not fit, or a bank from one image alone.
        PeerLost: another process has gone.

    Source: Malkomes et al. 2015, "Fast distributed k-center clustering with outliers on massive
    data", for the two rounds and the factor of four.
    """
    features: torch.Tensor | None
    origins: torch.Tensor | None
    training: TrainingFeatures | NormalBatches
    n_images = int(processes.sum_(torch.tensor([len(batches)])))
    if detector.fits(len(batches)):
        training = kept = detector.collect(batches)
        n_rows = int(processes.sum_(torch.tensor([len(kept.features)])))
        wanted = detector.bank_size(n_rows)
        own = detector.choose(kept.features, wanted, progress=progress)
        features, origins = kept.features[own], kept.origins()[own]
        blocks = 1
    else:
        training = batches
        tree, blocks = detector.candidates(batches, all_images=n_images)
        features = torch.cat([part.features for part in tree.parts])
        origins = torch.cat([part.origins for part in tree.parts])
        n_rows = int(processes.sum_(torch.tensor([sum(part.rows for part in tree.parts)])))
        wanted = detector.bank_size(n_rows)
    origins = origins + origins.new_tensor([first_image, 0])
    features, origins = processes.collect(features.contiguous()), processes.collect(origins)
    parts: dict[str, torch.Tensor] = {}
    if features is not None and origins is not None:  # on the first process
        final = detector.choose(features, wanted)
        parts = {"features": features[final], "origins": origins[final]}
    parts = processes.hear_tensors(parts)
    bank = MemoryBank.of(parts["features"].to(detector.device), parts["origins"])
    detector.adopt_bank(bank, training=training, first_image=first_image, blocks=blocks)
    image, maxima = (processes.collect(torch.from_numpy(own)) for own in detector.training_scores())
    coverage = _united(cast(Coverage, detector.coverage), processes)
    if image is None or maxima is None:  # on all but the first process
        return None
    detector.coverage = coverage
    return image.numpy(), maxima.numpy()


def _united(own: Coverage, processes: Processes) -> Coverage | None:
    """The coverage of all processes' images; None on all but the first."""
    row = torch.tensor([[own.radius, own.mean * own.patches, own.blocks, own.patches]]).double()
    rows = processes.collect(row)
    if rows is None:
        return None
    patches = int(rows[:, 3].sum())
    return Coverage(
        radius=float(rows[:, 0].max()),
        mean=float(rows[:, 1].sum()) / patches,
        blocks=int(rows[:, 2].sum()),
        patches=patches,
    )
