"""Metrics: hand-computed cases, scikit-learn, literal loops, ties, padding, one class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.metrics import (
    ImageMetrics,
    PixelMetrics,
    image_metrics,
    pixel_metrics,
    roc_curve,
)
from manifests.errors import ModelError
from reference.metrics import aupro, best_f1, pair_auroc

EXACT = {"rel": 1e-12, "abs": 1e-12}


def _problem(seed: int, *, levels: int | None, n: int = 5, height: int = 12, width: int = 17):
    """Maps, masks with several touching and separate components, and a padded border."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(n, height, width)).astype(np.float32)
    masks = rng.random((n, height, width)) < 0.12
    masks[0] = False
    maps += masks * np.float32(0.8)
    if levels is not None:
        maps = (np.round(maps * levels) / levels).astype(np.float32)
    valid = np.ones_like(masks)
    valid[:, :2] = False
    valid[-1, :, -3:] = False
    return maps, masks, valid


def test_image_metrics_by_hand_with_ties():
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    labels = np.array([1, 1, 0, 0, 0])
    # Pairs: 0.9 beats three; 0.5 ties two and beats one: (3 + 2/2 + 1) / 6.
    # AP: 1/2 * 1/1 + 1/2 * 2/4. F1 at 0.9: 2*1/(1+2); at 0.5: 2*2/(4+2), equal, the higher stands.
    assert image_metrics(scores, labels) == ImageMetrics(
        auroc=pytest.approx(5 / 6),
        ap=pytest.approx(0.75),
        f1_max=pytest.approx(2 / 3),
        f1_threshold=0.9,
        n_good=3,
        n_defective=2,
    )


@pytest.mark.parametrize("decimals", [1, 12])
def test_image_metrics_agree_with_scikit_learn(decimals):
    from sklearn import metrics

    rng = np.random.default_rng(3)
    labels = rng.random(400) < 0.3
    scores = np.round(rng.normal(size=400) + labels, decimals)
    got = image_metrics(scores, labels)
    precision, recall, thresholds = metrics.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert got.auroc == pytest.approx(metrics.roc_auc_score(labels, scores), **EXACT)
    assert got.ap == pytest.approx(metrics.average_precision_score(labels, scores), **EXACT)
    assert got.f1_max == pytest.approx(f1.max(), **EXACT)
    assert got.f1_threshold == thresholds[np.flatnonzero(np.isclose(f1, f1.max(), 1e-12))[-1]]
    assert (got.n_good, got.n_defective) == (int((~labels).sum()), int(labels.sum()))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=25))
def test_image_metrics_agree_with_loops(pairs):
    scores = np.array([score for score, _ in pairs], dtype=np.float32)
    labels = np.array([label for _, label in pairs], dtype=int)
    got = image_metrics(scores, labels)
    if labels.all() or not labels.any():
        assert (got.auroc, got.ap, got.f1_max, got.f1_threshold) == (None,) * 4
        return
    f1, threshold = best_f1(scores, labels)
    assert got.auroc == pytest.approx(pair_auroc(scores, labels), **EXACT)
    assert (got.f1_max, got.f1_threshold) == (pytest.approx(f1, **EXACT), threshold)


def test_no_sigmoid_large_scores_stay_apart():
    scores = np.array([1000.0, 1001.0, 1002.0, 1003.0])
    assert image_metrics(scores, np.array([0, 0, 1, 1])).auroc == 1.0
    assert image_metrics(-scores, np.array([0, 0, 1, 1])).auroc == 0.0


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_number(label):
    counts = {"n_good": 3 * (1 - label), "n_defective": 3 * label}
    got = image_metrics(np.arange(3.0), np.full(3, label))
    assert got == ImageMetrics(None, None, None, None, **counts)
    maps, masks, _ = _problem(1, levels=None)
    got = pixel_metrics(maps, np.full_like(masks, bool(label)), None)
    assert got == PixelMetrics(None, None, None, None)
    with pytest.raises(ValueError, match="good and defective"):
        roc_curve(np.arange(3.0), np.full(3, label))


def test_aupro_by_hand():
    # One component of 1 pixel (score 4) and one of 2 (scores 3 and 1).
    maps = np.array([[[4, 0, 3], [0, 0, 1], [0, 2, 0], [0, 0, 0.5]]], dtype=np.float32)
    masks = np.zeros((1, 4, 3), dtype=bool)
    masks[0, 0, 0] = masks[0, 0, 2] = masks[0, 1, 2] = True
    # Of nine good pixels, one (score 2) lies above the last defective one: the overlap is
    # (1 + 1/2) / 2 up to FPR 1/9, and 1 from there on.
    got = pixel_metrics(maps, masks, None)
    assert got.aupro == pytest.approx((0.75 * (1 / 9) + 1.0 * (0.3 - 1 / 9)) / 0.3)
    assert got.auroc == pytest.approx(26 / 27)
    assert got.ap == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert got.f1_max == pytest.approx(6 / 7)


def test_aupro_interpolates_inside_a_tie():
    # All pixels tie: the curve is the diagonal, so the area up to L is L^2/2.
    maps = np.full((1, 3, 4), -2.5, dtype=np.float32)
    masks = np.zeros((1, 3, 4), dtype=bool)
    masks[0, 0, 0] = True
    assert pixel_metrics(maps, masks, None).aupro == pytest.approx(0.15)
    assert pixel_metrics(maps, masks, None, aupro_fpr_limit=1.0).aupro == pytest.approx(0.5)
    assert pixel_metrics(maps, masks, None).auroc == 0.5


def test_components_touch_at_corners_and_do_not_cross_images():
    maps = np.zeros((2, 3, 4), dtype=np.float32)
    masks = np.zeros((2, 3, 4), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = True  # one component of two pixels, touching diagonally
    masks[1, 0, 0] = True  # another of one
    maps[0, 0, 0] = 1
    # Only one of three defective pixels is found, before any good one: overlap 1/2 * 1/2.
    got = pixel_metrics(maps, masks, None, aupro_fpr_limit=0.5)
    assert got.aupro == pytest.approx((0.25 + 0.625) / 2)


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_pixel_metrics_agree_with_references(levels, limit):
    from sklearn import metrics

    maps, masks, valid = _problem(5, levels=levels)
    kept = (maps.copy(), masks.copy(), valid.copy())
    got = pixel_metrics(maps, masks, valid, aupro_fpr_limit=limit)
    scores, labels = maps[valid], masks[valid]
    assert got.aupro == pytest.approx(aupro(maps, masks, valid, fpr_limit=limit), **EXACT)
    assert got.auroc == pytest.approx(metrics.roc_auc_score(labels, scores), **EXACT)
    assert got.ap == pytest.approx(metrics.average_precision_score(labels, scores), **EXACT)
    assert got.f1_max == pytest.approx(best_f1(scores, labels)[0], **EXACT)
    for before, after in zip(kept, (maps, masks, valid), strict=True):
        np.testing.assert_array_equal(before, after)


def test_negative_zero_and_extreme_scores_tie_and_rank_as_floats():
    values = [-np.finfo(np.float32).max, -1e-45, -0.0, 0.0, 1e-45, np.finfo(np.float32).max]
    maps = np.array(values * 2, dtype=np.float32).reshape(1, 3, 4)
    masks = np.zeros((1, 12), dtype=bool)
    masks[0, 6:] = True
    got = pixel_metrics(maps, masks.reshape(1, 3, 4), None)
    assert got.auroc == 0.5
    assert got.ap == pytest.approx(0.5)
    masks[0, [2, 9]] = True, False  # -0.0 now defective, 0.0 good: still a tie
    assert pixel_metrics(maps, masks.reshape(1, 3, 4), None).auroc == 0.5


def test_padding_counts_for_nothing():
    maps, masks, valid = _problem(7, levels=None)
    inner = pixel_metrics(maps[:-1, 2:], masks[:-1, 2:], None)
    noisy = maps.copy()
    noisy[~valid] = np.nan
    assert pixel_metrics(noisy[:-1], masks[:-1], valid[:-1]) == inner
    assert pixel_metrics(maps[:-1], masks[:-1], None) != inner


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_defective", [True, False])
def test_non_finite_scores_are_refused(value, is_defective):
    maps, masks, valid = _problem(2, levels=None)
    row, column = np.argwhere((masks[3] == is_defective) & valid[3])[0]
    maps[3, row, column] = value
    with pytest.raises(ModelError, match="map 3"):
        pixel_metrics(maps, masks, valid)
    scores = np.array([0.0, value, 1.0])
    for function in (image_metrics, roc_curve):
        with pytest.raises(ModelError, match="image 1"):
            function(scores, np.array([0, 1, 1]))


def test_wrong_shapes_and_types_are_refused():
    maps, masks, valid = _problem(2, levels=None)
    with pytest.raises(ValueError, match="float32"):
        pixel_metrics(maps.astype(np.float64), masks, valid)
    with pytest.raises(ValueError, match="masks"):
        pixel_metrics(maps, masks.astype(np.uint8), valid)
    with pytest.raises(ValueError, match="valid"):
        pixel_metrics(maps, masks, valid[:1])
    with pytest.raises(ValueError, match="aupro_fpr_limit"):
        pixel_metrics(maps, masks, valid, aupro_fpr_limit=0.0)
    with pytest.raises(ValueError, match="labels"):
        image_metrics(np.zeros(2), np.array([0, 2]))
    with pytest.raises(ValueError, match="scores"):
        image_metrics(np.zeros(2), np.zeros(3))


def test_roc_curve_agrees_with_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(9)
    labels = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=60) + labels, 1)
    expected = metrics.roc_curve(labels, scores, drop_intermediate=False)
    for got, want in zip(roc_curve(scores, labels), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-15)


def test_roc_curve_by_hand():
    fpr, tpr, thresholds = roc_curve(np.array([3, 1, 1, 2]), np.array([1, 1, 0, 0]))
    np.testing.assert_array_equal(fpr, [0, 0, 0.5, 1])
    np.testing.assert_array_equal(tpr, [0, 0.5, 0.5, 1])
    np.testing.assert_array_equal(thresholds, [np.inf, 3, 2, 1])
