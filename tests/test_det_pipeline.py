"""The whole of `fit`: models, their detectors, resuming, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import IMAGE_SIZE, invoke_det, invoke_gen
from safetensors.numpy import load_file

from detector.activation_cache import ActivationCache
from detector.config import FitConfig
from detector.fit_steps import train_network
from detector.model import load_model
from detector.train_config import TrainConfig
from manifests.digest import file_digest
from manifests.images import read_image
from manifests.lock import folder_lock
from manifests.negative_set import NegativeSet
from manifests.weights import load_network
from reference.scores import scores_of

TRAINING = ("--updates", 3, "--batch", 2, "--frozen-start", 1, "--coreset", 0.05, "--quiet")


def test_a_model_folder_holds_what_scoring_needs(fitted, built, category_name):
    folder = fitted / category_name
    record = json.loads((folder / "model.json").read_text())
    bank = load_file(folder / "bank.safetensors")
    assert bank["features"].shape[0] == bank["image_index"].shape[0] > 9
    assert record["category"] == category_name
    assert record["geometry"] == {"height": 96, "width": 80, "fit": "stretch"}
    assert record["config"]["train"]["updates"] == 0
    assert record["config"]["detector"] == "patchcore" and record["model_version"] == 6
    digest = file_digest(folder / "model.json")
    assert (folder / "model.sha256").read_text() == f"{digest}  model.json\n"
    assert record["holds_pixels"] is False
    assert set(record["files"]) == {
        "extractor.safetensors", "bank.safetensors", "calibration.safetensors",
        "normals.safetensors",
    }  # fmt: skip
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


def test_training_changes_the_extractor_and_is_logged(built, fitted, category_name, tmp_path):
    invoke_det("fit", built, "--out", tmp_path, *TRAINING)
    tuned, plain = load_model(tmp_path / category_name), load_model(fitted / category_name)
    assert tuned.detector.network.digest != plain.detector.network.digest
    assert tuned.initial_digest == plain.initial_digest
    lines = (tmp_path / category_name / "training.csv").read_text().splitlines()
    assert len(lines) == 1 + 3
    assert {"loss", "accuracy", "lr"} <= set(lines[0].split(","))


def test_an_interrupted_fit_goes_on_to_the_same_model(built, category_name, tmp_path, monkeypatch):
    import detector.trainings

    invoke_det("fit", built, "--out", tmp_path / "whole", *TRAINING, "--checkpoint-every", 1)
    real = detector.trainings.TripletSampler.batch

    def interrupt(self, update, **wanted):
        if update == 2:
            raise KeyboardInterrupt
        return real(self, update, **wanted)

    with monkeypatch.context() as patch:
        patch.setattr(detector.trainings.TripletSampler, "batch", interrupt)
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


def test_cuda_that_is_not_there(built, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke_det("fit", built, "--out", tmp_path, "--device", "cuda", exit_code=1)
    assert "CUDA" in result.output


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
        "model.json", "model.sha256", "extractor.safetensors", "gaussian.safetensors",
        "calibration.safetensors", "normals.safetensors",
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


def test_one_fit_at_a_time_in_a_folder(built, category_name, tmp_path):
    folder = tmp_path / category_name
    folder.mkdir()
    options = ("fit", built, "--out", tmp_path, "--updates", 0, "--coreset", 0.05, "--quiet")
    with folder_lock(folder):
        result = invoke_det(*options, exit_code=1)
        assert "another run is writing here" in result.output
        assert [path.name for path in folder.iterdir()] == [".lock"]
    invoke_det(*options)
    assert (folder / "model.json").exists() and not (folder / ".lock").exists()


def test_what_a_killed_fit_left_half_written_is_cleared(built, category_name, tmp_path):
    folder = tmp_path / category_name
    folder.mkdir()
    (folder / ".bank.safetensors.tmp-12345").write_bytes(b"half")
    invoke_det("fit", built, "--out", tmp_path, "--updates", 0, "--coreset", 0.05, "--quiet")
    assert not list(folder.glob(".*"))
