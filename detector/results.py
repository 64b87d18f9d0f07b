"""One category's results: metrics, counts, and notes on what they rest on."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from detector.evaluate import Evaluation
from detector.iou import mean_iou
from detector.metrics import image_metrics, pixel_metrics
from detector.model import Model
from detector.score_record import VERDICTS
from detector.threshold import relative_to
from manifests.errors import OutputError
from manifests.images import Geometry
from manifests.terminal import counted


@dataclass(frozen=True)
class EvalResult:
    """One category's metrics; None where the test set does not define one."""

    category: str
    metrics: dict[str, float | None]
    counts: dict[str, int]
    notes: tuple[str, ...]

    def row(self) -> dict[str, object]:
        """What the results table prints."""
        return {"category": self.category, **self.metrics}

    def to_json(self) -> dict:
        """Plain JSON types."""
        return {
            "category": self.category,
            "metrics": self.metrics,
            "counts": self.counts,
            "notes": list(self.notes),
        }


def measure(category: str, model: Model, evaluation: Evaluation) -> EvalResult:
    """Metrics of one category's evaluation, with everything a reader must know to trust them.

    Args:
        evaluation: with verdicts.
    """
    image = image_metrics(evaluation.scores, evaluation.labels)
    known = evaluation.has_truth
    pixel = pixel_metrics(
        evaluation.maps[known],
        evaluation.masks[known],
        None if evaluation.valid.all() else evaluation.valid[known],
    )
    # Only maps of known bounds can be cut at a half.
    iou: dict[str, float | None] = {}
    if model.detector.is_bounded:
        iou["pixel_iou"] = mean_iou(
            evaluation.maps[known],
            evaluation.masks[known],
            None if evaluation.valid.all() else evaluation.valid[known],
        )
    is_flagged = cast(np.ndarray, evaluation.verdicts)
    good, bad = ~evaluation.labels, evaluation.labels
    notes = []
    if evaluation.excluded:
        count = len(evaluation.excluded)
        them = "it" if count == 1 else "them"
        notes.append(f"{counted(count, 'test image')} left out: the model has seen {them}")
    cut = {source for source, fraction in evaluation.cropped if fraction == 1}
    for sources, have in (
        (set(evaluation.without_mask) - set(evaluation.too_small) - cut, "no mask or an empty one"),
        (evaluation.too_small, "defects too small for the canvas (--image-size)"),
    ):
        if sources:
            shown = ", ".join(sorted(sources)[:4])
            more = len(sources) - 4
            notes.append(
                f"{counted(len(sources), 'defective image')} with {have}, for image metrics only: "
                f"{shown}" + (f" and {more} more" if more > 0 else "")
            )
    if evaluation.cropped:
        worst = max(evaluation.cropped, key=lambda item: item[1])
        notes.append(
            f"the {_what_cuts(model.geometry)} cuts off defect area in "
            f"{len(evaluation.cropped)} images, at worst "
            f"{100 * worst[1]:.0f} % ({worst[0]})"
        )
    if image.auroc is None:
        notes.append("the test images are all of one class: no AUROC, AP or F1")
    if evaluation.min_area:
        notes.append(
            f"verdicts ask for a region of at least {evaluation.min_area}; the metrics do not"
        )
    notes += [f"skipped {error}" for error in evaluation.skipped]
    return EvalResult(
        category=category,
        metrics={
            "image_auroc": image.auroc,
            "image_ap": image.ap,
            "image_f1_max": image.f1_max,
            "pixel_auroc": pixel.auroc,
            "pixel_ap": pixel.ap,
            "pixel_f1_max": pixel.f1_max,
            "aupro": pixel.aupro,
        }
        | iou,
        counts={
            "good": int(good.sum()),
            "defective": int(bad.sum()),
            "excluded": len(evaluation.excluded),
            "skipped": len(evaluation.skipped),
            "without_mask": len(evaluation.without_mask),
            "false_alarms": int((is_flagged & good).sum()),
            "misses": int((~is_flagged & bad).sum()),
        },
        notes=tuple(notes),
    )


def _what_cuts(geometry: Geometry) -> str:
    words = ["crop"] if geometry.fit == "crop" else []
    return " and the ".join(words + ["region of interest"] * (geometry.roi is not None))


def write_scores(path: Path, evaluation: Evaluation, model: Model) -> None:
    """A CSV line per test image, in the order they were scored. Raises OutputError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "defect", "label", "score", "normalised", "verdict"])
    for sample, score, is_defect in zip(
        evaluation.samples,
        evaluation.scores,
        cast(np.ndarray, evaluation.verdicts),
        strict=True,
    ):
        normalised = relative_to(model.image_threshold.value, score)
        writer.writerow(
            [
                sample.source,
                sample.defect,
                sample.label,
                f"{score:.6g}",
                f"{normalised:.4g}",
                VERDICTS[is_defect],
            ]
        )
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """A UTF-8 text file. Raises OutputError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=path) from error
