"""Every option of `fit`: what it puts into the config, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import invoke_det
from PIL import Image

from detector.anomalous_images import files_digest
from detector.cli import main
from detector.config import FitConfig
from detector.default_config import default_config
from detector.fit_options import fit_config
from detector.model import load_model
from detector.schedules import FASTER_IN_BF16, IDLE
from detector.train_config import TrainConfig
from manifests.errors import ConfigError

# Option -> (value, where it must show in model.json).
CONFIG_OPTIONS = {
    "--seed": (3, ("seed", 3)),
    "--lr": (0.5, ("train", "lr", 0.5)),
    "--momentum": (0.5, ("train", "momentum", 0.5)),
    "--weight-decay": (0.1, ("train", "weight_decay", 0.1)),
    "--freeze-bn": (None, ("train", "freeze_bn", True)),
    "--train-bn": (None, ("train", "freeze_bn", False)),
    "--frozen-start": (2, ("train", "frozen_start", 2)),
    "--freeze-stages": (3, ("train", "freeze_stages", 3)),
    "--batch": (3, ("train", "batch", 3)),
    "--virtual-batches": (4, ("train", "virtual_batches", 4)),
    "--jitter": (0.3, ("train", "jitter", 0.3)),
    "--hold-out": (0.2, ("train", "hold_out", 0.2)),
    "--checkpoint-every": (5, ("train", "checkpoint_every", 5)),
    "--precision": ("bf16", ("train", "precision", "bf16")),
    "--feature-precision": ("bf16", ("precision", "bf16")),
    "--schedule": ("paper", ("train", "lr", 0.03)),
    "--updates": (7, ("train", "updates", 7)),
    "--stages": ("1,2", ("stages", (1, 2))),
    "--coreset": (0.3, ("coreset_ratio", 0.3)),
    "--coreset-max": (11, ("coreset_max", 11)),
    "--projection-dim": (9, ("projection_dim", 9)),
    "--sigma": (2.0, ("sigma_px", 2.0)),
    "--reweight": (None, ("reweight", True)),
    "--false-alarm-rate": (0.2, ("false_alarm_rate", 0.2)),
    "--batch-images": (3, ("batch", 3)),
    "--memory-budget": ("1.5GiB", ("memory_budget", 1_610_612_736)),
    "--tile": (256, ("tile", 256)),
    "--negatives": ("swap:2,scar", ("train", "shares", (2.0, 1.0))),
    "--levels": ("2,3", ("train", "levels", (2, 3))),
    "--loss": ("patch", ("train", "loss", "patch")),
    "--head-stage": ("end", ("train", "head_stage", None)),
    "--ema": (0.9, ("train", "ema", 0.9)),
    "--detector": ("gaussian", ("detector", "gaussian")),
    "--with-untuned": (None, ("with_untuned", True)),
    "--network": ("resnet18", ("network", "resnet18")),
    "--preset": ("paper", ("network", "resnet18")),
}
# Of detectors that are trained themselves: detector -> the same.
DETECTOR_OPTIONS = {
    "guided-seg": {
        "--guidance": (None, ("guidance", True)),
        "--no-guidance": (None, ("guidance", False)),
        "--references": (7, ("references", 7)),
        "--window": (9, ("window_px", 9)),
        "--width": (8, ("width", 8)),
        "--lr": (0.5, ("train", "lr", 0.5)),
        "--updates": (7, ("train", "updates", 7)),
        "--batch": (2, ("train", "batch", 2)),
        "--weight-decay": (0.1, ("train", "weight_decay", 0.1)),
        "--train-bn": (None, ("train", "freeze_bn", False)),
        "--freeze-stages": (3, ("train", "freeze_stages", 3)),
        "--schedule": ("paper", ("train", "lr", 1e-4)),
        "--preset": ("paper", ("width", 64)),
        "--negatives": ("swap:2,scar", ("train", "shares", (2.0, 1.0))),
        "--sigma": (2.0, ("sigma_px", 2.0)),
    },
    "cavga": {
        "--latent": ("flat", ("latent", "flat")),
        "--latent-channels": (9, ("latent_channels", 9)),
        "--latent-stage": (3, ("latent_stage", 3)),
        "--expansion": (0.5, ("expansion", 0.5)),
        "--normaliser": ("sigmoid", ("normaliser", "sigmoid")),
        "--weak": (None, ("weak", True)),
        "--width": (8, ("width", 8)),
        "--batch": (2, ("train", "batch", 2)),
        "--freeze-stages": (0, ("train", "freeze_stages", 0)),
        "--schedule": ("paper", ("train", "updates", 20_000)),
        "--preset": ("paper", ("width", 64)),
    },
}


@pytest.mark.parametrize(
    ("detector", "option"),
    [(name, option) for name, options in DETECTOR_OPTIONS.items() for option in options],
)
def test_option_of_a_detector_reaches_its_config(detector, option, config_of):
    value, (*path, expected) = DETECTOR_OPTIONS[detector][option]
    found = config_of("--detector", detector, option, *([] if value is None else [value]))
    assert FitConfig.from_json(json.loads(json.dumps(found.to_json()))) == found
    for name in path:
        found = getattr(found, name)
    assert found == expected


@pytest.mark.parametrize(
    ("detector", "option"),
    [(name, option) for name, options in IDLE.items() for option in options.values()],
)
def test_what_means_nothing_to_a_training_is_refused(detector, option, built, tmp_path):
    switches = ("--cache-activations", "--freeze-bn")
    value = [] if option in switches else ["image" if option == "--loss" else 1]
    result = invoke_det(
        "fit", built, "--out", tmp_path, "--detector", detector, option, *value, exit_code=2
    )
    assert f"{option} means nothing to the training of {detector}" in result.output


def test_known_anomalies_reach_the_config_as_their_digest(config_of, built, tmp_path):
    (tmp_path / "known").mkdir()
    for path, colour in (("a.png", 3), ("b.png", 4)):
        Image.new("RGB", (9, 9), (colour,) * 3).save(tmp_path / "known" / path)
    config = config_of("--detector", "cavga", "--anomalous", tmp_path / "known")
    assert config.anomalous == files_digest(tmp_path / "known") and config.is_weak
    (tmp_path / "empty").mkdir()
    result = invoke_det(
        "fit", built, "--out", tmp_path / "m", "--detector", "cavga",
        "--anomalous", tmp_path / "empty", exit_code=1,
    )  # fmt: skip
    assert "empty" in result.output


@pytest.mark.parametrize("option", CONFIG_OPTIONS)
def test_option_reaches_the_config(option, config_of):
    value, (*path, expected) = CONFIG_OPTIONS[option]
    found = config_of(option, *([] if value is None else [value]))
    assert FitConfig.from_json(json.loads(json.dumps(found.to_json()))) == found
    for name in path:
        found = getattr(found, name)
    assert found == expected


@pytest.fixture
def config_of(built, tmp_path, monkeypatch):
    """The config that `fit` would use with some options."""
    import detector.pipeline

    def run(*options) -> FitConfig:
        seen = {}

        def capture(folder, config, out, **others):
            seen.update(config=config)
            raise SystemExit(0)

        with monkeypatch.context() as patch:
            patch.setattr(detector.pipeline, "fit_model", capture)
            invoke_det("fit", built, "--out", tmp_path, *options)
        return seen["config"]

    return run


@pytest.mark.parametrize("detector", IDLE)
def test_auto_precision_is_what_is_faster(detector, config_of, monkeypatch):
    for is_fast in (False, True):
        monkeypatch.setattr("manifests.devices.has_fast_bf16", lambda device, fast=is_fast: fast)
        is_bf16 = is_fast and detector in FASTER_IN_BF16
        found = config_of("--detector", detector).train.precision
        assert found == ("bf16" if is_bf16 else "fp32")
    assert config_of("--detector", detector, "--precision", "bf16").train.precision == "bf16"


@pytest.mark.parametrize("detector", IDLE)
def test_numbers_of_negatives_that_are_typed_are_kept(detector, config_of):
    def shares(negatives):
        weak = ("--weak",) if detector == "cavga" else ()
        return config_of("--detector", detector, "--negatives", negatives, *weak).train.shares

    usual = detector in ("patchcore", "gaussian")  # one each, which models do not say
    assert shares("swap,scar") == ()
    assert shares("swap:1,scar:1") == (() if usual else (1.0, 1.0))
    assert shares("swap:1,scar") == (() if usual else (1.0, 1.0))
    assert shares("swap:2,scar") == (2.0, 1.0)


def test_processes_split_batches_only_where_that_means_something():
    def virtual_batches(*options):
        context = main.commands["fit"].make_context(
            "fit", ["shards", "--out", "m", *options], resilient_parsing=False
        )
        return fit_config(context, context.params, "cpu", n_processes=2).train.virtual_batches

    assert virtual_batches() == 2 and virtual_batches("--updates", "0") == 1
    assert virtual_batches("--detector", "cavga") == 1
    assert virtual_batches("--detector", "guided-seg") == 1


def test_known_anomalies_are_of_one_category(built, category_name, tmp_path):
    shutil.copytree(built / category_name, tmp_path / "sets" / "one")
    shutil.copytree(built / category_name, tmp_path / "sets" / "two")
    (tmp_path / "known").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "known" / "a.png")
    result = invoke_det(
        "fit", tmp_path / "sets", "--out", tmp_path / "m", "--detector", "cavga",
        "--anomalous", tmp_path / "known", exit_code=2,
    )  # fmt: skip
    assert "anomalies of one category" in result.output and "--category" in result.output


def test_kinds_without_shares_and_cached_activations_reach_the_config(config_of):
    train = config_of("--negatives", "scar, swap").train
    assert (train.negatives, train.shares) == (("scar", "swap"), ())
    train = config_of("--negatives", "scar:0.5").train
    assert (train.negatives, train.shares) == (("scar",), (0.5,))
    train = config_of("--cache-activations", "--freeze-stages", 2).train
    assert train.cache_activations and train.freeze_stages == 2
    assert config_of() == FitConfig(train=config_of("--schedule", "gentle").train)


def test_schedules_give_way_to_what_is_typed_and_to_what_follows_from_it(config_of):
    gentle = config_of().train
    assert (gentle.loss, gentle.head_stage, gentle.freeze_stages) == ("both", 3, 2)
    paper = config_of("--schedule", "paper").train
    assert (paper.loss, paper.head_stage, paper.freeze_stages) == ("image", None, 0)
    train = config_of("--loss", "image", "--head-stage", "end").train
    assert (train.loss, train.head_stage) == ("image", None)
    train = config_of("--loss", "patch").train
    assert (train.loss, train.head_stage) == ("patch", None)
    # The schedule's stage is frozen: what is left to train is the network's end.
    train = config_of("--freeze-stages", 4, "--stages", "4").train
    assert (train.loss, train.head_stage, train.freeze_stages) == ("image", None, 4)
    # The Gaussian looks at the network's end, so that is what its training is for.
    train = config_of("--detector", "gaussian").train
    assert (train.loss, train.head_stage) == ("image", None)
    train = config_of("--detector", "gaussian", "--loss", "both", "--head-stage", 2).train
    assert (train.loss, train.head_stage) == ("both", 2)


@pytest.mark.parametrize("value", ["swap,", "swap,swap:2", "swap:", "swap:x", ":1", "swap:0"])
def test_negatives_that_are_none_are_a_usage_error(value, built, tmp_path):
    result = invoke_det("fit", built, "--out", tmp_path, "--negatives", value, exit_code=2)
    assert "--negatives" in result.output


PATCHCORE_OPTIONS = {
    "--stages": ("2,3",),
    "--coreset": (0.01,),
    "--coreset-max": (9,),
    "--projection-dim": (128,),
    "--reweight": (),
    "--with-untuned": (),
}


@pytest.mark.parametrize("option", PATCHCORE_OPTIONS)
def test_an_option_typed_for_another_detector_is_refused(option, built, tmp_path):
    # Even where it is what the default would be: it was typed to have an effect.
    result = invoke_det(
        "fit", built, "--out", tmp_path, "--detector", "gaussian", option,
        *PATCHCORE_OPTIONS[option], exit_code=2,
    )  # fmt: skip
    assert f"{option} is an option of the detector patchcore" in result.output


def test_a_preset_gives_another_detector_what_it_can_use(config_of):
    config = config_of("--preset", "paper", "--detector", "gaussian")
    assert (config.network, config.train.lr) == ("resnet18", 0.03)
    assert config.coreset_ratio == FitConfig().coreset_ratio
    assert config_of("--preset", "paper").coreset_ratio == 0.001


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"detector": "knn"}, "--detector"),
        ({"detector": "gaussian", "coreset_ratio": 0.1}, "--coreset"),
        ({"detector": "gaussian", "stages": (1, 2)}, "--stages"),
        ({"detector": "gaussian", "with_untuned": True}, "--with-untuned"),
        ({"with_untuned": True, "train": TrainConfig(updates=0)}, "--updates 0"),
        ({"detector": "guided-seg", "train": TrainConfig(updates=0)}, "--updates 0"),
        ({"detector": "guided-seg", "train": TrainConfig(ema=0.5)}, "--ema"),
        ({"detector": "guided-seg", "memory_budget": 10**9}, "--memory-budget"),
        ({"detector": "guided-seg", "references": 1}, "--references"),
        ({"detector": "guided-seg", "references": 9, "guidance": False}, "--references"),
        ({"detector": "guided-seg", "width": 2}, "--width"),
        ({"detector": "guided-seg", "window_px": 0}, "--window"),
        ({"guidance": False}, "--guidance"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(change, option):
    with pytest.raises(ConfigError, match=option):
        FitConfig(**change)


# What the fields of the config do beyond training (whose own tests are in test_det_train.py).
@pytest.mark.parametrize(
    "options",
    [
        ("--stages", "1,2"),
        ("--coreset", 0.2),
        ("--coreset-max", 7),
        ("--projection-dim", 2),
        ("--sigma", 0),
        ("--feature-precision", "bf16"),
        ("--false-alarm-rate", 0.5),
    ],
)
def test_option_changes_the_model_or_its_scores(options, fitted, built, category_name, tmp_path):
    base = ("fit", built, "--out", tmp_path, "--updates", 0, "--quiet")
    coreset = () if "--coreset" in options else ("--coreset", 0.05)
    invoke_det(*base, *coreset, *options)
    one, other = load_model(fitted / category_name), load_model(tmp_path / category_name)
    assert (one.image_threshold.value, one.pixel_threshold.value) != (
        other.image_threshold.value,
        other.pixel_threshold.value,
    )


def test_reweight_reaches_the_detector(built, category_name, tmp_path):
    # With few and far neighbours the factor rounds to 1, so the scores need not tell.
    invoke_det("fit", built, "--out", tmp_path, "--updates", 0, "--reweight", "--quiet")
    assert load_model(tmp_path / category_name).detector.config.reweight


def test_every_fit_option_is_tested():
    tested = {*CONFIG_OPTIONS}.union(*DETECTOR_OPTIONS.values()) | {
        "--cache-activations",
        "--out", "--weights", "--device", "--category", "--overwrite", "--json", "--quiet",
        # in test_det_verify_model.py
        "--expect",
        # above
        "--anomalous",
    }  # fmt: skip
    declared = {
        option
        for parameter in main.commands["fit"].params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }
    assert declared == tested


@pytest.mark.parametrize("detector", IDLE)
def test_the_default_config_is_what_fit_does_where_nothing_is_typed(detector):
    command = main.commands["fit"]
    typed = ["set", "--out", "models", "--detector", detector, "--precision", "fp32"]
    context = command.make_context("fit", typed)
    assert fit_config(context, context.params, "cpu") == default_config(detector)
