"""What lies in an output folder: nobody's files are taken, no stranger's shard is parsed here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import pytest
from conftest import IMAGE_SIZE, invoke_gen
from test_gen_pipeline import good_photos

import generator.copied_shard
import generator.leftover_shards
import generator.replay_unit
import manifests.shard
from generator.replay import replay_set
from generator.stored_saliency import StoredSaliency
from generator.subset import subset_set
from manifests.errors import CutswapError, SetError
from manifests.familiar import is_familiar, shard_files
from manifests.probe import HostileShard
from manifests.pull import pull_set
from manifests.schema import read_manifest
from manifests.shard import Shard
from manifests.verify import verify_set
from reference.faults import contents
from reference.interruptions import stopped_after_one_shard
from reference.replays import files_of, original
from reference.small_sets import write_set

FIRST, SECOND = "shard-00000.h5", "shard-00001.h5"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A set of two shards."""
    folder = tmp_path_factory.mktemp("sets") / "tiles"
    write_set(folder)
    return folder


@pytest.fixture(scope="module")
def done(whole, tmp_path_factory) -> Path:
    """A subset of it, of two shards as well."""
    return subset(whole, tmp_path_factory.mktemp("done")).folder


def subset(whole: Path, out: Path, **options):
    return subset_set(whole, out, policies=("scar", "swap"), **options)


def unfinished(done: Path, out: Path) -> Path:
    """What a kill before the manifest leaves of it; copied, so that its shards are unfamiliar."""
    folder = Path(shutil.copytree(done, out / "tiles"))
    for name in ("manifest.json", "manifest.sha256"):
        (folder / name).unlink()
    return folder


# Whose set it is


def build(data: Path, out: Path, *more: object, exit_code: int = 0) -> str:
    return invoke_gen(
        "build", data, "--out", out, "--image-size", IMAGE_SIZE, "--jobs", 1, "--quiet",
        "--policies", "random-swap", "--shard-images", 2, *more, exit_code=exit_code,
    ).output  # fmt: skip


def test_a_build_takes_only_a_built_set_for_its_own(tmp_path):
    """Parts, copies and unions of sets have the recipe and the training files of a build."""
    photos = good_photos(tmp_path / "photos", 4)
    halves = [Path(shutil.copytree(photos, tmp_path / name / "photos")) for name in "ab"]
    for number, path in enumerate(sorted(photos.iterdir())):
        (halves[number % 2] / path.name).unlink()
    sets = tmp_path / "sets"
    build(photos, sets)
    for half in halves:
        build(half, half.parent / "set")
    made = [half.parent / "set" for half in halves]
    invoke_gen("subset", sets, "--fraction", 0.5, "--out", tmp_path / "subset", "--quiet")
    invoke_gen("merge", *made, "--out", tmp_path / "merge", "--quiet")
    invoke_gen("export-recipe", sets / "photos", "-o", tmp_path / "photos.recipe")
    invoke_gen(
        "replay", tmp_path / "photos.recipe", "--data", photos, "--out", tmp_path / "replay",
        "--quiet",
    )  # fmt: skip
    for command, words in (
        ("subset", "holds a subset of another set"),
        ("merge", "holds a merge of other sets"),
        ("replay", "holds a replay of another set"),
    ):
        before = contents(tmp_path / command)
        text = build(photos, tmp_path / command, exit_code=1)
        assert words in text and "--overwrite" in text and "another --out" in text
        assert contents(tmp_path / command) == before
        assert "made by" in build(photos, tmp_path / command, "--add", exit_code=1)
        build(photos, tmp_path / command, "--overwrite")
        assert read_manifest(tmp_path / command / "photos") == read_manifest(sets / "photos")


# Whose files they are


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_named_like_a_shard_is_nobodys_business(whole, done, tmp_path, overwrite):
    folder = tmp_path / "tiles"
    folder.mkdir()
    (folder / "shard-measurements.h5").write_text("mine")
    (folder / "shard-1.h5").write_bytes(b"")
    (folder / "shard-notes.h5").mkdir()
    (folder / ".shard-notes.tmp-1").write_text("mine")
    (folder / ".shard-00003.h5.tmp-1").write_text("half written")
    subset(whole, tmp_path, overwrite=overwrite)
    assert (folder / "shard-measurements.h5").read_text() == "mine"
    assert (folder / ".shard-notes.tmp-1").read_text() == "mine"
    assert (folder / "shard-notes.h5").is_dir() and (folder / "shard-1.h5").is_file()
    assert not (folder / ".shard-00003.h5.tmp-1").exists()
    assert verify_set(folder) == []
    assert read_manifest(folder) == read_manifest(done)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zeros_inside(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8:2048] = bytes(2040)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, empty, zeros, zeros_inside])
def test_what_a_power_cut_leaves_is_made_again(whole, done, tmp_path, damage):
    folder = unfinished(done, tmp_path)
    damage(folder / SECOND)
    summary = subset(whole, tmp_path)
    assert summary.resumed_shards == 1
    assert contents(folder) == contents(done)


def newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs.modify("schema_version", 2)


def foreign(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file["temperature"] = range(100)


def foreign_with_a_version(path: Path) -> None:
    foreign(path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 1


def text(path: Path) -> None:
    path.write_text("my measurements")


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def out_of_reach(path: Path) -> None:
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


def identities(folder: Path) -> dict[str, tuple]:
    found = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in found.items()}


OTHERS = [
    (newer, "was written by a newer cutswap (expected schema version 1, got 2)"),
    (foreign, "is not a cutswap shard"),
    (foreign_with_a_version, "is in the way"),
    (text, "is no HDF5 file"),
    (linked, "is no plain file"),
    (out_of_reach, "cannot be read"),
]


@pytest.mark.parametrize(("change", "words"), OTHERS)
def test_what_is_not_ours_or_cannot_be_known_is_replaced_on_demand_only(
    whole, done, tmp_path, change, words
):
    folder = unfinished(done, tmp_path)
    cut(folder / FIRST)  # would be made again, but nothing is touched before all has been seen
    change(folder / SECOND)
    before = identities(folder)
    with pytest.raises(SetError) as caught:
        subset(whole, tmp_path)
    message = str(caught.value)
    assert words in message and SECOND in message and "--overwrite" in message
    assert identities(folder) == before
    subset(whole, tmp_path, overwrite=True)
    assert {name: contents(folder)[name] for name in contents(done)} == contents(done)


def test_a_disk_that_fails_for_now_is_no_damage(whole, done, tmp_path, monkeypatch):
    folder = unfinished(done, tmp_path)
    cut(folder / SECOND)  # libhdf5 says the same of a file that cannot be read to its end
    before = contents(folder)

    def fails(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(generator.leftover_shards, "_readable", fails)
    with pytest.raises(SetError, match=r"shard-00001.h5: .*cannot be read \(Input/output error\)"):
        subset(whole, tmp_path)
    assert contents(folder) == before


@pytest.mark.parametrize("damage", [None, cut])
def test_a_shard_that_this_run_does_not_make_is_refused_by_name(whole, done, tmp_path, damage):
    folder = unfinished(done, tmp_path)
    other = shutil.copy(folder / FIRST, folder / "shard-00007.h5")
    if damage is not None:
        damage(Path(other))
    with pytest.raises(SetError, match=r"shard-00007.h5: is no shard of this run.*--overwrite"):
        subset(whole, tmp_path)
    assert Path(other).exists()
    subset(whole, tmp_path, overwrite=True)
    assert contents(folder) == contents(done)


def test_a_folder_in_the_way_is_never_removed(whole, done, tmp_path):
    folder = Path(shutil.copytree(done, tmp_path / "tiles"))
    (folder / "shard-00007.h5").mkdir()
    with pytest.raises(SetError, match=r"shard-00007.h5: is a folder; move it away"):
        subset(whole, tmp_path, overwrite=True)
    assert read_manifest(folder) == read_manifest(done)


def test_an_addition_takes_no_strangers_shard(tmp_path):
    photos = good_photos(tmp_path / "photos", 2)
    build(photos, tmp_path / "out")
    good_photos(photos, 4)
    folder = tmp_path / "out" / "photos"
    text(folder / SECOND)
    before = contents(folder)
    words = build(photos, tmp_path / "out", "--add", exit_code=1)
    assert SECOND in words and "is no HDF5 file" in words and "delete this file" in words
    assert contents(folder) == before
    (folder / SECOND).unlink()
    build(photos, tmp_path / "out", "--add")
    assert verify_set(folder) == []


# Who parses them


@pytest.fixture
def parsed(monkeypatch) -> list[Path]:
    """The shard files that this process parses."""
    real, paths = manifests.shard.read_index, []

    def read_index(path, *arguments):
        paths.append(Path(path))
        return real(path, *arguments)

    monkeypatch.setattr(manifests.shard, "read_index", read_index)
    return paths


@pytest.fixture
def probed(monkeypatch) -> list[list[Path]]:
    """What is parsed in a process of its own, a list per process."""
    real, calls = generator.leftover_shards.probe_problems, []

    def probe_problems(paths):
        calls.append(list(paths))
        return real(calls[-1])

    monkeypatch.setattr(generator.leftover_shards, "probe_problems", probe_problems)
    return calls


def test_unfamiliar_leftovers_are_parsed_apart_and_then_known(whole, done, tmp_path, probed):
    folder = unfinished(done, tmp_path)
    assert not is_familiar(shard_files(folder))
    assert subset(whole, tmp_path).resumed_shards == 2
    assert probed == [[folder / FIRST, folder / SECOND]]
    assert is_familiar(shard_files(folder))


def test_what_such_a_process_refuses_is_not_parsed_here(whole, done, tmp_path, monkeypatch, parsed):
    folder = unfinished(done, tmp_path)
    hostile = folder / SECOND

    def refuse(paths):
        return {path: HostileShard("parsing it failed", path=path) for path in paths}

    monkeypatch.setattr(generator.leftover_shards, "probe_problems", refuse)
    with Shard(hostile) as shard:
        digest = shard.index.unit_digest
    parsed.clear()
    subset(whole, tmp_path)
    lying = [path for path in parsed if path.parent == folder and not path.name.startswith(".")]
    assert lying == []
    with Shard(hostile) as shard:  # the right one took its place
        assert shard.index.unit_digest == digest
    assert verify_set(folder) == []


def test_own_leftovers_need_no_other_process(whole, tmp_path, monkeypatch, probed):
    with (
        stopped_after_one_shard(monkeypatch, generator.copied_shard),
        pytest.raises(KeyboardInterrupt),
    ):
        subset(whole, tmp_path)
    assert subset(whole, tmp_path).resumed_shards == 1
    subset(whole, tmp_path, overwrite=True)
    assert probed == []


def test_no_process_where_nothing_lies(whole, tmp_path, probed):
    subset(whole, tmp_path)
    assert probed == []


def test_leftovers_of_a_replay_are_parsed_apart_once(tmp_path, probed):
    parts = original(tmp_path / "original")
    replayed = replay_set(parts.recipe, parts.data, tmp_path / "replayed").folder
    folder = Path(shutil.copytree(replayed, tmp_path / "out" / "parts"))
    (folder / "manifest.json").unlink()
    cut(folder / SECOND)
    summary = replay_set(parts.recipe, parts.data, tmp_path / "out")
    assert summary.resumed_shards == 2
    assert probed == [[folder / f"shard-0000{number}.h5" for number in range(3)]]
    assert files_of(folder) == files_of(replayed)


def test_an_addition_parses_nothing_that_was_refused(tmp_path, parsed):
    photos = good_photos(tmp_path / "photos", 2)
    build(photos, tmp_path / "out")
    good_photos(photos, 3)
    folder = tmp_path / "out" / "photos"
    zeros_inside(folder / FIRST)
    parsed.clear()
    assert FIRST in build(photos, tmp_path / "out", "--add", exit_code=1)
    assert parsed == []


def test_sets_that_are_read_are_not_parsed_where_they_were_refused(whole, tmp_path, parsed):
    folder = Path(shutil.copytree(whole, tmp_path / "tiles"))
    for name in (FIRST, SECOND):
        zeros_inside(folder / name)
    with pytest.raises(SetError, match=FIRST):
        subset(folder, tmp_path / "out")
    with pytest.raises(SetError, match=FIRST):
        StoredSaliency(folder, *read_manifest(folder)[::-1]).shards_of([])
    assert parsed == []


def test_errors_of_leftovers_are_one_line(whole, done, tmp_path):
    folder = unfinished(done, tmp_path)
    newer(folder / SECOND)
    with pytest.raises(CutswapError) as caught:
        subset(whole, tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(folder / SECOND))


def test_a_pull_leaves_files_of_others_alone(whole, done, tmp_path):
    folder = Path(shutil.copytree(done, tmp_path / "tiles"))
    (folder / "shard-measurements.h5").write_text("mine")
    shutil.copy(folder / FIRST, folder / "shard-00007.h5")
    pull_set(whole.as_uri(), tmp_path, overwrite=True)
    assert (folder / "shard-measurements.h5").read_text() == "mine"
    assert not (folder / "shard-00007.h5").exists()
    assert verify_set(folder) == [] and read_manifest(folder) == read_manifest(whole)
