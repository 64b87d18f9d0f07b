"""Sets of forged anomalies: their donors, equal bytes, going on, and all that is done with sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest
from conftest import IMAGE_SIZE, invoke_gen
from test_gen_pipeline import build, digests, good_photos
from test_gen_textures import texture_folder

import generator.unit
from generator.backends import Backend
from generator.config import BuildConfig
from generator.pipeline import build_set
from generator.set_diff import diff_sets
from generator.textures import Textures
from manifests.datasets import open_data
from manifests.digest import array_digest
from manifests.errors import ConfigError
from manifests.images import Geometry, read_image
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest
from manifests.shard import Shard
from manifests.verify import verify_set
from reference.interruptions import kill_build_after_one_shard, stopped_after_one_shard

PERLIN = ("--policies", "perlin")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five images: in shards of two the last one is alone."""
    return good_photos(tmp_path_factory.mktemp("data") / "photos", 5)


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    return texture_folder(tmp_path_factory.mktemp("textures"))


def run(photos, out, *more, exit_code=0):
    return build(photos, out, *PERLIN, "--shard-images", 2, *more, exit_code=exit_code)


@pytest.fixture(scope="module")
def sets(photos, textures, tmp_path_factory):
    """Folders of sets of plain noise, by kind of donors."""
    root = tmp_path_factory.mktemp("sets")
    options = {
        "set": (),
        "procedural": ("--donors", "procedural"),
        "textures": ("--textures", textures),
    }
    for kind, more in options.items():
        run(photos, root / kind, *more)
    return {kind: root / kind / "photos" for kind in options}


def used_donors(folder):
    """Per shard: digests of its normals, of the donors that its blends use, and of those stored."""
    for path in sorted(folder.glob("*.h5")):
        with Shard(path) as shard:
            blends = [shard.edits(j)[0] for j in range(shard.n_negatives)]
            rows = [shard.index.normal_digests[n] for n in shard.index.normal.tolist()]
            yield (
                list(zip(rows, (blend.donor for blend in blends), strict=True)),
                set(shard.index.normal_digests),
                set(shard.index.donor_digests),
            )


# Donors


def test_donors_of_the_set_are_other_normals_of_the_shard(sets):
    shards = list(used_donors(sets["set"]))
    assert [len(normals) for _, normals, _ in shards] == [2, 2, 1]
    for pairs, normals, stored in shards:
        assert not stored
        for normal, donor in pairs:
            assert donor in normals
            assert (donor != normal) == (len(normals) > 1)
    assert verify_set(sets["set"]) == []


@pytest.mark.parametrize("kind", ["procedural", "textures"])
def test_other_donors_lie_in_their_shard_if_they_are_used(sets, textures, kind):
    known = set()
    for pairs, normals, stored in used_donors(sets[kind]):
        assert stored == {donor for _, donor in pairs} and not stored & normals
        known |= stored
    if kind == "textures":
        opened = Textures.open(textures, Geometry(96, 80))
        assert known <= {texture.digest for texture in opened.images}
    assert verify_set(sets[kind]) == []


def test_grey_images_stay_grey_with_any_donors(textures, tmp_path):
    data = good_photos(tmp_path / "grey", 3)
    for path in data.iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    for kind, more in {
        "set": (),
        "procedural": ("--donors", "procedural"),
        "textures": ("--textures", textures),
    }.items():
        run(data, tmp_path / kind, *more)
        with NegativeSet.open(tmp_path / kind / "grey") as negative_set:
            assert len(negative_set) == 15
            for one in negative_set:
                assert (one.image == one.image[..., :1]).all()


def test_renamed_textures_in_another_folder_give_the_same_set(photos, textures, sets, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for number, path in enumerate(sorted(textures.rglob("*.png"), reverse=True)):
        shutil.copy(path, other / f"{number}.png")
    run(photos, tmp_path / "out", "--textures", other)
    assert digests(tmp_path / "out" / "photos") == digests(sets["textures"])
    text = (tmp_path / "out" / "photos" / "manifest.json").read_text()
    assert str(tmp_path) not in text and "textures" in text


# Recipes


def test_recipes_name_donors_and_what_shapes_the_noise(sets, textures):
    recipes = {kind: read_manifest(folder)[0].recipe for kind, folder in sets.items()}
    for recipe in recipes.values():
        assert recipe["perlin"] == {"cells": [0, 5], "alpha": [0.1, 1.0], "saliency": None}
    opened = Textures.open(textures, Geometry(96, 80))
    assert recipes["set"]["donors"] == {"kind": "set"}
    assert recipes["procedural"]["donors"] == {"kind": "procedural"}
    assert recipes["textures"]["donors"] == {"kind": "textures", **opened.recipe()}


# Equal bytes


@pytest.mark.parametrize("kind", ["procedural", "textures"])
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_workers_give_the_bytes_of_one(photos, textures, sets, tmp_path, kind, backend):
    more = {"procedural": ("--donors", kind), "textures": ("--textures", textures)}[kind]
    invoke_gen(
        "build", photos, "--out", tmp_path, "--image-size", IMAGE_SIZE, "--shard-images", 2,
        "--jobs", 2, "--backend", backend, "--quiet", *PERLIN, *more,
    )  # fmt: skip
    assert digests(tmp_path / "photos") == digests(sets[kind])


def test_a_url_gets_them_too(photos, textures, sets, tmp_path):
    run(photos, f"file://{tmp_path}", "--textures", textures)
    assert digests(tmp_path / "photos") == digests(sets["textures"])


def test_anchors_render_the_same_pixels(photos, textures, sets, tmp_path):
    run(photos, tmp_path, "--textures", textures, "--store", "anchors")
    assert verify_set(tmp_path / "photos") == []
    with (
        NegativeSet.open(sets["textures"]) as pixels,
        NegativeSet.open(tmp_path / "photos") as anchors,
    ):
        assert pixels.manifest.content_digest == anchors.manifest.content_digest
        for one, other in zip(pixels, anchors, strict=True):
            assert (one.image == other.image).all() and (one.mask == other.mask).all()


# Going on, adding, replacing


def test_a_killed_build_goes_on_to_equal_bytes(photos, textures, sets, tmp_path):
    out = tmp_path / "out"
    options = ("--image-size", IMAGE_SIZE, "--shard-images", 2, "--quiet", *PERLIN)
    arguments = (photos, "--out", out, *options, "--textures", textures)
    kill_build_after_one_shard(arguments, out / "photos")
    assert "taken over" in run(photos, out, "--textures", textures).output
    assert digests(out / "photos") == digests(sets["textures"])


def test_shards_of_other_donors_are_not_taken_up(photos, textures, sets, tmp_path, monkeypatch):
    with stopped_after_one_shard(monkeypatch, generator.unit):
        run(photos, tmp_path, "--textures", textures, exit_code=130)
    for more in ((), ("--donors", "procedural"), ("--textures", textures / "sub 0")):
        result = run(photos, tmp_path, *more, exit_code=1)
        *_, last = result.stderr.splitlines()
        assert "other options" in last and last.startswith("error: ")
    assert "1 shard taken over" in run(photos, tmp_path, "--textures", textures).output
    assert digests(tmp_path / "photos") == digests(sets["textures"])


def test_adding_takes_the_same_textures(photos, textures, tmp_path):
    few = tmp_path / "few" / "photos"
    shutil.copytree(photos, few)
    for path in sorted(few.iterdir())[3:]:
        path.unlink()
    out = tmp_path / "out"
    run(few, out, "--textures", textures)
    before = digests(out / "photos")
    result = run(photos, out, "--add", "--textures", textures / "sub 0", exit_code=1)
    assert "donors differ" in result.output
    assert "2 images added" in run(photos, out, "--add", "--textures", textures).output
    after = digests(out / "photos")
    assert {name: after[name] for name in before if name.endswith(".h5")} == {
        name: digest for name, digest in before.items() if name.endswith(".h5")
    }
    assert verify_set(out / "photos") == []
    assert read_manifest(out / "photos")[0].counts["policies"] == {"perlin": {"-1": 25}}


def test_other_donors_need_overwrite(photos, sets, tmp_path):
    shutil.copytree(sets["set"].parent, tmp_path / "out")
    result = run(photos, tmp_path / "out", "--donors", "procedural", exit_code=1)
    assert "donors differ" in result.output and "--overwrite" in result.output
    run(photos, tmp_path / "out", "--donors", "procedural", "--overwrite")
    assert digests(tmp_path / "out" / "photos") == digests(sets["procedural"])


# Sharing and working with sets


@pytest.mark.parametrize("kind", ["set", "procedural", "textures"])
def test_a_replay_has_every_bit(photos, sets, tmp_path, kind):
    recipe = tmp_path / "photos.recipe"
    export = ("export-recipe", sets[kind], "-o", recipe)
    if kind != "set":
        result = invoke_gen(*export, exit_code=1)
        assert "--with-donors" in result.output and not recipe.exists()
        export += ("--with-donors",)
    invoke_gen(*export)
    invoke_gen("verify", recipe, "--quiet")
    invoke_gen("replay", recipe, "--data", photos, "--out", tmp_path / "out", "--jobs", 1,
               "--quiet")  # fmt: skip
    there, original = tmp_path / "out" / "photos", sets[kind]
    assert verify_set(there) == []
    assert read_manifest(there)[0].content_digest == read_manifest(original)[0].content_digest
    with NegativeSet.open(original) as one, NegativeSet.open(there) as other:
        for left, right in zip(one, other, strict=True):
            assert (left.image == right.image).all() and (left.mask == right.mask).all()


def test_parts_take_their_donors_with_them(sets, photos, tmp_path):
    """A normal that is left out and was a donor is stored as one; merging brings it back."""
    with NegativeSet.open(sets["set"]) as negative_set:
        names = [negative_set.normal(i).source for i in range(5)]
    for number, chosen in enumerate((names[::2], names[1::2])):
        images = [part for name in chosen for part in ("--image", name)]
        invoke_gen("subset", sets["set"], "--out", tmp_path / str(number), *images, "--quiet")
    parts = [tmp_path / str(number) / "photos" for number in range(2)]
    stored = [len(row[2]) for folder in parts for row in used_donors(folder)]
    assert sum(stored) == 4
    assert all(verify_set(folder) == [] for folder in parts)
    invoke_gen("merge", *parts, "--out", tmp_path / "merged", "--shard-images", 2, "--quiet")
    merged = tmp_path / "merged" / "photos"
    assert verify_set(merged) == []
    assert [len(row[2]) for row in used_donors(merged)] == [0, 0, 0]
    assert diff_sets(sets["set"], merged).negatives == ()
    recipe = tmp_path / "0.recipe"
    invoke_gen("export-recipe", parts[0], "-o", recipe, "--with-donors")
    invoke_gen("replay", recipe, "--data", photos, "--out", tmp_path / "again", "--quiet")
    assert verify_set(tmp_path / "again" / "photos") == []


def test_sets_of_other_donors_merge_and_differ(sets, tmp_path):
    found = diff_sets(sets["set"], sets["textures"])
    assert [row.name for row in found.recipe] == ["donors"]
    assert {row.what for row in found.negatives} == {("edits",)}
    invoke_gen(
        "merge", sets["set"], sets["textures"], sets["procedural"], "--out", tmp_path,
        "--renumber", "--quiet",
    )  # fmt: skip
    merged = tmp_path / "photos"
    assert verify_set(merged) == []
    recipe = read_manifest(merged)[0].recipe
    assert recipe["donors"] is None and len(recipe["parts"]) == 3
    text = invoke_gen("inspect", merged).stdout
    assert "other normals of the shard | " in text and "20 textures " in text
    invoke_gen("preview", merged, "--out", tmp_path / "sheets", "--count", 1, "--quiet")


def test_exported_masks_are_those_of_the_blends(sets, tmp_path):
    invoke_gen("export", sets["textures"], "--out", tmp_path, "--quiet")
    masks = sorted(tmp_path.rglob("mask/perlin-*.png"))
    images = sorted(tmp_path.rglob("abnormal/perlin-*.png"))
    assert len(masks) == len(images) == 25
    with NegativeSet.open(sets["textures"]) as negative_set:
        wanted = {array_digest(one.image) for one in negative_set}
    assert {array_digest(read_image(path)) for path in images} == wanted


# The interface in Python


def test_textures_that_do_not_fit_the_config_are_refused(photos, textures, tmp_path):
    (category,) = open_data(photos)
    config = BuildConfig(policies=("perlin",), donors="textures", geometry=Geometry(64, 64))
    with pytest.raises(ConfigError, match="--textures"):
        build_set(category, config, tmp_path)
    other = Textures.open(textures, Geometry(64, 80))
    with pytest.raises(ConfigError, match="another canvas"):
        build_set(category, config, tmp_path, textures=other)
    assert not list(tmp_path.rglob("*.h5"))
    fitting = Textures.open(textures, Geometry(64, 64, "letterbox"))
    summary = build_set(category, config, tmp_path, textures=fitting, backend=Backend())
    assert verify_set(Path(summary.folder)) == []
    # A build that mixes nothing in asks for none, whatever the config says.
    plain = BuildConfig(policies=("cutpaste",), donors="textures", geometry=Geometry(64, 64))
    summary = build_set(category, plain, tmp_path / "plain")
    assert "donors" not in summary.manifest.recipe
