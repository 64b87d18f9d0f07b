"""The steps of `fit`: a network trained, a detector fitted, thresholds set, as a config says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from detector.activation_cache import ActivationCache
from detector.calibration import HELD_OUT, TRAINING, Calibration
from detector.config import FitConfig
from detector.detectors import DETECTORS, Detector
from detector.detectors.base import Tensors
from detector.detectors.patchcore import PatchCore
from detector.hold_out import held_out
from detector.normal_images import NormalImages
from detector.processes import ALONE, Processes
from detector.shared_bank import fit_bank_together
from detector.train import TRAINING_CSV
from detector.training_log import read_training_csv
from detector.trainings import TRAININGS, TrainedNetwork, TrainingJob
from manifests.images import Geometry
from manifests.negative_set import NegativeSet
from manifests.progress import ProgressMaker, quiet_progress
from manifests.weights import Network


def train_network(
    network: Network,
    negative_set: NegativeSet,
    config: FitConfig,
    folder: Path,
    *,
    anomalous: Path | None = None,
    device: str = "cpu",
    make_progress: ProgressMaker = quiet_progress,
    cache: ActivationCache | None = None,
    processes: Processes = ALONE,
) -> TrainedNetwork:
    """Trains what the config's detector needs trained; checkpoints and log go to `folder`.

    Args:
        anomalous: folder of the images that `config.anomalous` is the digest of.
        cache: activations to share with other trainings, where `config.train.cache_activations`.
        processes: that train together; only the first one knows the last row of the log.

    Raises:
        ConfigError: several processes, and a detector that is trained by one.
        ModelError: the set lacks what training needs, or training diverged.
    """
    if config.train.updates == 0:
        return TrainedNetwork(network)
    started = time.monotonic()
    trained = TRAININGS[config.detector](
        TrainingJob(
            network,
            negative_set,
            config,
            folder,
            device=device,
            make_progress=make_progress,
            processes=processes,
            anomalous=anomalous,
            cache=cache,
        )
    )
    last: Mapping[str, float] = {}
    if processes.is_first:
        last = read_training_csv(folder / TRAINING_CSV)[-1]
    return replace(trained, seconds=time.monotonic() - started, last=last)


def make_detector(
    config: FitConfig,
    network: Network,
    geometry: Geometry,
    *,
    untuned: Network | None = None,
    learned: Tensors | None = None,
    device: str = "cpu",
) -> Detector:
    """The detector of a config, not fitted yet.

    Args:
        network: as `train_network` gives it, and so `learned`.
        geometry: canvas of all images.
        untuned: the network before training, where `config.with_untuned`.
    """
    kind = DETECTORS[config.detector]
    return kind(
        network,
        geometry,
        config.detector_config(),
        untuned=untuned,
        learned=learned,
        device=device,
    )


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
    shared = detector if isinstance(detector, PatchCore) and not processes.is_alone else None
    if not processes.is_first and shared is None:
        return None
    rows = None if shared is None else processes.rows(negative_set.n_normals)
    images = NormalImages(
        negative_set,
        config.batch,
        rows=rows,
        start_pass=lambda: make_progress(f"features {category}", "images"),
    )
    progress = make_progress(f"{config.detector} {category}", detector.progress_unit)
    if shared is not None and rows is not None:
        return fit_bank_together(
            shared, images, first_image=rows.start, processes=processes, progress=progress
        )
    detector.fit(images, progress=progress)
    return detector.training_scores()


def calibration_of(
    scores: tuple[np.ndarray, np.ndarray], negative_set: NegativeSet, config: FitConfig
) -> Calibration:
    """What thresholds come from: scores of the normals that training left out, or of all.

    Args:
        scores: of all normals, as `Detector.training_scores` returns them.
    """
    train, source = config.train, TRAINING
    if train.hold_out:
        counted = held_out(negative_set.normal_digests(), train.hold_out, train.seed)
        scores, source = (scores[0][counted], scores[1][counted]), HELD_OUT
    return Calibration.of(*scores, source)
