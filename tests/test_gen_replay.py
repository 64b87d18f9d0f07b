"""Replay: the same set from the same images, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO

import generator.replay_unit
from generator.replay import replay_set
from generator.stored_saliency import StoredSaliency
from manifests.errors import ConfigError, DigestError, SetError
from manifests.negative_set import NegativeSet
from manifests.recipe import read_recipe, write_recipe
from manifests.schema import read_manifest, set_digest_of, write_manifest
from manifests.shard import Shard, write_shard
from manifests.verify import verify_set
from reference.interruptions import stopped_after_one_shard
from reference.replays import N_IMAGES, PER_SHARD, Original, files_of, original


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Original:
    return original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def replayed(parts, tmp_path_factory) -> Path:
    return replay_set(parts.recipe, parts.data, tmp_path_factory.mktemp("replayed")).folder


# --- the same set -----------------------------------------------------------------------------


def test_bit_for_bit_but_for_the_saliency(parts, replayed):
    manifest, digest = read_manifest(replayed)
    old = parts.manifest
    assert manifest.content_digest == old.content_digest
    assert [one.content_digest for one in manifest.shards] == [
        one.content_digest for one in old.shards
    ]
    assert verify_set(replayed) == []
    assert (manifest.saliency, digest != parts.digest) == ("absent", True)
    assert manifest.origin == {"command": "replay", "sets": [parts.digest], "options": {}}
    assert manifest.recipe == old.recipe and manifest.counts == old.counts
    assert manifest.training_files == old.training_files
    assert manifest.versions["pillow"] != old.versions["pillow"] and manifest.versions["libjpeg"]
    with NegativeSet.open(parts.folder) as a, NegativeSet.open(replayed) as b:
        assert len(a) == len(b) == 21 and a.n_normals == b.n_normals == N_IMAGES
        for j in range(len(a)):
            one, other = a[j], b[j]
            assert np.array_equal(one.image, other.image)
            assert np.array_equal(one.mask, other.mask)
            assert one.edits == other.edits and one.digest == other.digest
        for i in range(N_IMAGES):
            assert np.array_equal(a.normal(i).image, b.normal(i).image)
            assert a.normal(i).source == b.normal(i).source


def test_without_saliency_nothing_is_absent(tmp_path):
    free = original(tmp_path, has_saliency=False, donor="", store="anchors")
    summary = replay_set(free.recipe, free.data, tmp_path / "out")
    assert (summary.manifest.saliency, summary.manifest.recipe["store"]) == ("unused", "anchors")
    # Nothing is missing then, so the shards' digests are all those of the original.
    assert summary.manifest.saliency_digest == free.manifest.saliency_digest
    assert summary.manifest.content_digest == free.manifest.content_digest


def test_stores(parts, replayed, tmp_path):
    summary = replay_set(parts.recipe, parts.data, tmp_path, store="anchors")
    assert summary.manifest.content_digest == parts.manifest.content_digest
    assert summary.manifest.recipe == {**parts.manifest.recipe, "store": "anchors"}
    assert verify_set(summary.folder) == []
    assert summary.disk_bytes < sum(path.stat().st_size for path in replayed.iterdir())
    with pytest.raises(ConfigError, match="--store"):
        replay_set(parts.recipe, parts.data, tmp_path, store="png")


def test_workers_and_an_interruption_change_no_byte(parts, replayed, tmp_path, monkeypatch):
    replay_set(parts.recipe, parts.data, tmp_path / "two", jobs=2)
    assert files_of(tmp_path / "two" / "parts") == files_of(replayed)

    with (
        stopped_after_one_shard(monkeypatch, generator.replay_unit),
        pytest.raises(KeyboardInterrupt),
    ):
        replay_set(parts.recipe, parts.data, tmp_path)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["shard-00000.h5"]
    summary = replay_set(parts.recipe, parts.data, tmp_path)
    assert (summary.resumed_shards, summary.fresh_images) == (1, N_IMAGES - PER_SHARD)
    assert files_of(tmp_path / "parts") == files_of(replayed)


def test_a_recipe_of_a_replay_replays_to_the_same_content(parts, replayed, tmp_path):
    with NegativeSet.open(replayed) as negative_set:
        write_recipe(tmp_path / "again.recipe", negative_set)
    summary = replay_set(tmp_path / "again.recipe", parts.data, tmp_path / "out")
    assert summary.manifest.content_digest == parts.manifest.content_digest
    assert summary.manifest.saliency == "absent"
    # Shards know what they were rendered from, so the files differ in that alone.
    assert summary.recipe_digest == read_manifest(replayed)[1]


def test_foreign_donors_come_with_the_recipe(tmp_path):
    lent = original(tmp_path, donor="foreign")
    summary = replay_set(lent.recipe, lent.data, tmp_path / "out")
    assert summary.manifest.content_digest == lent.manifest.content_digest
    assert verify_set(summary.folder) == []


def test_no_network_and_no_torch(parts, replayed, tmp_path):
    """Neither a socket nor a neural network, from the import to the manifest."""
    code = (
        "import sys\n"
        "def refuse(event, _):\n"
        "    assert not event.startswith('socket.'), event\n"
        "sys.addaudithook(refuse)\n"
        "from generator.replay import replay_set\n"
        "from manifests.recipe import recipe_problems, dump_recipe\n"
        "summary = replay_set(*sys.argv[1:4])\n"
        "assert recipe_problems(sys.argv[1]) == [] and list(dump_recipe(sys.argv[1]))\n"
        "heavy = {'torch', 'timm', 'sklearn', 'matplotlib', 'scipy'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "print(summary.set_digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, parts.recipe, parts.data, tmp_path],
        env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == read_manifest(replayed)[1]


# --- what is refused --------------------------------------------------------------------------


def test_expected_digest(parts, tmp_path):
    replay_set(parts.recipe, parts.data, tmp_path / "a", expect=parts.digest)
    with pytest.raises(DigestError, match="another set than expected"):
        replay_set(parts.recipe, parts.data, tmp_path / "b", expect="0" * 64)
    assert not (tmp_path / "b").exists()


def test_what_is_there_already(parts, replayed, tmp_path):
    shutil.copytree(replayed, tmp_path / "parts")
    summary = replay_set(parts.recipe, parts.data, tmp_path)
    assert summary.is_unchanged and summary.fresh_images == 0
    with pytest.raises(SetError, match="already holds another set"):
        replay_set(parts.recipe, parts.data, tmp_path, store="anchors")
    (tmp_path / "parts" / "shard-00001.h5").unlink()
    with pytest.raises(SetError, match=r"shard-00001.h5 is missing"):
        replay_set(parts.recipe, parts.data, tmp_path)
    shutil.copytree(parts.folder, tmp_path / "other" / "parts")
    with pytest.raises(SetError, match=r"already holds another set.*got build"):
        replay_set(parts.recipe, parts.data, tmp_path / "other")
    again = replay_set(parts.recipe, parts.data, tmp_path / "other", overwrite=True)
    assert files_of(again.folder) == files_of(replayed)


def test_a_recipe_of_wrong_negatives_makes_no_set(parts, tmp_path):
    """Its digests agree with each other; only rendering can tell."""
    folder = tmp_path / "forged"
    shutil.copytree(parts.folder, folder)
    name = "shard-00000.h5"
    with Shard(folder / name) as shard:
        normals = [shard.normal(i) for i in range(shard.n_normals)]
        negatives = [shard.negative(j) for j in range(shard.n_negatives)]
        donors = {digest: shard.donor(digest) for digest in shard.index.donor_digests}
        unit_digest = shard.index.unit_digest
    negatives[1] = dataclasses.replace(negatives[1], digest="0" * 64)
    entry = write_shard(
        folder / name, normals, negatives, donors=donors, store="pixels", unit_digest=unit_digest,
        check_pixels=False,
    )  # fmt: skip
    manifest, _ = read_manifest(folder)
    shards = (entry, *manifest.shards[1:])
    write_manifest(
        folder,
        dataclasses.replace(
            manifest, shards=shards, content_digest=set_digest_of(s.content_digest for s in shards)
        ),
    )
    with NegativeSet.open(folder) as negative_set:
        write_recipe(tmp_path / "forged.recipe", negative_set)
    for options in ({}, {"allow_drift": True}):
        with pytest.raises(DigestError, match=r"shard-00000.h5: scar, level 10, repeat 0 of"):
            replay_set(tmp_path / "forged.recipe", parts.data, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "parts" / "manifest.json").exists()


# --- what the replayed set says ---------------------------------------------------------------


def test_what_needs_saliency_says_that_it_is_absent(parts, replayed):
    with NegativeSet.open(replayed) as negative_set:
        for read in (negative_set.saliency, negative_set.centres):
            with pytest.raises(SetError, match=r"saliency: absent.*cutswap-gen build"):
                read(0, 4)
        assert negative_set.levels == ()
    with NegativeSet.open(parts.folder) as negative_set:
        assert negative_set.saliency(0, 4).shape == (2, 3)
    stored = StoredSaliency.open(replayed, "parts")
    with pytest.raises(ConfigError, match=r"saliency: absent"):
        stored.check_recipe({**parts.manifest.recipe})


def test_preview_draws_the_rest(replayed):
    from generator.preview import preview_sheet

    with NegativeSet.open(replayed) as negative_set:
        picture = preview_sheet(negative_set, 0)
    assert picture.ndim == 3 and picture.dtype == np.uint8 and len(np.unique(picture)) > 50


def test_words_and_json(parts, replayed):
    from generator.describe_made import describe_replay, replay_json
    from generator.describe_recipe import (
        describe_export,
        describe_recipe,
        export_json,
        recipe_json,
    )
    from manifests.recipe import RecipeSummary

    summary = replay_set(parts.recipe, parts.data, replayed.parent)
    lines = describe_replay(summary)
    assert "already replayed" in lines[0] and "saliency: absent" in "\n".join(lines)
    assert json.loads(json.dumps(replay_json(summary)))["replay_of"] == parts.digest
    drifted = dataclasses.replace(summary, drifted_images=2, moved_images=3, is_unchanged=False)
    text = "\n".join(describe_replay(drifted))
    assert "2 images have other pixels" in text and "3 images found elsewhere" in text
    exported = RecipeSummary(4096, 20_000, 8, 80, parts.digest, "0" * 64)
    assert "4.0 KB, 0.50 KB per image" in describe_export(parts.recipe, exported)[0]
    assert export_json(parts.recipe, exported)["bytes"] == 4096
    recipe = read_recipe(parts.recipe)
    assert f"  set digest {parts.digest}" in describe_recipe(parts.recipe, recipe)
    assert recipe_json(parts.recipe, recipe)["category"] == "parts"
