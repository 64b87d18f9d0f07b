"""Training behind cached activations: what changes, what is shared, what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from detector import activation_cache as cache_module
from detector.activation_cache import ActivationCache
from detector.frozen_prefix import pooled_features
from detector.jitter import colour_jitter
from detector.random_stream import random_stream
from detector.stage_taps import stage_taps
from detector.train import train_extractor
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from manifests.errors import ConfigError, ModelError
from manifests.weights import load_network
from reference.small_training import LABELS, assert_same, fit, log_of, sampler_of
from reference.training import PaintedSet

SMALL = TrainConfig(updates=5, batch=3, lr=0.05, frozen_start=1, checkpoint_every=2, seed=4)
CACHED = dataclasses.replace(SMALL, freeze_stages=2, cache_activations=True)


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


def test_a_cache_changes_what_float16_rounds_and_no_more(network, tmp_path):
    config = dataclasses.replace(CACHED, jitter=0.0)
    fit(network, config, tmp_path / "cached")
    fit(network, dataclasses.replace(config, cache_activations=False), tmp_path / "plain")
    cached, plain = log_of(tmp_path / "cached"), log_of(tmp_path / "plain")
    assert cached != plain
    assert [r["loss"] for r in cached] == pytest.approx([r["loss"] for r in plain], abs=5e-3)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_float16_hardly_changes_the_features(name):
    network = load_network(name, pretrained=False, seed=2)
    config = dataclasses.replace(CACHED, jitter=0.0)
    trainee = Trainee(network, config, labels=LABELS, device="cpu")
    image = PaintedSet().normal(0).image
    image = np.tile(image, (2, 2, 1))[:64, :96]
    kept = ActivationCache().take(np.array([0]), lambda row: trainee.activation(image, row))
    with torch.no_grad():
        exact = pooled_features(network.module, network.preprocess(image[None]))
        found = pooled_features(trainee._running, kept.float())
    error = (found - exact).norm() / exact.norm()
    assert 0 < error < 1e-3


def test_an_image_has_one_jitter_of_its_own_for_all_seeds(network):
    config = dataclasses.replace(CACHED, jitter=0.2)
    image = PaintedSet().normal(0).image
    trainee = Trainee(network, config, labels=LABELS, device="cpu")
    other = Trainee(network, dataclasses.replace(config, seed=9), labels=LABELS, device="cpu")
    found = trainee.activation(image, 3)
    assert torch.equal(found, other.activation(image, 3))
    assert not torch.equal(found, trainee.activation(image, 4))
    jittered = colour_jitter(
        torch.from_numpy(image[None]), jitter=0.2, generator=random_stream("jitter|3")
    )
    name = network.stages[1]
    with torch.no_grad(), stage_taps(network.module, [name], is_last=False) as taken:
        network.module(network.preprocess(jittered))
    assert torch.equal(found, taken[name])


def test_one_cache_serves_several_trainings(network, tmp_path, monkeypatch):
    computed = []
    real = Trainee.activation

    def spy(self, image, row):
        computed.append(row)
        return real(self, image, row)

    monkeypatch.setattr(Trainee, "activation", spy)
    configs = [
        CACHED,
        dataclasses.replace(CACHED, seed=5, freeze_bn=True),
        dataclasses.replace(CACHED, negatives=("scar",), levels=(3,), loss="both"),
    ]
    shared = ActivationCache()
    together = [
        fit(network, config, tmp_path / f"shared-{n}", cache=shared)
        for n, config in enumerate(configs)
    ]
    assert len(computed) == len(set(computed)) == len(shared) <= 8 + 32
    computed.clear()
    for n, config in reversed(list(enumerate(configs))):
        assert_same(fit(network, config, tmp_path / f"own-{n}"), together[n])
    assert len(computed) > len(shared)
    assert shared.bytes_per_image == 2 * network.module.layer1[0].conv2.out_channels * 10 * 14


def test_images_are_read_once_and_the_frozen_part_never_trains(network, tmp_path):
    sampler = sampler_of(CACHED)
    read, real = [], sampler.image
    sampler.image = lambda row: read.append(row) or real(row)
    trained = train_extractor(network, sampler, CACHED, folder=tmp_path)
    assert 9 < len(read) == len(set(read))
    before = network.module.state_dict()
    for name, tensor in trained.module.state_dict().items():
        if name.startswith(("conv1.", "bn1.", "layer1.")):
            assert torch.equal(tensor, before[name]), name
    moved = trained.module.state_dict()["layer2.0.bn1.running_mean"]
    assert not torch.equal(moved, before["layer2.0.bn1.running_mean"])
    assert trained.module.layer1.__class__ is network.module.layer1.__class__


@pytest.mark.parametrize("loss", ["patch", "both"])
@pytest.mark.parametrize("n_stages", [1, 3])
def test_cells_train_behind_a_cache(network, tmp_path, loss, n_stages):
    config = dataclasses.replace(CACHED, loss=loss, freeze_stages=n_stages, updates=3, jitter=0.0)
    fit(network, config, tmp_path / "cached")
    fit(network, dataclasses.replace(config, cache_activations=False), tmp_path / "plain")
    cached, plain = log_of(tmp_path / "cached"), log_of(tmp_path / "plain")
    assert [r["loss"] for r in cached] == pytest.approx([r["loss"] for r in plain], abs=5e-3)


def test_a_cache_of_something_else_is_refused(network, tmp_path):
    cache = ActivationCache()
    fit(network, dataclasses.replace(CACHED, updates=1, frozen_start=0), tmp_path, cache=cache)
    for change, named in (
        ({"freeze_stages": 1}, "freeze_stages=1"),
        ({"jitter": 0.0}, r"jitter=0\.0"),
        ({"precision": "bf16"}, "precision=bf16"),
    ):
        with pytest.raises(ModelError, match=named):
            fit(network, dataclasses.replace(CACHED, **change), tmp_path / "other", cache=cache)
    other = load_network("test_resnet", pretrained=False, seed=2)
    with pytest.raises(ModelError, match="network_digest="):
        fit(other, CACHED, tmp_path / "other", cache=cache)
    sampler = sampler_of(CACHED)
    sampler.set_digest = "ef" * 32
    with pytest.raises(ModelError, match="set_digest=efef"):
        train_extractor(network, sampler, CACHED, folder=tmp_path / "other", cache=cache)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError, match="does not use it"):
        fit(network, SMALL, tmp_path / "other", cache=cache)


def test_too_little_memory_is_refused_before_training(network, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_machine_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match="needs more memory"):
        fit(network, CACHED, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_bf16_activations_are_cached_and_trained_on(network, tmp_path):
    config = dataclasses.replace(CACHED, precision="bf16", jitter=0.0)
    fit(network, config, tmp_path / "bf16")
    fit(network, dataclasses.replace(config, precision="fp32"), tmp_path / "fp32")
    half, full = log_of(tmp_path / "bf16"), log_of(tmp_path / "fp32")
    assert half != full
    assert [r["loss"] for r in half] == pytest.approx([r["loss"] for r in full], abs=0.15)
