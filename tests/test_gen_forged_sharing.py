"""What sets of forged anomalies say of their donors: warnings, licences, recipes of parts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from conftest import invoke_gen
from test_gen_pipeline import build, good_photos
from test_gen_textures import texture_folder

from generator.merged_manifest import merged_recipe
from generator.recipe_parts import guiding_view
from generator.subset import subset_set
from manifests.schema import read_manifest
from reference.loose_sets import loose_set
from reference.small_sets import records

NON_COMMERCIAL = "CC BY-NC 4.0"
SMALL = ("--image-size", 48, "--jobs", 1, "--quiet", "--policies", "perlin,cutpaste")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return good_photos(tmp_path_factory.mktemp("data") / "photos", 5)


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    return texture_folder(tmp_path_factory.mktemp("textures"), 3)


@pytest.fixture(scope="module")
def sets(photos, textures, tmp_path_factory):
    """Folders of sets whose licence binds those who pass on pixels, by kind of donors."""
    root = tmp_path_factory.mktemp("sets")
    kinds = {
        "set": (),
        "procedural": ("--donors", "procedural"),
        "textures": ("--textures", textures),
    }
    for kind, more in kinds.items():
        invoke_gen(
            "build", photos, "--out", root / kind, *SMALL, "--licence", NON_COMMERCIAL, *more
        )
    return {kind: root / kind / "photos" for kind in kinds}


# Images without another donor


@pytest.mark.parametrize(
    ("shard_images", "words"),
    [(1, "5 images have no other donor than themselves"),
     (2, "1 image has no other donor than itself"), (5, None)],
)  # fmt: skip
def test_images_that_are_alone_in_their_shard_are_told(photos, tmp_path, shard_images, words):
    command = ("build", photos, *SMALL, "--shard-images", shard_images)
    for more in (("--donors", "procedural"), ("--policies", "cutpaste")):
        assert (
            "no other donor" not in invoke_gen(*command, "--out", tmp_path / more[1], *more).stderr
        )
    result = invoke_gen(*command, "--out", tmp_path / "set")
    wanted = [f"warning: {words}: pass --donors procedural or --textures"] if words else []
    assert result.stderr.splitlines() == wanted
    assert invoke_gen(*command, "--out", tmp_path / "set").stderr == ""  # nothing to do


def test_one_image_that_is_added_is_told(photos, tmp_path):
    few = shutil.copytree(photos, tmp_path / "few" / "photos")
    (few / "photo 4.png").unlink()
    command = ("build", "--out", tmp_path / "out", *SMALL)
    assert invoke_gen(*command, few).stderr == ""
    text = invoke_gen(*command, photos, "--add").stderr
    assert text == "warning: 1 image has no other donor than itself: add several at once\n"


# Recipes with donors


def exported(folder, target):
    result = invoke_gen("export-recipe", folder, "-o", target, "--with-donors")
    return result.stderr.splitlines()


def test_patterns_travel_without_a_warning(sets, tmp_path):
    assert exported(sets["procedural"], tmp_path / "a.recipe") == []


def test_textures_travel_with_a_word_on_their_licence(sets, photos, textures, tmp_path):
    line = "pixels of 3 textures travel with this recipe: the licence of textures is not recorded"
    wanted = f"warning: {line}"
    assert exported(sets["textures"], tmp_path / "a.recipe") == [wanted]
    command = ("build", photos, *SMALL, "--textures", textures, "--licence", "CC0-1.0")
    invoke_gen(*command, "--out", tmp_path)
    assert exported(tmp_path / "photos", tmp_path / "b.recipe") == [wanted]


def test_images_of_the_set_travel_under_its_licence(sets, tmp_path):
    invoke_gen("subset", sets["set"], "--out", tmp_path, "--fraction", 0.4, "--quiet")
    (line,) = exported(tmp_path / "photos", tmp_path / "a.recipe")
    assert line.startswith("warning: a recipe with donors holds pixels")
    assert NON_COMMERCIAL in line and line.endswith("bound by those terms")
    assert "no pixels" not in line
    invoke_gen(
        "merge", tmp_path / "photos", sets["textures"], "--out", tmp_path / "m", "--renumber",
        "--quiet",
    )  # fmt: skip
    invoke_gen("subset", tmp_path / "m", "--out", tmp_path / "s", "--fraction", 0.4, "--quiet")
    first, second = exported(tmp_path / "s" / "photos", tmp_path / "b.recipe")
    assert "donor images, textures among them, travel" in first
    assert second == line


# PNG files


def notice(folder, out, *more):
    invoke_gen("export", folder, "--out", out, "--quiet", *more)
    return (out / "photos" / "licence.txt").read_text()


def test_an_export_says_that_it_holds_textures(sets, tmp_path):
    line = "Negatives also hold pixels of 3 textures under their own licence.\n"
    assert line in notice(sets["textures"], tmp_path / "a")
    assert "textures" not in notice(sets["textures"], tmp_path / "b", "--policies", "cutpaste")
    assert "textures" not in notice(sets["set"], tmp_path / "c")
    # A folder counts once, however many parts of a merged set took from it.
    subset_set(sets["textures"], tmp_path / "few", policies=("perlin",))
    invoke_gen(
        "merge", sets["textures"], tmp_path / "few", sets["procedural"], "--out", tmp_path / "m",
        "--renumber", "--quiet",
    )  # fmt: skip
    assert line in notice(tmp_path / "m" / "photos", tmp_path / "d")


@pytest.mark.parametrize("images", [None, "three", True])
def test_a_stranger_need_not_say_how_many_textures(images, tmp_path):
    normals, negatives, lent = records(2, 3)
    recipe = {"donors": {"kind": "textures", "images": images}}
    rows = [replace(row, policy="perlin", level=-1) for row in negatives]
    loose_set(tmp_path / "photos", normals, rows, lent, recipe=recipe, category="photos")
    assert "pixels of textures under" in notice(tmp_path / "photos", tmp_path / "out")


# Subsets


def test_a_subset_keeps_of_donors_what_its_kinds_use(sets, tmp_path):
    whole = read_manifest(sets["set"])[0].recipe
    kept = subset_set(sets["set"], tmp_path / "a", policies=("perlin",)).manifest.recipe
    assert kept == {**whole, "policies": ["perlin"]}
    left = subset_set(sets["set"], tmp_path / "b", policies=("cutpaste",)).manifest.recipe
    plain = {key: value for key, value in whole.items() if key not in ("perlin", "donors")}
    assert left == {**plain, "policies": ["cutpaste"]}


def test_a_subset_of_parts_keeps_what_its_kinds_use_in_each(tmp_path):
    guided = {
        "policies": ["saliency-perlin", "perlin", "swap"], "donors": {"kind": "set"},
        "perlin": {"cells": [0, 5], "alpha": [0.1, 1.0], "saliency": "mean"},
    }  # fmt: skip
    normals, negatives, lent = records(3, 9)
    names = {"sgsf": "perlin", "scar": "saliency-perlin", "swap": "swap"}
    rows = [replace(row, policy=names[row.policy]) for row in negatives]
    one = {"geometry": {"height": 32, "width": 44, "fit": "stretch"}, "seed": 1, **guided}
    other = {"geometry": one["geometry"], "seed": 2, "policies": ["swap"]}
    recipe = merged_recipe([one, other], shard_images=3, store="pixels")
    assert recipe["perlin"] is None and len(recipe["parts"]) == 2
    folder = loose_set(tmp_path / "tiles", normals, rows, lent, recipe=recipe)

    def recipe_of(*policies):
        return subset_set(folder, tmp_path / policies[0], policies=policies).manifest.recipe

    left = recipe_of("swap")
    assert "perlin" not in left and "donors" not in left
    assert left["parts"][1] == other
    assert left["parts"][0] == {"geometry": one["geometry"], "seed": 1, "policies": ["swap"]}
    left = recipe_of("perlin")
    assert left["parts"][0]["perlin"] == {**one["perlin"], "saliency": None}
    assert left["parts"][0]["policies"] == ["perlin", "swap"]
    assert left["parts"][0]["donors"] == {"kind": "set"}
    assert recipe_of("saliency-perlin")["parts"][0]["perlin"] == one["perlin"]


# Views of merged sets


def test_the_view_of_a_merged_set_is_that_of_its_guided_parts():
    def part(view, seed=0):
        return {"seed": seed, "perlin": {"saliency": view}, "policies": ["saliency-perlin"]}

    def view(*recipes):
        return guiding_view(merged_recipe(recipes, shard_images=4, store="pixels"))

    plain, unguided = {"seed": 0, "policies": ["swap"]}, part(None)
    assert view(part("mean")) == view(part("mean"), plain) == view(plain, part("mean", 3)) == "mean"
    assert view(part("max"), unguided, plain) == "max"
    assert view(part("mean"), part("max")) is None
    assert view(plain) is view(unguided) is None
    assert guiding_view({"perlin": {"saliency": ["mean"]}}) is None


# What a build says


def test_a_build_says_which_textures_it_took(photos, textures, tmp_path):
    more = ("--policies", "perlin", "--textures", textures)
    text = build(photos, tmp_path / "a", *more).stdout
    assert f"  3 textures of {textures} mixed in\n" in text
    (row,) = json.loads(build(photos, tmp_path / "b", *more, "--json").stdout)
    assert row["textures"]["folder"] == str(textures) and row["textures"]["images"] == 3
    (row,) = json.loads(build(photos, tmp_path / "c", "--policies", "perlin", "--json").stdout)
    assert row["textures"] is None


def test_adding_with_other_textures_says_what_to_do(photos, textures, tmp_path):
    folder = shutil.copytree(textures, tmp_path / "textures")
    few = shutil.copytree(photos, tmp_path / "few" / "photos")
    (few / "photo 4.png").unlink()
    out = tmp_path / "out"
    build(few, out, "--policies", "perlin", "--textures", folder)
    shutil.copy(photos / "photo 0.png", folder / "new.png")
    more = ("--policies", "perlin", "--textures", folder, "--add")
    text = build(photos, out, *more, exit_code=1).stderr
    assert "donors differ" in text and "--overwrite" not in text
    assert "give the textures folder as it was, or build into another --out and merge" in text
    text = build(photos, out, *more, "--repeats", 2, exit_code=1).stderr
    assert "give the options that it was built with" in text and "--overwrite" not in text
    (folder / "new.png").unlink()
    assert "1 image added" in build(photos, out, *more).stdout
