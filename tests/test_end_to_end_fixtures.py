"""What version 0.1.0 wrote, every later version reads: sets, recipes and replays of them.

The digests here are the record. A test that fails has found a reader that broke the promise of
docs/formats.md, "Compatibility"; tests/fixtures/README.md says how the files were made.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from generator.replay import replay_set
from generator.set_diff import diff_sets
from manifests.digest import array_digest, file_digest
from manifests.errors import SetError
from manifests.negative_set import NegativeSet
from manifests.recipe import read_recipe, recipe_problems
from manifests.shard import negative_digest
from manifests.verify import verify_set
from reference import formats_reader as reader
from reference.formats_reader import FormatError

V1 = Path(__file__).parent / "fixtures" / "v1"
IMAGES = V1 / "images" / "bracket"

# Set digest, content digest, saliency digest, negatives.
SETS = {
    "set": (
        "24343a7a1c56ebabcae7fdd9eb246df1522631a76a00b320c305f0bed1cef96b",
        "ecfcdec0952af8466c813d8745d5b7c9152f7c720d061cfc5570250d5417123a",
        "a0cf5a09763f617aff14c44cf21abcbc360093f2db2ca3faa21a87ae086355fe",
        18,
    ),
    "set-anchors": (
        "a0ca5e542611d69143cdf6aaf8080cb2d776dcf5ce6345da5459a9b8383aca50",
        "ecfcdec0952af8466c813d8745d5b7c9152f7c720d061cfc5570250d5417123a",
        "a0cf5a09763f617aff14c44cf21abcbc360093f2db2ca3faa21a87ae086355fe",
        18,
    ),
    "set-merged": (
        "80c44613d401765200f810f6d7dbf1e11d3d5e202d3b59cb333ff64a1d613c59",
        "855047ca03c5892ae3f5f4a00b90dff1e5098e96a103860ec72324041e43d097",
        "6f98012f1d85e9d325e85fb23e11b19a438a61e997330f301bdcf763a710bed2",
        21,
    ),
}
RECIPES = {"bracket.recipe": "set", "merged.recipe": "set-merged"}
FILES = {
    "bracket.recipe": "33b524ffcf9bf3708831fa74ea3f9445ae675e698f1f08d6edc48036a3f1451f",
    "merged.recipe": "d2c2ae1531419b7f3ba41d620030ea850853ffcf57ff70df34ab8e43bfbaa5a7",
    "images/bracket/000.png": "406969604b29b113ca28d0b7af1702f0d1c700f7318133d351c4b8a93cb4c285",
    "images/bracket/001.png": "092d6d3207bbd243b4805c83f3be724872d419c209697d2641b5a5f61a4ab5b6",
    "images/bracket/002.png": "fc4a2fe794b9b6b786f9a785cda5ad64bbdd62d916650e3ba5e8ba1704e8cc3d",
    "images/bracket/003.png": "bcdff2d80ad6f0755a5fd9bf6e13783bc82761b5170a81a34c26e4f0c39aa56b",
    "images/bracket/004.png": "1b61e8d4725d08245eb3a1f0412e05b78180e574455d94b3cc691c537b3c8541",
    "images/bracket/005.png": "76c7b0d74dd09413b7b6d37ab9ac41d6febea0fb983ec3e3e18a20fa9267c62e",
}


def test_the_files_are_the_recorded_ones():
    """A checkout that changes line endings, or a file that somebody made anew, shows here first."""
    for name, digest in FILES.items():
        assert file_digest(V1 / name) == digest, name
    for name, (digest, *_) in SETS.items():
        assert file_digest(V1 / name / "manifest.json") == digest, name


@pytest.mark.parametrize("name", SETS)
def test_a_set_opens_and_every_negative_renders(name):
    digest, content, saliency, count = SETS[name]
    with NegativeSet.open(V1 / name, check="files") as negative_set:
        manifest = negative_set.manifest
        assert negative_set.digest == digest
        assert (manifest.content_digest, manifest.saliency_digest) == (content, saliency)
        assert (len(negative_set), negative_set.n_normals) == (count, 6)
        for negative in negative_set:
            assert negative_digest(negative.image, negative.mask) == negative.digest
            assert negative.mask.any() and not negative.mask.all()
        if name != "set-merged":
            assert {negative_set.saliency(i, 3).shape for i in range(6)} == {(3, 4)}
    assert verify_set(V1 / name, expect=digest) == []


@pytest.mark.parametrize("name", SETS)
def test_the_reader_of_the_page_reads_the_same(name):
    found = reader.read_set(V1 / name)
    assert found["set_digest"] == SETS[name][0]
    images = [image for shard in found["shards"] for image in shard["images"]]
    masks = [mask for shard in found["shards"] for mask in shard["masks"]]
    with NegativeSet.open(V1 / name) as negative_set:
        for image, mask, negative in zip(images, masks, negative_set, strict=True):
            assert np.array_equal(image, negative.image)
            assert np.array_equal(mask > 0, negative.mask)


@pytest.mark.parametrize(("name", "of"), RECIPES.items())
def test_a_recipe_is_that_of_its_set(name, of):
    digest, content, *_ = SETS[of]
    assert recipe_problems(V1 / name, expect=digest) == []
    assert read_recipe(V1 / name).manifest.content_digest == content
    diff = diff_sets(V1 / of, V1 / name)
    assert diff.is_equal, diff
    with NegativeSet.open(V1 / of) as negative_set:
        normals = [negative_set.normal(i).image for i in range(negative_set.n_normals)]
    found = reader.read_recipe(V1 / name, {array_digest(image): image for image in normals})
    assert found["set_digest"] == digest
    assert len(found["donors"]) == (1 if of == "set-merged" else 0)


def test_how_a_set_is_stored_is_no_difference_and_what_it_holds_is_one():
    assert diff_sets(V1 / "set", V1 / "set-anchors").is_equal
    diff = diff_sets(V1 / "set", V1 / "set-merged")
    assert not diff.is_equal
    assert {negative.policy for negative in diff.negatives_only_b} == {"blended"}


@pytest.mark.parametrize("store", ["pixels", "anchors"])
@pytest.mark.parametrize(("name", "of"), RECIPES.items())
def test_a_replay_from_the_images_gives_the_recorded_content(name, of, store, tmp_path):
    digest, content, _, count = SETS[of]
    summary = replay_set(V1 / name, IMAGES, tmp_path, store=store, expect=digest)
    assert summary.recipe_digest == digest
    assert summary.manifest.content_digest == content
    assert (summary.drifted_images, summary.fresh_images) == (0, 6)
    assert reader.read_set(summary.folder)["manifest"]["counts"]["negatives"] == count


# Newer versions


def sign(folder: Path, **changes) -> None:
    """Changes fields of a manifest and makes all digests of files right again."""
    manifest = json.loads((folder / "manifest.json").read_bytes()) | changes
    for entry in manifest["shards"]:
        entry["file_sha256"] = file_digest(folder / entry["name"])
    (folder / "manifest.json").write_text(reader.pretty(manifest))
    line = f"{file_digest(folder / 'manifest.json')}  manifest.json\n"
    (folder / "manifest.sha256").write_text(line)


def test_a_set_of_a_newer_version_is_refused_by_name(tmp_path):
    folder = shutil.copytree(V1 / "set-anchors", tmp_path / "set")
    sign(folder)
    assert verify_set(folder, expect=SETS["set-anchors"][0]) == []
    sign(folder, schema_version=2, a_field_of_tomorrow={})
    with pytest.raises(SetError, match="newer"):
        NegativeSet.open(folder)
    (problem,) = verify_set(folder)
    assert "newer" in str(problem)
    with pytest.raises(FormatError):
        reader.read_set(folder)


def test_a_shard_of_a_newer_version_is_refused_by_name(tmp_path):
    folder = shutil.copytree(V1 / "set-anchors", tmp_path / "set")
    with h5py.File(folder / "shard-00001.h5", "r+") as shard:
        shard.attrs.modify("schema_version", np.int64(2))
    sign(folder)
    (problem,) = verify_set(folder)
    assert "newer" in str(problem) and "shard-00001.h5" in str(problem)
    with pytest.raises(FormatError):
        reader.read_set(folder)


def test_a_recipe_of_a_newer_version_is_refused_by_name(tmp_path):
    path = tmp_path / "newer.recipe"
    before = (V1 / "bracket.recipe").read_bytes()
    path.write_bytes(before.replace(b"cutswap-recipe 1 ", b"cutswap-recipe 2 ", 1))
    text = gzip.decompress(before.partition(b"\n")[2])
    body = gzip.compress(text.replace(b'"schema_version":1', b'"schema_version":2', 1), mtime=0)
    inside = tmp_path / "inside.recipe"
    inside.write_bytes(f"cutswap-recipe 1 {reader.sha256(body)}\n".encode() + body)
    for file in (path, inside):
        with pytest.raises(SetError, match="newer"):
            read_recipe(file)
        with pytest.raises(FormatError):
            reader.read_recipe(file)
