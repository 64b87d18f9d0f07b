"""Forged anomalies from the command line: every kind with every donor, options, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import invoke_gen
from test_gen_pipeline import build, good_photos
from test_gen_textures import texture_folder

from generator.policies import POLICIES
from manifests.images import read_image
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest

BASE = ("--image-size", 64, "--jobs", 1, "--quiet", "--policies", "perlin")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return good_photos(tmp_path_factory.mktemp("data") / "photos", 3)


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    return texture_folder(tmp_path_factory.mktemp("textures"), 6)


@pytest.fixture(scope="module")
def base(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    invoke_gen("build", photos, "--out", out, *BASE)
    return read_manifest(out / "photos")[0]


def donor_options(kind, textures):
    return {"set": (), "procedural": ("--donors", kind), "textures": ("--textures", textures)}[kind]


DONOR_WORDS = {
    "set": "other normals of the shard",
    "procedural": "patterns drawn for each shard",
    "textures": "6 textures ",
}


@pytest.mark.parametrize("kind", DONOR_WORDS)
@pytest.mark.parametrize("policy", ["perlin", "saliency-perlin"])
def test_from_build_to_preview(policy, kind, sample_data, built, category_name, textures, tmp_path):
    more = donor_options(kind, textures)
    if policy == "saliency-perlin":
        more += ("--reuse-saliency", built)
    result = build(sample_data, tmp_path / "out", "--policies", policy, *more)
    where = {"perlin": "anywhere in the image", "saliency-perlin": "guided by saliency, the mean"}
    assert f"{policy}: 45 made, {where[policy]}" in result.output
    assert "note:" not in result.output
    assert "whole and unchanged" in invoke_gen("verify", tmp_path / "out", "--quiet").stdout
    text = invoke_gen("inspect", tmp_path / "out").stdout
    assert f"donors     {DONOR_WORDS[kind]}" in text
    invoke_gen("preview", tmp_path / "out", "--out", tmp_path / "sheets", "--count", 1, "--quiet")
    (sheet,) = (tmp_path / "sheets" / category_name).iterdir()
    assert min(read_image(sheet).shape[:2]) > 400
    assert (
        "nothing to do" in build(sample_data, tmp_path / "out", "--policies", policy, *more).output
    )


@pytest.mark.parametrize(
    ("option", "value", "recorded"),
    [
        ("--perlin-cells", "4,5", ("perlin", "cells", [4, 5])),
        ("--alpha", "0.9,1", ("perlin", "alpha", [0.9, 1.0])),
        ("--donors", "procedural", ("donors", "kind", "procedural")),
        ("--textures", None, ("donors", "kind", "textures")),
        ("--noop-tolerance", "60", None),
    ],
)
def test_option_shapes_the_negatives(option, value, recorded, photos, textures, base, tmp_path):
    invoke_gen("build", photos, "--out", tmp_path, *BASE, option, value or textures)
    manifest = read_manifest(tmp_path / "photos")[0]
    assert manifest.content_digest != base.content_digest
    if recorded is not None:
        table, key, expected = recorded
        assert manifest.recipe[table][key] == expected != base.recipe[table].get(key)
    if option == "--alpha":
        with NegativeSet.open(tmp_path / "photos") as negative_set:
            assert min(one.edits[0].alpha for one in negative_set) >= 229


def test_cells_decide_how_fine_masks_are(photos, tmp_path):
    borders = []
    for cells in ("0,1", "4,4"):
        invoke_gen("build", photos, "--out", tmp_path / cells, *BASE, "--perlin-cells", cells)
        with NegativeSet.open(tmp_path / cells / "photos") as negative_set:
            masks = np.stack([one.mask for one in negative_set]).astype(int)
        borders.append(np.abs(np.diff(masks)).sum() / masks.sum())
    assert borders[1] > 2 * borders[0]


def test_saliency_shapes_the_guided_kind(sample_data, built, category_name, tmp_path):
    contents = set()
    for view in ("level", "mean", "max"):
        out = tmp_path / view
        build(sample_data, out, "--policies", "saliency-perlin", "--saliency", view,
              "--reuse-saliency", built)  # fmt: skip
        manifest = read_manifest(out / category_name)[0]
        assert manifest.recipe["perlin"]["saliency"] == view
        contents.add(manifest.content_digest)
        words = {"level": "each level's by itself", "mean": "the mean", "max": "the maximum"}[view]
        assert f"45 made, guided by saliency, {words}" in invoke_gen("inspect", out).stdout
    assert len(contents) == 3


def notes(photos, out, *more):
    result = invoke_gen("build", photos, "--out", out, "--image-size", 64, "--jobs", 1, "--quiet",
                        *more)  # fmt: skip
    return {line.split()[1] for line in result.stderr.splitlines() if line.startswith("note:")}


def test_options_that_change_nothing_are_named(photos, textures, tmp_path):
    forging = ("--perlin-cells", "1,2", "--alpha", "0.5,1", "--saliency", "max")
    plain = notes(photos, tmp_path / "a", "--policies", "cutpaste", *forging, "--donors", "set")
    assert plain == {"--perlin-cells", "--alpha", "--saliency", "--donors"}
    # Nor is the folder looked at.
    absent = ("--textures", tmp_path / "absent")
    assert notes(photos, tmp_path / "b", "--policies", "cutpaste", *absent) == {"--textures"}
    more = ("--policies", "perlin", *forging, "--textures", textures, "--area", "0.1,0.2",
            "--feather", 2, "--cluster", "min", "--network", "vgg16")  # fmt: skip
    assert notes(photos, tmp_path / "c", *more) == {
        "--saliency", "--area", "--feather", "--cluster", "--network",
    }  # fmt: skip


@pytest.mark.parametrize("typed", ["procedural", "set"])
def test_textures_exclude_donors(typed, photos, textures, tmp_path):
    result = invoke_gen(
        "build", photos, "--out", tmp_path, *BASE, "--textures", textures, "--donors", typed,
        exit_code=2,
    )  # fmt: skip
    assert "--textures" in result.output and "pass one" in result.output


def test_bad_textures_are_listed_or_left_out(photos, textures, tmp_path):
    folder = texture_folder(tmp_path / "textures", 6)
    bad = folder / "sub 1" / "broken.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = ("build", photos, "--out", tmp_path / "out", *BASE, "--textures", folder)
    result = invoke_gen(*arguments, exit_code=1)
    first, last = result.output.splitlines()
    assert str(bad) in first
    assert "1 unusable texture;" in last and "--skip-bad" in last
    assert not list(tmp_path.rglob("*.h5"))
    result = invoke_gen(*arguments, "--skip-bad")
    assert f"note: texture left out: {bad}" in result.stderr
    # As if it had not been there, and it is no image of the set either.
    manifest = read_manifest(tmp_path / "out" / "photos")[0]
    assert manifest.skipped == ()
    invoke_gen("build", photos, "--out", tmp_path / "good", *BASE, "--textures", textures)
    good = read_manifest(tmp_path / "good" / "photos")[0]
    assert good.content_digest == manifest.content_digest


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "there is no such folder; correct --textures"),
        ("file", "is a file, not a folder; correct --textures"),
        ("empty", "no image among the textures; correct --textures"),
    ],
)
def test_a_folder_that_is_none_is_one_line(name, words, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    result = invoke_gen(
        "build", photos, "--out", tmp_path / "out", *BASE, "--textures", tmp_path / name,
        exit_code=1,
    )  # fmt: skip
    assert words in result.output and result.output.count("\n") == 1
    assert str(tmp_path / name) in result.output


def test_a_folder_without_a_name_is_not_the_current_one(photos, textures, tmp_path, monkeypatch):
    monkeypatch.chdir(textures)
    result = invoke_gen(
        "build", photos, "--out", tmp_path / "out", *BASE, "--textures", "", exit_code=2
    )
    assert "--textures" in result.output and "empty" in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_of_nothing_usable_lists_all_and_why(photos, tmp_path):
    folder = tmp_path / "textures"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = invoke_gen(
        "build", photos, "--out", tmp_path / "out", *BASE, "--textures", folder, "--skip-bad",
        exit_code=1,
    )  # fmt: skip
    first, last = result.output.splitlines()
    assert str(folder / "broken.png") in first and "no usable image among the textures" in last
    assert "--skip-bad" not in last


def test_policies_are_listed_with_what_they_need():
    text = invoke_gen("policies").stdout
    rows = json.loads(invoke_gen("policies", "--json").stdout)
    assert [row["name"] for row in rows] == list(POLICIES)
    lines = text.splitlines()
    assert len(lines) == 2 * len(rows) and max(map(len, lines)) <= 100
    for row, first, second in zip(rows, lines[::2], lines[1::2], strict=True):
        assert first.split() == [row["name"], *row["summary"].split()]
        assert second.endswith(f"; source: {row['source']}")
        assert all(need in second for need in row["needs"])
    needs = {row["name"]: row["needs"] for row in rows}
    assert needs["swap"] == ["saliency"] and needs["cutpaste"] == []
    assert needs["perlin"] == ["donors"] and needs["saliency-perlin"] == ["saliency", "donors"]
