"""`build --add`: further images as further shards, and what was there untouched."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner
from conftest import IMAGE_SIZE
from test_gen_pipeline import digests, good_photos

import generator.unit
from generator.cli import main
from generator.set_diff import diff_sets
from generator.subset import subset_set
from manifests.digest import file_digest
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest
from manifests.verify import verify_set

OPTIONS = ("--image-size", IMAGE_SIZE, "--policies", "cutpaste,random-swap", "--levels", "1,2")


def run(data: Path, out: Path, *more: object, exit_code: int = 0) -> str:
    arguments = ("build", data, "--out", out, *OPTIONS, "--shard-images", 2, "--jobs", 1, *more)
    result = CliRunner().invoke(main, [str(argument) for argument in (*arguments, "--quiet")])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output


@pytest.fixture(scope="module")
def all_photos(tmp_path_factory) -> Path:
    return good_photos(tmp_path_factory.mktemp("all") / "photos", 7)


@pytest.fixture(scope="module")
def few_photos(all_photos, tmp_path_factory) -> Path:
    """The first three of them."""
    folder = tmp_path_factory.mktemp("few") / "photos"
    folder.mkdir()
    for path in sorted(all_photos.iterdir())[:3]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def first(few_photos, tmp_path_factory) -> Path:
    """Root of a set of the first three."""
    out = tmp_path_factory.mktemp("first")
    run(few_photos, out)
    return out


@pytest.fixture
def out(first, tmp_path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(first, tmp_path / "out"))


@pytest.fixture(scope="module")
def whole(all_photos, tmp_path_factory) -> Path:
    """Root of a set built of all at once."""
    folder = tmp_path_factory.mktemp("whole")
    run(all_photos, folder)
    return folder


@pytest.mark.parametrize("data", ["all of them", "the new ones"])
def test_what_comes_out_is_the_set_of_all_images(data, all_photos, whole, out, tmp_path):
    source = all_photos
    if data == "the new ones":
        source = Path(shutil.copytree(all_photos, tmp_path / "photos"))
        for path in sorted(source.iterdir())[:3]:
            path.unlink()
    folder = out / "photos"
    old, before = read_manifest(folder)[0], digests(folder)
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
    text = run(source, out, "--add")
    assert "7 images" in text and "4 images added" in text
    assert verify_set(folder) == []
    after = digests(folder)
    for entry in old.shards:
        assert after[entry.name] == before[entry.name]
        assert (folder / entry.name).stat().st_mtime_ns == stamps[entry.name]
    new, _ = read_manifest(folder)
    assert new.shards[:2] == old.shards
    assert [entry.normals for entry in new.shards] == [2, 1, 2, 2]
    assert new.origin == {"command": "build", "sets": [], "options": {"added": 1}}
    assert diff_sets(whole / "photos", folder).is_equal
    complete, _ = read_manifest(whole / "photos")
    assert (new.counts, new.fallbacks) == (complete.counts, complete.fallbacks)
    assert new.training_files == complete.training_files
    # Nothing is new any more, and a build of all images takes the set as it is.
    assert "nothing to add" in run(source, out, "--add")
    assert "nothing to do" in run(all_photos, out)
    assert digests(folder) == after


def test_twice_added(all_photos, few_photos, out, tmp_path):
    source = Path(shutil.copytree(few_photos, tmp_path / "photos"))
    for count, path in enumerate(sorted(all_photos.iterdir())[3:5], start=1):
        shutil.copy(path, source)
        run(source, out, "--add")
        manifest, _ = read_manifest(out / "photos")
        assert manifest.origin["options"] == {"added": count}
        assert manifest.counts["normals"] == 3 + count
    assert [entry.normals for entry in manifest.shards] == [2, 1, 1, 1]
    assert verify_set(out / "photos") == []


def test_without_a_set_it_builds_one(all_photos, whole, tmp_path):
    run(all_photos, tmp_path, "--add")
    assert digests(tmp_path / "photos") == digests(whole / "photos")


def test_another_file_of_known_pixels_is_recorded(few_photos, first, out, tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    image = cv2.imread(str(few_photos / "photo 0.png"))
    cv2.imwrite(str(source / "again.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    shutil.copy(few_photos / "photo 1.png", source / "same bytes.png")
    again = file_digest(source / "again.png")
    run(source, out, "--add")
    old, new = (read_manifest(root / "photos")[0] for root in (first, out))
    # An evaluation must leave it out, as it would after a build of all files.
    assert set(new.training_files) == {*old.training_files, again}
    assert new.duplicates == old.duplicates + 1
    assert new.shards == old.shards
    assert "nothing to add" in run(source, out, "--add")


def test_refusals_leave_the_set_as_it_is(all_photos, few_photos, out, tmp_path):
    folder = out / "photos"
    before = digests(folder)
    text = run(all_photos, out, "--add", "--seed", 5, exit_code=1)
    assert "other options (seed differ)" in text
    text = run(all_photos, out, "--add", "--licence", "CC0-1.0", exit_code=1)
    assert "another licence" in text and "--licence" in text
    text = run(all_photos, out, "--add", "--overwrite", exit_code=2)
    assert "--add" in text and "--overwrite" in text
    broken = Path(shutil.copytree(all_photos, tmp_path / "broken" / "photos"))
    (broken / "x.png").write_bytes(b"no picture")
    run(broken, out, "--add", exit_code=1)
    text = run(all_photos, out, exit_code=1)
    assert "other images" in text and "--add" in text
    assert digests(folder) == before
    run(broken, out, "--add", "--skip-bad")
    manifest, _ = read_manifest(folder)
    assert [row["source"] for row in manifest.skipped] == ["x.png"]
    assert manifest.counts["normals"] == 7
    part = subset_set(folder, tmp_path / "part", images=("photo 1*",))
    text = run(all_photos, tmp_path / "part", "--add", exit_code=1)
    assert "made by subset" in text and "merge" in text
    assert verify_set(part.folder) == []


def test_a_damaged_set_is_not_added_to(all_photos, out):
    (out / "photos" / "shard-00001.h5").unlink()
    before = digests(out / "photos")
    assert "shard-00001.h5" in run(all_photos, out, "--add", exit_code=1)
    assert digests(out / "photos") == before


def test_interrupted_add_resumes_while_the_old_set_is_read(
    all_photos, out, whole, tmp_path, monkeypatch
):
    folder = out / "photos"
    straight = Path(shutil.copytree(out, tmp_path / "straight"))
    run(all_photos, straight, "--add")
    _, digest = read_manifest(folder)
    write, written = generator.unit.write_shard, []

    def write_one_and_stop(path, *rows, **options):
        with NegativeSet.open(folder) as seen:  # as another program would
            assert seen.digest == digest and seen.n_normals == 3
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, *rows, **options)

    with monkeypatch.context() as patch:
        patch.setattr(generator.unit, "write_shard", write_one_and_stop)
        run(all_photos, out, "--add", exit_code=130)
    assert written == ["shard-00002.h5"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    with NegativeSet.open(folder) as seen:
        assert seen.digest == digest and len(seen) == len(list(seen))
    # Another addition would mix with what is there.
    other = good_photos(tmp_path / "other" / "photos", 9)
    for path in sorted(other.iterdir())[:8]:
        path.unlink()
    text = run(other, out, "--add", exit_code=1)
    assert "shard-00002.h5" in text and "run that --add again" in text
    assert "1 shard taken over" in run(all_photos, out, "--add")
    wanted, found = digests(straight / "photos"), digests(folder)
    assert found == wanted


@pytest.mark.slow
def test_added_with_saliency(sample_data, category_name, built, tmp_path):
    """Half of the images, then the rest, each with the maps that a network gives for it."""
    source = Path(shutil.copytree(sample_data / category_name, tmp_path / category_name))
    good = sorted((source / "train" / "good").iterdir())
    away = tmp_path / "away"
    away.mkdir()
    for path in good[5:]:
        shutil.move(path, away / path.name)
    options = ("--image-size", IMAGE_SIZE, "--levels", "2", "--policies", "swap")

    def grow(*more):
        arguments = ("build", source, "--out", tmp_path / "out", *options, "--jobs", 1, *more)
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output

    grow()
    for path in away.iterdir():
        shutil.move(path, source / "train" / "good" / path.name)
    grow("--add")
    folder = tmp_path / "out" / category_name
    assert verify_set(folder) == []
    with NegativeSet.open(folder) as grown, NegativeSet.open(built / category_name) as known:
        assert grown.n_normals == known.n_normals and grown.levels == (2,)
        assert [entry.normals for entry in grown.manifest.shards] == [5, 4]
