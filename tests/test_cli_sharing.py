"""Recipes, push and pull as commands, and the page on sharing as it is typed."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
from conftest import REPO, invoke_det, invoke_gen

from manifests.schema import read_manifest
from reference.small_sets import flip_pixel, write_set

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
    assert "SET|URL" in invoke_gen("diff", "--help").output


def test_a_url_is_no_path_where_none_is_taken(tmp_path):
    """As a path it would lose a slash and lead nowhere."""
    url = "http://me:hunter2@127.0.0.1:9/sets/a"
    out = ("--out", tmp_path / "out")
    for arguments, way in (
        (("push", url, "file:///x"), "fetch it first (cutswap-gen pull URL --out ...)"),
        (("build", tmp_path, "--reuse-saliency", url, *out), "fetch it first"),
        (("replay", f"{url}.recipe", "--data", tmp_path, *out), "download it first"),
        (("dump-recipe", f"{url}.recipe"), "download it first"),
    ):
        text = " ".join(invoke_gen(*arguments, exit_code=2).output.split())
        assert "http://***@127.0.0.1:9/sets/a" in text and f"is a URL; {way}" in text
        assert "hunter2" not in text
    assert not (tmp_path / "out").exists()


def test_verify_of_a_url_says_that_it_looked_at_a_copy(tmp_path, monkeypatch):
    write_set(tmp_path / "sets" / "a", category="a")
    monkeypatch.setenv("CUTSWAP_CACHE", str(tmp_path / "cache"))
    url = (tmp_path / "sets" / "a").as_uri()
    result = invoke_gen("verify", url, "--quiet")
    (place,) = (tmp_path / "cache" / "sets").glob("*/a")
    assert f"looks at the copy in {place}, fetched from {url}" in result.stderr
    assert f"{place}: whole and unchanged" in result.stdout
    assert json.loads(invoke_gen("verify", url, "--quiet", "--json").stdout) == []
    # A copy that rotted is repaired before anybody works on it.
    shard = place / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[-7] ^= 4
    shard.write_bytes(data)
    assert "whole and unchanged" in invoke_gen("verify", url, "--quiet").stdout


def test_quick_verify_says_what_it_did_not_look_at(tmp_path):
    folder = tmp_path / "a"
    write_set(folder, category="a")
    flip_pixel(folder / "shard-00000.h5")
    text = invoke_gen("verify", folder, "--quick", "--quiet").stdout
    assert text == f"{folder}: nothing wrong found; file digests and pixels were not compared\n"
    assert "not the file that was recorded" in invoke_gen("verify", folder, exit_code=1).stdout


def test_options_that_a_recipe_makes_no_use_of_are_named(photos_recipe, category_name, tmp_path):
    recipe, folder = photos_recipe
    result = invoke_gen("verify", recipe, "--quick", "--quiet")
    assert "note: --quick changes nothing for a recipe" in result.stderr
    assert "whole and unchanged" in result.stdout
    assert not invoke_gen("verify", recipe, "--category", category_name, "--quiet").stderr
    for arguments in (("verify", recipe), ("inspect", recipe), ("diff", recipe, folder)):
        invoke_gen(*arguments, "--category", category_name)
        text = invoke_gen(*arguments, "--category", "zzz", exit_code=2).output
        assert "no category zzz here" in text and category_name in text
    # The problems of a damaged one are more telling than its category.
    damaged = tmp_path / "damaged.recipe"
    data = bytearray(recipe.read_bytes())
    data[-20] ^= 1
    damaged.write_bytes(data)
    result = invoke_gen("verify", damaged, "--category", "zzz", exit_code=1)
    assert str(damaged) in result.stdout and "found" in result.stderr


@pytest.mark.parametrize("digest", ["f345d29754bb", "1f0c...", "x" * 64, ""])
def test_a_digest_is_given_in_full(digest, photos_recipe, built, fitted, tmp_path):
    """A short one, as other commands print it, is a slip and no other set."""
    recipe, folder = photos_recipe
    out = ("--out", tmp_path / "out")
    for invoke, arguments in (
        (invoke_gen, ("verify", folder)),
        (invoke_gen, ("replay", recipe, "--data", tmp_path, *out)),
        (invoke_gen, ("pull", "http://127.0.0.1:9/a", *out)),
        (invoke_det, ("fit", built, *out)),
        (invoke_det, ("verify", fitted)),
    ):
        text = " ".join(invoke(*arguments, "--expect", digest, exit_code=2).output.split())
        assert "'--expect': takes all 64 hex characters" in text


def test_a_digest_in_capitals_with_spaces_around_is_the_same(photos_recipe):
    digest = read_manifest(photos_recipe[1])[1]
    invoke_gen("verify", photos_recipe[1], "--expect", f" {digest.upper()}\n", "--quiet")


def test_a_server_that_is_down_is_said_to_be(tmp_path):
    import time

    from reference.servers import plain_server

    with plain_server(tmp_path) as url:
        pass
    started = time.monotonic()
    text = invoke_gen("inspect", url, exit_code=1).stderr
    assert "the server cannot be reached" in text and "goes on" not in text
    assert time.monotonic() - started < 5


@pytest.fixture
def eight_gone(sample_data, category_name, tmp_path):
    """A recipe's arguments whose data folder lacks all but one of 9 images."""
    invoke_gen(
        "build", sample_data, "--out", tmp_path / "sets", "--image-size", 64, "--jobs", 1,
        "--policies", "random-swap", "--quiet",
    )  # fmt: skip
    invoke_gen("export-recipe", tmp_path / "sets", "-o", tmp_path / "r.recipe")
    good = tmp_path / "data" / category_name / "train" / "good"
    good.mkdir(parents=True)
    shutil.copy(sample_data / category_name / "train" / "good" / "003.png", good)
    return ("replay", tmp_path / "r.recipe", "--data", tmp_path / "data", "--out", tmp_path / "o")


def test_all_missing_images_are_listed_in_order(eight_gone, monkeypatch):
    import sys

    from manifests import command_line

    monkeypatch.setattr(command_line, "MAX_LISTED_ERRORS", 3)
    result = invoke_gen(*eight_gone, "--quiet", exit_code=1)
    listed = [line for line in result.stderr.splitlines() if "is missing" in line]
    assert len(listed) == 8 and listed == sorted(listed) and not result.stdout
    assert "error: 8 of 9 images are missing or differ" in result.stderr
    result = invoke_gen(*eight_gone, "--quiet", "--json", exit_code=1)
    rows = json.loads(result.stdout)
    assert [row["what"] for row in rows] == ["is missing"] * 8
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert "8 of 9 images" in result.stderr
    # On a terminal they must not push the answer out of sight.
    monkeypatch.setattr(command_line, "sys", type("on", (), {"stderr": _Terminal(sys.stderr)}))
    text = invoke_gen(*eight_gone, "--quiet", exit_code=1).stderr
    assert text.count("is missing (") == 3 and "... and 5 more (--json lists all)" in text


class _Terminal:
    def __init__(self, stream):
        self._stream = stream

    def isatty(self):
        return True

    def __getattr__(self, name):
        return getattr(self._stream, name)


def test_numbers_and_nouns_agree(tmp_path):
    write_set(tmp_path / "a", shards=1, category="a")
    url = (tmp_path / "there").as_uri()
    text = invoke_gen("push", tmp_path / "a", url, "--quiet").stdout
    assert "1 shard sent, 0 were there" in text
    assert "0 shards sent, 1 was there" in invoke_gen("push", tmp_path / "a", url).stdout


def test_a_strangers_words_do_not_steer_the_terminal(tmp_path):
    from dataclasses import replace

    from manifests.schema import write_manifest

    manifest, _ = write_set(tmp_path / "a", category="a")
    write_manifest(tmp_path / "a", replace(manifest, licence="\x1b[2Jfree\nerror: not"))
    shown = invoke_gen("inspect", tmp_path / "a").stdout
    assert "\x1b" not in shown and "free\ufffderror: not" in shown
