"""Orders the steps of `fit`, `score` and `eval`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from detector.checkpoint import remove_checkpoint
from detector.config import FitConfig
from detector.dataset import TripletSampler
from detector.detectors.patchcore import PatchCore
from detector.evaluate import evaluate
from detector.image_stream import ImageStream
from detector.metrics import roc_curve
from detector.model import MODEL, Model, load_model, save_model
from detector.results import EvalResult, measure, write_scores, write_text
from detector.threshold import fit_threshold
from detector.train import TRAINING_CSV, train_extractor
from detector.training_log import read_training_csv
from manifests.datasets import Category
from manifests.errors import CutswapError, ModelError, OutputError
from manifests.images import DEFAULT_MAX_PIXELS, list_images, restore_map, write_png
from manifests.negative_set import NegativeSet
from manifests.versions import library_versions
from manifests.weights import load_network

ProgressMaker = Callable[[str, str], Callable[..., None]]


def quiet_progress(_label: str, _unit: str) -> Callable[..., None]:
    """Progress for callers that want none."""
    return lambda *_: None


@dataclass(frozen=True)
class FitSummary:
    """What a fit did. Durations in seconds."""

    folder: Path
    category: str
    is_unchanged: bool
    normals: int
    updates: int
    last_accuracy: float
    bank_patches: int
    image_threshold: float
    pixel_threshold: float
    train_seconds: float
    seconds: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict:
        """Plain JSON types."""
        return vars(self) | {"folder": str(self.folder), "warnings": list(self.warnings)}


def fit_model(
    set_folder: str | PathLike[str],
    config: FitConfig,
    out: str | PathLike[str],
    *,
    weights: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    make_progress: ProgressMaker = quiet_progress,
) -> FitSummary:
    """Fits one category's model into `out/<category>/`.

    Raises:
        SetError, DigestError: the set is damaged or malformed; shards are verified as they are
            first opened.
        ModelError: the folder holds another model and `overwrite` is not given, or the set lacks
            what training needs.
    """
    started = time.monotonic()
    out = Path(out)
    network = load_network(config.network, weights=weights, device=device)
    initial_digest = network.digest
    with NegativeSet.open(set_folder, check="files") as negative_set:
        manifest = negative_set.manifest
        folder = out / manifest.category
        if (folder / MODEL).exists() and not overwrite:
            identity = (config, negative_set.digest, initial_digest)
            return _unchanged_or_refuse(folder, identity, started)
        _prepare(folder, overwrite=overwrite)
        warnings = []
        last_accuracy = float("nan")
        train_started = time.monotonic()
        if config.train.updates:
            sampler = TripletSampler(negative_set, batch=config.train.batch, seed=config.train.seed)
            if sampler.is_with_replacement:
                warnings.append(
                    f"{manifest.category}: only {sampler.n_usable} normals for batches of "
                    f"{config.train.batch}; they are drawn with replacement"
                )
            if sampler.n_skipped:
                warnings.append(
                    f"{manifest.category}: {sampler.n_skipped} normals have no swap or no scar "
                    "and are not trained on"
                )
            progress = make_progress(f"train {manifest.category}", "updates")
            network = train_extractor(
                network,
                sampler,
                config.train,
                device=device,
                folder=folder,
                progress=lambda update, total, loss, accuracy: progress(
                    update, total, f"loss {loss:.4f}  accuracy {accuracy:.3f}"
                ),
            )
            last_accuracy = float(read_training_csv(folder / TRAINING_CSV)[-1]["accuracy"])
        train_seconds = time.monotonic() - train_started
        detector = PatchCore(network, negative_set.geometry, config.patchcore(), device=device)
        detector.fit(
            _normal_batches(
                negative_set,
                config.batch,
                make_progress(f"features {manifest.category}", "images"),
            ),
            progress=make_progress(f"bank {manifest.category}", "patches"),
        )
        image_scores, map_maxima = detector.training_scores()
        image_threshold = fit_threshold(image_scores, config.false_alarm_rate)
        pixel_threshold = fit_threshold(map_maxima, config.false_alarm_rate)
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
            image_threshold=image_threshold,
            pixel_threshold=pixel_threshold,
            training_files=frozenset(manifest.training_files),
            set_digest=negative_set.digest,
            initial_digest=initial_digest,
            licence=manifest.licence,
            attribution=manifest.attribution,
            versions=library_versions(),
        )
        save_model(folder, model)
        remove_checkpoint(folder)
        return FitSummary(
            folder=folder,
            category=manifest.category,
            is_unchanged=False,
            normals=negative_set.n_normals,
            updates=config.train.updates,
            last_accuracy=last_accuracy,
            bank_patches=len(detector.bank),
            image_threshold=image_threshold.value,
            pixel_threshold=pixel_threshold.value,
            train_seconds=train_seconds,
            seconds=time.monotonic() - started,
            warnings=tuple(warnings),
        )


def _unchanged_or_refuse(
    folder: Path, identity: tuple[FitConfig, str, str], started: float
) -> FitSummary:
    model = load_model(folder)
    config = identity[0]
    if (model.config, model.set_digest, model.initial_digest) != identity:
        what = "options" if model.config != config else "set or weights"
        raise ModelError(
            f"already holds a model of other {what}",
            path=folder,
            hint="pass --overwrite to replace it, or another --out",
        )
    return FitSummary(
        folder=folder,
        category=model.category,
        is_unchanged=True,
        normals=model.image_threshold.n,
        updates=config.train.updates,
        last_accuracy=float("nan"),
        bank_patches=len(model.detector.bank),
        image_threshold=model.image_threshold.value,
        pixel_threshold=model.pixel_threshold.value,
        train_seconds=0.0,
        seconds=time.monotonic() - started,
        warnings=(),
    )


def _prepare(folder: Path, *, overwrite: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for name in (MODEL, TRAINING_CSV):
                (folder / name).unlink(missing_ok=True)
            remove_checkpoint(folder)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            path=folder,
            hint="choose another --out",
        ) from error


def _normal_batches(
    negative_set: NegativeSet, batch: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[np.ndarray, list[tuple[int, int, int, int]]]]:
    for start in range(0, negative_set.n_normals, batch):
        rows = range(start, min(start + batch, negative_set.n_normals))
        normals = [negative_set.normal(row) for row in rows]
        yield np.stack([normal.image for normal in normals]), [n.canvas_box for n in normals]
        progress(rows.stop, negative_set.n_normals)


@dataclass(frozen=True)
class ScoredImage:
    """One image's verdict; `normalised` is the score over the image threshold."""

    path: Path
    score: float
    normalised: float
    is_defect: bool


def score_images(
    model_folder: str | PathLike[str],
    paths: Sequence[str | PathLike[str]],
    *,
    heatmaps: Path | None = None,
    masks: Path | None = None,
    device: str = "cpu",
    readers: int = 2,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[ScoredImage], list[CutswapError]]:
    """Scores images and folders; returns the verdicts in order and the skipped files' errors."""
    from detector.report import heatmap_image

    model = load_model(model_folder, device=device)
    files = list_images(paths)
    names = _output_names(files, paths)
    stream = ImageStream(
        files,
        model.geometry,
        batch=model.config.batch,
        max_pixels=max_pixels,
        skip_bad=skip_bad,
        keep_originals=heatmaps is not None,
        readers=readers,
    )
    rows = []
    for batch in stream:
        found = model.detector.score(
            np.stack([loaded.canvas for loaded in batch]),
            [loaded.placement.canvas_box for loaded in batch],
        )
        for loaded, score, canvas_map in zip(batch, found.image, found.map, strict=True):
            rows.append(
                ScoredImage(
                    path=loaded.path,
                    score=float(score),
                    normalised=float(score / model.image_threshold.value),
                    is_defect=bool(score > model.image_threshold.value),
                )
            )
            if heatmaps is None and masks is None:
                continue
            full = restore_map(canvas_map, loaded.placement)
            is_flagged = full > model.pixel_threshold.value
            if heatmaps is not None:
                picture = heatmap_image(
                    loaded.original, full, threshold=model.pixel_threshold.value, mask=is_flagged
                )
                _write_picture(heatmaps / names[loaded.path], picture)
            if masks is not None:
                _write_picture(
                    masks / names[loaded.path], np.where(is_flagged, 255, 0).astype(np.uint8)
                )
        if progress is not None:
            progress(batch[-1].index + 1, len(files))
    return rows, stream.errors


def _output_names(files: Sequence[Path], paths: Sequence[Path]) -> dict[Path, Path]:
    """A distinct .png name for every input, with the folders below the argument it came from."""
    roots = [Path(path) for path in paths if Path(path).is_dir()]
    names: dict[Path, Path] = {}
    taken: set[Path] = set()
    for file in files:
        root = next((root for root in roots if file.is_relative_to(root)), file.parent)
        relative = file.relative_to(root)
        name = relative.with_suffix(".png")
        if name in taken:
            name = relative.with_name(relative.name + ".png")
        number = 2
        while name in taken:
            name = relative.with_name(f"{relative.name}-{number}.png")
            number += 1
        taken.add(name)
        names[file] = name
    return names


def _write_picture(path: Path, image: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}", path=path.parent
        ) from error
    write_png(path, image)


def evaluate_models(
    pairs: Sequence[tuple[Path, Category]],
    out: str | PathLike[str],
    *,
    device: str = "cpu",
    cases: int = 6,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    make_progress: ProgressMaker = quiet_progress,
) -> list[EvalResult]:
    """Evaluates every (model folder, data category) and writes `out/`: metrics and pictures."""
    from detector.report import plot_roc, write_category_report

    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=out) from error
    results, curves = [], {}
    for folder, category in pairs:
        model = load_model(folder, device=device)
        evaluation = evaluate(
            model,
            category,
            max_pixels=max_pixels,
            skip_bad=skip_bad,
            progress=make_progress(f"eval {category.name}", "images"),
        )
        result = measure(category.name, model, evaluation)
        results.append(result)
        target = out / category.name
        write_category_report(
            target,
            evaluation,
            image_threshold=model.image_threshold.value,
            pixel_threshold=model.pixel_threshold.value,
            geometry=model.geometry,
            cases=cases,
            max_pixels=max_pixels,
        )
        write_scores(target / "scores.csv", evaluation, model)
        if result.metrics["image_auroc"] is not None:
            curves[category.name] = roc_curve(evaluation.scores, evaluation.labels)[:2]
    if len(curves) > 1:
        plot_roc(out / "roc.png", curves)
    write_text(
        out / "metrics.json", json.dumps([result.to_json() for result in results], indent=1) + "\n"
    )
    return results
