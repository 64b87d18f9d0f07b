"""The moving average of weights: by hand, against a list of all of them."""

from __future__ import annotations

import pytest
import torch

from detector.weight_average import WeightAverage


def test_the_first_updates_by_hand():
    weight = torch.tensor([1.0])
    average = WeightAverage({"weight": weight}, decay=0.15)
    weight.fill_(3.0)
    average.follow(0)  # 1/10
    assert average.averages["weight"].item() == pytest.approx(0.1 * 1.0 + 0.9 * 3.0)
    weight.fill_(5.0)
    average.follow(1)  # 2/11 is over the decay
    assert average.averages["weight"].item() == pytest.approx(0.15 * 2.8 + 0.85 * 5.0)
    assert weight.item() == 5.0
    average.apply()
    assert weight.item() == pytest.approx(0.15 * 2.8 + 0.85 * 5.0)


def test_it_equals_the_weighted_sum_of_all_weights():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn((2, 3), generator=generator, dtype=torch.float64)
    average = WeightAverage({"weight": weight}, decay=0.8)
    history, parts = [weight.clone()], [1.0]
    for t in range(60):
        weight += torch.randn((2, 3), generator=generator, dtype=torch.float64)
        average.follow(t)
        decay = min(0.8, (1 + t) / (10 + t))
        history.append(weight.clone())
        parts = [decay * part for part in parts] + [1 - decay]
    expected = sum(part * value for part, value in zip(parts, history, strict=True))
    assert sum(parts) == pytest.approx(1.0)
    torch.testing.assert_close(average.averages["weight"], expected, rtol=1e-12, atol=1e-12)


def test_what_does_not_move_stays_bit_for_bit():
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    before = weight.clone()
    average = WeightAverage({"weight": weight}, decay=0.99)
    for t in range(20):
        average.follow(t)
    average.apply()
    assert torch.equal(weight, before)
