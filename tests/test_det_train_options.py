"""Training beyond the paper: kinds, shares and levels of negatives, averaged weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from detector.frozen_prefix import pooled_features
from detector.train import train_extractor
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from manifests.errors import ConfigError, ModelError
from manifests.weights import load_network
from reference.small_training import (
    LABELS,
    Killed,
    assert_same,
    fit,
    fit_literally,
    image_batches,
    log_of,
    sampler_of,
    stop_at,
)
from reference.training import PaintedSet

SMALL = TrainConfig(updates=5, batch=3, lr=0.05, frozen_start=1, checkpoint_every=2, seed=4)


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


@pytest.mark.parametrize(
    "change",
    [
        {"ema": 0.9},
        {"loss": "patch"},
        {"loss": "both", "ema": 0.5, "freeze_bn": True},
        {"cache_activations": True, "freeze_stages": 2, "loss": "both", "ema": 0.9},
        {"shares": (0.5, 2.0), "levels": (3,), "negatives": ("scar", "swap")},
    ],
)
def test_an_interrupted_training_ends_the_same(network, tmp_path, change):
    config = dataclasses.replace(SMALL, **change)
    whole = fit(network, config, tmp_path / "whole")
    for at, kind in ((1, KeyboardInterrupt), (3, Killed), (5, Killed)):
        folder = tmp_path / f"{at}"
        with pytest.raises(kind):
            fit(network, config, folder, progress=stop_at(at, kind))
        assert_same(fit(network, config, folder), whole)
        assert log_of(folder) == log_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ema": 0.5}, r"ema=0\.5"),
        ({"loss": "both"}, "loss=both"),
        ({"shares": (1.0, 2.0)}, r"shares=\[1\.0, 2\.0\]"),
        ({"levels": (2,)}, r"levels=\[2\]"),
        ({"negatives": ("scar", "swap")}, r"labels=\['normal', 'scar', 'swap'\]"),
        ({"freeze_stages": 2, "cache_activations": True}, "cache_activations=True"),
    ],
)
def test_every_option_is_part_of_what_a_checkpoint_belongs_to(network, tmp_path, change, named):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(2, Killed))
    with pytest.raises(ModelError, match=named):
        fit(network, dataclasses.replace(SMALL, **change), tmp_path)


# ---- kinds, shares and levels -------------------------------------------------------------------


def test_kinds_and_shares_reach_training(network, tmp_path):
    config = dataclasses.replace(
        SMALL, batch=4, updates=2, negatives=("scar", "swap"), shares=(0.5, 2.0)
    )
    fit(network, config, tmp_path)
    for row in log_of(tmp_path):
        parts = [row["accuracy_normal"], row["accuracy_scar"], row["accuracy_swap"]]
        assert (2 * row["accuracy_scar"]) % 1 == 0
        assert row["accuracy"] == pytest.approx((4 * parts[0] + 2 * parts[1] + 8 * parts[2]) / 14)


def test_levels_reach_training(network, tmp_path):
    digests = {
        fit(network, dataclasses.replace(SMALL, levels=levels), tmp_path / str(levels)).digest
        for levels in ((), (2,), (3,))
    }
    # Both levels' pictures are the same here, and so is what they teach.
    assert len(digests) == 1
    source = PaintedSet()
    drawn = []
    source.negative_image = lambda index: drawn.append(index) or PaintedSet().negative_image(index)
    config = dataclasses.replace(SMALL, levels=(3,))
    train_extractor(network, sampler_of(config, source), config, folder=tmp_path / "spy")
    assert set(source.negative_level[drawn]) == {3}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"negatives": ("swap",)}, "agree on negatives .*'swap', 'scar'"),
        ({"shares": (1.0, 0.5)}, "agree on shares"),
        ({"levels": (2,), "seed": 9}, "agree on seed and levels"),
    ],
)
def test_sampler_and_config_must_agree(network, tmp_path, change, named):
    config = dataclasses.replace(SMALL, **change)
    with pytest.raises(ConfigError, match=named):
        train_extractor(network, sampler_of(SMALL), config, folder=tmp_path)


# ---- averaged weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_the_average_equals_the_literal_one(network, tmp_path, freeze_bn):
    # At a higher rate the last bits, which differ between processors, grow a hundredfold.
    config = dataclasses.replace(SMALL, jitter=0.0, ema=0.25, freeze_bn=freeze_bn, lr=0.01)
    trained = fit(network, config, tmp_path).module.state_dict()
    module, _, averages = fit_literally(
        network,
        config,
        image_batches(network, config),
        to_features=pooled_features,
        ema=config.ema,
    )
    last = module.state_dict()
    moved = 0
    for name, average in averages.items():
        error = (trained[name] - average).abs().max()
        # Measured against what averaging does, so that the last weights could not pass for it.
        change = (last[name] - average).abs().max()
        assert error <= 0.02 * change + 1e-6, name
        moved += int(change > 1e-4)
    assert moved > 10
    if freeze_bn:
        assert torch.equal(trained["bn1.running_mean"], network.module.bn1.running_mean)
    else:
        assert not torch.equal(trained["bn1.running_mean"], last["bn1.running_mean"])


def test_averaging_leaves_training_as_it_is(network, tmp_path):
    fit(network, SMALL, tmp_path / "plain")
    fit(network, dataclasses.replace(SMALL, ema=0.9), tmp_path / "averaged")
    assert log_of(tmp_path / "plain") == log_of(tmp_path / "averaged")


def test_without_a_decay_there_is_no_average(network):
    trainee = Trainee(network, SMALL, labels=LABELS, device="cpu")
    assert not any(name.startswith("average/") for name in trainee.tensors(np.zeros((0, 8))))
    config = dataclasses.replace(SMALL, ema=0.9, freeze_stages=2, freeze_bn=True)
    trainee = Trainee(network, config, labels=LABELS, device="cpu")
    names = {n for n in trainee.tensors(np.zeros((0, 8))) if n.startswith("average/")}
    assert "average/module/layer2.0.conv1.weight" in names
    assert not any("layer1" in name or "running" in name or "head" in name for name in names)
