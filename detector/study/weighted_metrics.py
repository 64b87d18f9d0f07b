"""Metrics of one cell under image weights, for many weightings at once: what a bootstrap needs.

An image of weight 2 counts as if it were there twice, one of weight 0 as if it were not. Image
metrics are exact. Pixel metrics read the cell's histograms: one matrix product gives the histograms
of all weightings, whatever the number of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from detector.metrics import AUPRO_FPR_LIMIT

if TYPE_CHECKING:
    from detector.study.cell_scores import CellScores

IMAGE_METRICS = ("image_auroc", "image_ap")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "aupro")
METRICS = IMAGE_METRICS + PIXEL_METRICS

_CHUNK = 64  # weightings at once: 1 MB per array of 2048 bins, which stays in the cache


def metrics(
    scores: CellScores, weights: np.ndarray, kinds: Sequence[str] = METRICS
) -> dict[str, float | None]:
    """Metrics of one cell with one weight per image.

    Args:
        scores: of n images.
        weights: (n,) integer, 0 or more; 0 leaves an image out.
        kinds: of `METRICS`.

    Returns:
        kind -> value in 0..1, None where only one class is left.

    Raises:
        ValueError: an unknown kind, or weights of another shape or type or below 0.

    Source: see `metrics_of`.
    """
    found = metrics_of(scores, np.asarray(weights)[None], kinds)
    return {
        kind: None if np.isnan(values[0]) else float(values[0]) for kind, values in found.items()
    }


def metrics_of(
    scores: CellScores, weights: np.ndarray, kinds: Sequence[str] = METRICS
) -> dict[str, np.ndarray]:
    """Metrics of one cell under r weightings of its images.

    Args:
        scores: of n images.
        weights: (r, n) integer, 0 or more; 0 leaves an image out.
        kinds: of `METRICS`.

    Returns:
        kind -> (r,) float64 in 0..1, NaN where only one class is left.

    Raises:
        ValueError: an unknown kind, or weights of another shape or type or below 0.

    Source: ours; the metrics are those of `detector.metrics`.
    Differs: pixel metrics know a pixel's score only by its bin. AUROC counts pairs within one bin
        as ties and AUPRO is linear across it; for AP, defective and good pixels of one bin are
        taken as evenly mixed (as in Davis and Goadrich, "The Relationship Between Precision-Recall
        and ROC Curves", ICML 2006), because the step-wise sum over bins is too low by an amount
        that falls only with the first power of their width.
    """
    unknown = [kind for kind in kinds if kind not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}, expected of {METRICS}")
    weights = np.asarray(weights)
    n = len(scores.sources)
    if weights.ndim != 2 or weights.shape[1] != n or weights.dtype.kind not in "iu":
        raise ValueError(f"weights must be (r, {n}) integer, not {weights.shape} {weights.dtype}")
    if weights.size and weights.min() < 0:
        raise ValueError("weights must be 0 or more")
    found = {kind: np.empty(len(weights)) for kind in kinds}
    used = np.asarray(weights.any(axis=0)) if len(weights) else np.zeros(n, dtype=bool)
    sources = []
    if any(kind in IMAGE_METRICS for kind in kinds):
        sources.append((_image_counts(scores, used), _IMAGE_FORMULAS))
    if any(kind in PIXEL_METRICS for kind in kinds):
        sources.append((_pixel_counts(scores, used, "aupro" in kinds), _PIXEL_FORMULAS))
    for start in range(0, len(weights), _CHUNK):
        rows = slice(start, start + _CHUNK)
        part = weights[rows].astype(np.float64)
        for counts, formulas in sources:
            counted = counts(part)
            for kind in kinds:
                if kind in formulas:
                    found[kind][rows] = formulas[kind](counted)
    return found


@dataclass(frozen=True)
class _Counts:
    """What the formulas read of r weightings, a column per distinct score or bin, highest first."""

    bad: np.ndarray  # (r, t)
    good: np.ndarray  # (r, t)
    overlap: np.ndarray | None = None  # (r, t) mean over components of their share in the column
    bad_tie: np.ndarray | None = None  # (r, 1) mean number of copies of a defective pixel


_Counter = Callable[[np.ndarray], _Counts]


def _image_counts(scores: CellScores, used: np.ndarray) -> _Counter:
    """Counts defective and good images per distinct image score."""
    rows = np.flatnonzero(used)
    order = rows[np.argsort(scores.image[rows], kind="stable")[::-1]]
    ranked = scores.image[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])) if len(order) else order
    is_bad = scores.labels[order].astype(np.float64)

    def count(weights: np.ndarray) -> _Counts:
        ranked_weights = weights[:, order]
        bad = np.add.reduceat(ranked_weights * is_bad, starts, axis=1)
        good = np.add.reduceat(ranked_weights * (1 - is_bad), starts, axis=1)
        return _Counts(bad, good)

    return count


def _pixel_counts(scores: CellScores, used: np.ndarray, needs_overlap: bool) -> _Counter:
    """Counts defective and good pixels per bin, and how much of the components lies there."""
    # Only images with a marked defect have anything but zeros in two of the three.
    rows = np.flatnonzero(used)
    bad_rows = rows[scores.components[rows] > 0]
    # Sums of integers up to 2^53 are exact in float64; in float32 they would not be.
    good = scores.good[rows, ::-1].astype(np.float64)
    bad = scores.bad[bad_rows, ::-1].astype(np.float64)
    n_bad = bad.sum(axis=1)
    components = scores.components[bad_rows].astype(np.float64)
    overlap = scores.overlap[bad_rows, ::-1].astype(np.float64) if needs_overlap else None

    def count(weights: np.ndarray) -> _Counts:
        bad_weights = weights[:, bad_rows]
        return _Counts(
            bad=bad_weights @ bad,
            good=weights[:, rows] @ good,
            overlap=None
            if overlap is None
            else _ratio(bad_weights @ overlap, (bad_weights @ components)[:, None]),
            bad_tie=_ratio(bad_weights**2 @ n_bad, bad_weights @ n_bad)[:, None],
        )

    return count


def _auroc(counts: _Counts) -> np.ndarray:
    bad, good = counts.bad, counts.good
    n_bad, n_good = bad.sum(axis=1), good.sum(axis=1)
    beaten = n_good[:, None] - np.cumsum(good, axis=1) + good / 2
    return _ratio((bad * beaten).sum(axis=1), n_bad * n_good)


def _ap_of_ties(counts: _Counts) -> np.ndarray:
    """AP where all of one column have the same score."""
    tp = np.cumsum(counts.bad, axis=1)
    called = tp + np.cumsum(counts.good, axis=1)
    precision = np.divide(tp, called, out=np.zeros_like(tp), where=called > 0)
    return _defined((counts.bad * precision).sum(axis=1), counts)


def _ap_of_mixed(counts: _Counts) -> np.ndarray:
    """AP where defective and good of one column are evenly mixed.

    The u-th of a column's b defective pixels has u * g / b of its g good ones above it, and with
    half of itself (and of its copies, which tie with it) counted, the precision there is
    (T + u) / (C + s * u), T and C being the defective and all pixels above the column and that
    half, s = 1 + g / b. Its mean over u = 0..b is r + (T / C - r) * log(1 + x) / x with r = 1 / s
    and x = s * b / C.
    """
    bad, both = counts.bad, counts.bad + counts.good
    has_bad = bad > 0
    half = cast(np.ndarray, counts.bad_tie) / 2
    above_bad = np.cumsum(bad, axis=1) - bad + half
    above = np.cumsum(both, axis=1) - both + half
    rate = np.divide(bad, both, out=np.zeros_like(bad), where=has_bad)
    grown = np.where(has_bad, both / above, 1.0)
    mean = rate + (above_bad / above - rate) * np.log1p(grown) / grown
    return _defined((bad * mean).sum(axis=1), counts)


def _aupro(counts: _Counts) -> np.ndarray:
    """Area below overlap against the false-positive rate, linear in a column, up to the limit."""
    good = counts.good
    limit = AUPRO_FPR_LIMIT * good.sum(axis=1)
    end = np.minimum(np.cumsum(good, axis=1), limit[:, None])
    width = np.diff(end, axis=1, prepend=0.0)
    # The overlap in the middle of that part of a column that lies below the limit.
    part = np.divide(width, good, out=np.zeros_like(good), where=good > 0)
    overlap = cast(np.ndarray, counts.overlap)
    middle = np.cumsum(overlap, axis=1) - overlap * (1 - part / 2)
    return _ratio((width * middle).sum(axis=1), limit)


def _defined(total: np.ndarray, counts: _Counts) -> np.ndarray:
    return np.where(counts.good.any(axis=1), _ratio(total, counts.bad.sum(axis=1)), np.nan)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where `below` is 0."""
    ratio: np.ndarray = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return ratio


_Formula = Callable[[_Counts], np.ndarray]
_IMAGE_FORMULAS: dict[str, _Formula] = {"image_auroc": _auroc, "image_ap": _ap_of_ties}
_PIXEL_FORMULAS: dict[str, _Formula] = {
    "pixel_auroc": _auroc,
    "pixel_ap": _ap_of_mixed,
    "aupro": _aupro,
}
