"""Cached activations: computed once, alone, within bounds, and never of something else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detector import activation_cache as module
from detector.activation_cache import ActivationCache
from manifests.errors import ConfigError, ModelError

IDENTITY = {"network": "toy", "freeze_stages": 2, "jitter": 0.1}


class Computed:
    """Counts what it is asked for; the activation of an image says which it is."""

    def __init__(self):
        self.rows: list[int] = []

    def __call__(self, row: int) -> torch.Tensor:
        self.rows.append(row)
        return torch.arange(2 * 3 * 4.0).view(1, 2, 3, 4) + 100 * row


def test_every_image_is_computed_once():
    cache, compute = ActivationCache(), Computed()
    first = cache.take(np.array([5, 2, 5]), compute)
    assert compute.rows == [5, 2]
    second = cache.take(np.array([2, 7, 5]), compute)
    assert compute.rows == [5, 2, 7]
    for found, rows in ((first, [5, 2, 5]), (second, [2, 7, 5])):
        assert found.shape == (3, 2, 3, 4) and found.dtype == torch.float16
        assert found.is_contiguous(memory_format=torch.channels_last)
        expected = torch.cat([Computed()(row) for row in rows])
        assert torch.equal(found.float(), expected)
    assert len(cache) == 3
    assert (cache.bytes_per_image, cache.n_bytes) == (48, 144)


def test_what_is_handed_out_may_be_changed():
    cache, compute = ActivationCache(), Computed()
    cache.take(np.array([1]), compute).zero_()
    assert cache.take(np.array([1]), compute).sum() > 0


def test_rounding_is_bounded_as_stated():
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** (torch.rand(20_000, generator=generator) * 13 - 9)
    values = sizes[sizes <= 65504.0].view(1, -1, 1, 1)
    found = ActivationCache().take(np.array([0]), lambda _row: values).float()
    error = (found - values).abs()
    is_normal = values >= 2.0**-14
    assert (error[is_normal] <= 2.0**-11 * values[is_normal]).all()
    assert (error[~is_normal] <= 2.0**-25).all()
    exact = values[is_normal].bfloat16().view(1, -1, 1, 1)
    exact = exact[exact <= 65504.0].view(1, -1, 1, 1)
    assert torch.equal(ActivationCache().take(np.array([0]), lambda _row: exact).bfloat16(), exact)


@pytest.mark.parametrize("value", [70_000.0, -1e9, float("nan"), float("inf")])
def test_what_float16_cannot_hold_is_refused(value):
    with pytest.raises(ModelError, match="leave out --cache-activations"):
        ActivationCache().take(np.array([0]), lambda _row: torch.full((1, 1, 2, 2), value))


def test_another_identity_is_refused_with_what_differs():
    cache = ActivationCache()
    cache.claim(IDENTITY)
    cache.claim(dict(reversed(IDENTITY.items())))
    with pytest.raises(ModelError, match=r"expected jitter=0\.0, got jitter=0\.1\)") as caught:
        cache.claim({**IDENTITY, "jitter": 0.0})
    assert "network" not in str(caught.value)


def test_too_little_memory_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(module, "_machine_bytes", lambda: 2 * 48 * 10)
    rows = np.arange(11)
    compute = Computed()
    with pytest.raises(ConfigError, match=r"half of this machine.*11 images") as caught:
        ActivationCache().reserve(rows, n_most=1000, compute=compute)
    assert "--freeze-stages" in str(caught.value)
    assert compute.rows == [0]
    ActivationCache().reserve(rows[:10], n_most=1000, compute=compute)
    # Not all are drawn: the one that was measured, and nine more.
    ActivationCache().reserve(rows, n_most=9, compute=compute)
    # What is there already counts too, and once.
    cache = ActivationCache()
    cache.take(np.arange(20, 25), compute)
    cache.reserve(rows[:5], n_most=1000, compute=compute)
    cache.reserve(np.arange(20, 25), n_most=1000, compute=compute)
    with pytest.raises(ConfigError, match="11 images"):
        cache.reserve(rows[:6], n_most=1000, compute=compute)


def test_the_machine_says_how_much_memory_it_has(monkeypatch):
    assert module._machine_bytes() > 1 << 28
    monkeypatch.delattr(module.os, "sysconf")
    assert module._machine_bytes() is None
    ActivationCache().reserve(np.arange(3), n_most=3, compute=Computed())


def test_nothing_to_draw_needs_nothing():
    compute = Computed()
    ActivationCache().reserve(np.arange(5), n_most=0, compute=compute)
    assert compute.rows == []
