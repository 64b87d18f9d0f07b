"""Recipes, push and pull as commands, and the page on sharing as it is typed."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
from conftest import REPO, invoke_det, invoke_gen

from manifests.schema import read_manifest
from reference.small_sets import write_set

PAGE = (REPO / "docs" / "sharing.md").read_text(encoding="utf-8")

# The commands as printed, only smaller.
SMALLER = {
    "build": ("--image-size", 64, "--jobs", 1),
    "fit": ("--updates", 2, "--batch", 2, "--frozen-start", 1, "--coreset", 0.1),
}


def test_the_page_from_build_to_a_colleagues_fit(sample_data, category_name, tmp_path, monkeypatch):
    block = PAGE.split("```console\n")[1].split("```")[0]
    commands = [shlex.split(line.removeprefix("$ ")) for line in block.strip().splitlines()]
    assert len(commands) == 10
    shutil.copytree(sample_data / category_name, tmp_path / "data" / "bracket")
    monkeypatch.chdir(tmp_path)
    for program, verb, *arguments in commands:
        invoke = {"cutswap-gen": invoke_gen, "cutswap-det": invoke_det}[program]
        invoke(verb, *arguments, *SMALLER.get(verb, ()))
    ours, theirs = (read_manifest(tmp_path / root / "bracket")[0] for root in ("shards", "theirs"))
    assert ours.content_digest == theirs.content_digest
    assert (ours.saliency, theirs.saliency) == ("stored", "absent")


@pytest.fixture(scope="module")
def photos_recipe(sample_data, category_name, tmp_path_factory):
    root = tmp_path_factory.mktemp("recipe")
    invoke_gen(
        "build", sample_data, "--out", root / "sets", "--image-size", 64, "--jobs", 1,
        "--policies", "random-swap",
    )  # fmt: skip
    result = invoke_gen("export-recipe", root / "sets", "-o", root / "part.recipe", "--json")
    (row,) = json.loads(result.stdout)
    assert read_manifest(root / "sets" / category_name)[1] in row.values()
    return root / "part.recipe", root / "sets" / category_name


def test_a_recipe_is_inspected_verified_and_dumped(photos_recipe):
    recipe, folder = photos_recipe
    digest = read_manifest(folder)[1]
    assert digest in invoke_gen("inspect", recipe).stdout
    (row,) = json.loads(invoke_gen("inspect", recipe, "--json").stdout)
    assert digest in row.values()
    assert "whole and unchanged" in invoke_gen("verify", recipe, "--expect", digest).stdout
    invoke_gen("verify", recipe, "--expect", "0" * 64, exit_code=1)
    first, second, *_ = invoke_gen("dump-recipe", recipe).stdout.splitlines()
    assert json.loads(first)[0] == "manifest" and json.loads(second) == ["shard", "shard-00000.h5"]


def test_replay_says_what_is_missing_and_takes_one_digest(
    photos_recipe, sample_data, category_name, tmp_path
):
    recipe, folder = photos_recipe
    digest = read_manifest(folder)[1]
    options = ("--out", tmp_path / "sets", "--jobs", 1, "--quiet")
    shutil.copytree(sample_data / category_name, tmp_path / "data" / category_name)
    gone = sorted((tmp_path / "data" / category_name / "train" / "good").iterdir())[:2]
    for path in gone:
        path.rename(path.with_suffix(".txt"))
    result = invoke_gen("replay", recipe, "--data", tmp_path / "data", *options, exit_code=1)
    assert all(path.name in result.stderr for path in gone)
    assert not (tmp_path / "sets" / category_name / "manifest.json").exists()
    replay = ("replay", recipe, "--data", sample_data, *options)
    invoke_gen(*replay, "--expect", "0" * 64, exit_code=1)
    result = invoke_gen(*replay, "--expect", digest, "--store", "anchors", "--json")
    (row,) = json.loads(result.stdout)
    manifest, found = read_manifest(tmp_path / "sets" / category_name)
    assert found in row.values() and manifest.recipe["store"] == "anchors"
    assert manifest.origin["sets"] == [digest]
    invoke_gen("replay", recipe, recipe, *replay[2:], "--expect", digest, exit_code=2)


def test_one_recipe_file_per_category(tmp_path):
    for name in ("a", "b"):
        write_set(tmp_path / "sets" / name, category=name)
    export = ("export-recipe", tmp_path / "sets", "--with-donors", "-o")
    invoke_gen(*export, tmp_path / "one.recipe", exit_code=2)
    invoke_gen(*export, tmp_path / "recipes")
    assert sorted(path.name for path in (tmp_path / "recipes").iterdir()) == [
        "a.recipe", "b.recipe",
    ]  # fmt: skip
    invoke_gen(*export, tmp_path / "one.recipe", "--category", "b")
    assert "b" in invoke_gen("inspect", tmp_path / "one.recipe").stdout
    # Without donors it is refused, and nothing is left.
    invoke_gen("export-recipe", tmp_path / "sets" / "a", "-o", tmp_path / "x.recipe", exit_code=1)
    assert not (tmp_path / "x.recipe").exists()


def test_pushed_pulled_and_opened_by_url(tmp_path):
    digest = write_set(tmp_path / "sets" / "a", category="a")[1]
    url = (tmp_path / "remote").as_uri()
    result = invoke_gen("push", tmp_path / "sets" / "a", url, "--check", "--quiet", "--json")
    assert json.loads(result.stdout)[0]["set_digest"] == digest
    invoke_gen("push", tmp_path / "sets" / "a", tmp_path / "remote", exit_code=2)
    result = invoke_gen("pull", url, "--out", tmp_path / "here", "--expect", digest, "--quiet")
    assert digest in result.stdout
    assert read_manifest(tmp_path / "here" / "a")[1] == digest
    invoke_gen("pull", url, "--out", tmp_path / "no", "--expect", "0" * 64, "--quiet", exit_code=1)
    assert not (tmp_path / "no" / "a" / "manifest.json").exists()
    # Wherever a set is asked for, its URL will do.
    assert digest in invoke_gen("inspect", url).stdout
    invoke_gen("diff", url, tmp_path / "here" / "a")


def test_a_strangers_words_do_not_steer_the_terminal(tmp_path):
    from dataclasses import replace

    from manifests.schema import write_manifest

    manifest, _ = write_set(tmp_path / "a", category="a")
    write_manifest(tmp_path / "a", replace(manifest, licence="\x1b[2Jfree\nerror: not"))
    shown = invoke_gen("inspect", tmp_path / "a").stdout
    assert "\x1b" not in shown and "free\ufffderror: not" in shown
