"""Scores of cells that share an extractor: features and banks are made once for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from detector.detectors import Detector, PatchCore, Scores
from detector.evaluate import TestImages, evaluation_of
from detector.fit_steps import make_detector
from detector.memory_bank import MemoryBank
from detector.normal_images import NormalImages
from detector.study.builds import digest_of
from detector.study.cell_scores import CellScores, cell_scores
from detector.study.cells import Cell
from detector.study.extractors import Extractor
from manifests.negative_set import NegativeSet

Progress = Callable[[str, str], Callable]


@dataclass(frozen=True, eq=False)
class Scored:
    """A cell's scores and what they took.

    Attributes:
        seconds: of its own bank or distribution and of its scores.
        feature_seconds: its equal share of the feature pass that several cells use; 0 where
            `seconds` holds a pass of its own.
    """

    cell: Cell
    scores: CellScores
    seconds: float
    feature_seconds: float


def score_cells(
    cells: Sequence[Cell],
    extractor: Extractor,
    negative_set: NegativeSet,
    tests: TestImages,
    *,
    device: str,
    make_progress: Progress,
) -> Iterator[Scored]:
    """Fits and scores cells of one extractor.

    Args:
        cells: of one extractor and one set geometry.
        tests: the category's test images on the set's canvas.

    Yields:
        each cell with its scores, as soon as it has them.

    Raises:
        ModelError: a detector that cannot be fitted.
    """
    for group in _sharing_features(cells):
        if _shares_features(group, extractor, negative_set, device):
            yield from _score_banks(group, extractor, negative_set, tests, device, make_progress)
            continue
        for cell in group:
            started = time.monotonic()
            detector = _detector(cell, extractor, negative_set, device)
            detector.fit(NormalImages(negative_set, cell.config.batch))
            scores = detector.score(tests.canvases, tests.truth.boxes)
            found = cell_scores(evaluation_of(tests.truth, scores))
            yield Scored(cell, found, time.monotonic() - started, 0.0)


def _shares_features(
    cells: Sequence[Cell], extractor: Extractor, negative_set: NegativeSet, device: str
) -> bool:
    """Whether there are features to share, and the memory budgets hold them."""
    if cells[0].config.detector != "patchcore":
        return False
    detectors = (_patchcore(cell, extractor, negative_set, device) for cell in cells)
    return all(detector.fits(negative_set.n_normals) for detector in detectors)


def _sharing_features(cells: Sequence[Cell]) -> list[list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        config = cell.config
        shared = {
            "detector": config.detector,
            "stages": config.stages,
            "with_untuned": config.with_untuned,
            "precision": config.precision,
            "batch": config.batch,
            "tile": config.tile,
        }
        groups.setdefault(digest_of(shared), []).append(cell)
    return list(groups.values())


def _score_banks(
    cells: Sequence[Cell],
    extractor: Extractor,
    negative_set: NegativeSet,
    tests: TestImages,
    device: str,
    make_progress: Progress,
) -> Iterator[Scored]:
    started = time.monotonic()
    first = _patchcore(cells[0], extractor, negative_set, device)
    batch = cells[0].config.batch
    label = f"{cells[0].arm.name} seed {cells[0].seed}: features"
    progress = make_progress(label, "images")
    total = negative_set.n_normals + len(tests)
    training = first.collect(
        NormalImages(negative_set, batch, start_pass=lambda: lambda done, _: progress(done, total))
    )
    parts: list[tuple[torch.Tensor, np.ndarray, np.ndarray]] = []
    done = negative_set.n_normals
    for canvases, boxes in tests.batches(batch):
        patches, valid, checked = first.patches(canvases, boxes)
        parts.append((patches.cpu(), valid, checked))
        done += len(canvases)
        progress(done, total)
    feature_seconds = (time.monotonic() - started) / len(cells)
    banks: dict[tuple, MemoryBank] = {}
    for cell in cells:
        started = time.monotonic()
        detector = _patchcore(cell, extractor, negative_set, device)
        key = _bank_key(cell)
        if key not in banks:
            detector.fit_features(training)
            banks[key] = detector.bank
        detector.adopt_bank(banks[key])
        found = [
            detector.score_features(patches.to(device), valid, boxes)
            for patches, valid, boxes in parts
        ]
        scores = Scores(
            np.concatenate([scores.image for scores in found]),
            np.concatenate([scores.map for scores in found]),
        )
        condensed = cell_scores(evaluation_of(tests.truth, scores))
        yield Scored(cell, condensed, time.monotonic() - started, feature_seconds)


def _bank_key(cell: Cell) -> tuple:
    """Equal for cells that choose the same patches of the same features."""
    config = cell.config
    return config.coreset_ratio, config.coreset_max, config.projection_dim, config.seed


def _patchcore(
    cell: Cell, extractor: Extractor, negative_set: NegativeSet, device: str
) -> PatchCore:
    """The detector of a cell that is PatchCore's."""
    return cast(PatchCore, _detector(cell, extractor, negative_set, device))


def _detector(cell: Cell, extractor: Extractor, negative_set: NegativeSet, device: str) -> Detector:
    return make_detector(
        cell.config,
        extractor.network,
        negative_set.geometry,
        untuned=extractor.untuned if cell.config.needs_untuned else None,
        learned=extractor.learned,
        device=device,
    )
