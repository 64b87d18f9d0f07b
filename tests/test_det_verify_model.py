"""verify_model: an untouched model has no problem, and every kind of damage is in the list."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, invoke_det
from safetensors.numpy import save, save_file

from detector.config import FitConfig
from detector.model_record import (
    MODEL_VERSION,
    STATE_FILES,
    ModelRecord,
    file_names,
    parse_record,
    read_record,
    state_tensors,
    write_record,
)
from detector.threshold import Threshold
from detector.train_config import TrainConfig
from detector.verify_model import verify_model
from manifests.digest import bytes_digest, file_digest
from manifests.errors import DigestError, ModelError
from manifests.geometry import Geometry
from manifests.schema import read_manifest, write_manifest
from reference.old_models import rewrite
from reference.small_sets import write_set

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
TENSORS = {
    "bank.safetensors": lambda rng: {
        "features": rng.random((7, 11), dtype=np.float32),
        "image_index": np.arange(7, dtype=np.int32),
        "cell": np.arange(7, dtype=np.int32),
    },
    "normals.safetensors": lambda rng: {
        "pixel_digest": rng.integers(256, size=(7, 32), dtype=np.uint8),
        "file_sha256": rng.integers(256, size=(7, 32), dtype=np.uint8),
        "canvas_box": np.tile(np.array([[0, 0, 96, 80]], np.int32), (7, 1)),
        "source": np.frombuffer(b"0123456", np.uint8),
        "source_end": np.arange(1, 8),
    },
    "calibration.safetensors": lambda rng: {
        "image": np.sort(rng.random(9, dtype=np.float32)),
        "map_maximum": np.sort(rng.random(9, dtype=np.float32)),
    },
    "gaussian.safetensors": lambda rng: {
        "mean": rng.random(5),
        "precision": rng.random((5, 5)),
        "shrinkage": np.array(0.5),
    },
    "guided.safetensors": lambda rng: {
        "segmenter/head.weight": rng.random((1, 4, 1, 1), dtype=np.float32),
        "guidance/to_rgb.bias": rng.random(3, dtype=np.float32),
        "references/image": np.zeros((3, 6, 8, 3), dtype=np.uint8),
        "references/canvas_box": np.zeros((3, 4), dtype=np.int32),
        "references/embedding": rng.random((3, 5), dtype=np.float32),
    },
    "cavga.safetensors": lambda rng: {
        "head/mean.weight": rng.random((2, 5, 1, 1), dtype=np.float32),
        "decoder/to_rgb.bias": rng.random(3, dtype=np.float32),
    },
}
THRESHOLD = {"value": 1.0, "n": 9, "target_rate": 0.1, "achievable_rate": 0.1}


def write_model(folder: Path, **changes: object) -> str:
    """A model folder with small tensors in place of a network's; returns its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    config = changes.pop("config", FitConfig(train=TrainConfig(updates=0)))
    for number, name in enumerate(sorted(file_names(config))):
        rng = np.random.default_rng(number)
        save_file(TENSORS.get(name, lambda rng: {"x": rng.random((9, 11))})(rng), folder / name)
    record = ModelRecord(
        category="part",
        config=config,
        geometry=Geometry(96, 80, "letterbox"),
        network_digest=A,
        initial_digest=B,
        set_digest=C,
        calibrated_on="training",
        image_threshold=Threshold(2.5, 9, 0.01, 0.1),
        pixel_threshold=Threshold(3.5, 9, 0.01, 0.1),
        training_files=frozenset(bytes_digest(bytes([n])) for n in range(9)),
        licence="CC BY-NC 4.0",
        attribution="Ölmühle GmbH",
        versions={"torch": "2"},
        processes=2,
        holds_pixels=any(dtype == "U8" for dtype, _ in state_tensors(config).values()),
        files={name: file_digest(folder / name) for name in file_names(config)},
    )
    return write_record(folder, replace(record, **changes))


@pytest.fixture
def folder(tmp_path) -> Path:
    write_model(tmp_path / "part")
    return tmp_path / "part"


def lines(problems) -> str:
    for problem in problems:
        assert isinstance(problem, ModelError)
        assert "\n" not in str(problem) and len(str(problem)) < 700
    return "\n".join(map(str, problems))


def test_an_untouched_model_has_no_problems(folder):
    digest = file_digest(folder / "model.json")
    assert verify_model(folder) == []
    assert verify_model(folder, expect=digest.upper()) == []
    record, found = read_record(folder)
    assert found == digest and record.training_files and record.geometry.fit == "letterbox"
    subprocess.run(["sha256sum", "-c", "--quiet", "model.sha256"], cwd=folder, check=True)


def test_the_same_model_has_the_same_digest_and_any_other_another(tmp_path):
    digest = write_model(tmp_path / "a")
    assert write_model(tmp_path / "b") == digest
    assert write_model(tmp_path / "c", licence="") != digest
    # What holds pixels is bound by their licence: a model cannot deny it, or claim it.
    with pytest.raises(ModelError, match="holds_pixels is not what the detector does"):
        write_model(tmp_path / "d", holds_pixels=True)
    with pytest.raises(ModelError, match="holds_pixels is not what the detector does"):
        write_model(tmp_path / "e", config=GUIDED, holds_pixels=False)


@pytest.mark.parametrize("detector", sorted(STATE_FILES))
def test_a_model_holds_exactly_its_files(detector, tmp_path):
    train = TrainConfig(updates=1)
    with_untuned = detector == "patchcore"
    config = FitConfig(train=train, detector=detector, with_untuned=with_untuned)
    write_model(tmp_path / "part", config=config)
    assert verify_model(tmp_path / "part") == []
    is_kept = detector in ("patchcore", "guided-seg")
    assert ("untuned.safetensors" in read_record(tmp_path / "part")[0].files) == is_kept


GUIDED = FitConfig(train=TrainConfig(updates=1), detector="guided-seg")
FEW = FitConfig(train=TrainConfig(updates=1), detector="guided-seg", references=2)
WITHOUT = FitConfig(train=TrainConfig(updates=1), detector="guided-seg", guidance=False)


def test_what_a_guided_model_holds_follows_from_its_guidance(tmp_path):
    guided = TENSORS["guided.safetensors"](np.random.default_rng(0))
    bare = {"segmenter/head.weight": guided["segmenter/head.weight"]}
    for number, (config, tensors, expected) in enumerate(
        [
            (GUIDED, guided, None),
            (WITHOUT, bare, None),
            (WITHOUT, guided, "other tensors"),
            (GUIDED, bare, "other tensors"),
            (GUIDED, guided | {"more/x": guided["guidance/to_rgb.bias"]}, "other tensors"),
            (GUIDED, guided | {"references/image": np.zeros((3, 6, 8, 4), np.uint8)}, "U8 (3"),
            (
                GUIDED,
                guided | {"references/image": np.zeros((2, 6, 8, 3), np.uint8)},
                "has another",
            ),
            (GUIDED, guided | {"guidance/to_rgb.bias": np.zeros(3)}, "guidance/to_rgb.bias has"),
            (
                GUIDED,
                guided | {"guidance/\x1b[2J" + "A" * 9000: np.zeros(3)},
                "guidance/\\x1b[2JAAAA",
            ),
            (FEW, guided, "holds more references than its config allows"),
        ]
    ):
        folder = tmp_path / str(number)
        write_model(folder, config=config)
        forge(folder, "guided.safetensors", save(tensors))
        text = lines(verify_model(folder))
        assert (text == "") if expected is None else (expected in text), text


def test_an_autoencoder_has_a_classifier_where_anomalies_were_known(tmp_path):
    bare = TENSORS["cavga.safetensors"](np.random.default_rng(0))
    classed = bare | {"classifier/linear.bias": np.zeros(2, np.float32)}
    train = TrainConfig(updates=1)
    for number, (options, tensors, expected) in enumerate(
        [
            ({}, bare, None),
            ({}, classed, "other tensors"),
            ({"weak": True}, classed, None),
            ({"anomalous": A}, classed, None),
            ({"weak": True}, bare, "other tensors"),
            ({}, {"head/x": bare["head/mean.weight"]}, "other tensors"),
        ]
    ):
        folder = tmp_path / str(number)
        write_model(folder, config=FitConfig(train=train, detector="cavga", **options))
        forge(folder, "cavga.safetensors", save(tensors))
        text = lines(verify_model(folder))
        assert (text == "") if expected is None else (expected in text), text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"image": np.zeros(8, np.float32)}, "image has another type or shape"),
        ({"image": np.zeros(9)}, "image has another type or shape"),
        ({"map_maximum": np.zeros((9, 1), np.float32)}, "map_maximum has another type or shape"),
        ({"more": np.zeros(9, np.float32)}, "other tensors"),
    ],
)
def test_scores_that_are_none_are_found_by_their_header(folder, changes, expected):
    tensors = TENSORS["calibration.safetensors"](np.random.default_rng(0))
    forge(folder, "calibration.safetensors", save(tensors | changes))
    assert expected in lines(verify_model(folder))


def test_every_flipped_bit_is_found(folder):
    """Single bits at 600 random places of all files, evenly among them."""
    rng = np.random.default_rng(1)
    files = sorted(path for path in folder.iterdir())
    assert {path.name for path in files} == {
        "model.json", "model.sha256", "extractor.safetensors", "bank.safetensors",
        "calibration.safetensors", "normals.safetensors",
    }  # fmt: skip
    count = 0
    for path in files:
        good = path.read_bytes()
        for place in rng.integers(0, len(good), 100).tolist():
            data = bytearray(good)
            data[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
            text = lines(verify_model(folder))
            assert path.name in text, (path.name, place)
            with pytest.raises(ModelError):
                read_record(folder)
                raise verify_model(folder)[0]
            count += 1
        path.write_bytes(good)
    assert count == 600 and verify_model(folder) == []


def test_all_problems_are_listed_completeness_first(folder):
    data = bytearray((folder / "extractor.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "extractor.safetensors").write_bytes(data)
    (folder / "bank.safetensors").unlink()
    (folder / "old.safetensors").write_bytes(b"x")
    problems = verify_model(folder, expect=A)
    assert [problem.what for problem in problems] == [
        "is another model than expected", "is not in model.json", "is missing",
        "is damaged: its digest is not the recorded one",
    ]  # fmt: skip
    text = lines(problems)
    assert "old.safetensors" in text and "bank.safetensors: is missing" in text
    assert problems[-1].got == file_digest(folder / "extractor.safetensors")


def test_missing_cut_and_linked_files(folder, tmp_path):
    assert "no such folder" in lines(verify_model(tmp_path / "nothing"))
    shutil.move(folder / "bank.safetensors", tmp_path / "elsewhere")
    (folder / "bank.safetensors").symlink_to(tmp_path / "elsewhere")
    assert "bank.safetensors: is missing" in lines(verify_model(folder))
    line = (folder / "model.sha256").read_bytes()
    for bad in (b"", line[:-1], line + line, b"0" * 2000, line.replace(b"model", b"modul")):
        (folder / "model.sha256").write_bytes(bad)
        assert "model.sha256" in lines(verify_model(folder))
    (folder / "model.sha256").unlink()
    assert "model.sha256: is missing" in lines(verify_model(folder))
    (folder / "model.json").unlink()
    (folder / "model.json").symlink_to("/dev/zero")
    assert "model.json: is not a plain file" in lines(verify_model(folder))
    (folder / "model.json").unlink()
    assert "no model here" in lines(verify_model(folder))


def test_a_file_that_is_no_safetensors_is_found_whatever_its_digest(folder):
    (folder / "bank.safetensors").write_bytes(b"\xff" * 64)
    record, _ = read_record(folder)
    files = record.files | {"bank.safetensors": bytes_digest(b"\xff" * 64)}
    rewrite(folder, files=files)
    assert "bank.safetensors: is not a safetensors file" in lines(verify_model(folder))


def forge(folder: Path, name: str, data: bytes) -> None:
    """Puts a file of tensors in the place of another, with digests that fit."""
    (folder / name).write_bytes(data)
    rewrite(folder, files=read_record(folder)[0].files | {name: bytes_digest(data)})


FLOATS, INTS = np.zeros((7, 11), np.float32), np.zeros(7, np.int32)
BANK = {"features": FLOATS, "image_index": INTS, "cell": INTS}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"image_index": None}, "other tensors than a model of this detector"),
        ({"cell": None}, "other tensors than a model of this detector"),
        ({"more": INTS}, "other tensors than a model"),
        ({"image_index": INTS[:6]}, "expected I32 (7), got I32 (6,)"),
        ({"cell": INTS[:6]}, "expected I32 (6), got I32 (7,)"),
        ({"features": FLOATS[:, :0]}, "features has another type or shape"),
        (
            {"features": FLOATS[:0], "image_index": INTS[:0], "cell": INTS[:0]},
            "features has another type or shape",
        ),
        ({"features": FLOATS[0]}, "features has another type or shape"),
        ({"features": FLOATS.astype(np.float16)}, "expected F32 (7, D), got"),
        ({"image_index": INTS.astype(np.int64)}, "image_index has another"),
        ({"cell": INTS.astype(np.int64)}, "cell has another"),
    ],
)
def test_a_bank_that_is_none_is_found_by_its_header(folder, changes, expected):
    tensors = {name: one for name, one in (BANK | changes).items() if one is not None}
    forge(folder, "bank.safetensors", save(tensors))
    text = lines(verify_model(folder))
    assert "bank.safetensors" in text and expected in text and "fetch the model again" in text


def test_a_bank_larger_than_its_config_allows(tmp_path):
    write_model(tmp_path / "part", config=FitConfig(coreset_max=6))
    assert "more patches than its config allows (expected at most 6, got 7)" in lines(
        verify_model(tmp_path / "part")
    )


@pytest.mark.parametrize("side", ["mean", "precision", "shrinkage"])
def test_a_distribution_that_is_none_is_found_by_its_header(tmp_path, side):
    write_model(tmp_path / "part", config=FitConfig(detector="gaussian"))
    tensors = TENSORS["gaussian.safetensors"](np.random.default_rng(0))
    forge(tmp_path / "part", "gaussian.safetensors", save(tensors | {side: np.zeros((5, 4))}))
    assert f"{side} has another type or shape" in lines(verify_model(tmp_path / "part"))


def test_a_header_of_a_million_tensors_is_not_parsed(folder):
    many = b",".join(
        b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(90_000)
    )
    header = b"{" + many + b"}"
    forge(folder, "extractor.safetensors", len(header).to_bytes(8, "little") + header)
    assert "a header of at most 4194304 bytes" in lines(verify_model(folder))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_version": 3}, "written by another version of cutswap"),
        ({"model_version": MODEL_VERSION + 1, "news": 1}, "written by another version"),
        ({"model_version": True}, "written by another version"),
        ({"model_version": "3\n\x1b[2J"}, "written by another version"),
        ({"news": 1}, "missing or unknown fields news"),
        ({"category": 5}, "category is not text"),
        ({"set_digest": "A" * 64}, "set_digest is not a digest"),
        ({"network_digest": None}, "network_digest is not a digest"),
        ({"training_files": ["x"]}, "training_files are not digests"),
        ({"training_files": [B, A]}, "not in the canonical form"),
        ({"training_files": [A, A]}, "not in the canonical form"),
        ({"versions": {"torch": 2}}, "versions is not a table of text"),
        ({"processes": 0}, "processes is not 1 or more"),
        ({"processes": True}, "processes is not 1 or more"),
        ({"holds_pixels": 0}, "holds_pixels is not true or false"),
        ({"calibrated_on": "tests"}, "calibrated_on is not training, held-out, others"),
        ({"calibrated_on": ["training"]}, "calibrated_on is not training, held-out, others"),
        ({"files": {"extractor.safetensors": A}}, "files are not bank.safetensors, calibration"),
        ({"files": {"extractor.safetensors": A, "../../x": A}}, "files are not"),
        ({"files": {"extractor.safetensors": A, "bank.safetensors": "x"}}, "table of digests"),
        ({"geometry": {"height": 1, "width": 80, "fit": "crop"}}, "malformed"),
        ({"geometry": None}, "malformed geometry"),
        ({"config": None}, "unknown detector"),
        ({"config": {"detector": ["x"]}}, "unknown detector"),
        ({"config": {"detector": "patchcore"}}, "config cannot be read"),
        ({"image_threshold": {"value": 1.0}}, "image_threshold lacks a field"),
        ({"image_threshold": 3}, "image_threshold lacks a field"),
        (
            {"pixel_threshold": THRESHOLD | {"value": 1}},
            "pixel_threshold is not made of numbers",
        ),
        (
            {"pixel_threshold": THRESHOLD | {"n": 0}},
            "pixel_threshold has no number of images",
        ),
        (
            {"pixel_threshold": THRESHOLD | {"achievable_rate": 7.0}},
            "a rate outside 0 to 1",
        ),
    ],
)
def test_a_record_that_is_wrong_with_fitting_digests(changes, expected, folder):
    rewrite(folder, **changes)
    text = lines(verify_model(folder))
    assert expected in text and "model.json" in text and text.isprintable()
    with pytest.raises(ModelError, match=r"model\.json"):
        read_record(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"sigma_px": float("nan")}, {"sigma_px": "4"}, {"stages": 5}, {"stages": [2.0, 3]},
        {"seed": 1.0}, {"batch": 8.0}, {"batch": True}, {"coreset_max": 7.5}, {"reweight": 1},
        {"batch": 10**9}, {"batch": 0},
        {"network": None}, {"lr": "high"}, {"updates": 0.0}, {"levels": "4"}, {"nothing": 1},
        {"checkpoint_every": [None] * 999}, {"checkpoint_every": "\x1b[2J\u202e"},
        {"detector": "\x1b[2J"},
    ],
)  # fmt: skip
def test_a_config_that_is_wrong_with_fitting_digests(change, folder):
    config = json.loads((folder / "model.json").read_bytes())["config"]
    (name,) = change
    if name in config["train"] and name not in config:
        change = {"train": config["train"] | change}
    rewrite(folder, config=config | change)
    text = lines(verify_model(folder))
    assert "model.json" in text and text.isprintable()


def test_whole_numbers_serve_as_sizes(tmp_path):
    write_model(tmp_path / "part", config=FitConfig(sigma_px=5, coreset_max=7))
    assert verify_model(tmp_path / "part") == []
    assert read_record(tmp_path / "part")[0].config == FitConfig(sigma_px=5, coreset_max=7)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 99_999, b'{"model_version": 4}', b"1" * 99_999]
)
def test_a_file_that_is_no_record(data, folder):
    (folder / "model.json").write_bytes(data)
    assert "model.json" in lines(verify_model(folder))
    with pytest.raises(ModelError, match=r"model\.json"):
        parse_record(data, folder / "model.json")


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ModelError, match="cannot be recorded"):
        write_model(tmp_path / "part", image_threshold=Threshold(float("inf"), 9, 0.1, 0.1))
    with pytest.raises(ModelError, match="files are not"):
        write_model(tmp_path / "part", files={})
    assert not list(tmp_path.rglob("model.*"))


# The commands


def test_inspect_and_verify_from_the_command_line(folder):
    digest = file_digest(folder / "model.json")
    text = invoke_det("inspect", folder).stdout
    for part in (digest, C, "CC BY-NC 4.0", "Ölmühle", "holds none", "patchcore", "by 2 processes"):
        assert part in text
    (record,) = json.loads(invoke_det("inspect", folder.parent, "--json").stdout)
    assert record["digest"] == digest and record["set_digest"] == C
    assert record["processes"] == 2
    assert "whole and unchanged" in invoke_det("verify", folder.parent, "--expect", digest).stdout
    assert json.loads(invoke_det("verify", folder, "--json").stdout) == []
    result = invoke_det("verify", folder, "--expect", A, "--json", exit_code=1)
    (problem,) = json.loads(result.stdout)
    assert problem["got"] == digest and problem["kind"] == "ModelError"
    assert "1 problem found" in result.stderr and "do not use this model" in result.stderr
    write_model(folder.parent / "other", category="other")
    invoke_det("verify", folder.parent, "--expect", digest, exit_code=2)
    invoke_det("verify", folder.parent, "--expect", digest, "--category", "part")
    (folder / "bank.safetensors").unlink()
    result = invoke_det("verify", folder.parent, exit_code=1)
    assert "bank.safetensors: is missing" in result.stdout and "other: whole" in result.stdout


def test_a_strangers_model_cannot_steer_the_terminal(folder):
    rewrite(folder, licence="\x1b[2Jfree\nreally", attribution="\x9b31m")
    text = invoke_det("inspect", folder).stdout
    assert "\x1b" not in text and "\x9b" not in text and "free" in text


def test_verifying_needs_no_network_library(folder):
    code = (
        "import sys\nfrom detector.cli import main\n"
        f"for verb in ('inspect', 'verify'): main([verb, {str(folder)!r}], standalone_mode=False)\n"
        "print([name for name in ('torch', 'timm', 'sklearn') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"


# What fit has to do with it


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    """A small set of images whose licence has terms."""
    folder = tmp_path_factory.mktemp("sets") / "tiles"
    manifest, _ = write_set(folder)
    write_manifest(folder, replace(manifest, licence="CC BY-NC-SA 4.0"))
    return folder


UNTUNED = ("--updates", 0, "--coreset", 0.5, "--quiet")


def test_fit_refuses_another_set_than_expected_before_anything(small_set, tmp_path):
    _, digest = read_manifest(small_set)
    options = ("fit", small_set, "--out", tmp_path / "m", *UNTUNED)
    result = invoke_det(*options, "--expect", A, exit_code=1)
    assert "another set than expected" in result.output and digest in result.output
    assert not (tmp_path / "m").exists()
    write_set(small_set.parent / "more", category="more")
    result = invoke_det("fit", small_set.parent, "--out", tmp_path, "--expect", A, exit_code=2)
    assert "--expect names one set" in result.output
    result = invoke_det(*options, "--expect", digest)
    model_digest = file_digest(tmp_path / "m" / "tiles" / "model.json")
    assert model_digest in result.stdout
    assert "export-recipe" not in result.stderr  # features are not pixels
    result = invoke_det(*options, "--expect", digest, "--json")
    (summary,) = json.loads(result.stdout)
    assert summary["model_digest"] == model_digest and summary["is_unchanged"]
    invoke_det("verify", tmp_path / "m", "--expect", model_digest)
    invoke_det(*options, "--expect", A, exit_code=1)


def test_a_model_that_holds_pixels_inherits_the_warning(small_set, tmp_path):
    options = ("--detector", "guided-seg", "--updates", 1, "--width", 4, "--batch", 2)
    result = invoke_det("fit", small_set, "--out", tmp_path / "m", *options)
    assert "warning: " in result.stderr and "non-commercial and share-alike" in result.stderr
    assert "export-recipe" in result.stderr and str(tmp_path / "m" / "tiles") in result.stderr
    assert read_record(tmp_path / "m" / "tiles")[0].holds_pixels is True
    assert "holds pixels of training images" in invoke_det("inspect", tmp_path / "m").stdout
    with pytest.raises(DigestError):
        from detector.pipeline import fit_model

        fit_model(small_set, FitConfig(), tmp_path / "m", expect=A)


def test_weights_that_are_not_the_recorded_ones_are_refused_whatever_the_digests(
    small_set, tmp_path
):
    from detector.model import load_model

    invoke_det("fit", small_set, "--out", tmp_path, *UNTUNED)
    folder = tmp_path / "tiles"
    load_model(folder)
    rewrite(folder, network_digest=A)
    with pytest.raises(ModelError, match="other weights than the recorded ones"):
        load_model(folder)
