"""Orders the steps of `fit` and `eval`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from detector.config import TRAINED_WITH, FitConfig
from detector.evaluate import evaluate
from detector.fit_folder import Identity, clear_folder, take_folder
from detector.fit_steps import calibration_of, fit_detector, make_detector, train_network
from detector.min_area import ANY_AREA, MinArea
from detector.model import Model, load_model, save_model
from detector.model_folder import models_root
from detector.model_record import read_record
from detector.normal_list import FittedNormal
from detector.processes import ALONE, Processes
from detector.results import EvalResult, measure, write_scores, write_text
from manifests.confine import category_folder
from manifests.datasets import Category
from manifests.digest import bytes_digest
from manifests.errors import ConfigError, DigestError, OutputError
from manifests.images import DEFAULT_MAX_PIXELS
from manifests.licence import pixel_warning
from manifests.negative_set import NegativeSet
from manifests.progress import ProgressMaker, quiet_progress
from manifests.schema import read_manifest
from manifests.versions import library_versions
from manifests.weights import load_network


@dataclass(frozen=True)
class FitSummary:
    """What a fit did. Durations in seconds; `learned` is the detector's own summary.

    `last_accuracy` and `last_loss` are of the last update's batch; None where nothing was trained
    now, or there is nothing of the kind.
    `threshold_images` is how many good images the thresholds come from, and `calibrated_on` which
    ones (`calibration.SOURCES`); `false_alarm_interval` between which rates good images
    exceed the image threshold, see `Threshold.rate_interval`.
    `covering_radius` and `covering_mean` say how far training patches are from their nearest bank
    entry, `blocks` in how many blocks it was chosen: None where nothing was fitted, or no bank.
    """

    folder: Path
    category: str
    model_digest: str
    is_unchanged: bool
    updates: int
    last_accuracy: float | None
    last_loss: float | None
    detector: str
    learned: str
    image_threshold: float
    pixel_threshold: float
    threshold_images: int
    calibrated_on: str
    false_alarm_interval: tuple[float, float]
    covering_radius: float | None
    covering_mean: float | None
    blocks: int | None
    train_seconds: float
    seconds: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict:
        """Plain JSON types."""
        return vars(self) | {
            "folder": str(self.folder),
            "warnings": list(self.warnings),
            "false_alarm_interval": list(self.false_alarm_interval),
        }


def fit_model(
    set_folder: str | PathLike[str],
    config: FitConfig,
    out: str | PathLike[str],
    *,
    weights: Path | None = None,
    anomalous: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    expect: str | None = None,
    make_progress: ProgressMaker = quiet_progress,
    processes: Processes = ALONE,
) -> FitSummary | None:
    """Fits one category's model into `out/<category>/`.

    Args:
        anomalous: folder of the images that `config.anomalous` is the digest of.
        expect: the set digest that the set must have; another one is refused before anything is
            read or written.
        processes: that fit it together, all of them with the same arguments; only the first one
            holds the folder and writes into it, and `out` need not be there for the others.

    Returns:
        What was done; None on all processes but the first.

    Raises:
        ConfigError: there are more processes than images, or the batch cannot be shared out.
        PeerLost: another process has gone.
        OutputError: the folder cannot be written, or another run is writing there.
        SetError, DigestError: the set is damaged, malformed or not the expected one; shards are
            verified as they are first opened.
        ModelError: the folder holds another model and `overwrite` is not given, or the set lacks
            what training needs.
    """
    started = time.monotonic()
    if expect is not None:
        _check_expected(Path(set_folder), expect)
    network = load_network(config.network, weights=weights, device=device)
    with contextlib.ExitStack() as stack:
        negative_set = stack.enter_context(NegativeSet.open(set_folder, check="files"))
        manifest = negative_set.manifest
        folder = category_folder(models_root(out), manifest.category, path=set_folder)
        identity = (config, negative_set.digest, network.digest)
        _need_same_work(identity, negative_set.n_normals, processes)
        finished = None
        if processes.is_first and (
            model := take_folder(stack, folder, identity, overwrite=overwrite)
        ):
            finished = _summary(
                folder,
                model,
                read_record(folder)[1],
                last={},
                train_seconds=0.0,
                started=started,
                is_unchanged=True,
            )
        if processes.hear(finished is not None):
            return finished
        training = train_network(
            network,
            negative_set,
            config,
            folder,
            anomalous=anomalous,
            device=device,
            make_progress=make_progress,
            processes=processes,
        )
        warnings = list(training.warnings)
        detector = make_detector(
            config,
            training.network,
            negative_set.geometry,
            untuned=network if config.needs_untuned else None,
            learned=training.learned,
            device=device,
        )
        scores = fit_detector(
            detector, negative_set, config, make_progress=make_progress, processes=processes
        )
        if scores is None:  # the first process has them
            return None
        calibration = calibration_of(scores, negative_set, config)
        image_threshold, pixel_threshold = calibration.thresholds(config.false_alarm_rate)
        if config.detector in TRAINED_WITH and not config.train.hold_out:
            warnings.append(
                f"{manifest.category}: thresholds come from images that training has seen; "
                "--hold-out 0.2 leaves some out of it for them"
            )
        if image_threshold.achievable_rate > config.false_alarm_rate:
            warnings.append(
                f"{manifest.category}: {image_threshold.n} good images cannot show a false-alarm "
                f"rate of {config.false_alarm_rate:g}; the thresholds hold "
                f"{image_threshold.achievable_rate:.3g} at best"
            )
        model = Model(
            category=manifest.category,
            detector=detector,
            config=config,
            geometry=negative_set.geometry,
            calibration=calibration,
            image_threshold=image_threshold,
            pixel_threshold=pixel_threshold,
            training_files=frozenset(manifest.training_files).union(training.files),
            set_digest=negative_set.digest,
            initial_digest=network.digest,
            licence=manifest.licence,
            attribution=manifest.attribution,
            versions=library_versions(),
            processes=processes.count,
            normals=tuple(FittedNormal(*row) for row in negative_set.normal_names()),
        )
        digest = save_model(folder, model)
        clear_folder(folder, is_trained=config.train.updates > 0)
        if detector.holds_pixels and (line := pixel_warning(model.licence, holder=str(folder))):
            warnings.append(line)
    return _summary(
        folder,
        model,
        digest,
        last=training.last,
        train_seconds=training.seconds,
        started=started,
        warnings=tuple(warnings),
    )


def _need_same_work(identity: Identity, n_normals: int, processes: Processes) -> None:
    """Raises where processes have different things to do, or one of them nothing."""
    config, set_digest, network_digest = identity
    options = json.dumps(config.to_json(), sort_keys=True)
    processes.need_same("the options", lambda: bytes_digest(options.encode()))
    processes.need_same("the set", lambda: set_digest)
    processes.need_same("the network", lambda: network_digest)
    if n_normals < processes.count:
        raise ConfigError(
            "there are more processes than images",
            expected=f"at most {n_normals} processes",
            got=processes.count,
        )


def _summary(
    folder: Path,
    model: Model,
    digest: str,
    *,
    last: Mapping[str, float],
    train_seconds: float,
    started: float,
    warnings: tuple[str, ...] = (),
    is_unchanged: bool = False,
) -> FitSummary:
    coverage = model.detector.coverage
    return FitSummary(
        folder=folder,
        category=model.category,
        model_digest=digest,
        is_unchanged=is_unchanged,
        updates=model.config.train.updates,
        last_accuracy=last.get("accuracy"),
        last_loss=last.get("loss"),
        detector=model.config.detector,
        learned=model.detector.summary(),
        image_threshold=model.image_threshold.value,
        pixel_threshold=model.pixel_threshold.value,
        threshold_images=model.image_threshold.n,
        calibrated_on=model.calibration.source,
        false_alarm_interval=model.image_threshold.rate_interval(),
        covering_radius=None if coverage is None else coverage.radius,
        covering_mean=None if coverage is None else coverage.mean,
        blocks=None if coverage is None else coverage.blocks,
        train_seconds=train_seconds,
        seconds=time.monotonic() - started,
        warnings=warnings,
    )


def _check_expected(folder: Path, expect: str) -> None:
    """Raises DigestError where the set is another one, and SetError where there is none."""
    _, digest = read_manifest(folder)
    if expect.strip().lower() != digest:
        raise DigestError(
            "is another set than expected",
            path=folder,
            expected=expect,
            got=digest,
            hint="fetch the set again, or ask its maker for its digest",
        )


def evaluate_models(
    pairs: Sequence[tuple[Path, Category]],
    out: str | PathLike[str],
    *,
    device: str = "cpu",
    cases: int = 6,
    min_area: MinArea = ANY_AREA,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    make_progress: ProgressMaker = quiet_progress,
) -> list[EvalResult]:
    """Evaluates every (model folder, data category) and writes `out/`: metrics and pictures.

    Args:
        min_area: what verdicts ask of regions; no metric depends on it.
    """
    from detector.report import evaluation_roc, plot_roc, write_category_report

    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=out) from error
    results, curves = [], []
    for folder, category in pairs:
        model = load_model(folder, device=device)
        evaluation = evaluate(
            model,
            category,
            max_pixels=max_pixels,
            min_area=min_area,
            skip_bad=skip_bad,
            progress=make_progress(f"eval {category.name}", "images"),
        )
        result = measure(category.name, model, evaluation)
        results.append(result)
        target, threshold = out / category.name, model.image_threshold.value
        write_category_report(
            target,
            evaluation,
            image_threshold=threshold,
            pixel_threshold=model.pixel_threshold.value,
            geometry=model.geometry,
            cases=cases,
            max_pixels=max_pixels,
        )
        write_scores(target / "scores.csv", evaluation, model)
        if result.metrics["image_auroc"] is not None:
            curves.append(evaluation_roc(category.name, evaluation, threshold))
    if len(curves) > 1:
        plot_roc(out / "roc.png", curves)
    write_text(
        out / "metrics.json", json.dumps([result.to_json() for result in results], indent=1) + "\n"
    )
    return results
