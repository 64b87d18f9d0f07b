"""The images of a replay: found wherever they lie, or all that are missing are named."""

from __future__ import annotations

import dataclasses
import os
import shutil

import pytest
from PIL import Image

from generator.replay import replay_set
from generator.source_index import find_sources
from manifests.errors import BadImages, DataError
from manifests.recipe import read_recipe
from reference.replays import N_IMAGES, Original, files_of, original


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Original:
    return original(tmp_path_factory.mktemp("original"))


def test_category_folder_root_and_moved_images(parts, tmp_path):
    assert replay_set(parts.recipe, parts.data, tmp_path / "a").moved_images == 0
    assert replay_set(parts.recipe, parts.data.parent, tmp_path / "b").moved_images == 0
    elsewhere = tmp_path / "elsewhere"
    for number, path in enumerate(sorted(parts.data.rglob("*.png"))):
        target = elsewhere / f"box {number % 2}" / f"renamed-{number}.PNG"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(target, elsewhere / "a-copy-of-it.png")
    summary = replay_set(parts.recipe, elsewhere, tmp_path / "c")
    assert summary.moved_images == N_IMAGES
    assert summary.manifest.content_digest == parts.manifest.content_digest
    assert files_of(tmp_path / "c" / "parts") == files_of(tmp_path / "a" / "parts")


def test_all_that_is_missing_or_differs_is_listed_and_nothing_written(parts, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(parts.data, data)
    good = data / "train" / "good"
    (good / "001.png").unlink()
    Image.new("RGB", (60, 60), (9, 8, 7)).save(good / "004.png")
    (good / "005.png").write_bytes(b"")
    (good / "006.png").rename(good / "another.png")  # found all the same
    with pytest.raises(BadImages, match=r"3 of 7 images are missing or differ.*--data") as caught:
        replay_set(parts.recipe, data, tmp_path / "out")
    listed = sorted(map(str, caught.value.errors))
    assert ["001.png: is missing" in listed[0], "004.png: is another" in listed[1]] == [True, True]
    assert "005.png: is another" in listed[2] and len(listed) == 3
    assert not (tmp_path / "out").exists()
    for missing in (tmp_path / "no", parts.recipe):
        with pytest.raises(DataError):
            replay_set(parts.recipe, missing, tmp_path / "out")


def test_a_recorded_path_does_not_lead_out_of_the_data(parts, tmp_path):
    """A link out is not opened because a recipe says so; by its digest it may be found."""
    (tmp_path / "data").mkdir()
    os.symlink(parts.data / "train", tmp_path / "data" / "train")
    recipe = read_recipe(parts.recipe)
    normals = [row for shard in recipe.shards for row in shard.normals]
    found = find_sources(normals, tmp_path / "data", "parts", max_pixels=10**6)
    assert found.moved == N_IMAGES
    up = dataclasses.replace(normals[0], source="../" + normals[0].source, file_sha256="0" * 64)
    with pytest.raises(BadImages) as caught:
        find_sources([up], parts.data / "train", "parts", max_pixels=10**6)
    assert "is missing" in str(caught.value.errors[0])


def test_no_file_is_read_twice_to_find_it(parts, monkeypatch):
    import generator.source_index

    read, seen = generator.source_index.read_bytes, []

    def read_once(path, **options):
        seen.append(path)
        return read(path, **options)

    monkeypatch.setattr(generator.source_index, "read_bytes", read_once)
    recipe = read_recipe(parts.recipe)
    normals = [row for shard in recipe.shards for row in shard.normals]
    find_sources(normals[:2], parts.data, "parts", max_pixels=10**6)
    assert len(seen) == 2  # the recorded paths alone
    with pytest.raises(BadImages):
        absent = dataclasses.replace(normals[0], file_sha256="0" * 64)
        find_sources([absent], parts.data, "parts", max_pixels=10**6)
    assert len(seen) == 2 + N_IMAGES
