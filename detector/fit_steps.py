"""The steps of `fit`: a network trained, a detector fitted, thresholds set, as a config says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from detector.activation_cache import ActivationCache
from detector.config import FitConfig
from detector.dataset import TripletSampler, kinds_of
from detector.detectors import DETECTORS, Detector
from detector.detectors.base import Tensors
from detector.detectors.patchcore import PatchCore
from detector.guided.training import NEGATIVES_PER_NORMAL, train_guided
from detector.normal_images import NormalImages
from detector.processes import ALONE, Processes
from detector.shared_bank import fit_bank_together
from detector.threshold import Threshold, fit_threshold
from detector.train import TRAINING_CSV, train_extractor
from detector.training_log import read_training_csv
from manifests.errors import ConfigError
from manifests.images import Geometry
from manifests.negative_set import NegativeSet
from manifests.progress import ProgressMaker, quiet_progress
from manifests.weights import Network


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network and how it came about; without updates, the one that was given.

    Attributes:
        learned: what else was trained, by name, where the detector is trained itself.
        last: the last row of the training's log.
    """

    network: Network
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    learned: Tensors = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)


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
    """Trains what the config's detector needs trained; checkpoints and log go to `folder`.

    Args:
        cache: activations to share with other trainings, where `config.train.cache_activations`.
        processes: that train together; only the first one knows the last row of the log.

    Raises:
        ConfigError: several processes, and a detector that is trained by one.
        ModelError: the set lacks what training needs, or training diverged.
    """
    if config.train.updates == 0:
        return TrainedNetwork(network)
    started = time.monotonic()
    train = TRAININGS[config.detector]
    trained = train(
        network,
        negative_set,
        config,
        folder,
        device=device,
        make_progress=make_progress,
        cache=cache,
        processes=processes,
    )
    last: Mapping[str, float] = {}
    if processes.is_first:
        last = read_training_csv(folder / TRAINING_CSV)[-1]
    return replace(trained, seconds=time.monotonic() - started, last=last)


def _train_extractor(
    network: Network,
    negative_set: NegativeSet,
    config: FitConfig,
    folder: Path,
    *,
    device: str,
    make_progress: ProgressMaker,
    cache: ActivationCache | None,
    processes: Processes,
) -> TrainedNetwork:
    """The extractor, trained to tell kinds of negatives, as PatchCore and the Gaussian need it."""
    category = negative_set.manifest.category
    sampler, warnings = _sampler(negative_set, config)
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
    return TrainedNetwork(trained, warnings=warnings)


def _train_guided(
    network: Network,
    negative_set: NegativeSet,
    config: FitConfig,
    folder: Path,
    *,
    device: str,
    make_progress: ProgressMaker,
    cache: ActivationCache | None,
    processes: Processes,
) -> TrainedNetwork:
    """The segmentation network, its encoder among it, and what guides it."""
    _need_one_process(config, processes)
    category = negative_set.manifest.category
    kinds = config.train.negatives or kinds_of(negative_set)
    shares = config.train.shares or (NEGATIVES_PER_NORMAL / len(kinds),) * len(kinds)
    sampler, warnings = _sampler(negative_set, config, shares=shares)
    progress = make_progress(f"train {category}", "updates")
    trained, learned = train_guided(
        network,
        negative_set,
        sampler,
        config.train,
        is_guided=config.guidance,
        width=config.width,
        folder=folder,
        device=device,
        looking=make_progress(f"alike {category}", "images"),
        progress=lambda update, total, row: progress(
            update, total, f"loss {row[2]:.4f}  accuracy {row[3]:.3f}"
        ),
    )
    return TrainedNetwork(trained, warnings=warnings, learned=learned)


def _sampler(
    negative_set: NegativeSet, config: FitConfig, *, shares: tuple[float, ...] = ()
) -> tuple[TripletSampler, tuple[str, ...]]:
    """Where training batches come from, and what is to be said of it.

    Args:
        shares: of each kind, where the config names none.
    """
    category = negative_set.manifest.category
    sampler = TripletSampler(
        negative_set,
        batch=config.train.batch,
        seed=config.train.seed,
        negatives=config.train.negatives,
        shares=config.train.shares or shares,
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
    return sampler, tuple(warnings)


def _need_one_process(config: FitConfig, processes: Processes) -> None:
    if not processes.is_alone:
        raise ConfigError(
            f"the detector {config.detector} is trained by one process",
            got=f"{processes.count} processes",
            hint="run it without torchrun",
        )


TRAININGS: dict[str, Callable[..., TrainedNetwork]] = {
    "patchcore": _train_extractor,
    "gaussian": _train_extractor,
    "guided-seg": _train_guided,
}


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
