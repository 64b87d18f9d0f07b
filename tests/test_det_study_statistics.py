"""Intervals: draws, formulas by hand and in loops, pairing, coverage, verdicts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from detector.study.cell_scores import CellScores
from detector.study.statistics import (
    Difference,
    difference_of,
    estimate,
    estimate_of,
    image_draws,
    paired_difference,
    resample,
    verdict,
)
from manifests.errors import ModelError
from reference.statistics import interval, repeated_metrics


def _cell(image, defects, *, pixels=None) -> CellScores:
    """A cell of given image scores, without ground truth, or with that of `pixels`."""
    n = len(image)
    bad = np.zeros((n, 2), np.uint32) if pixels is None else pixels
    return CellScores(
        sources=np.array([f"{kind}/{i}" for i, kind in enumerate(defects)]),
        defects=np.array(defects),
        labels=np.array([kind != "good" for kind in defects]),
        image=np.asarray(image, dtype=np.float32),
        has_truth=np.full(n, pixels is not None),
        edges=np.array([0, 1, 2], dtype=np.float32),
        good=np.full((n, 2), 0 if pixels is None else 5, np.uint32),
        bad=bad,
        overlap=(bad / np.maximum(bad.sum(axis=1, keepdims=True), 1)).astype(np.float32),
        components=bad.any(axis=1).astype(np.int32),
        exact={},
    )


DEFECTS = ["good"] * 9 + ["hole"] * 4 + ["scratch"] * 6
ALL = np.ones(len(DEFECTS), dtype=bool)


def _arm(seed: int, lift: float, *, n_seeds: int = 4) -> list[CellScores]:
    rng = np.random.default_rng(seed)
    is_bad = np.array([kind != "good" for kind in DEFECTS])
    return [_cell(rng.normal(size=len(DEFECTS)) + lift * is_bad, DEFECTS) for _ in range(n_seeds)]


def test_draws_keep_the_strata():
    subset = ALL.copy()
    subset[[0, 10]] = False
    draws = image_draws(np.array(DEFECTS), subset, replicates=500, seed=3)
    assert draws.shape == (500, 19) and not draws[:, [0, 10]].any()
    assert (draws[:, :9].sum(axis=1) == 8).all()
    assert (draws[:, 9:13].sum(axis=1) == 3).all()
    assert (draws[:, 13:].sum(axis=1) == 6).all()
    # An image among k is drawn once on average, with variance (k-1)/k.
    assert draws[:, 13:].mean(axis=0) == pytest.approx(np.ones(6), abs=0.15)
    assert draws[:, 13:].var() == pytest.approx(5 / 6, abs=0.1)
    again = image_draws(np.array(DEFECTS), subset, replicates=500, seed=3)
    assert np.array_equal(draws, again)
    assert (draws != image_draws(np.array(DEFECTS), subset, replicates=500, seed=4)).any()


def test_images_of_one_part_are_drawn_together():
    parts = np.array(["", "", "", *["a"] * 3, *["b"] * 3, *["c"] * 2, "d", "", *["a"] * 6])
    draws = image_draws(np.array(DEFECTS), ALL, parts=parts, replicates=400, seed=3)
    assert (draws[:, 3:6] == draws[:, [3]]).all() and (draws[:, 6:9] == draws[:, [6]]).all()
    # Five parts of good ones: three by themselves, "a" and "b".
    assert (draws[:, [0, 1, 2, 3, 6]].sum(axis=1) == 5).all()
    assert (draws[:, [9, 11, 12]].sum(axis=1) == 3).all()
    # A stratum of one part says nothing of others of its kind, and is always whole.
    assert (draws[:, 13:] == 1).all()
    assert np.array_equal(
        image_draws(np.array(DEFECTS), ALL, parts=np.full(19, ""), replicates=9, seed=3),
        image_draws(np.array(DEFECTS), ALL, replicates=9, seed=3),
    )


def test_images_that_say_the_same_widen_the_interval():
    """Nine images thrice each are worth nine images, not twenty-seven."""
    rng = np.random.default_rng(0)
    defects = ["good"] * 15 + ["hole"] * 12
    parts = np.array([f"{i // 3}" for i in range(27)])
    scores = np.repeat(rng.normal(size=9) + np.array([0] * 5 + [1] * 4), 3)
    every = np.ones(27, dtype=bool)
    cell = _cell(scores + rng.normal(size=27) * 1e-3, defects)
    widths = []
    for shown in (None, parts):
        drawn = resample(
            [cell], metrics=("image_auroc",), subset=every, parts=shown, replicates=2000
        )
        found = estimate_of(drawn, "image_auroc")
        widths.append(found.high - found.low)
        assert drawn.n_parts == (27 if shown is None else 9)
    assert widths[1] == pytest.approx(widths[0] * np.sqrt(3), rel=0.25)


def test_arms_on_other_canvases_are_compared_where_both_have_ground_truth():
    pixels = np.array([[3, 1]] * 9 + [[1, 3]] * 10, dtype=np.uint32)
    cell = _cell(np.arange(19.0), DEFECTS, pixels=pixels)
    fewer = ALL.copy()
    fewer[12] = False
    arm, baseline = [_only(cell, fewer)], [cell]
    drawn = [resample(cells, subset=ALL, replicates=9) for cells in (arm, baseline)]
    assert difference_of(*drawn, "image_auroc").mean == 0
    with pytest.raises(ModelError, match="other test images"):
        difference_of(*drawn, "pixel_auroc")
    drawn = [resample(cells, subset=ALL, truth=fewer, replicates=9) for cells in (arm, baseline)]
    assert difference_of(*drawn, "pixel_auroc").mean == 0
    assert difference_of(*drawn, "pixel_auroc").n_images == 18
    assert difference_of(*drawn, "image_auroc").n_images == 19
    options = {"subset": ALL, "replicates": 9}
    assert paired_difference(arm, baseline, metric="pixel_auroc", **options).n_images == 18


def test_difference_by_hand():
    defects = ["good", "good", "hole"]
    # AUROC of the hole against two good ones: arm 1 and 1/2, baseline 1/2 and 1/2.
    arm = [_cell([1, 2, 3], defects), _cell([1, 3, 2], defects)]
    baseline = [_cell([1, 3, 2], defects), _cell([3, 1, 2], defects)]
    every = np.ones(3, dtype=bool)
    got = paired_difference(arm, baseline, metric="image_auroc", subset=every, replicates=4000)
    assert got.mean == pytest.approx(0.25)
    assert got.seed_sd == pytest.approx(math.sqrt(0.125))
    assert (got.n_seeds, got.n_images) == (2, 3)
    # Draws of the good ones: both the first (1/4), both the second (1/4), one each (1/2). The arm
    # then has 1, 1, 1 with seed 1 and 1, 0, 1/2 with seed 2, the baseline 1, 0, 1/2 and 0, 1, 1/2.
    # So the mean difference is 1/2, 0 or 1/4: standard deviation sqrt(1/32).
    assert got.boot_sd == pytest.approx(math.sqrt(1 / 32), rel=0.03)
    seed_half = 12.7062 * math.sqrt(0.125) / math.sqrt(2)  # t with one degree of freedom
    half = math.sqrt(seed_half**2 + (1.96 * got.boot_sd) ** 2)
    assert (got.low, got.high) == pytest.approx((0.25 - half, 0.25 + half), rel=1e-5)


def test_agrees_with_images_really_repeated():
    """Every metric, draw and sum done the long way, on score maps instead of histograms."""
    rng = np.random.default_rng(1)
    n, labels = len(DEFECTS), np.array([kind != "good" for kind in DEFECTS])
    masks = np.zeros((n, 1, 6), dtype=bool)
    masks[labels, :, :3] = True
    truth = np.ones(n, dtype=bool)
    subset = ALL.copy()
    subset[[2, 14]] = False
    arms = []
    for lift in (0.8, 0.2):
        cells = []
        for _ in range(3):
            # Two levels only, so that histograms lose nothing but for AP.
            maps = (rng.random(masks.shape) < 0.4 + 0.2 * lift * masks).astype(np.float32)
            scores = rng.normal(size=n).astype(np.float32) + np.float32(lift) * labels
            bad = np.stack([(masks & (maps == level)).sum(axis=(1, 2)) for level in (0, 1)], 1)
            good = np.stack([(~masks & (maps == level)).sum(axis=(1, 2)) for level in (0, 1)], 1)
            cell = _cell(scores, DEFECTS, pixels=bad.astype(np.uint32))
            cells.append((replace(cell, good=good.astype(np.uint32)), scores, maps))
        arms.append(cells)
    draws = image_draws(np.array(DEFECTS), subset, replicates=25, seed=5)

    def literal(cells, weights):
        return [
            repeated_metrics(scores, labels, maps, masks, np.ones_like(masks),
                             truth, weights)
            for _, scores, maps in cells
        ]  # fmt: skip

    plain = [literal(cells, subset.astype(int)) for cells in arms]
    drawn = [[literal(cells, weights) for cells in arms] for weights in draws]
    for metric in ("image_auroc", "image_ap", "pixel_auroc", "aupro"):
        differences = [a[metric] - b[metric] for a, b in zip(*plain, strict=True)]
        means = [
            sum(a[metric] - b[metric] for a, b in zip(*both, strict=True)) / 3 for both in drawn
        ]
        got = paired_difference(
            *[[cell for cell, _, _ in cells] for cells in arms],
            metric=metric, subset=subset, replicates=25, seed=5,
        )  # fmt: skip
        expected = interval(differences, means, stats.t.ppf(0.975, 2))
        assert (got.mean, got.low, got.high) == pytest.approx(expected, abs=1e-6), metric


def test_estimate_is_the_same_formula_of_one_arm():
    arm = _arm(0, 1.0)
    got = estimate(arm, metric="image_ap", subset=ALL, replicates=60, seed=2)
    drawn = resample(arm, metrics=("image_ap",), subset=ALL, replicates=60, seed=2)
    values = drawn.values["image_ap"].tolist()
    means = drawn.replicates["image_ap"].mean(axis=1).tolist()
    expected = interval(values, means, stats.t.ppf(0.975, 3))
    assert (got.mean, got.low, got.high) == pytest.approx(expected)
    assert got.sd == pytest.approx(np.std(values, ddof=1)) and got.n == 4


def test_one_seed_leaves_the_spread_over_seeds_out():
    arm, baseline = _arm(0, 1.5, n_seeds=1), _arm(1, 1.0, n_seeds=1)
    got = paired_difference(arm, baseline, metric="image_auroc", subset=ALL)
    assert got.n_seeds == 1 and got.seed_sd is None
    assert got.high - got.mean == pytest.approx(1.96 * got.boot_sd)
    assert estimate(arm, metric="image_auroc", subset=ALL).sd is None


def test_a_baseline_of_one_seed_stands_against_all():
    arm, baseline = _arm(0, 1.5), _arm(1, 1.0, n_seeds=1)
    options = {"metric": "image_auroc", "subset": ALL, "replicates": 50}
    got = paired_difference(arm, baseline, **options)
    assert got == paired_difference(arm, baseline * 4, **options)
    assert got.n_seeds == 4


def test_an_arm_against_itself_differs_by_nothing():
    arm = _arm(0, 1.0)
    got = paired_difference(arm, arm, metric="image_auroc", subset=ALL, replicates=20)
    assert (got.mean, got.low, got.high, got.boot_sd) == (0, 0, 0, 0)


def test_pairing_by_image_narrows_the_interval():
    rng = np.random.default_rng(4)
    ease = 3 * rng.normal(size=len(DEFECTS))  # hard and easy images, the same for both arms
    is_bad = np.array([kind != "good" for kind in DEFECTS])
    arm, baseline = (
        [_cell(ease + is_bad + 0.1 * rng.normal(size=19), DEFECTS) for _ in range(3)]
        for _ in range(2)
    )
    options = {"metric": "image_auroc", "subset": ALL}
    paired = paired_difference(arm, baseline, **options)
    alone = estimate(arm, **options)
    assert paired.boot_sd < 0.1 * (alone.high - alone.mean)


@pytest.mark.parametrize(("lift", "n_seeds"), [(0.0, 5), (0.5, 3)])
def test_intervals_cover_the_truth(lift, n_seeds):
    """Repeated studies of arms whose true AUROC is known: about 95 % of the intervals hold it.

    Either part of the interval alone would fall short, so both are there and of the right size.
    """
    rng = np.random.default_rng(11)
    defects = ["good"] * 30 + ["hole"] * 25 + ["scratch"] * 15
    is_bad = np.array([kind != "good" for kind in defects])
    subset = np.ones(len(defects), dtype=bool)
    seed_spread = 0.25
    covered, by_draws, by_seeds = [], [], []
    for study in range(200):
        ease = rng.normal(size=len(defects))

        def arm(effect, ease=ease):
            return [
                _cell(
                    ease
                    + (1.0 + effect + seed_spread * rng.normal()) * is_bad
                    + 0.6 * rng.normal(size=len(defects)),
                    defects,
                )
                for _ in range(n_seeds)
            ]

        got = paired_difference(
            arm(lift), arm(0.0), metric="image_auroc", subset=subset, replicates=120, seed=study
        )
        # Two scores differ by N(effect, 2 * (1 + 0.36)), and the effect has a spread of its own.
        spread = math.sqrt(2 * 1.36 + seed_spread**2)
        truth = stats.norm.cdf((1 + lift) / spread) - stats.norm.cdf(1 / spread)
        error = abs(got.mean - truth)
        covered.append(error <= got.high - got.mean)
        by_draws.append(error <= 1.96 * got.boot_sd)
        seed_half = stats.t.ppf(0.975, n_seeds - 1) * got.seed_sd / math.sqrt(n_seeds)
        by_seeds.append(error <= seed_half)
    assert 0.93 <= np.mean(covered) <= 0.995
    assert np.mean(by_draws) < 0.90
    assert np.mean(by_seeds) < np.mean(covered)


def test_resampled_arms_are_compared_without_drawing_again():
    arm, baseline = _arm(0, 1.5), _arm(1, 1.0)
    drawn = [resample(cells, subset=ALL, replicates=50, seed=1) for cells in (arm, baseline)]
    assert difference_of(*drawn, "image_ap") == paired_difference(
        arm, baseline, metric="image_ap", subset=ALL, replicates=50, seed=1
    )
    other = resample(baseline, subset=ALL, replicates=50, seed=2)
    with pytest.raises(ModelError, match="other test images or draws"):
        difference_of(drawn[0], other, "image_ap")


def test_an_undefined_metric_is_none():
    arm = resample(_arm(0, 1.0), subset=ALL, replicates=5)  # without ground truth
    assert estimate_of(arm, "aupro") is None
    assert difference_of(arm, arm, "pixel_ap") is None
    assert estimate_of(arm, "image_ap") is not None


def _only(cell: CellScores, known: np.ndarray) -> CellScores:
    """The cell with ground truth for some of its images only."""
    names = ("good", "bad", "overlap", "components")
    changed = {name: getattr(cell, name).copy() for name in names}
    for array in changed.values():
        array[~known] = 0
    return replace(cell, has_truth=known, **changed)


def test_draws_without_the_metric_are_left_out_up_to_half():
    pixels = np.array([[0, 0]] * 9 + [[1, 3]] * 10, dtype=np.uint32)
    cell = _cell(np.arange(19.0), DEFECTS, pixels=pixels)
    # Ground truth for one hole of four only: (3/4)^4 = 32 % of the draws are without it.
    known = ALL.copy()
    known[[9, 10, 11, *range(13, 19)]] = False
    drawn = resample([_only(cell, known)], subset=ALL, replicates=200)
    share = np.isnan(drawn.replicates["aupro"]).mean()
    assert 0.2 < share < 0.45
    assert np.isfinite(estimate_of(drawn, "aupro").low)
    mostly_gone = {"aupro": np.where(np.arange(200)[:, None] < 150, np.nan, 0.5)}
    assert estimate_of(replace(drawn, replicates=mostly_gone), "aupro") is None


def test_pixel_metrics_count_images_with_ground_truth():
    pixels = np.array([[0, 0]] * 9 + [[1, 3]] * 10, dtype=np.uint32)
    cell = _cell(np.arange(19.0), DEFECTS, pixels=pixels)
    known = ALL.copy()
    known[18] = False
    cell = _only(cell, known)
    subset = ALL.copy()
    subset[0] = False
    drawn = resample([cell], subset=subset, replicates=5)
    assert difference_of(drawn, drawn, "image_auroc").n_images == 18
    assert difference_of(drawn, drawn, "aupro").n_images == 17


def test_cells_that_cannot_be_paired_are_refused():
    arm, baseline = _arm(0, 1.0), _arm(1, 1.0)
    renamed = replace(baseline[2], sources=baseline[2].sources[::-1].copy())
    options = {"metric": "image_auroc", "subset": ALL}
    with pytest.raises(ModelError, match="their sources differ"):
        paired_difference(arm, [*baseline[:2], renamed, baseline[3]], **options)
    with pytest.raises(ModelError, match="their sources differ"):
        paired_difference(arm, [renamed] * 4, **options)
    with pytest.raises(ModelError, match=r"numbers of seeds.*expected 3 seeds, got 4"):
        paired_difference(arm, baseline[:3], **options)
    with pytest.raises(ValueError, match="no cells"):
        paired_difference([], baseline, **options)
    with pytest.raises(ValueError, match="subset must be"):
        resample(arm, subset=~ALL)
    with pytest.raises(ValueError, match="replicates must be at least 4"):
        resample(arm, subset=ALL, replicates=1)


@pytest.mark.parametrize(
    ("low", "high", "claim", "margin", "expected"),
    [
        (0.001, 0.02, "better", 0.0, "holds"),
        (0.0, 0.02, "better", 0.0, "undecided"),
        (-0.02, -0.001, "better", 0.0, "does not hold"),
        (-0.02, 0.0, "better", 0.0, "undecided"),
        (-0.02, 0.02, "better", 0.0, "undecided"),
        (-0.004, 0.02, "better", 0.005, "undecided"),
        (-0.004, 0.02, "not-worse", 0.005, "holds"),
        (-0.004, 0.02, "not-worse", 0.0, "undecided"),
        (-0.004, -0.001, "not-worse", 0.005, "holds"),
        (-0.02, -0.006, "not-worse", 0.005, "does not hold"),
        (-0.02, -0.005, "not-worse", 0.005, "undecided"),
    ],
)
def test_verdicts(low, high, claim, margin, expected):
    difference = Difference((low + high) / 2, low, high, 0.01, 0.01, 5, 100)
    assert verdict(difference, claim=claim, margin=margin) == expected


def test_verdict_refuses_other_claims():
    difference = Difference(0, 0, 0, 0, 0, 5, 100)
    with pytest.raises(ValueError, match="unknown claim 'best'"):
        verdict(difference, claim="best")
    with pytest.raises(ValueError, match="margin"):
        verdict(difference, claim="not-worse", margin=-0.1)
