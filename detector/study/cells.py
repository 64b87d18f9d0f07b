"""The cells of a study: one model each, told apart by everything its scores depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detector.config import TRAINED_WITH, FitConfig
from detector.study.builds import SetRequest, digest_of
from detector.study.cell_scores import CELL_VERSION
from detector.study.plan_types import SEED_LIMIT, Arm
from manifests.datasets import Category
from manifests.digest import file_digest
from manifests.errors import DataError

# Counts changes of the code that make the same training end with other weights: extractors of
# another version are not taken up.
TRAIN_VERSION = 1
# The latter two decide which normals there are.
_CANVAS_OPTIONS = ("image_size", "fit", "skip_bad", "max_megapixels")
# Detectors whose scores of other images do not follow from the seed.
_SEEDLESS = ("gaussian",)


@dataclass(frozen=True, eq=False)
class StudyData:
    """One category of a study's data.

    Attributes:
        training_files: SHA-256 of the training files by source.
        digest: over all images, labels and masks.
    """

    category: Category
    training_files: Mapping[str, str]
    digest: str


@dataclass(frozen=True, eq=False)
class Cell:
    """One model to be made and scored.

    Attributes:
        coreset: None for a detector without a memory bank.
        draw: which of the seed's memory banks.
        canvas_key: equal for cells of one canvas, region of interest and choice of images, whatever
            their negatives.
        extractor_key: equal for cells that share an extractor.
        key: of everything its scores depend on.
        path: where its scores lie, or will lie.
    """

    data: StudyData
    arm: Arm
    coreset: float | None
    seed: int
    draw: int
    config: FitConfig
    weights: Path | None
    set_request: SetRequest
    canvas_key: str
    extractor_key: str
    key: str
    path: Path

    @property
    def is_done(self) -> bool:
        """Whether its scores are there."""
        return self.path.is_file()

    @property
    def record_path(self) -> Path:
        """What it was made from and how long that took, as JSON."""
        return self.path.with_suffix(".json")


def study_data(category: Category) -> StudyData:
    """Reads a category's files once for their digests.

    Raises:
        DataError: a file that cannot be read, or no test images.
    """
    if not category.test:
        raise DataError("no test images to compare on", path=category.root)
    hasher = hashlib.sha256()
    training: dict[str, str] = {}
    for sample in category.samples:
        try:
            digest = file_digest(sample.path)
            mask = "" if sample.mask is None else file_digest(sample.mask)
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror or error}", path=error.filename or sample.path
            ) from error
        if sample.split == "train":
            training[sample.source] = digest
        line = [sample.source, sample.split, sample.label, sample.defect, digest, mask]
        hasher.update(json.dumps(line).encode())
    return StudyData(category, training, hasher.hexdigest())


def make_cell(
    data: StudyData,
    arm: Arm,
    request: SetRequest,
    config: FitConfig,
    weights: Path | None,
    *,
    coreset: float | None,
    seed: int,
    draw: int,
    network_digest: str,
    out: Path,
) -> Cell:
    """A cell with its keys.

    An untuned extractor depends on no negatives, so cells of sets that differ in nothing but their
    negatives share it, and its scores. Where the seed shapes nothing, all seeds share them.

    Args:
        config: of the seed; the bank's own seed follows from it and the draw.
        network_digest: of the weights before training.
    """
    config = replace(config, seed=seed + SEED_LIMIT * draw)
    train = config.train.to_json()
    # Neither changes what is learned: only when it is saved.
    del train["checkpoint_every"]
    options = request.options
    geometry = {name: options.get(name) for name in _CANVAS_OPTIONS}
    geometry["roi"] = request.digests.get("roi")
    extractor: dict[str, Any] = {"network": config.network, "weights": network_digest}
    if config.train.updates:
        extractor |= {"train": train, "set": request.key, "data": data.digest}
        extractor |= {"version": TRAIN_VERSION} if TRAIN_VERSION != 1 else {}
    if config.detector in TRAINED_WITH:
        own = {name: getattr(config, name) for name in TRAINED_WITH[config.detector]}
        extractor |= {"detector": config.detector, "trained_with": own}
    own_seed = {"seed": 0} if config.detector in _SEEDLESS else {}
    detector = {
        "detector": config.detector,
        "config": vars(config.detector_config()) | own_seed,
        "with_untuned": config.with_untuned,
    }
    extractor_key = digest_of(extractor)
    key = digest_of(
        {
            "version": CELL_VERSION,
            "data": data.digest,
            "geometry": geometry,
            "extractor": extractor_key,
            **detector,
        }
    )
    return Cell(
        data=data,
        arm=arm,
        coreset=coreset,
        seed=seed,
        draw=draw,
        config=config,
        weights=weights,
        set_request=request,
        canvas_key=digest_of(geometry),
        extractor_key=extractor_key,
        key=key,
        path=out / "cells" / f"{key[:24]}.npz",
    )
