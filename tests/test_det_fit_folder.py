"""What a refused, failed or killed fit leaves in the folder of its model."""

from __future__ import annotations

import shutil

import pytest
from conftest import invoke_det

from detector import model, model_record, pipeline, training_loop
from detector.model import load_model
from manifests import atomic
from manifests.errors import OutputError

UNTRAINED = ("--updates", 0, "--coreset", 0.05, "--quiet")
TRAINED = ("--updates", 3, "--batch", 2, "--frozen-start", 1, "--coreset", 0.05, "--quiet")


@pytest.fixture
def models(fitted, tmp_path):
    """A root with an untrained model of its own."""
    shutil.copytree(fitted, tmp_path / "models")
    return tmp_path / "models"


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def killed(built, models, category_name, monkeypatch):
    """A fit that replaces a model and is cut off between its training and its bank."""
    with monkeypatch.context() as patched:

        def stop(*_, **__):
            raise OutputError("cut off")

        patched.setattr(pipeline, "fit_detector", stop)
        invoke_det("fit", built, "--out", models, *TRAINED, "--overwrite", exit_code=1)
    return models / category_name


def test_a_refused_fit_leaves_no_folder(built, tmp_path):
    out = tmp_path / "root" / "models"
    told = invoke_det("fit", built, "--out", out, *UNTRAINED, "--tile", 192, exit_code=2)
    assert "tile" in told.stderr
    assert not (tmp_path / "root").exists()


def test_a_refused_fit_takes_no_model_away(built, models, category_name):
    before = bytes_of(models / category_name)
    invoke_det("fit", built, "--out", models, *UNTRAINED, "--tile", 192, "--overwrite", exit_code=2)
    after = bytes_of(models / category_name)
    assert before == after
    assert load_model(models / category_name).config.tile is None


def test_a_model_stays_until_the_new_one_is_whole(killed, fitted, category_name):
    assert bytes_of(fitted / category_name).items() <= bytes_of(killed).items()
    assert load_model(killed).config.train.updates == 0


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_killed_fit_goes_on_where_it_was(killed, built, tmp_path, monkeypatch, more):
    def refuse(*_):
        raise AssertionError("trained again")

    with monkeypatch.context() as patched:
        # The checkpoint of the last update is there: no further one is written.
        patched.setattr(training_loop, "write_checkpoint", refuse)
        invoke_det("fit", built, "--out", killed.parent, *TRAINED, *more)
    invoke_det("fit", built, "--out", tmp_path / "alone", *TRAINED)
    assert bytes_of(killed).keys() == bytes_of(tmp_path / "alone" / killed.name).keys()
    assert (killed / "model.json").read_bytes() == (
        tmp_path / "alone" / killed.name / "model.json"
    ).read_bytes()


def test_after_a_killed_fit_others_are_still_refused_or_start_afresh(killed, built):
    old = (killed / "model.json").read_bytes()
    other = ("fit", built, "--out", killed.parent, *TRAINED, "--seed", 3)
    told = invoke_det(*other, exit_code=1)
    assert "already holds a model of other options" in told.stderr
    # The old model's own fit finds it done.
    told = invoke_det("fit", built, "--out", killed.parent, *UNTRAINED)
    assert "nothing to do" in told.output and (killed / "model.json").read_bytes() == old
    invoke_det(*other, "--overwrite")
    assert load_model(killed).config.train.seed == 3
    assert not list(killed.glob(".*")) and not list(killed.glob("checkpoint*"))


def test_an_untrained_model_keeps_no_log_of_a_trained_one(built, killed):
    invoke_det("fit", built, "--out", killed.parent, *TRAINED)
    assert (killed / "training.csv").is_file()
    invoke_det("fit", built, "--out", killed.parent, *UNTRAINED, "--overwrite")
    assert not (killed / "training.csv").exists()


def test_a_model_stays_where_the_new_one_cannot_be_written(
    built, models, category_name, monkeypatch
):
    """As on a full disk, at each of the files."""
    folder = models / category_name
    before, written = bytes_of(folder), []

    def fail(path, data):
        written.append(path.name)
        if len(written) == failing:
            raise OutputError("cannot be written: no space left on the device", path=path)
        atomic.write_atomic(path, data)

    monkeypatch.setattr(model, "write_atomic", fail)
    monkeypatch.setattr(model_record, "write_atomic", fail)
    for failing in range(1, 7):
        written.clear()
        told = invoke_det(
            "fit", built, "--out", models, *UNTRAINED, "--seed", 1, "--overwrite", exit_code=1
        )
        assert "no space left" in told.stderr and len(written) == failing
        assert before.items() <= bytes_of(folder).items()
    assert load_model(folder).config.seed == 0
    failing = 0
    invoke_det("fit", built, "--out", models, *UNTRAINED, "--seed", 1, "--overwrite")
    assert load_model(folder).config.seed == 1 and not list(folder.glob(".*"))


def test_a_damaged_model_can_be_replaced_and_so_can_what_a_kill_left(built, models, category_name):
    folder = models / category_name
    (folder / "bank.safetensors").write_bytes(b"")
    (folder / ".model.tmp-1").mkdir()
    (folder / ".model.tmp-1" / "bank.safetensors").write_bytes(b"half")
    told = invoke_det("fit", built, "--out", models, *UNTRAINED, exit_code=1)
    assert "bank.safetensors" in told.stderr
    invoke_det("fit", built, "--out", models, *UNTRAINED, "--overwrite")
    assert load_model(folder).config.seed == 0 and not list(folder.glob(".*"))
