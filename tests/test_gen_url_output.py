"""Sets built straight to a URL: equal bytes, going on after a kill, and nobody else's shards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import IMAGE_SIZE, invoke_gen
from test_gen_pipeline import digests, good_photos

from generator import url_output
from generator.made_shard import MadeShard
from generator.remote_run import UrlPlace, begin_run
from generator.shard_task import make_shard
from generator.unit import Unit
from manifests import transfer
from manifests.errors import OutputError, SetError, WorkerError
from manifests.location import Location
from manifests.remote import open_location, push_set
from manifests.schema import read_manifest
from manifests.transfer import Patience
from manifests.verify import verify_set
from manifests.versions import library_versions
from reference.buckets import s3_bucket

NAME = "photos"
OPTIONS = (
    "--image-size", 64, "--shard-images", 2, "--policies", "random-swap,cutpaste", "--jobs", 1,
    "--quiet",
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return good_photos(tmp_path_factory.mktemp("data") / NAME, 7)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """The set in a folder."""
    out = tmp_path_factory.mktemp("whole")
    invoke_gen("build", photos, "--out", out, *OPTIONS)
    return digests(out / NAME)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.001)


def build(photos, out, *more, exit_code=0):
    url = f"file://{out}" if isinstance(out, Path) else out
    return invoke_gen("build", photos, "--out", url, *OPTIONS, *more, exit_code=exit_code)


def break_after(monkeypatch, count, error):
    """Lets `count` shards be made, and then fails."""
    made = []

    def make(task):
        if len(made) == count:
            raise error
        made.append(task.unit.name)
        return make_shard(task)

    monkeypatch.setattr(url_output, "make_shard", make)
    return made


def test_a_folder_behind_a_url_gets_the_bytes_of_a_folder(photos, whole, tmp_path):
    build(photos, tmp_path)
    folder = tmp_path / NAME
    assert digests(folder) == whole
    assert verify_set(folder) == []
    written = (folder / "shard-00000.h5").stat().st_mtime_ns
    assert "nothing to do" in build(photos, tmp_path).output
    assert (folder / "shard-00000.h5").stat().st_mtime_ns == written


def test_saliency_and_worker_processes_change_nothing(sample_data, built, category_name, tmp_path):
    invoke_gen(
        "build", sample_data, "--out", f"file://{tmp_path}", "--image-size", IMAGE_SIZE,
        "--shard-images", 4, "--jobs", 2, "--reuse-saliency", built, "--quiet",
    )  # fmt: skip
    assert digests(tmp_path / category_name) == digests(built / category_name)


def test_an_s3_bucket_gets_them_too(photos, whole, monkeypatch):
    with s3_bucket(monkeypatch) as url:
        break_after(monkeypatch, 2, KeyboardInterrupt())
        build(photos, url, exit_code=130)
        names = Location.of(f"{url}/{NAME}").names()
        assert names == ["build.json"] + sorted(
            f"shard-0000{n}.{end}" for n in range(2) for end in ("h5", "json")
        )
        made = break_after(monkeypatch, 9, None)
        answer = json.loads(build(photos, url, "--json").stdout)[0]
        assert made == ["shard-00002.h5", "shard-00003.h5"]
        assert answer["resumed_shards"] == 2
        assert answer["folder"] == f"{url}/{NAME}"
        assert digests(open_location(f"{url}/{NAME}")) == whole
        assert Location.of(f"{url}/{NAME}").names() == sorted(whole)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_build_that_fails_goes_on_with_what_is_missing(
    photos, whole, tmp_path, monkeypatch, count
):
    break_after(monkeypatch, count, WorkerError("gone"))
    build(photos, tmp_path, exit_code=1)
    folder = tmp_path / NAME
    assert not (folder / "manifest.json").exists()
    if count:  # a kill between a shard and its note
        (folder / f"shard-0000{count - 1}.json").unlink()
    made = break_after(monkeypatch, 9, None)
    build(photos, tmp_path)
    assert made == sorted(f"shard-0000{number}.h5" for number in range(max(count - 1, 0), 4))
    assert digests(folder) == whole


@pytest.mark.parametrize(
    "note", [b"", b"[]", b'{"entry": {}}', b"{" * 100, b"x" * (2 << 20)], ids=len
)
def test_a_note_without_sense_is_no_note(photos, whole, tmp_path, monkeypatch, note):
    break_after(monkeypatch, 2, WorkerError("gone"))
    build(photos, tmp_path, exit_code=1)
    (tmp_path / NAME / "shard-00001.json").write_bytes(note)
    made = break_after(monkeypatch, 9, None)
    build(photos, tmp_path)
    assert made[0] == "shard-00001.h5" and len(made) == 3
    assert digests(tmp_path / NAME) == whole


def test_a_note_is_what_was_made_or_nothing(photos, whole, tmp_path, monkeypatch):
    break_after(monkeypatch, 1, WorkerError("gone"))
    build(photos, tmp_path, exit_code=1)
    note = tmp_path / NAME / "shard-00000.json"
    made = MadeShard.from_bytes(note.read_bytes())
    assert made.to_bytes() == note.read_bytes()
    assert len(list(made.negative_kinds())) == made.entry.negatives == 20
    plain = json.loads(note.read_bytes())
    for field, value in {
        "kinds": [["swap", 0, 0, 19]],
        "unit_digest": "x",
        "versions": {"numpy": 2},
        "more": 1,
    }.items():
        with pytest.raises(SetError, match="no note"):
            MadeShard.from_bytes(json.dumps(plain | {field: value}).encode())
    for kind in (["swap", -2, 0, 20], ["swap", 0, 9, 20], [1, 0, 0, 20], ["swap", 0, 20], "swap"):
        with pytest.raises(SetError, match="no note"):
            MadeShard.from_bytes(json.dumps(plain | {"kinds": [kind]}).encode())

    endless = plain["entry"] | {"negatives": 1 << 50}
    with pytest.raises(SetError, match="too many negatives"):
        MadeShard.from_bytes(
            json.dumps(plain | {"entry": endless, "kinds": [["swap", 0, 0, 1 << 50]]}).encode()
        )


def test_other_options_need_overwrite(photos, whole, tmp_path, monkeypatch):
    build(photos, tmp_path, "--seed", 1)
    folder = tmp_path / NAME
    before = digests(folder)
    result = build(photos, tmp_path, exit_code=1)
    assert "other options (seed differ)" in result.output and "--overwrite" in result.output
    assert digests(folder) == before
    build(photos, tmp_path, "--overwrite")
    assert digests(folder) == whole


def test_an_unfinished_build_of_other_options_needs_overwrite(photos, whole, tmp_path, monkeypatch):
    break_after(monkeypatch, 3, WorkerError("gone"))
    build(photos, tmp_path, "--seed", 1, exit_code=1)
    before = digests(tmp_path / NAME)
    result = build(photos, tmp_path, exit_code=1)
    assert "holds part of another set" in result.output
    assert digests(tmp_path / NAME) == before
    monkeypatch.undo()
    build(photos, tmp_path, "--overwrite")
    assert digests(tmp_path / NAME) == whole


def test_push_and_build_do_not_take_each_others_shards(photos, whole, tmp_path, monkeypatch):
    sets, there = tmp_path / "sets", tmp_path / "there"
    invoke_gen("build", photos, "--out", sets, *OPTIONS)
    shutil.copytree(sets / NAME, there / NAME)
    (there / NAME / "manifest.json").unlink()  # an unfinished push
    assert "holds part of another set" in build(photos, there, exit_code=1).output
    break_after(monkeypatch, 1, WorkerError("gone"))
    build(photos, there, "--overwrite", exit_code=1)
    with pytest.raises(SetError, match="holds part of another set"):
        push_set(sets / NAME, f"file://{there}/{NAME}")
    push_set(sets / NAME, f"file://{there}/{NAME}", overwrite=True)
    assert digests(there / NAME) == whole


def test_a_kill_at_the_end_leaves_a_set_or_all_of_its_shards(photos, whole, tmp_path, monkeypatch):
    folder = tmp_path / NAME
    for number in (1, 2):
        calls = []

        def put(target, data, patience, number=number, calls=calls):
            if target.name.rsplit("/", 1)[-1].startswith("manifest"):
                calls.append(target.name)
                if len(calls) > number:
                    raise KeyboardInterrupt
            transfer.put_bytes(target, data, patience)
            if len(calls) == number == 2:  # and the notes are still there
                raise KeyboardInterrupt

        monkeypatch.setattr(url_output, "put_bytes", put)
        build(photos, tmp_path, exit_code=130)
        assert (folder / "manifest.json").exists() == (number == 2)
        assert len(list(folder.glob("shard-*.json"))) == 4
        monkeypatch.setattr(url_output, "put_bytes", transfer.put_bytes)
        made = break_after(monkeypatch, 0, WorkerError("no shard is to be made"))
        build(photos, tmp_path)
        assert made == [] and digests(folder) == whole
        monkeypatch.undo()
        shutil.rmtree(folder)


def fake_shard(path):
    from reference.small_sets import write_set

    write_set(path.parent / "set", shards=1, n=2, r=3)
    (path.parent / "set" / "shard-00000.h5").rename(path)
    from manifests.shard import Shard, shard_entry

    with Shard(path) as shard:
        negatives = [shard.record(j) for j in range(shard.n_negatives)]
    return MadeShard.of(shard_entry(path), "0" * 64, negatives)


def test_workers_of_a_run_that_is_over_are_refused(tmp_path):
    target, patience = Location.of(f"file://{tmp_path}/set"), Patience()
    old = begin_run(target, [], patience)
    new = begin_run(target, [], patience)
    with pytest.raises(OutputError, match="another run has begun"):
        old.store("shard-00000.h5", fake_shard)
    assert target.names() == ["build.json"]
    assert new.store("shard-00000.h5", fake_shard).entry.name == "shard-00000.h5"
    target.child("build.json").remove()
    with pytest.raises(OutputError, match="this build is over"):
        new.store("shard-00000.h5", fake_shard)


def test_a_shard_that_was_on_its_way_when_another_run_began_is_taken_back(tmp_path, monkeypatch):
    target, patience = Location.of(f"file://{tmp_path}/set"), Patience()
    place = begin_run(target, [], patience)
    real = Location.put

    def put(self, file):
        real(self, file)
        if self.name.endswith(".h5"):
            monkeypatch.setattr(Location, "put", real)
            begin_run(target, [], patience)

    monkeypatch.setattr(Location, "put", put)
    with pytest.raises(OutputError, match="another run has begun"):
        place.store("shard-00000.h5", fake_shard)
    assert target.names() == ["build.json"]


def test_a_shard_that_somebody_took_away_is_missed(photos, tmp_path, monkeypatch):
    folder = tmp_path / NAME

    def make(task):
        made = make_shard(task)
        if task.unit.name == "shard-00003.h5":
            (folder / "shard-00001.h5").unlink()
        return made

    monkeypatch.setattr(url_output, "make_shard", make)
    result = build(photos, tmp_path, exit_code=1)
    assert "shard-00001.h5: is not as it was stored" in result.output
    assert not (folder / "manifest.json").exists()
    monkeypatch.undo()
    assert "3 shards taken over" in build(photos, tmp_path).output


def test_failures_name_worker_and_image(photos, tmp_path, monkeypatch):
    spoilt = shutil.copytree(photos, tmp_path / NAME)
    real = url_output.UrlOutput._clear

    def spoil(self, done):
        with open(spoilt / "photo 3.png", "ab") as file:
            file.write(b"x")
        real(self, done)

    monkeypatch.setattr(url_output.UrlOutput, "_clear", spoil)
    result = build(spoilt, tmp_path / "out", exit_code=1)
    assert "photo 3.png: changed while the set was built, on worker " in result.output
    assert result.output.count("\n") == 1

    def fail(*_, **__):
        raise MemoryError("no\nroom")

    monkeypatch.setattr("generator.shard_task.build_unit", fail)
    result = build(photos, tmp_path / "out", "--overwrite", exit_code=1)
    assert "shard-00002.h5 with photo 2.png, photo 3.png: failed on worker " in result.output
    assert "MemoryError: no room" in result.output


def test_another_network_on_a_worker_is_named(photos, tmp_path):
    from generator.config import BuildConfig
    from generator.shard_task import ShardTask, Work
    from manifests.errors import WeightsError

    work = Work(
        config=BuildConfig(), levels=(0,), weights=None, network_digest="0" * 64, device="cpu",
        max_pixels=10**6,
    )  # fmt: skip
    place = UrlPlace(f"file://{tmp_path}", "run")
    task = ShardTask(unit=Unit("shard-00000.h5", "0" * 64, ()), work=work, place=place)
    with pytest.raises(WeightsError, match="not the recipe's, on worker") as error:
        make_shard(task)
    assert error.value.expected == "0" * 64
    missing = replace(work, weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(WeightsError, match="on worker") as error:
        make_shard(replace(task, work=missing))
    assert error.value.path == str(tmp_path / "none.safetensors")


def test_workers_with_other_libraries_are_told_of_and_recorded(photos, tmp_path, monkeypatch):
    own = library_versions()
    monkeypatch.setattr(
        "generator.made_shard.library_versions", lambda: own | {"numpy": "0.1", "more": "1"}
    )
    result = build(photos, tmp_path)
    assert "workers have other versions of numpy:" in result.output
    versions = read_manifest(tmp_path / NAME)[0].versions
    assert versions.keys() == own.keys()
    assert own["numpy"] in versions["numpy"] and "0.1" in versions["numpy"]
    assert all(versions[name] == own[name] for name in own if name != "numpy")


def test_what_a_url_cannot_do_is_refused(photos, tmp_path):
    result = build(photos, tmp_path, "--add", exit_code=2)
    assert "--add needs a folder" in result.output
    result = build(photos, "http://127.0.0.1:1/sets", exit_code=2)
    assert "cannot be written" in result.output
    assert "nosuch://" in build(photos, "nosuch://sets", exit_code=2).output
    assert not list(tmp_path.iterdir())
