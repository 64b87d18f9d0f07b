"""New normals in a fitted memory bank, without a refit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np

from detector.bank_growth import grown_bank, located_bank, new_entries
from detector.calibration import OTHERS
from detector.derived_model import need_room, save_derived
from detector.detectors import PatchCore
from detector.detectors.base import Coverage
from detector.detectors.training_scores import leave_one_out
from detector.explanation import names_of
from detector.model import Model, load_model
from detector.model_folder import models_root
from detector.new_normals import NewNormals, read_new_normals
from detector.normal_list import FittedNormal
from detector.normal_pixels import NormalCanvases, NormalPixels
from detector.score_record import plain_path
from detector.threshold import Threshold
from detector.updated_calibration import updated_calibration
from manifests.confine import category_folder
from manifests.errors import ConfigError, ModelError
from manifests.images import DEFAULT_MAX_PIXELS
from manifests.negative_set import NegativeSet
from manifests.progress import ProgressMaker, quiet_progress

OUTLIER_FACTOR = 1.25

_REFUSED = {
    "gaussian": (
        "shrinks its covariance by what every image's embedding says, and keeps none of them"
    ),
    "guided-seg": "is trained on its images and their negatives",
    "cavga": "is trained on its images",
}


@dataclass(frozen=True)
class BankUpdate:
    """What an update did; before and after are those of the new images where nothing else is said.

    Attributes:
        images: how many were added.
        repeats: files that were there already, and were left out.
        outliers: files that scored far above the threshold and were taken all the same.
        entries_before, entries_added: of the bank.
        coverage_before, coverage_after: how far their patches are from the bank.
        exceeding: those that exceeded the image threshold, the highest first.
        exceeding_after: how many exceed the new one, each scored without its own patches.
        before, after: thresholds of image scores; pixel_before, pixel_after: of score maps.
        score_bounds: how many of the scores behind the thresholds are upper bounds.
    """

    folder: Path
    category: str
    model_digest: str
    images: int
    repeats: tuple[Path, ...]
    outliers: tuple[Path, ...]
    entries_before: int
    entries_added: int
    coverage_before: Coverage
    coverage_after: Coverage
    exceeding: tuple[Path, ...]
    exceeding_after: int
    before: Threshold
    after: Threshold
    pixel_before: Threshold
    pixel_after: Threshold
    score_bounds: int

    def to_json(self) -> dict:
        """Plain JSON types."""
        thresholds = ("before", "after", "pixel_before", "pixel_after")
        paths = ("repeats", "outliers", "exceeding")
        coverages = ("coverage_before", "coverage_after")
        return (
            vars(self)
            | {"folder": plain_path(self.folder)["path"]}
            | {name: [plain_path(path)["path"] for path in getattr(self, name)] for name in paths}
            | {name: getattr(self, name).to_json() for name in thresholds}
            | {
                name: {"radius": one.radius, "mean": one.mean, "patches": one.patches}
                for name, one in ((name, getattr(self, name)) for name in coverages)
            }
            | {"false_alarm_interval": list(self.after.rate_interval())}
        )


def update_bank(
    model_folder: str | PathLike[str],
    paths: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    entries: int | None = None,
    coreset_ratio: float | None = None,
    outlier_factor: float = OUTLIER_FACTOR,
    allow_outliers: bool = False,
    negative_set: NegativeSet | None = None,
    data: str | PathLike[str] | None = None,
    device: str = "cpu",
    readers: int = 2,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    overwrite: bool = False,
    make_progress: ProgressMaker = quiet_progress,
) -> BankUpdate:
    """Writes the model with other good images added to its bank into `out/<category>/`.

    The network stays as it is, and so do the entries. New ones are the patches of the new images
    that are farthest from all entries, one after the other, as a greedy search would go on.

    The thresholds come from the new images, each scored without its own patches, and from the
    images that they came from before. More entries can only lower the scores of those: where their
    pixels are given (`negative_set` or `data`), they are scored again; otherwise their old scores
    stand for them, as upper bounds, and the thresholds are at least what they would be.

    Args:
        paths: good images and folders of them; those that the model has seen are left out.
        out: another root than the model's own.
        entries: how many to add; None for the share that the fit kept.
        coreset_ratio: that share, in place of the fit's.
        outlier_factor: an image that scores above so many thresholds is taken for a defect.
        allow_outliers: add such images all the same.
        negative_set, data: where the pixels of the model's normals are.
        overwrite: replace a model that lies there.

    Raises:
        ConfigError: an option out of range.
        ModelError: no model, one that cannot be updated, no new images, images that look like
            defects, too many for the memory budget, no room in the bank, or a model in the way.
        BadImages: images that cannot be read.
        OutputError: the folder cannot be written.

    Source: ours; Gonzalez 1985 for the search.
    """
    if entries is not None and coreset_ratio is not None:
        raise ConfigError("--entries and --coreset both say how many", hint="pass one of them")
    if entries is not None and entries < 1:
        raise ConfigError("too few entries", expected="at least 1", got=entries)
    if not outlier_factor >= 1.0:
        raise ConfigError("--outlier-factor out of range", expected="1 or more", got=outlier_factor)
    model = load_model(model_folder, device=device)
    detector = _updatable(model, Path(model_folder))
    normals = names_of(model, negative_set)
    if normals is None:
        raise ModelError(
            "of version 5, and does not say which normals it was fitted to",
            path=model_folder,
            hint="give the set that it was fitted on with --set, or fit again",
        )
    folder = category_folder(models_root(out), model.category, path=model_folder)
    need_room(folder, Path(model_folder), overwrite=overwrite)
    new = read_new_normals(
        paths,
        model.geometry,
        known_files=_known_files(model, normals),
        known_pixels={one.pixel_digest for one in normals},
        readers=readers,
        max_pixels=max_pixels,
    )
    _need_new(detector, new)
    places = NormalPixels(model.geometry, files=new.files, max_pixels=max_pixels)
    progress = make_progress(f"features {model.category}", "images")
    batches = NormalCanvases(places, new.normals, model.config.batch, progress=progress)
    training = detector.collect(batches)
    scores, _, coverage = leave_one_out(detector, training, first_image=len(normals), blocks=1)
    limit = model.image_threshold.value
    ranked = [(score, new.path(new.normals[i])) for i, score in _highest_first(scores)]
    outliers = tuple(path for score, path in ranked if score > outlier_factor * limit)
    if outliers and not allow_outliers:
        raise ModelError(
            f"{len(outliers)} of {len(scores)} images look like defects: "
            f"{', '.join(path.name for path in outliers[:5])}{' ...' if len(outliers) > 5 else ''}",
            expected=f"scores of at most {outlier_factor:g} × threshold",
            got=f"{ranked[0][0] / max(limit, 1e-12):.3g}",
            hint="look at them with cutswap-det explain; leave them out, or pass --allow-outliers",
        )
    known = NormalPixels(
        model.geometry,
        negative_set=negative_set,
        data=data,
        category=model.category,
        max_pixels=max_pixels,
    )
    old_bank = detector.bank
    if old_bank.cell is None:
        old_bank = located_bank(detector, known, normals)
    bank = grown_bank(
        detector,
        old_bank,
        training,
        first_image=len(normals),
        count=new_entries(detector, len(training.features), entries, coreset_ratio),
        progress=make_progress(f"patchcore {model.category}", "patches"),
    )
    detector.adopt_bank(bank, training=training, first_image=len(normals))
    own = detector.training_scores()
    assert detector.coverage is not None
    calibration, bounds = updated_calibration(
        model, own, normals, known, old_bank, make_progress(f"scores {model.category}", "images")
    )
    image_threshold, pixel_threshold = calibration.thresholds(model.config.false_alarm_rate)
    changed = replace(
        model,
        calibration=calibration,
        image_threshold=image_threshold,
        pixel_threshold=pixel_threshold,
        training_files=model.training_files | new.files.keys(),
        normals=normals + new.normals,
        added_normals=model.added_normals + len(new.normals),
        score_bounds=bounds,
    )
    digest = save_derived(folder, changed, Path(model_folder), overwrite=overwrite)
    return BankUpdate(
        folder=folder,
        category=model.category,
        model_digest=digest,
        images=len(new.normals),
        repeats=new.repeats,
        outliers=outliers,
        entries_before=len(old_bank),
        entries_added=len(bank) - len(old_bank),
        coverage_before=coverage,
        coverage_after=detector.coverage,
        exceeding=tuple(path for score, path in ranked if score > limit),
        exceeding_after=int((own[0] > image_threshold.value).sum()),
        before=model.image_threshold,
        after=image_threshold,
        pixel_before=model.pixel_threshold,
        pixel_after=pixel_threshold,
        score_bounds=bounds,
    )


def _known_files(model: Model, normals: Sequence[FittedNormal]) -> frozenset[str]:
    """SHA-256 of files that count once already.

    A set that is part of another still names all of that one's training files, and images that are
    not in the bank may join it; but not those that a recalibration has put into the thresholds.
    """
    if model.calibration.source == OTHERS:
        return model.training_files
    return frozenset(one.file_sha256 for one in normals)


def _highest_first(scores: np.ndarray) -> list[tuple[int, float]]:
    """Positions and scores."""
    order = np.argsort(-scores, kind="stable")
    return list(zip(order.tolist(), scores[order].tolist(), strict=True))


def _updatable(model: Model, path: Path) -> PatchCore:
    if not isinstance(model.detector, PatchCore):
        name = model.config.detector
        raise ModelError(
            f"the detector {name} has no bank to update: it {_REFUSED[name]}",
            path=path,
            hint="add the images to the set (cutswap-gen build --add) and fit again",
        )
    return model.detector


def _need_new(detector: PatchCore, new: NewNormals) -> None:
    if not new.normals:
        raise ModelError(
            "no image that the model has not seen",
            got=f"{len(new.repeats)} that are among its normals",
            hint="give good images that were not in the negative set",
        )
    if not detector.fits(len(new.normals)):
        raise ModelError(
            "the memory budget does not hold the features of so many images at once",
            got=f"{len(new.normals)} images, {detector.config.memory_budget / 1e6:g} MB",
            hint="update with a part of them at a time, or fit again",
        )
