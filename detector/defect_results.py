"""Results of one category apart by kind of defect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.evaluate import Evaluation
from detector.metrics import image_metrics, pixel_metrics


@dataclass(frozen=True)
class DefectResult:
    """How well one kind of defect is found.

    Attributes:
        defect: its name.
        images: with it, in the test set.
        found: of them, called defective.
        auroc: of its images against all good ones, 0 to 1; None without good images.
        pixel_auroc: mean over its images with a mask of each image's own; None without any.
        pixel_ap: likewise.
        masked: images that the pixel metrics come from.
    """

    defect: str
    images: int
    found: int
    auroc: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    masked: int

    @property
    def missed(self) -> int:
        """Images not called."""
        return self.images - self.found


def defect_results(
    evaluation: Evaluation, called: np.ndarray, within: Sequence[tuple[float, float] | None]
) -> tuple[DefectResult, ...]:
    """One result per kind of defect, the hardest to tell from good images first.

    Args:
        evaluation: of the category.
        called: (n,) bool, the images that the model calls defective.
        within: `pixel_metrics_of_images` of it.
    """
    labels = evaluation.labels
    kinds = np.array([sample.defect for sample in evaluation.samples], dtype=object)
    found = []
    for kind in sorted(set(kinds[labels].tolist())):
        chosen = labels & (kinds == kind)
        both = chosen | ~labels
        inside = [within[i] for i in np.flatnonzero(chosen).tolist()]
        aurocs = [one[0] for one in inside if one is not None]
        found.append(
            DefectResult(
                defect=kind,
                images=int(chosen.sum()),
                found=int(called[chosen].sum()),
                auroc=image_metrics(evaluation.scores[both], labels[both]).auroc,
                pixel_auroc=_mean(aurocs),
                pixel_ap=_mean([one[1] for one in inside if one is not None]),
                masked=len(aurocs),
            )
        )
    return tuple(sorted(found, key=lambda one: (one.auroc is None, one.auroc or 0.0, one.defect)))


def pixel_metrics_of_images(evaluation: Evaluation) -> list[tuple[float, float] | None]:
    """Pixel AUROC and AP within each image.

    Returns:
        One pair per image; None for good images, and where no pixel is marked or all are.
    """
    pairs: list[tuple[float, float] | None] = []
    is_padded = not evaluation.valid.all()
    for i, (label, known) in enumerate(zip(evaluation.labels, evaluation.has_truth, strict=True)):
        pair = None
        if label and known:
            one = slice(i, i + 1)
            valid = evaluation.valid[one] if is_padded else None
            metrics = pixel_metrics(evaluation.maps[one], evaluation.masks[one], valid)
            if metrics.auroc is not None and metrics.ap is not None:
                pair = metrics.auroc, metrics.ap
        pairs.append(pair)
    return pairs


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
