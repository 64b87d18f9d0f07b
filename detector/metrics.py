"""Image and pixel metrics by rank on raw scores: AUROC, AP, F1-max and AUPRO, all exact.

A metric needs the good scores only as two counts per threshold: how many lie above it and how many
on it. So good and defective scores are sorted apart, each once and in place. The good pixels,
nearly all of them, need no index array and stay 4 bytes each; a defective pixel is one 8-byte key,
score and component packed together. AUROC, AP, F1-max and AUPRO all read the same two arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from manifests.errors import ModelError

AUPRO_FPR_LIMIT = 0.3


@dataclass(frozen=True)
class ImageMetrics:
    """Metrics over the image scores of one category; None where there is only one class.

    Attributes:
        auroc: area under the ROC curve, 0..1; a tie counts one half.
        ap: average precision, 0..1 (the step-wise sum, without interpolation).
        f1_max: the best F1 over all thresholds, 0..1.
        f1_threshold: the highest score that reaches it; images scoring at least this are called.
        n_good, n_defective: images of each class.
    """

    auroc: float | None
    ap: float | None
    f1_max: float | None
    f1_threshold: float | None
    n_good: int
    n_defective: int


@dataclass(frozen=True)
class PixelMetrics:
    """Metrics over all pixels of one category; None where there is only one class.

    Attributes:
        auroc, ap, f1_max: as in `ImageMetrics`, over pixels.
        aupro: mean overlap per ground-truth component against the false-positive rate, integrated
            up to the limit and divided by it, 0..1.
    """

    auroc: float | None
    ap: float | None
    f1_max: float | None
    aupro: float | None


@dataclass(frozen=True)
class _Steps:
    """The thresholds at which recall grows, highest first, and the counts there.

    `tp` and `fp` count scores at or above the threshold, `fp_above` those strictly above it.
    """

    threshold: np.ndarray  # (t,) float, strictly descending
    tp: np.ndarray  # (t,) int64
    fp: np.ndarray  # (t,) int64
    fp_above: np.ndarray  # (t,) int64
    n_bad: int
    n_good: int

    def auroc(self) -> float:
        # Twice the Mann-Whitney count, in integers: below 2 * (n/2)^2, far from overflow.
        new = np.diff(self.tp, prepend=0)
        beaten_twice = int((new * (2 * self.n_good - self.fp - self.fp_above)).sum())
        return beaten_twice / (2 * self.n_bad * self.n_good)

    def ap(self) -> float:
        new = np.diff(self.tp, prepend=0)
        return float((new * (self.tp / (self.tp + self.fp))).sum() / self.n_bad)

    def f1_max(self) -> tuple[float, float]:
        # Between two of these thresholds only false positives are added, so the best is among them.
        f1 = 2 * self.tp / (self.tp + self.fp + self.n_bad)
        best = int(f1.argmax())  # the first, hence the highest threshold
        return float(f1[best]), float(self.threshold[best])

    def aupro(self, overlap: np.ndarray, fpr_limit: float) -> float:
        """`overlap` (t,) float64 is the mean component overlap at each threshold."""
        # Overlap is constant between these thresholds and only a tie of good and defective pixels
        # makes a slope: two corners per threshold are the whole curve.
        fp = np.empty(2 * len(self.fp) + 2, dtype=np.float64)
        pro = np.empty_like(fp)
        fp[0], fp[1:-1:2], fp[2:-1:2], fp[-1] = 0, self.fp_above, self.fp, self.n_good
        pro[:2], pro[2:-1:2], pro[3:-1:2], pro[-1] = 0, overlap, overlap[:-1], 1
        limit = fpr_limit * self.n_good
        end = int(np.searchsorted(fp, limit, side="right"))
        area = (np.diff(fp[:end]) * (pro[1:end] + pro[: end - 1])).sum() / 2
        if end < len(fp):
            width = limit - fp[end - 1]
            slope = (pro[end] - pro[end - 1]) / (fp[end] - fp[end - 1])
            area += width * (pro[end - 1] + slope * width / 2)
        return float(area / limit)


def image_metrics(scores: np.ndarray, labels: np.ndarray) -> ImageMetrics:
    """AUROC, AP and F1-max of image scores.

    Args:
        scores: (n,) raw scores, higher is more defective; any finite range.
        labels: (n,) bool or 0/1, 1 = defective.

    Raises:
        ModelError: a score is NaN or infinite.
        ValueError: shapes differ, or labels are not 0/1.

    Source: ours; AP as in scikit-learn's documentation of `average_precision_score`.
    """
    scores, is_bad = _checked(scores, labels)
    good, bad = np.sort(scores[~is_bad]), np.sort(scores[is_bad])
    if not good.size or not bad.size:
        return ImageMetrics(None, None, None, None, good.size, bad.size)
    steps = _steps(bad[::-1], good)
    f1_max, threshold = steps.f1_max()
    return ImageMetrics(steps.auroc(), steps.ap(), f1_max, threshold, good.size, bad.size)


def pixel_metrics(
    maps: np.ndarray,
    masks: np.ndarray,
    valid: np.ndarray | None,
    *,
    aupro_fpr_limit: float = AUPRO_FPR_LIMIT,
) -> PixelMetrics:
    """AUROC, AP, F1-max and AUPRO over the pixels of all images of one category.

    Needs 4 bytes per good pixel and about 60 per defective one besides its inputs.

    Args:
        maps: (n, H, W) float32 raw scores.
        masks: (n, H, W) bool ground truth; an empty mask makes all pixels of its image good, so
            leave out defective images whose defect is not marked.
        valid: (n, H, W) bool, False on padding, which counts for nothing; None: all pixels count.
        aupro_fpr_limit: upper end of the integration, above 0 and at most 1.

    Raises:
        ModelError: a counted score is NaN or infinite.
        ValueError: shapes or dtypes differ from the above, or the limit is out of range.

    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section on PRO;
        components have 8-connectivity, and the curve is interpolated linearly at the limit.
    Differs: every distinct score is a threshold, where the paper samples some.
    """
    _check_arrays(maps, masks, valid)
    if not 0 < aupro_fpr_limit <= 1:
        raise ValueError(f"aupro_fpr_limit must be above 0, at most 1, not {aupro_fpr_limit}")
    good, keys, sizes = _collect(maps, masks, valid)
    if not good.size or not keys.size:
        return PixelMetrics(None, None, None, None)
    keys.sort()
    steps = _steps(_scores_of(keys), good)
    # One pixel adds its share of its component; components weigh the same whatever their size.
    share = 1.0 / (sizes * np.float64(len(sizes)))
    overlap = np.cumsum(share[keys.astype(np.uint32)])[steps.tp - 1]
    return PixelMetrics(
        auroc=steps.auroc(),
        ap=steps.ap(),
        f1_max=steps.f1_max()[0],
        aupro=steps.aupro(overlap, aupro_fpr_limit),
    )


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve's corners, one per distinct score and (0, 0) before them.

    Args:
        scores, labels: as for `image_metrics`, with both classes present.

    Returns:
        fpr, tpr (t+1,) float64 rising from 0 to 1, and thresholds (t+1,) float64, infinity first:
        an image is called when its score is at least the threshold.

    Raises:
        ModelError: a score is NaN or infinite.
        ValueError: shapes differ, labels are not 0/1, or there is only one class.

    Source: ours.
    """
    scores, is_bad = _checked(scores, labels)
    if is_bad.all() or not is_bad.any():
        raise ValueError("a ROC curve needs good and defective images")
    order = np.argsort(scores, kind="stable")[::-1]
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    tp = np.cumsum(is_bad[order], dtype=np.int64)[last]
    fp = last + 1 - tp
    thresholds = np.concatenate([[np.inf], ranked[last]])
    return np.append(0.0, fp / fp[-1]), np.append(0.0, tp / tp[-1]), thresholds


def precision_recall_curve(
    scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall at every distinct score, highest first.

    The average precision of `image_metrics` is the area under the steps: each precision holds back
    to the recall before it.

    Args:
        scores, labels: as for `image_metrics`, with both classes present.

    Returns:
        recall (t,) float64 rising to 1, precision (t,) float64, and thresholds (t,) float64: an
        image is called when its score is at least the threshold.

    Raises:
        ModelError: a score is NaN or infinite.
        ValueError: shapes differ, labels are not 0/1, or there is only one class.

    Source: ours.
    """
    _, recall, thresholds = roc_curve(scores, labels)
    scores, is_bad = _checked(scores, labels)
    ranked = np.sort(scores)
    called = ranked.size - np.searchsorted(ranked, thresholds[1:], side="left")
    found = np.rint(recall[1:] * np.count_nonzero(is_bad))
    return recall[1:], found / called, thresholds[1:]


def _steps(bad_descending: np.ndarray, good_ascending: np.ndarray) -> _Steps:
    """Counts at every distinct defective score; both arrays are sorted and not empty."""
    last = np.append(np.flatnonzero(np.diff(bad_descending)), bad_descending.size - 1)
    threshold = bad_descending[last]
    n_good = good_ascending.size
    return _Steps(
        threshold=threshold,
        tp=last + 1,
        fp=n_good - np.searchsorted(good_ascending, threshold, side="left"),
        fp_above=n_good - np.searchsorted(good_ascending, threshold, side="right"),
        n_bad=bad_descending.size,
        n_good=n_good,
    )


def _collect(
    maps: np.ndarray, masks: np.ndarray, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted good scores (float32), defective keys (uint64) and component sizes (int64).

    A key holds the score's complemented rank bits above the component's number, so that keys
    sorted upwards are scores sorted downwards.
    """
    n_counted = maps.size if valid is None else int(np.count_nonzero(valid))
    bad_counts = [
        np.count_nonzero(mask if valid is None else mask & valid[i]) for i, mask in enumerate(masks)
    ]
    good = np.empty(n_counted - sum(bad_counts), dtype=np.float32)
    keys = np.empty(sum(bad_counts), dtype=np.uint64)
    sizes = [np.zeros(0, dtype=np.int64)]
    good_end = key_end = n_components = 0
    for i, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        inside = None if valid is None or valid[i].all() else valid[i]
        if not bad_counts[i]:
            part = scores.reshape(-1) if inside is None else scores[inside]
        else:
            part = scores[~mask if inside is None else inside & ~mask]
            bad = mask if inside is None else inside & mask
            count, components = cv2.connectedComponents(bad.astype(np.uint8), connectivity=8)
            ids = components[bad] - 1
            values = scores[bad]
            if not np.isfinite(values).all():
                raise _map_error(maps, valid)
            keys[key_end : key_end + len(ids)] = _keys(values, ids + n_components)
            key_end += len(ids)
            sizes.append(np.bincount(ids, minlength=count - 1))
            n_components += count - 1
        good[good_end : good_end + len(part)] = part
        good_end += len(part)
    good.sort()
    # Sorting takes negative infinity to the front, infinity and NaN to the back.
    if good.size and not np.isfinite(good[[0, -1]]).all():
        raise _map_error(maps, valid)
    return good, keys, np.concatenate(sizes)


def _keys(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(n,) uint64 that sort by descending float32 score, then by id."""
    bits = scores.view(np.uint32)
    # The bits of a non-negative float sort as it does; those of a negative one the other way.
    # Flipping all bits but the sign of the former leaves both in descending order, with 0.0 next to
    # -0.0: they tie, because `_steps` compares scores, not keys.
    descending = np.where(bits >> 31 != 0, bits, bits ^ np.uint32(0x7FFFFFFF))
    return descending.astype(np.uint64) << np.uint64(32) | ids.astype(np.uint64)


def _scores_of(keys: np.ndarray) -> np.ndarray:
    """(n,) float32, the scores that `_keys` packed."""
    descending = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(descending >> 31 != 0, descending, descending ^ np.uint32(0x7FFFFFFF))
    return bits.view(np.float32)


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be (n,) both")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 (good) or 1 (defective)")
    finite = np.isfinite(scores)
    if not finite.all():
        raise _not_finite(f"image {int(np.flatnonzero(~finite)[0])}", int((~finite).sum()))
    return scores.astype(np.float64), labels.astype(bool)


def _check_arrays(maps: np.ndarray, masks: np.ndarray, valid: np.ndarray | None) -> None:
    if maps.ndim != 3 or maps.dtype != np.float32:
        raise ValueError(f"maps must be (n, H, W) float32, not {maps.shape} {maps.dtype}")
    for name, array in (("masks", masks), ("valid", valid)):
        if array is not None and (array.shape != maps.shape or array.dtype != bool):
            raise ValueError(f"{name} must be {maps.shape} bool, not {array.shape} {array.dtype}")


def _map_error(maps: np.ndarray, valid: np.ndarray | None) -> ModelError:
    bad = [
        i
        for i, scores in enumerate(maps)
        if not np.isfinite(scores if valid is None else scores[valid[i]]).all()
    ]
    return _not_finite(f"map {bad[0]}", len(bad))


def _not_finite(first: str, count: int) -> ModelError:
    return ModelError(
        "scores that are NaN or infinite",
        expected="finite scores",
        got=f"{count}, the first at {first}",
        hint="check the model's weights with cutswap-det inspect, or fit it again",
    )
