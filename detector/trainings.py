"""What each detector needs trained, and how; a row in `TRAININGS` for every one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from detector.activation_cache import ActivationCache
from detector.anomalous_images import AnomalousImages
from detector.cavga.batches import ANOMALOUS_SHARE, NegativeBatches, NormalBatches
from detector.cavga.trainee import CavgaBatch
from detector.cavga.training import train_cavga
from detector.config import FitConfig
from detector.dataset import TripletSampler, kinds_of
from detector.detectors import CavgaConfig
from detector.detectors.base import Tensors
from detector.detectors.cavga import shape_of
from detector.guided.training import NEGATIVES_PER_NORMAL, train_guided
from detector.hold_out import held_out
from detector.processes import Processes
from detector.tiles import check_tiled_canvas
from detector.train import train_extractor
from detector.windows import WindowSampler
from manifests.errors import ConfigError, DataError
from manifests.images import Geometry
from manifests.negative_set import NegativeSet
from manifests.progress import ProgressMaker
from manifests.weights import Network


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network and how it came about; without updates, the one that was given.

    Attributes:
        learned: what else was trained, by name, where the detector is trained itself.
        files: SHA-256 of what it saw beside the set's own files.
        last: the last row of the training's log.
    """

    network: Network
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    learned: Tensors = field(default_factory=dict)
    files: tuple[str, ...] = ()
    last: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """What is to be trained, from what, and where its checkpoints go.

    Attributes:
        network: to start from.
        folder: of checkpoints and the log.
        anomalous: folder of the images that `config.anomalous` is the digest of.
        cache: activations to share with other trainings.
        processes: that train together.
    """

    network: Network
    negative_set: NegativeSet
    config: FitConfig
    folder: Path
    device: str
    make_progress: ProgressMaker
    processes: Processes
    anomalous: Path | None = None
    cache: ActivationCache | None = None

    @property
    def category(self) -> str:
        """Whose set it is."""
        return self.negative_set.manifest.category


def _train_extractor(job: TrainingJob) -> TrainedNetwork:
    """The extractor, trained to tell kinds of negatives, as PatchCore and the Gaussian need it."""
    check_tiled_canvas(job.config.tile, job.negative_set.geometry)
    whole, warnings = _sampler(job)
    tile = job.config.train.tile
    sampler = whole if tile is None else WindowSampler(whole, tile)
    progress = job.make_progress(f"train {job.category}", "updates")
    trained = train_extractor(
        job.network,
        sampler,
        job.config.train,
        device=job.device,
        folder=job.folder,
        cache=job.cache,
        progress=lambda update, total, loss, accuracy: progress(
            update, total, f"loss {loss:.4f}  accuracy {accuracy:.3f}"
        ),
        processes=job.processes,
    )
    return TrainedNetwork(trained, warnings=warnings)


def _train_guided(job: TrainingJob) -> TrainedNetwork:
    """The segmentation network, its encoder among it, and what guides it."""
    _need_one_process(job)
    kinds = job.config.train.negatives or kinds_of(job.negative_set)
    shares = job.config.train.shares or (NEGATIVES_PER_NORMAL / len(kinds),) * len(kinds)
    sampler, warnings = _sampler(job, shares)
    progress = job.make_progress(f"train {job.category}", "updates")
    trained, learned = train_guided(
        job.network,
        job.negative_set,
        sampler,
        job.config.train,
        is_guided=job.config.guidance,
        width=job.config.width,
        folder=job.folder,
        left_out=_left_out(job),
        device=job.device,
        looking=job.make_progress(f"alike {job.category}", "images"),
        progress=lambda update, total, row: progress(
            update, total, f"loss {row[2]:.4f}  accuracy {row[3]:.3f}"
        ),
    )
    return TrainedNetwork(trained, warnings=warnings, learned=learned)


def _train_cavga(job: TrainingJob) -> TrainedNetwork:
    """The autoencoder, its encoder among it."""
    _need_one_process(job)
    train, own = job.config.train, cast(CavgaConfig, job.config.detector_config())
    warnings: tuple[str, ...] = ()
    known = None
    if job.config.weak:
        kinds = train.negatives or kinds_of(job.negative_set)
        shares = train.shares or (ANOMALOUS_SHARE / len(kinds),) * len(kinds)
        sampler, warnings = _sampler(job, shares)
        read: Callable[[int], CavgaBatch] = NegativeBatches(job.negative_set, sampler)
    else:
        if job.config.anomalous is not None:
            known = _known_anomalies(job.anomalous, job.config.anomalous, job.negative_set.geometry)
        read = NormalBatches(
            job.negative_set,
            batch=train.batch,
            seed=train.seed,
            anomalous=known,
            left_out=_left_out(job),
        )
    run = train.to_json() | {
        "network": job.network.name,
        "network_digest": job.network.digest,
        "set_digest": job.negative_set.digest,
        "anomalous": job.config.anomalous,
    }
    del run["checkpoint_every"]
    progress = job.make_progress(f"train {job.category}", "updates")
    (trained, learned), collapses = train_cavga(
        job.network,
        job.negative_set,
        read,
        train,
        shape=shape_of(own, job.negative_set.geometry),
        expansion=job.config.expansion,
        normaliser=job.config.normaliser,
        run=run,
        folder=job.folder,
        device=job.device,
        looking=job.make_progress(f"mean {job.category}", "images"),
        progress=lambda update, total, row: progress(
            update, total, f"loss {row[2]:.4f}  attention {row[9]:.3f}"
        ),
    )
    return TrainedNetwork(
        trained,
        warnings=(*warnings, *(f"{job.category}: {collapse}" for collapse in collapses)),
        learned=learned,
        files=() if known is None else known.file_digests,
    )


def _known_anomalies(folder: Path | None, digest: str, geometry: Geometry) -> AnomalousImages:
    """The images of a folder. Raises DataError where they are not those of the digest."""
    if folder is None:
        raise ConfigError("the images of --anomalous are not here", expected=digest)
    known = AnomalousImages.read(folder, geometry)
    if known.digest != digest:
        raise DataError(
            "its images changed meanwhile", path=folder, expected=digest, got=known.digest
        )
    return known


def _sampler(
    job: TrainingJob, shares: tuple[float, ...] = ()
) -> tuple[TripletSampler, tuple[str, ...]]:
    """Where training batches come from, and what is to be said of it.

    Args:
        shares: of each kind, where the config names none.
    """
    category, train = job.category, job.config.train
    sampler = TripletSampler(
        job.negative_set,
        batch=train.batch,
        seed=train.seed,
        negatives=train.negatives,
        shares=train.shares or shares,
        levels=train.levels,
        left_out=_left_out(job),
    )
    warnings = []
    if sampler.is_with_replacement:
        warnings.append(
            f"{category}: only {sampler.n_usable} normals for batches of {train.batch}; "
            "they are drawn with replacement"
        )
    if sampler.n_skipped:
        warnings.append(
            f"{category}: {sampler.n_skipped} normals have no {' or no '.join(sampler.labels[1:])} "
            "and are not trained on"
        )
    return sampler, tuple(warnings)


def _left_out(job: TrainingJob) -> np.ndarray | None:
    """Which normals training does not see; None for none."""
    train = job.config.train
    if not train.hold_out:
        return None
    return held_out(job.negative_set.normal_digests(), train.hold_out, train.seed)


def _need_one_process(job: TrainingJob) -> None:
    if not job.processes.is_alone:
        raise ConfigError(
            f"the detector {job.config.detector} is trained by one process",
            got=f"{job.processes.count} processes",
            hint="run it without torchrun",
        )


TRAININGS: dict[str, Callable[[TrainingJob], TrainedNetwork]] = {
    "patchcore": _train_extractor,
    "gaussian": _train_extractor,
    "guided-seg": _train_guided,
    "cavga": _train_cavga,
}
