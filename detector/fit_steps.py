"""The steps of `fit`: a network trained, a detector fitted, thresholds set, as a config says."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.activation_cache import ActivationCache
from detector.config import FitConfig
from detector.dataset import TripletSampler
from detector.detectors import DETECTORS, Detector
from detector.detectors.patchcore import PatchCore
from detector.normal_images import NormalImages
from detector.processes import ALONE, Processes
from detector.shared_bank import fit_bank_together
from detector.threshold import Threshold, fit_threshold
from detector.train import TRAINING_CSV, train_extractor
from detector.training_log import read_training_csv
from manifests.images import Geometry
from manifests.negative_set import NegativeSet
from manifests.progress import ProgressMaker, quiet_progress
from manifests.weights import Network


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """An extractor and how it came about; without updates, the one that was given."""

    network: Network
    last_accuracy: float
    seconds: float
    warnings: tuple[str, ...]


def train_network(
    network: Network,
    negative_set: NegativeSet,
    config: FitConfig,
    folder: Path,
    *,
    device: str = "cpu",
    make_progress: ProgressMaker = quiet_progress,
    cache: ActivationCache | None = None,
    processes: Processes = ALONE,
) -> TrainedNetwork:
    """Trains the extractor as `config.train` says; checkpoints and log go to `folder`.

    Args:
        cache: activations to share with other trainings, where `config.train.cache_activations`.
        processes: that train together; only the first one knows the last accuracy.

    Raises:
        ModelError: the set lacks what training needs, or training diverged.
    """
    if config.train.updates == 0:
        return TrainedNetwork(network, float("nan"), 0.0, ())
    started = time.monotonic()
    category = negative_set.manifest.category
    sampler = TripletSampler(
        negative_set,
        batch=config.train.batch,
        seed=config.train.seed,
        negatives=config.train.negatives,
        shares=config.train.shares,
        levels=config.train.levels,
    )
    warnings = []
    if sampler.is_with_replacement:
        warnings.append(
            f"{category}: only {sampler.n_usable} normals for batches of {config.train.batch}; "
            "they are drawn with replacement"
        )
    if sampler.n_skipped:
        warnings.append(
            f"{category}: {sampler.n_skipped} normals have no {' or no '.join(sampler.labels[1:])} "
            "and are not trained on"
        )
    progress = make_progress(f"train {category}", "updates")
    trained = train_extractor(
        network,
        sampler,
        config.train,
        device=device,
        folder=folder,
        cache=cache,
        progress=lambda update, total, loss, accuracy: progress(
            update, total, f"loss {loss:.4f}  accuracy {accuracy:.3f}"
        ),
        processes=processes,
    )
    last = float("nan")
    if processes.is_first:
        last = float(read_training_csv(folder / TRAINING_CSV)[-1]["accuracy"])
    return TrainedNetwork(trained, last, time.monotonic() - started, tuple(warnings))


def make_detector(
    config: FitConfig,
    network: Network,
    geometry: Geometry,
    *,
    untuned: Network | None = None,
    device: str = "cpu",
) -> Detector:
    """The detector of a config, not fitted yet; `untuned` where `config.with_untuned`."""
    kind = DETECTORS[config.detector]
    return kind(network, geometry, config.detector_config(), untuned=untuned, device=device)


def fit_detector(
    detector: Detector,
    negative_set: NegativeSet,
    config: FitConfig,
    *,
    make_progress: ProgressMaker = quiet_progress,
    processes: Processes = ALONE,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Fits a detector to a set's normal images.

    Several processes share the images of PatchCore; other detectors are the first one's work.

    Returns:
        What `Detector.training_scores` returns; None on all processes but the first.
    """
    category = negative_set.manifest.category
    is_shared = not processes.is_alone and isinstance(detector, PatchCore)
    if not processes.is_first and not is_shared:
        return None
    rows = processes.rows(negative_set.n_normals) if is_shared else None
    images = NormalImages(
        negative_set,
        config.batch,
        rows=rows,
        start_pass=lambda: make_progress(f"features {category}", "images"),
    )
    progress = make_progress(f"{config.detector} {category}", detector.progress_unit)
    if is_shared:
        return fit_bank_together(
            detector, images, first_image=rows.start, processes=processes, progress=progress
        )
    detector.fit(images, progress=progress)
    return detector.training_scores()


def thresholds_of(
    scores: tuple[np.ndarray, np.ndarray], rate: float
) -> tuple[Threshold, Threshold]:
    image_scores, map_maxima = scores
    return fit_threshold(image_scores, rate), fit_threshold(map_maxima, rate)
