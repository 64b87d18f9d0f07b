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


def _train_extractor(
    network: Network,
    negative_set: NegativeSet,
    config: FitConfig,
    folder: Path,
    *,
    anomalous: Path | None,
    device: str,
    make_progress: ProgressMaker,
    cache: ActivationCache | None,
    processes: Processes,
) -> TrainedNetwork:
    """The extractor, trained to tell kinds of negatives, as PatchCore and the Gaussian need it."""
    check_tiled_canvas(config.tile, negative_set.geometry)
    category = negative_set.manifest.category
    whole, warnings = _sampler(negative_set, config)
    sampler = whole if config.train.tile is None else WindowSampler(whole, config.train.tile)
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
    anomalous: Path | None,
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
        left_out=_left_out(negative_set, config),
        device=device,
        looking=make_progress(f"alike {category}", "images"),
        progress=lambda update, total, row: progress(
            update, total, f"loss {row[2]:.4f}  accuracy {row[3]:.3f}"
        ),
    )
    return TrainedNetwork(trained, warnings=warnings, learned=learned)


def _train_cavga(
    network: Network,
    negative_set: NegativeSet,
    config: FitConfig,
    folder: Path,
    *,
    anomalous: Path | None,
    device: str,
    make_progress: ProgressMaker,
    cache: ActivationCache | None,
    processes: Processes,
) -> TrainedNetwork:
    """The autoencoder, its encoder among it."""
    _need_one_process(config, processes)
    category = negative_set.manifest.category
    train, own = config.train, cast(CavgaConfig, config.detector_config())
    warnings: tuple[str, ...] = ()
    known = None
    if config.weak:
        kinds = train.negatives or kinds_of(negative_set)
        shares = train.shares or (ANOMALOUS_SHARE / len(kinds),) * len(kinds)
        sampler, warnings = _sampler(negative_set, config, shares=shares)
        read: Callable[[int], CavgaBatch] = NegativeBatches(negative_set, sampler)
    else:
        if config.anomalous is not None:
            known = _known_anomalies(anomalous, config.anomalous, negative_set.geometry)
        read = NormalBatches(
            negative_set,
            batch=train.batch,
            seed=train.seed,
            anomalous=known,
            left_out=_left_out(negative_set, config),
        )
    run = train.to_json() | {
        "network": network.name,
        "network_digest": network.digest,
        "set_digest": negative_set.digest,
        "anomalous": config.anomalous,
    }
    del run["checkpoint_every"]
    progress = make_progress(f"train {category}", "updates")
    (trained, learned), collapses = train_cavga(
        network,
        negative_set,
        read,
        train,
        shape=shape_of(own, negative_set.geometry),
        expansion=config.expansion,
        normaliser=config.normaliser,
        run=run,
        folder=folder,
        device=device,
        looking=make_progress(f"mean {category}", "images"),
        progress=lambda update, total, row: progress(
            update, total, f"loss {row[2]:.4f}  attention {row[9]:.3f}"
        ),
    )
    return TrainedNetwork(
        trained,
        warnings=(*warnings, *(f"{category}: {collapse}" for collapse in collapses)),
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
        left_out=_left_out(negative_set, config),
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


def _left_out(negative_set: NegativeSet, config: FitConfig) -> np.ndarray | None:
    """Which normals training does not see; None for none."""
    train = config.train
    if not train.hold_out:
        return None
    return held_out(negative_set.normal_digests(), train.hold_out, train.seed)


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
    "cavga": _train_cavga,
}
