"""ROC and precision-recall curves of image scores, as all our pictures show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.metrics import precision_recall_curve, roc_curve


@dataclass(frozen=True, eq=False)
class Curve:
    """One category's curve.

    Attributes:
        name: of the category.
        points: (x, y) of its corners, x never falling.
        area: under it.
        limit: (x, y) of the model's verdicts.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    area: float
    limit: tuple[float, float]


def roc_of(name: str, scores: np.ndarray, labels: np.ndarray, called: np.ndarray) -> Curve:
    """The ROC curve of (n,) image scores with both classes; `called` (n,) bool are the verdicts."""
    fpr, tpr, _ = roc_curve(scores, labels)
    is_bad = labels.astype(bool)
    return Curve(
        name=name,
        points=tuple(zip(fpr.tolist(), tpr.tolist(), strict=True)),
        area=float((np.diff(fpr) * (tpr[1:] + tpr[:-1])).sum() / 2),
        limit=(float(called[~is_bad].mean()), float(called[is_bad].mean())),
    )


def precision_recall_of(
    name: str, scores: np.ndarray, labels: np.ndarray, called: np.ndarray
) -> Curve:
    """The steps of precision over recall, whose area is the average precision; as `roc_of`.

    Where nothing is called, the limit's precision is 1: nothing is called wrongly.
    """
    recall, precision, _ = precision_recall_curve(scores, labels)
    points, area, before = [], 0.0, 0.0
    for r, p in zip(recall.tolist(), precision.tolist(), strict=True):
        points += [(before, p), (r, p)]
        area += (r - before) * p
        before = r
    is_bad = labels.astype(bool)
    found = int(np.count_nonzero(called & is_bad))
    calls = int(np.count_nonzero(called))
    return Curve(
        name=name,
        points=_merged(points),
        area=area,
        limit=(found / int(is_bad.sum()), found / calls if calls else 1.0),
    )


def _merged(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The same line without points that are repeated."""
    kept = list(points[:1])
    for point in points[1:]:
        if point != kept[-1]:
            kept.append(point)
    return tuple(kept)
