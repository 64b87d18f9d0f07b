"""Training beyond the paper: kinds and levels, cells, averaged weights, cached activations."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from detector import activation_cache as cache_module
from detector.activation_cache import ActivationCache
from detector.dataset import TripletSampler
from detector.frozen_prefix import pooled_features
from detector.jitter import colour_jitter
from detector.patch_loss import cell_targets, joined_features
from detector.random_stream import random_stream
from detector.stage_taps import stage_taps
from detector.train import TRAINING_CSV, read_training_csv, train_extractor
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from manifests.errors import ConfigError, ModelError
from manifests.weights import load_network
from reference.training import PaintedSet, cell_loss_literally, train_literally

LABELS = ("normal", "swap", "scar")
SMALL = TrainConfig(updates=5, batch=3, lr=0.05, frozen_start=1, checkpoint_every=2, seed=4)
CACHED = dataclasses.replace(SMALL, freeze_stages=2, cache_activations=True)


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


def sampler_of(config: TrainConfig, source: PaintedSet | None = None) -> TripletSampler:
    return TripletSampler(
        source or PaintedSet(),
        batch=config.batch,
        seed=config.seed,
        negatives=config.negatives,
        shares=config.shares,
        levels=config.levels,
    )


def fit(network, config: TrainConfig, folder, **settings):
    return train_extractor(network, sampler_of(config), config, folder=folder, **settings)


def log_of(folder) -> list[dict[str, float]]:
    rows = read_training_csv(folder / TRAINING_CSV)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same(found, expected) -> None:
    state = expected.module.state_dict()
    for name, tensor in found.module.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert found.digest == expected.digest


class Killed(Exception):
    """Stands for a kill: nothing may be written on the way out."""


def stop_at(at: int, kind: type[BaseException]):
    def stop(update: int, *_values) -> None:
        if update == at:
            raise kind

    return stop


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
    config = dataclasses.replace(SMALL, jitter=0.0, ema=0.25, freeze_bn=freeze_bn)
    trained = fit(network, config, tmp_path).module.state_dict()
    module = copy.deepcopy(network.module)
    head = Trainee(network, config, labels=LABELS, device="cpu").heads["head"]
    batches = []
    for update in range(config.updates):
        batch = sampler_of(config).batch(update)
        batches.append((network.preprocess(batch.images), torch.from_numpy(batch.labels)))
    _, averages = train_literally(
        module,
        head,
        batches,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        frozen_start=config.frozen_start,
        freeze_bn=freeze_bn,
        to_features=pooled_features,
        ema=config.ema,
    )
    last = module.state_dict()
    moved = 0
    for name, average in averages.items():
        error = (trained[name] - average).abs().max()
        # Measured against what averaging does, so that the last weights could not pass for it.
        change = (last[name] - average).abs().max()
        assert error <= 0.05 * change + 1e-6, name
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


# ---- cells --------------------------------------------------------------------------------------


def test_patch_training_equals_the_literal_loop(network, tmp_path):
    config = dataclasses.replace(SMALL, jitter=0.0, loss="patch", updates=3)
    trained = fit(network, config, tmp_path)
    module = copy.deepcopy(network.module)
    head = Trainee(network, config, labels=LABELS, device="cpu").heads["patch_head"]
    batches = []
    for update in range(config.updates):
        batch = sampler_of(config).batch(update, with_masks=True)
        targets = cell_targets(torch.from_numpy(batch.masks), (5, 7))
        batches.append((network.preprocess(batch.images), targets))

    def to_features(module, inputs):
        stem = module.maxpool(module.act1(module.bn1(module.conv1(inputs))))
        second = module.layer2(module.layer1(stem))
        return joined_features([second, module.layer3(second)])

    losses, _ = train_literally(
        module,
        head,
        batches,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        frozen_start=config.frozen_start,
        freeze_bn=False,
        to_features=to_features,
        to_loss=lambda logits, targets: cell_loss_literally(logits[:, 0], targets),
    )
    assert [row["loss"] for row in log_of(tmp_path)] == pytest.approx(losses, abs=1e-4)
    before, expected = network.module.state_dict(), module.state_dict()
    for name, tensor in trained.module.state_dict().items():
        if name.startswith(("layer4.", "fc.")):  # beyond the deeper stage nothing is run
            assert torch.equal(tensor, before[name]), name
        elif not name.endswith("num_batches_tracked"):
            error = (tensor - expected[name]).abs().max()
            change = (tensor - before[name]).abs().max()
            assert error <= 0.02 * change + 1e-6, name
            assert change > 0, name


def test_cells_are_learnt(network, tmp_path):
    config = TrainConfig(updates=18, batch=8, lr=0.1, frozen_start=2, freeze_bn=True, loss="patch")
    fit(network, config, tmp_path)
    log = log_of(tmp_path)
    assert list(log[0]) == ["update", "lr", "loss", "accuracy", "patch_accuracy"]
    assert all(row["accuracy"] == row["patch_accuracy"] for row in log)
    assert log[0]["accuracy"] < 0.7
    assert log[-1]["accuracy"] > 0.9


def test_both_losses_are_added(network, tmp_path):
    logs = {}
    for loss in ("image", "patch", "both"):
        config = dataclasses.replace(SMALL, loss=loss, updates=2)
        fit(network, config, tmp_path / loss)
        logs[loss] = log_of(tmp_path / loss)
    both = logs["both"][0]
    assert list(both) == [*logs["image"][0], "patch_loss", "patch_accuracy"]
    # Before the first step all three are the same network with the same heads.
    assert both["patch_loss"] == pytest.approx(logs["patch"][0]["loss"], rel=1e-6)
    assert both["loss"] == pytest.approx(logs["image"][0]["loss"] + both["patch_loss"], rel=1e-6)
    assert both["accuracy"] == logs["image"][0]["accuracy"]
    assert both["patch_accuracy"] == logs["patch"][0]["accuracy"]
    assert logs["both"][1]["loss"] != logs["image"][1]["loss"] + logs["patch"][1]["loss"]


def test_masks_are_read_only_where_they_are_needed(network, tmp_path, monkeypatch):
    def refuse(self, index: int):
        raise AssertionError("a mask was read")

    monkeypatch.setattr(PaintedSet, "__getitem__", refuse)
    fit(network, dataclasses.replace(SMALL, updates=2), tmp_path / "image")
    with pytest.raises(AssertionError, match="mask"):
        fit(network, dataclasses.replace(SMALL, updates=2, loss="patch"), tmp_path / "patch")


# ---- cached activations -------------------------------------------------------------------------


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
