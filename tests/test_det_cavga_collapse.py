"""The watch on collapse: what it tells, when, and what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from detector.cavga.collapse import (
    MESSAGES,
    Collapse,
    CollapseThresholds,
    CollapseWatch,
    UpdateFigures,
    find_collapses,
)
from manifests.errors import ConfigError

HEALTHY = UpdateFigures(
    update=0,
    latent_nats=0.5,
    discriminator_loss=1.2,
    attention_mean=0.8,
    reconstruction_error=0.01,
    mean_image_error=0.02,
)
QUICK = CollapseThresholds(warm_up=10, patience=3)
SIGNS = {
    "posterior-collapse": {"latent_nats": 1e-4},
    "discriminator-won": {"discriminator_loss": 0.01},
    "discriminator-lost": {"discriminator_loss": 4.0},
    "attention-dark": {"attention_mean": 0.001},
    "attention-full": {"attention_mean": 0.999},
    "mean-image": {"reconstruction_error": 0.0199},
}


def log(n: int, start: int = 0, **changes: float) -> list[UpdateFigures]:
    return [replace(HEALTHY, update=start + number, **changes) for number in range(n)]


def test_a_healthy_training_gives_no_warning():
    assert find_collapses(log(1000)) == []
    # Nor one without adversary and attention.
    assert find_collapses(log(1000, discriminator_loss=None, attention_mean=None)) == []
    # Chance, and a loss that is as good as the mean image for now.
    assert find_collapses(log(1000, discriminator_loss=2 * math.log(2))) == []


@pytest.mark.parametrize("name", SIGNS)
def test_each_collapse_is_told_once_when_it_has_lasted(name):
    found = find_collapses([*log(20), *log(20, start=20, **SIGNS[name])], QUICK)
    assert found == [Collapse(name, first=20, update=22)]
    assert str(found[0]) == f"{name} since update 21: {MESSAGES[name]}"


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_that_passes_is_none(name):
    quiet = [*log(2, start=20, **SIGNS[name]), *log(1, start=22)]
    assert find_collapses([*log(20), *quiet, *quiet, *quiet], QUICK) == []


def test_one_that_comes_back_is_told_again():
    sick = {"latent_nats": 0.0}
    updates = [*log(5, **sick), *log(1, start=5), *log(5, start=6, **sick)]
    found = find_collapses(updates, QUICK)
    assert [(collapse.first, collapse.update) for collapse in found] == [(0, 2), (6, 8)]


def test_the_start_is_no_collapse():
    poor = {"reconstruction_error": 0.5, "attention_mean": 0.0}
    assert find_collapses(log(12, **poor), QUICK) == []
    names = [collapse.name for collapse in find_collapses(log(13, **poor), QUICK)]
    assert names == ["attention-dark", "mean-image"]


def test_numbers_that_are_none_are_told_at_once():
    for field in ("latent_nats", "discriminator_loss", "reconstruction_error"):
        found = find_collapses([*log(3), *log(1, start=3, **{field: math.nan})])
        assert found == [Collapse("not-finite", first=3, update=3)]


def test_the_watch_says_what_lasts():
    watch = CollapseWatch(QUICK)
    for figures in log(4, latent_nats=0.0, discriminator_loss=0.0):
        watch.see(figures)
    assert watch.active == ("posterior-collapse", "discriminator-won")
    watch.see(replace(HEALTHY, update=4, discriminator_loss=0.0))
    assert watch.active == ("discriminator-won",)


def test_a_resumed_watch_goes_on():
    updates = [*log(20), *log(4, start=20, latent_nats=0.0), *log(30, start=24)]
    whole = CollapseWatch(QUICK)
    told = [whole.see(figures) for figures in updates]
    for cut in (19, 21, 23, 24):
        resumed = CollapseWatch(QUICK)
        for figures in updates[:cut]:
            resumed.see(figures)
        assert [resumed.see(figures) for figures in updates[cut:]] == told[cut:]


def test_every_sign_has_a_message():
    assert set(SIGNS) | {"not-finite"} == set(MESSAGES)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"patience": 0}, "patience"),
        ({"warm_up": -1}, "warm_up"),
        ({"min_latent_nats": math.nan}, "min_latent_nats"),
        ({"min_attention": 0.99}, "min_attention"),
        ({"max_discriminator_loss": 0.01}, "min_discriminator_loss"),
    ],
)
def test_thresholds_out_of_range_are_refused(changes, what):
    with pytest.raises(ConfigError, match=what):
        CollapseThresholds(**changes)
