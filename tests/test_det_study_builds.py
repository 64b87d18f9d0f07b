"""Sets of a study: which one is meant, when it is whole, and what belongs to the data instead."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPO
from PIL import Image

from detector.config import FitConfig
from detector.study.builds import BuildFailed, Sets, build_command, request_set
from detector.study.cells import StudyData, make_cell
from detector.study.locks import LOCK_NAME, waiting_lock
from detector.study.plan import DataSpec
from detector.train_config import TrainConfig
from manifests.datasets import open_data
from manifests.digest import file_digest
from manifests.errors import ConfigError, DataError, ImageError, OutputError, WeightsError

DATA = DataSpec("part", Path("photos"))
HOLD = """
import sys, time
from pathlib import Path
from detector.study.locks import waiting_lock
with waiting_lock(Path(sys.argv[1]), what="a set"):
    print("held", flush=True)
    sys.stdin.readline()
    print("released", flush=True)
"""


@pytest.fixture
def training(sample_data) -> dict[str, dict[str, str]]:
    """What the sample data's sets are made of."""
    (category,) = open_data(sample_data)
    return {category.name: {sample.source: file_digest(sample.path) for sample in category.train}}


def _sets() -> Sets:
    return Sets(jobs=1, device="cpu", quiet=True)


def test_data_that_changed_get_another_folder(tmp_path):
    files = {"bolt": {"a.png": "1", "b.png": "2"}}
    changed = [
        {"bolt": {"a.png": "1"}},
        {"bolt": {"a.png": "1", "b.png": "2", "c.png": "3"}},
        {"bolt": {"a.png": "1", "b.png": "3"}},
        {"nut": files["bolt"]},
    ]
    one = request_set(DATA, "few", {"clusters": 2}, tmp_path, training_files=files)
    others = [
        request_set(DATA, "few", {"clusters": 2}, tmp_path, training_files=other)
        for other in changed
    ]
    assert len({request.folder for request in (one, *others)}) == 5
    # Names of files are no part of a set, and cells have the digest of the data beside the key.
    renamed = {"bolt": {"x.png": "2", "y.png": "1"}}
    same = request_set(DATA, "few", {"clusters": 2}, tmp_path, training_files=renamed)
    assert same.folder == one.folder
    assert {request.key for request in others} == {one.key}


def test_weights_count_by_what_is_in_them(tmp_path):
    requests = []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
        options = {"weights": str(tmp_path / name)}
        requests.append(request_set(DATA, "few", options, tmp_path))
    one, same, other = requests
    assert (one.key, one.folder, one.saliency_key) == (same.key, same.folder, same.saliency_key)
    assert len({one.key, other.key}) == len({one.saliency_key, other.saliency_key}) == 2
    assert f"--weights {tmp_path / 'a'}" in " ".join(
        build_command(one, jobs=1, device="cpu", quiet=True)
    )
    with pytest.raises(WeightsError, match="the weights of set few cannot be read"):
        request_set(DATA, "few", {"weights": str(tmp_path / "none")}, tmp_path)


def test_textures_count_by_what_is_in_them(tmp_path):
    def request(folder, *colours):
        (tmp_path / folder).mkdir(exist_ok=True)
        for number, colour in enumerate(colours):
            Image.new("RGB", (9, 9), (colour, 0, 0)).save(tmp_path / folder / f"{number}.png")
        options = {"policies": "perlin", "textures": str(tmp_path / folder)}
        return request_set(DATA, "few", options, tmp_path)

    one, same, other = request("a", 1, 2), request("b", 2, 1), request("c", 1, 3)
    assert (one.key, one.folder) == (same.key, same.folder) != (other.key, other.folder)
    assert request("a", 1, 2, 5).key != one.key
    with pytest.raises(DataError):
        request_set(DATA, "few", {"textures": str(tmp_path / "none")}, tmp_path)


def test_a_set_is_whole_if_it_is_of_exactly_these_images(built, category_name, training, tmp_path):
    request = request_set(DATA, "few", {}, tmp_path, training_files=training)
    request = replace(request, folder=built)
    assert _sets().get(request) == {category_name: built / category_name}
    files = training[category_name]
    fewer = dict(list(files.items())[1:])
    for other in (files | {"new.png": "f" * 64}, fewer, {**fewer, "new.png": "f" * 64}):
        wrong = replace(request, training_files={category_name: other})
        with pytest.raises(BuildFailed), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sets, "_build", _failing)
            _sets().get(wrong)


def test_images_that_a_build_skipped_are_not_missing(sample_data, category_name, tmp_path):
    import shutil

    from click.testing import CliRunner

    from generator.cli import main

    data = tmp_path / "data"
    shutil.copytree(sample_data, data)
    next((data / category_name / "train" / "good").iterdir()).write_bytes(b"no image")
    arguments = ["build", data, "--out", tmp_path / "set", "--image-size", "64", "--jobs", "1"]
    arguments += ["--skip-bad", "--policies", "random-swap", "--quiet"]
    assert CliRunner().invoke(main, [str(part) for part in arguments]).exit_code == 0
    (category,) = open_data(data)
    files = {sample.source: file_digest(sample.path) for sample in category.train}
    request = request_set(DATA, "few", {}, tmp_path, training_files={category_name: files})
    assert _sets().get(replace(request, folder=tmp_path / "set")).keys() == {category_name}


def _failing(self, request, lent):
    raise BuildFailed(f"no {request.name}")


def test_a_build_that_failed_is_not_tried_again_and_lends_nothing(monkeypatch, tmp_path, training):
    tried = []

    def build(self, request, lent):
        tried.append((request.name, dict(lent)))
        return _failing(self, request, lent)

    monkeypatch.setattr(Sets, "_build", build)
    full = request_set(DATA, "full", {}, tmp_path, training_files=training)
    few = request_set(DATA, "few", {"levels": [0]}, tmp_path, training_files=training)
    sets = _sets()
    sets.add(full)
    sets.add(few)
    for request in (few, few, full):
        with pytest.raises(BuildFailed, match=f"no {request.name}"):
            sets.get(request)
    # The one with all levels goes first; the other then makes its own maps.
    assert tried == [("full", {}), ("few", {})]


def test_one_category_that_borrows_is_built_alone(tmp_path):
    data = DataSpec("part", Path("photos"), categories=("bolt", "nut"))
    request = request_set(data, "few", {}, tmp_path)
    command = build_command(request, jobs=1, device="cuda", quiet=True, saliency=Path("x/nut"))
    assert [command[i + 1] for i, word in enumerate(command) if word == "--category"] == ["nut"]
    assert "--device" not in command
    assert command[command.index("--reuse-saliency") + 1] == "x/nut"


def test_sets_that_skip_other_images_share_no_maps(tmp_path):
    one, other, third = (
        request_set(DATA, "few", options, tmp_path)
        for options in ({}, {"skip_bad": True}, {"policies": ["random-swap", "cutpaste"]})
    )
    assert one.saliency_key != other.saliency_key
    assert one.saliency_key == third.saliency_key
    assert (one.is_guided, third.is_guided) == (True, False)


@pytest.mark.parametrize("option", ["train_list", "format"])
def test_what_belongs_to_the_data_is_refused_with_the_reason(option, tmp_path):
    with pytest.raises(ConfigError, match="belongs to the data") as caught:
        request_set(DATA, "few", {option: "mtd"}, tmp_path)
    assert f"move {option} to [data.part]" in str(caught.value)


def test_a_held_folder_is_waited_for(tmp_path, capfd):
    folder = tmp_path / "set"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        second = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)],
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert "waiting for another run: a set" in second.stderr.readline()
            assert second.poll() is None
            process.communicate("\n", timeout=20)
            out, _ = second.communicate("\n", timeout=20)
            assert out == "held\nreleased\n"
        finally:
            second.kill()
    finally:
        process.kill()
    with waiting_lock(folder, what="a set"):
        pass
    assert "waiting" not in capfd.readouterr().err
    assert {path.name for path in folder.iterdir()} <= {LOCK_NAME}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot be locked"),
        waiting_lock(tmp_path / "file" / "set", what="a set"),
    ):
        pass


def test_a_region_is_known_by_what_is_in_its_mask(tmp_path):
    mask = tmp_path / "roi.png"
    mask.write_bytes(b"one")
    plain = request_set(DATA, "few", {}, tmp_path)
    one = request_set(DATA, "few", {"roi": str(mask)}, tmp_path)
    mask.write_bytes(b"two")
    other = request_set(DATA, "few", {"roi": str(mask)}, tmp_path)
    assert len({one.folder for one in (plain, one, other)}) == 3
    # Outside it is black: another picture, and another saliency.
    assert len({one.saliency_key for one in (plain, one, other)}) == 3
    data = StudyData(None, {}, "d" * 64)
    keys = {
        make_cell(
            data, None, request, FitConfig(train=TrainConfig(updates=0)), None, coreset=0.01,
            seed=0, draw=0, network_digest="n" * 64, out=tmp_path,
        ).key
        for request in (plain, one, other)
    }  # fmt: skip
    assert len(keys) == 3
    with pytest.raises(ImageError, match="the roi of set few cannot be read"):
        request_set(DATA, "few", {"roi": str(tmp_path / "none.png")}, tmp_path)
