"""Everything that the page says of one category."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.defect_results import DefectResult, defect_results, pixel_metrics_of_images
from detector.evaluate import Evaluation
from detector.html_report.pictures import picture_of
from detector.html_report.set_facts import SetFacts
from detector.html_report.shown_image import ShownImage, worst_first
from detector.model import Model
from detector.model_record import ModelRecord
from detector.report import called_defective
from detector.results import EvalResult
from detector.score_bins import relative_scores, relative_values
from detector.score_curves import Curve, precision_recall_of, roc_of
from manifests.errors import ImageError
from manifests.geometry import Placement, place
from manifests.images import read_image


@dataclass(frozen=True, eq=False)
class CategoryReport:
    """One category.

    Attributes:
        relative: (n,) float64 scores over the threshold.
        labels: (n,) bool, True for defective.
        roc, precision_recall: None where there is only one class.
        images: those that are shown, the worst first.
        set_facts: of its negative set, where one was given.
    """

    result: EvalResult
    record: ModelRecord
    digest: str
    relative: np.ndarray
    labels: np.ndarray
    roc: Curve | None
    precision_recall: Curve | None
    defects: tuple[DefectResult, ...]
    images: tuple[ShownImage, ...]
    set_facts: SetFacts | None = None


def category_report(
    result: EvalResult,
    model: Model,
    record: tuple[ModelRecord, str],
    evaluation: Evaluation,
    *,
    pictures: int,
    picture_px: int,
    max_pixels: int,
    set_facts: SetFacts | None = None,
) -> CategoryReport:
    """What is told of a category, its pictures included.

    Args:
        result: its metrics.
        record: of the model, and the model digest.
        evaluation: scores, maps, masks and verdicts.
        pictures: images shown at most.
        picture_px: longest side of their pictures.
        max_pixels: limit of the images read again.

    Raises:
        ImageError: an image vanished or changed since it was scored.
    """
    threshold = model.image_threshold.value
    scores, labels = evaluation.scores, evaluation.labels.astype(bool)
    called = called_defective(evaluation, threshold)
    relative = relative_scores(scores, threshold)
    within = pixel_metrics_of_images(evaluation)
    rarities = model.calibration.p_values(scores)
    heat_unit = model.pixel_threshold.value
    images = []
    for i in worst_first(relative, labels, called)[:pictures].tolist():
        sample = evaluation.samples[i]
        image = read_image(sample.path, max_pixels=max_pixels)
        placement = place(image.shape[0], image.shape[1], model.geometry)
        if not np.array_equal(evaluation.valid[i], _counted(placement)):
            raise ImageError("has another shape than when it was scored", path=sample.path)
        images.append(
            ShownImage(
                category=result.category,
                name=sample.source,
                defect=sample.defect,
                is_defective=bool(labels[i]),
                is_called=bool(called[i]),
                score=float(scores[i]),
                relative=float(relative[i]),
                p_value=float(rarities[i]),
                pixel_auroc=None if within[i] is None else within[i][0],
                picture=picture_of(
                    image,
                    tile_px=picture_px,
                    placement=placement,
                    heat=relative_values(evaluation.maps[i], heat_unit),
                    mask=evaluation.masks[i] if evaluation.has_truth[i] else None,
                ),
            )
        )
    has_both = labels.any() and not labels.all()
    return CategoryReport(
        result=result,
        record=record[0],
        digest=record[1],
        relative=relative,
        labels=labels,
        roc=roc_of(result.category, scores, labels, called) if has_both else None,
        precision_recall=precision_recall_of(result.category, scores, labels, called)
        if has_both
        else None,
        defects=defect_results(evaluation, called, within),
        images=tuple(images),
        set_facts=set_facts,
    )


def _counted(placement: Placement) -> np.ndarray:
    """(H, W) bool, the canvas's pixels that count for an image that lies so."""
    geometry = placement.geometry
    counted = np.zeros((geometry.height, geometry.width), dtype=bool)
    y, x, h, w = placement.canvas_box
    counted[y : y + h, x : x + w] = True
    return counted if geometry.roi_mask is None else counted & geometry.roi_mask
