"""Thresholds: the conformal quantile and what it promises."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detector.threshold import Threshold, fit_threshold
from manifests.errors import ConfigError, ModelError


@pytest.mark.parametrize(
    ("n", "rate", "rank", "achievable"),
    [
        # k = ceil((n + 1)(1 - rate)) by hand.
        (19, 0.05, 19, 0.05),
        (99, 0.01, 99, 0.01),
        (99, 0.05, 95, 0.05),
        (20, 0.05, 20, 0.05),
        (20, 0.5, 11, 0.5),
        (18, 0.05, 18, 1 / 19),
        (1, 0.01, 1, 0.5),
        (9, 1 - 1e-12, 1, 1 - 1e-12),
    ],
)
def test_hand_computed_ranks(n, rate, rank, achievable):
    scores = np.random.default_rng(0).permutation(np.arange(1, n + 1)).astype(np.float32)
    threshold = fit_threshold(scores, rate)
    assert threshold == Threshold(float(rank), n, rate, achievable)
    assert threshold.is_reached == (achievable == rate)


def test_false_alarms_of_new_images_stay_at_the_rate_on_average():
    source = np.random.default_rng(1)
    exceeded = [
        (source.normal(size=200) > fit_threshold(source.normal(size=99), 0.05).value).mean()
        for _ in range(400)
    ]
    assert np.mean(exceeded) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(("n", "rate"), [(60, 0.01), (99, 0.01), (761, 0.01), (200, 0.1), (1, 0.5)])
def test_the_interval_of_false_alarms_holds_as_often_as_it_says(n, rate):
    source = np.random.default_rng(7)
    # Of uniform scores a limit of v is exceeded by exactly 1 - v of all further ones.
    limits = [fit_threshold(source.uniform(size=n), rate) for _ in range(3000)]
    low, high = limits[0].rate_interval(0.9)
    true_rates = np.array([1.0 - limit.value for limit in limits])
    assert ((true_rates >= low) & (true_rates <= high)).mean() == pytest.approx(0.9, abs=0.02)
    assert (true_rates < low).mean() == pytest.approx(0.05, abs=0.015)
    wider = limits[0].rate_interval()
    assert 0 <= wider[0] < low < high < wider[1] <= 1


def test_input_stays_in_order_and_result_is_plain_json():
    scores = np.array([3.0, 1.0, 2.0], dtype=np.float32)
    threshold = fit_threshold(scores, 0.3)
    assert scores.tolist() == [3.0, 1.0, 2.0]
    assert Threshold(**json.loads(json.dumps(threshold.to_json()))) == threshold
    assert type(threshold.value) is float


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ConfigError, match="target rate"):
        fit_threshold(np.ones(3), rate)


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [float("inf")]])
def test_scores_that_cannot_serve_are_refused(scores):
    with pytest.raises(ModelError, match="finite scores"):
        fit_threshold(np.array(scores), 0.1)
