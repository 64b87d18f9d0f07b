"""The whole of `fit`, `score` and `eval`: models, verdicts, results, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import IMAGE_SIZE, invoke_det, invoke_gen
from safetensors.numpy import load_file

from detector.activation_cache import ActivationCache
from detector.cli import main
from detector.config import FitConfig
from detector.detectors import Scores
from detector.evaluate import evaluate, evaluation_of, load_test_images
from detector.model import load_model
from detector.pipeline import train_network
from detector.train_config import TrainConfig
from manifests.datasets import open_data
from manifests.errors import ConfigError, DataError
from manifests.images import DEFAULT_MAX_PIXELS, Geometry, read_image
from manifests.negative_set import NegativeSet
from manifests.weights import load_network


@pytest.fixture
def model(fitted, category_name, tmp_path) -> Path:
    """A copy of the fitted model that a test may damage."""
    folder = tmp_path / "models" / category_name
    shutil.copytree(fitted / category_name, folder)
    return folder


def scores_of(model: Path, *paths: object) -> dict[str, float]:
    result = invoke_det("score", model, *paths, "--output", "json", "--quiet")
    return {record["path"]: record["score"] for record in json.loads(result.stdout)}


# fit


def test_a_model_folder_holds_what_scoring_needs(fitted, built, category_name):
    folder = fitted / category_name
    record = json.loads((folder / "model.json").read_text())
    bank = load_file(folder / "bank.safetensors")
    assert bank["features"].shape[0] == bank["image_index"].shape[0] > 9
    assert record["category"] == category_name
    assert record["geometry"] == {"height": 96, "width": 80, "fit": "stretch"}
    assert record["config"]["train"]["updates"] == 0
    assert record["config"]["detector"] == "patchcore" and record["model_version"] == 2
    assert set(record["files"]) == {"extractor.safetensors", "bank.safetensors"}
    assert record["image_threshold"]["n"] == 9
    assert len(record["training_files"]) == 9
    assert "/" not in json.dumps(record["versions"])
    assert not list(folder.glob("*checkpoint*"))


def test_a_second_fit_does_nothing_and_other_options_are_refused(fitted, built, category_name):
    options = ("fit", built, "--out", fitted, "--updates", 0, "--quiet")
    result = invoke_det(*options, "--coreset", 0.05)
    assert "nothing to do" in result.output
    before = (fitted / category_name / "model.json").read_bytes()
    result = invoke_det(*options, "--coreset", 0.1, exit_code=1)
    assert "--overwrite" in result.output
    assert (fitted / category_name / "model.json").read_bytes() == before


def test_fit_is_reproducible_and_seeded(built, fitted, category_name, tmp_path):
    options = ("fit", built, "--updates", 0, "--coreset", 0.05, "--quiet")
    invoke_det(*options, "--out", tmp_path / "same")
    invoke_det(*options, "--out", tmp_path / "other", "--seed", 5)
    first = (fitted / category_name / "bank.safetensors").read_bytes()
    assert (tmp_path / "same" / category_name / "bank.safetensors").read_bytes() == first
    assert (tmp_path / "other" / category_name / "bank.safetensors").read_bytes() != first


TRAINING = ("--updates", 3, "--batch", 2, "--frozen-start", 1, "--coreset", 0.05, "--quiet")


def test_training_changes_the_extractor_and_is_logged(built, fitted, category_name, tmp_path):
    invoke_det("fit", built, "--out", tmp_path, *TRAINING)
    tuned, plain = load_model(tmp_path / category_name), load_model(fitted / category_name)
    assert tuned.detector.network.digest != plain.detector.network.digest
    assert tuned.initial_digest == plain.initial_digest
    lines = (tmp_path / category_name / "training.csv").read_text().splitlines()
    assert len(lines) == 1 + 3
    assert {"loss", "accuracy", "lr"} <= set(lines[0].split(","))


def test_an_interrupted_fit_goes_on_to_the_same_model(built, category_name, tmp_path, monkeypatch):
    import detector.pipeline

    invoke_det("fit", built, "--out", tmp_path / "whole", *TRAINING, "--checkpoint-every", 1)
    real = detector.pipeline.TripletSampler.batch

    def interrupt(self, update, **wanted):
        if update == 2:
            raise KeyboardInterrupt
        return real(self, update, **wanted)

    with monkeypatch.context() as patch:
        patch.setattr(detector.pipeline.TripletSampler, "batch", interrupt)
        result = invoke_det(
            "fit", built, "--out", tmp_path / "cut", *TRAINING, "--checkpoint-every", 1,
            exit_code=130,
        )  # fmt: skip
    assert "interrupted" in result.output
    assert not (tmp_path / "cut" / category_name / "model.json").exists()
    invoke_det("fit", built, "--out", tmp_path / "cut", *TRAINING, "--checkpoint-every", 1)
    for name in ("extractor.safetensors", "bank.safetensors"):
        whole = (tmp_path / "whole" / category_name / name).read_bytes()
        assert (tmp_path / "cut" / category_name / name).read_bytes() == whole


def test_fit_refuses_a_damaged_shard(built, category_name, tmp_path):
    shutil.copytree(built, tmp_path / "shards")
    shard = tmp_path / "shards" / category_name / "shard-00001.h5"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    result = invoke_det(
        "fit", tmp_path / "shards", "--out", tmp_path / "m", "--updates", 0, exit_code=1
    )
    assert "shard-00001.h5" in result.output
    assert not list((tmp_path / "m").rglob("model.json"))


def test_fit_names_what_the_set_lacks(sample_data, tmp_path):
    invoke_gen(
        "build", sample_data, "--out", tmp_path / "s", "--image-size", IMAGE_SIZE, "--jobs", 1,
        "--policies", "swap", "--levels", "2", "--quiet",
    )  # fmt: skip
    options = ("fit", tmp_path / "s", "--out", tmp_path / "m", *TRAINING)
    result = invoke_det(*options, "--negatives", "swap,scar", exit_code=1)
    assert "scar" in result.output
    invoke_det("fit", tmp_path / "s", "--out", tmp_path / "m", "--updates", 0, "--quiet")


def test_few_normals_and_an_unreachable_rate_warn(built, tmp_path):
    result = invoke_det("fit", built, "--out", tmp_path, "--updates", 1, "--batch", 32, "--quiet")
    assert "with replacement" in result.stderr
    assert "warning: only the head is trained" in result.stderr
    assert "detector/" not in result.stderr, "no place in our code"
    assert "false-alarm rate" in result.stderr


def test_fit_without_shards_says_what_to_do(tmp_path):
    result = invoke_det("fit", tmp_path / "absent", "--out", tmp_path / "m", exit_code=1)
    assert "absent" in result.output
    (tmp_path / "empty").mkdir()
    result = invoke_det("fit", tmp_path / "empty", "--out", tmp_path / "m", exit_code=1)
    assert "cutswap-gen build" in result.output


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
    "--jitter": (0.3, ("train", "jitter", 0.3)),
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
    "--negatives": ("swap:2,scar", ("train", "shares", (2.0, 1.0))),
    "--levels": ("2,3", ("train", "levels", (2, 3))),
    "--loss": ("patch", ("train", "loss", "patch")),
    "--ema": (0.9, ("train", "ema", 0.9)),
    "--detector": ("gaussian", ("detector", "gaussian")),
    "--with-untuned": (None, ("with_untuned", True)),
    "--network": ("resnet18", ("network", "resnet18")),
    "--preset": ("paper", ("network", "resnet18")),
}


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
    train = config_of("--freeze-stages", 4).train
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
    tested = {*CONFIG_OPTIONS} | {
        "--cache-activations", "--head-stage",
        "--out", "--weights", "--device", "--category", "--overwrite", "--json", "--quiet",
    }  # fmt: skip
    declared = {
        option
        for parameter in main.commands["fit"].params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }
    assert declared == tested


def test_resnet18_with_a_weights_file_and_json(built, category_name, tmp_path):
    import torch

    from manifests.weights import load_network

    network = load_network("resnet18", pretrained=False, seed=1)
    torch.save(network.module.state_dict(), tmp_path / "w.pth")
    result = invoke_det(
        "fit", built, "--out", tmp_path / "m", "--network", "resnet18", "--weights",
        tmp_path / "w.pth", "--updates", 0, "--coreset", 0.05, "--json", "--quiet",
        "--category", category_name,
    )  # fmt: skip
    (summary,) = json.loads(result.stdout)
    assert summary["category"] == category_name
    assert summary["detector"] == "patchcore" and summary["learned"].startswith("bank of ")
    model = load_model(tmp_path / "m" / category_name)
    assert model.initial_digest == network.digest == model.detector.network.digest


# other detectors


@pytest.fixture(scope="module")
def gaussian(built, tmp_path_factory) -> Path:
    """Root of an untuned Gaussian model."""
    out = tmp_path_factory.mktemp("gaussian")
    result = invoke_det(
        "fit", built, "--out", out, "--updates", 0, "--detector", "gaussian", "--quiet"
    )
    assert "Gaussian of 1280 dimensions" in result.stdout
    return out


def test_gaussian_from_fit_to_eval(gaussian, sample_data, category_name, tmp_path):
    folder = gaussian / category_name
    assert {path.name for path in folder.iterdir()} == {
        "model.json", "extractor.safetensors", "gaussian.safetensors",
    }  # fmt: skip
    images = sample_data / category_name / "test"
    assert len(scores_of(folder, images)) == 8
    invoke_det("score", folder, images, "--heatmaps", tmp_path / "h", "--quiet")
    assert read_image(next((tmp_path / "h" / "dent").iterdir())).std() > 1
    result = invoke_det("eval", gaussian, sample_data, "--out", tmp_path, "--quiet", "--json")
    (record,) = json.loads(result.stdout)
    assert 0 <= record["metrics"]["image_auroc"] <= 1
    assert 0 <= record["metrics"]["aupro"] <= 1


def test_a_model_of_another_detector_is_replaced_whole(gaussian, built, category_name, tmp_path):
    shutil.copytree(gaussian, tmp_path / "m")
    options = ("fit", built, "--out", tmp_path / "m", "--updates", 0, "--quiet")
    result = invoke_det(*options, "--detector", "gaussian")
    assert "nothing to do" in result.output
    result = invoke_det(*options, exit_code=1)
    assert "--overwrite" in result.output
    invoke_det(*options, "--overwrite")
    folder = tmp_path / "m" / category_name
    assert (folder / "bank.safetensors").is_file()
    assert not (folder / "gaussian.safetensors").exists()


def test_with_untuned_keeps_both_extractors(built, fitted, category_name, tmp_path):
    options = ("fit", built, "--out", tmp_path, "--quiet")
    both = (*options, *TRAINING, "--with-untuned")
    invoke_det(*both)
    folder = tmp_path / category_name
    model, plain = load_model(folder), load_model(fitted / category_name).detector
    assert model.detector.untuned.digest == plain.network.digest == model.initial_digest
    assert model.detector.network.digest != plain.network.digest
    assert model.detector.bank.dim == 2 * plain.bank.dim
    assert "nothing to do" in invoke_det(*both).output
    path = folder / "untuned.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    result = invoke_det("score", folder, tmp_path, exit_code=1)
    assert "untuned.safetensors" in result.output and "damaged" in result.output
    path.unlink()
    result = invoke_det("score", folder, tmp_path, exit_code=1)
    assert "untuned.safetensors: is missing" in result.output
    path.write_bytes(data)
    # Without the option the same folder holds one extractor again.
    invoke_det(*options, "--updates", 0, "--overwrite")
    assert not path.exists()


def test_trainings_may_share_activations(built, category_name, tmp_path):
    train = TrainConfig(
        updates=2, batch=2, frozen_start=0, freeze_stages=2, lr=0.01, cache_activations=True
    )
    network, cache = load_network(), ActivationCache()
    found = {}
    with NegativeSet.open(built / category_name) as negative_set:
        for name, shared in (("first", cache), ("again", cache), ("alone", None)):
            (tmp_path / name).mkdir()
            found[name] = train_network(
                network, negative_set, FitConfig(train=train), tmp_path / name, cache=shared
            ).network.digest
            assert len(cache) > 0
        untrained = FitConfig(train=TrainConfig(updates=0))
        same = train_network(network, negative_set, untrained, tmp_path / "none")
    assert found["first"] == found["again"] == found["alone"] != network.digest
    assert same.network is network and not (tmp_path / "none").exists()


def test_a_model_of_version_1_says_what_to_do(model, tmp_path):
    record = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(record | {"model_version": 1}))
    result = invoke_det("score", model, tmp_path, exit_code=1)
    assert "another version" in result.output and "fit again" in result.output


def test_a_model_of_an_unknown_detector_is_named(model, tmp_path):
    record = json.loads((model / "model.json").read_text())
    record["config"]["detector"] = "oracle"
    (model / "model.json").write_text(json.dumps(record))
    result = invoke_det("score", model, tmp_path, exit_code=1)
    assert "unknown detector" in result.output and "oracle" in result.output


def test_cuda_that_is_not_there(built, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke_det("fit", built, "--out", tmp_path, "--device", "cuda", exit_code=1)
    assert "CUDA" in result.output


# score


def test_score_lines_agree_in_every_form(fitted, sample_data, category_name):
    folder = sample_data / category_name / "test" / "scratch"
    model = fitted / category_name
    table = invoke_det("score", model, folder, "--quiet").stdout.splitlines()
    as_csv = invoke_det("score", model, folder, "--quiet", "--output", "csv").stdout.splitlines()
    (record,) = json.loads(invoke_det("score", model, folder, "--quiet", "--output", "json").stdout)
    threshold = load_model(model).image_threshold.value
    assert record["normalised"] == pytest.approx(record["score"] / threshold)
    assert record["verdict"] == ("defect" if record["score"] > threshold else "good")
    assert as_csv[0] == "path,score,normalised,verdict" and len(as_csv) == len(table) == 2
    assert float(as_csv[1].split(",")[1]) == record["score"]
    assert record["verdict"] in table[1] and record["path"] in table[1]


def test_heatmaps_and_masks_are_in_original_pixels(fitted, sample_data, category_name, tmp_path):
    folder = sample_data / category_name / "test"
    invoke_det(
        "score", fitted / category_name, folder, "--heatmaps", tmp_path / "h", "--masks",
        tmp_path / "m", "--quiet",
    )  # fmt: skip
    for source in folder.rglob("*.png"):
        name = source.relative_to(folder)
        height, width = read_image(source).shape[:2]
        assert read_image(tmp_path / "h" / name).shape == (height, width, 3)
        mask = cv2.imread(str(tmp_path / "m" / name), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (height, width)
        assert set(np.unique(mask)) <= {0, 255}


def test_images_of_one_name_do_not_overwrite_each_other(
    fitted, category_name, sample_data, tmp_path
):
    source = next((sample_data / category_name / "test" / "good").iterdir())
    image = cv2.imread(str(source))
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "part.png"), image)
    cv2.imwrite(str(tmp_path / "in" / "part.jpg"), image)
    invoke_det(
        "score", fitted / category_name, tmp_path / "in", "--heatmaps", tmp_path / "out", "--quiet"
    )
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_scores_do_not_depend_on_the_company(fitted, sample_data, category_name):
    model = fitted / category_name
    folder = sample_data / category_name / "test"
    together = scores_of(model, folder)
    for path, score in list(together.items())[:3]:
        assert scores_of(model, path)[path] == pytest.approx(score, rel=1e-4)


def test_bad_files_are_listed_or_skipped(fitted, category_name, sample_data, tmp_path):
    good = next((sample_data / category_name / "test" / "good").iterdir())
    shutil.copy(good, tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.jpg").write_text("x")
    result = invoke_det("score", fitted / category_name, tmp_path, "--quiet", exit_code=1)
    assert "b.png" in result.output and "c.jpg" in result.output and "a.png" not in result.stdout
    result = invoke_det("score", fitted / category_name, tmp_path, "--quiet", "--skip-bad")
    assert "a.png" in result.stdout and "b.png" in result.stderr
    result = invoke_det(
        "score", fitted / category_name, tmp_path, "--max-megapixels", 0.0001, exit_code=1
    )
    assert "3 unusable images" in result.output


@pytest.mark.parametrize("name", ["extractor.safetensors", "bank.safetensors", "model.json"])
def test_a_damaged_model_is_never_used(name, model, sample_data, category_name):
    data = bytearray((model / name).read_bytes())
    data[len(data) // 3] ^= 1
    (model / name).write_bytes(data)
    images = sample_data / category_name / "test"
    if name == "model.json":
        # Not every flipped bit of a text is an error, but a cut one is.
        (model / name).write_bytes(data[: len(data) // 2])
    result = invoke_det("score", model, images, "--quiet", exit_code=1)
    assert name.split(".")[0] in result.output


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b"{}",
        b'{"model_version": 99}',
        b'{"model_version": 1}',
        b"\xff\xfe",
        b"[" * 9999,
    ],
)
def test_a_malformed_model_json_is_one_line(record, model, tmp_path):
    (model / "model.json").write_bytes(record)
    result = invoke_det("score", model, tmp_path, exit_code=1)
    assert len(result.output.strip().splitlines()) == 1 and "model.json" in result.output


def test_a_root_of_one_model_will_do_and_of_two_will_not(model, sample_data, category_name):
    images = sample_data / category_name / "test" / "dent"
    assert scores_of(model.parent, images) == scores_of(model, images)
    shutil.copytree(model, model.parent / "other")
    result = invoke_det("score", model.parent, images, exit_code=2)
    assert "other" in result.output and category_name in result.output


def test_missing_model_or_images(model, tmp_path):
    result = invoke_det("score", tmp_path / "no", tmp_path, exit_code=1)
    assert "cutswap-det fit" in result.output
    (tmp_path / "empty").mkdir()
    result = invoke_det("score", model, tmp_path / "empty", exit_code=1)
    assert "empty" in result.output
    result = invoke_det("score", model, tmp_path / "gone.png", exit_code=1)
    assert "gone.png" in result.output


# eval


def test_eval_writes_table_metrics_and_pictures(fitted, sample_data, category_name, tmp_path):
    result = invoke_det("eval", fitted, sample_data, "--out", tmp_path, "--quiet", "--cases", 2)
    assert category_name in result.stdout and "AUPRO" in result.stdout
    for name in ("roc.png", "histogram.png", "cases.png"):
        assert read_image(tmp_path / category_name / name).std() > 1
    rows = (tmp_path / category_name / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 8
    (record,) = json.loads((tmp_path / "metrics.json").read_text())
    assert record["counts"]["good"] == record["counts"]["defective"] == 4
    assert 0 <= record["metrics"]["aupro"] <= 1
    as_json = invoke_det(
        "eval", fitted, sample_data, "--out", tmp_path, "--quiet", "--json", "--category",
        category_name, "--format", "mvtec",
    )  # fmt: skip
    assert json.loads(as_json.stdout) == [record]


def test_eval_leaves_training_files_out(fitted, sample_data, category_name, tmp_path):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    trained = sorted((data / "train" / "good").iterdir())[:2]
    for path in trained:
        shutil.copy(path, data / "test" / "good" / f"copy-{path.name}")
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--json")
    (record,) = json.loads(result.stdout)
    assert record["counts"]["excluded"] == 2 and record["counts"]["good"] == 4
    assert "2 test images left out" in result.stderr


def test_eval_of_one_class_gives_no_figure(fitted, sample_data, category_name, tmp_path):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    for defect in (data / "test").iterdir():
        if defect.name != "good":
            shutil.rmtree(defect)
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--json")
    (record,) = json.loads(result.stdout)
    assert set(record["metrics"].values()) == {None}
    assert "one class" in result.stderr


def test_eval_names_masks_that_are_missing_or_of_another_size(
    fitted, sample_data, category_name, tmp_path
):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    mask = next((data / "ground_truth" / "dent").iterdir())
    cv2.imwrite(str(mask), np.full((100, 120), 255, np.uint8))
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", exit_code=1)
    assert mask.name in result.output and "another size" in result.output
    invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--skip-bad")
    mask.unlink()
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", exit_code=1)
    assert "mask" in result.output


def test_eval_counts_an_empty_mask_for_the_image_only(fitted, sample_data, category_name, tmp_path):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    mask = next((data / "ground_truth" / "dent").iterdir())
    cv2.imwrite(str(mask), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) * 0)
    result = invoke_det("eval", fitted, data, "--out", tmp_path / "r", "--quiet", "--json")
    (record,) = json.loads(result.stdout)
    assert record["counts"]["without_mask"] == 1 and record["counts"]["defective"] == 4
    assert "dent" in result.stderr


def test_eval_without_test_images_or_data(fitted, sample_data, category_name, tmp_path):
    good = sample_data / category_name / "train" / "good"
    result = invoke_det("eval", fitted, good, "--out", tmp_path / "r", exit_code=1)
    assert "no test images" in result.output
    result = invoke_det("eval", fitted, tmp_path / "absent", "--out", tmp_path / "r", exit_code=1)
    assert "absent" in result.output


def test_crop_reports_lost_defect_area(sample_data, category_name, tmp_path):
    invoke_gen(
        "build", sample_data, "--out", tmp_path / "s", "--image-size", "160x40", "--fit", "crop",
        "--jobs", 1, "--levels", "2", "--quiet",
    )  # fmt: skip
    invoke_det("fit", tmp_path / "s", "--out", tmp_path / "m", "--updates", 0, "--quiet")
    result = invoke_det("eval", tmp_path / "m", sample_data, "--out", tmp_path / "r", "--quiet")
    assert "crop cuts off defect area" in result.stderr


# test images in memory


def test_images_in_memory_give_the_evaluation_of_the_stream(
    fitted, sample_data, category_name, tmp_path
):
    data = tmp_path / "data" / category_name
    shutil.copytree(sample_data / category_name, data)
    shutil.copy(next((data / "train" / "good").iterdir()), data / "test" / "good" / "copy.png")
    mask = next((data / "ground_truth" / "dent").iterdir())
    cv2.imwrite(str(mask), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) * 0)
    (category,) = open_data(data)
    model = load_model(fitted / category_name)
    calls = []
    images = load_test_images(
        model.geometry,
        model.training_files,
        category,
        batch=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert images.canvases.shape == (len(images), 96, 80, 3) and images.canvases.dtype == np.uint8
    assert calls[-1] == (9, 9)
    streamed = evaluate(model, category, max_pixels=DEFAULT_MAX_PIXELS)
    found = [model.detector.score(canvases, boxes) for canvases, boxes in images.batches(3)]
    assert [len(scores.image) for scores in found] == [3, 3, 2]
    scores = Scores(
        np.concatenate([part.image for part in found]), np.concatenate([part.map for part in found])
    )
    kept = evaluation_of(images.truth, scores)
    assert kept.samples == streamed.samples and kept.excluded == ("test/good/copy.png",)
    assert kept.without_mask == streamed.without_mask != ()
    for name in ("labels", "masks", "valid", "has_truth"):
        assert np.array_equal(getattr(kept, name), getattr(streamed, name))
    np.testing.assert_allclose(kept.scores, streamed.scores, rtol=1e-4)
    np.testing.assert_allclose(kept.maps, streamed.maps, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="of 8 images"):
        evaluation_of(images.truth, found[0])


def test_images_in_memory_know_their_padding(sample_data, category_name):
    (category,) = open_data(sample_data / category_name)
    images = load_test_images(Geometry(64, 128, "letterbox"), frozenset(), category)
    for (y, x, h, w), valid, canvas in zip(
        images.truth.boxes, images.truth.valid, images.canvases, strict=True
    ):
        assert valid.sum() == h * w < 64 * 128
        assert valid[y : y + h, x : x + w].all()
        assert canvas[~valid].max() == 0


def test_no_image_left_counts_bad_masks_too(sample_data, category_name, tmp_path):
    data = tmp_path / category_name
    shutil.copytree(sample_data / category_name, data)
    for folder in (data / "test").iterdir():
        if folder.name not in ("good", "dent"):
            shutil.rmtree(folder)
    shutil.rmtree(data / "test" / "good")
    (data / "test" / "good").mkdir()
    mask = next((data / "ground_truth" / "dent").iterdir())
    cv2.imwrite(str(mask), np.full((100, 120), 255, np.uint8))
    (category,) = open_data(data)
    with pytest.raises(DataError, match="1 unusable"):
        load_test_images(Geometry(64, 64), frozenset(), category, skip_bad=True)
