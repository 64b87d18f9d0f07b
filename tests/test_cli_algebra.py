"""`merge`, `subset` and `diff` at the command line: options, exit codes, roots of several sets."""

from __future__ import annotations

import json

import pytest
from conftest import invoke_gen

from manifests.schema import read_manifest
from manifests.verify import verify_set
from reference.loose_sets import contents, loose_set, part
from reference.small_sets import records


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two roots of two categories each; the first's images are those before the second's."""
    tmp = tmp_path_factory.mktemp("roots")
    for category in ("cap", "tiles"):
        normals, negatives, donors = records(6, 12, category=category)
        for name, rows in (("a", [0, 1, 2, 3]), ("b", [2, 3, 4, 5])):
            own = part(normals, negatives, rows)
            loose_set(tmp / name / category, *own, donors, category=category)
    return tmp


def test_merge_joins_roots_category_by_category(roots, tmp_path):
    a, b = roots / "a", roots / "b"
    text = invoke_gen("merge", a, b, "--out", tmp_path, "--jobs", 1, "--shard-images", 2).output
    for category in ("cap", "tiles"):
        folder = tmp_path / category
        assert verify_set(folder) == []
        assert read_manifest(folder)[1] in text
        assert contents(folder)[0] == contents(a / category)[0] | contents(b / category)[0]
        assert len(read_manifest(folder)[0].shards) == 3
    assert "6 images, 12 negatives (of 2 sets)" in text
    assert "4 negatives in several sets, kept once" in text
    again = invoke_gen("merge", a, b, "--out", tmp_path, "--shard-images", 2).output
    assert "nothing to do" in again


def test_merge_options(roots, tmp_path):
    a, b = roots / "a", roots / "b"
    options = ("--category", "cap", "--drop-saliency", "--store", "anchors", "--renumber")
    result = invoke_gen("merge", a, b, "--out", tmp_path, *options, "--jobs", 2, "--json")
    (summary,) = json.loads(result.stdout)
    assert summary["sets"] == 2 and summary["saliency"] == "absent"
    assert summary["origin"]["options"] == {
        "drop_saliency": True, "renumber": True, "shard_images": 3, "store": "anchors",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["cap"]
    text = invoke_gen("merge", a, b, "--category", "cap", "--out", tmp_path, exit_code=1).output
    assert "--overwrite" in text
    more = ("--overwrite", "--quiet")
    invoke_gen("merge", a, b, "--category", "cap", "--out", tmp_path, *more)
    assert read_manifest(tmp_path / "cap")[0].saliency == "stored"


def test_merge_of_what_does_not_belong_together(roots, tmp_path):
    text = invoke_gen(
        "merge", roots / "a", roots / "b" / "cap", "--out", tmp_path / "out", exit_code=2
    ).output
    assert "nothing to merge tiles with" in text and "--category" in text
    text = invoke_gen(
        "merge", roots / "a" / "cap", roots / "b" / "tiles", "--out", tmp_path / "out", exit_code=1
    ).output
    assert "another category" in text
    invoke_gen("merge", roots / "a" / "cap", "--out", tmp_path / "out", exit_code=2)
    assert not (tmp_path / "out").exists()


def test_subset_options(roots, tmp_path):
    a = roots / "a"
    text = invoke_gen("subset", a, "--out", tmp_path / "c", "--category", "tiles").output
    assert "4 images, 8 negatives (of 4 and 8)" in text
    assert contents(tmp_path / "c" / "tiles") == contents(a / "tiles")
    result = invoke_gen(
        "subset", a, "--out", tmp_path / "o", "--image", "*0.png", "--image", "*é1*", "--policies",
        "swap,scar", "--levels", "4,10", "--fraction", 0.5, "--seed", 2, "--json", "--jobs", 1,
    )  # fmt: skip
    rows = json.loads(result.stdout)
    assert [row["counts"]["normals"] for row in rows] == [1, 1]
    assert rows[0]["origin"]["options"] == {
        "fraction": 0.5, "images": ["*0.png", "*é1*"], "levels": [4, 10],
        "policies": ["scar", "swap"], "seed": 2,
    }  # fmt: skip
    assert rows[0]["of"] == {"normals": 4, "negatives": 8}
    text = invoke_gen("subset", a, "--out", tmp_path / "x", exit_code=2).output
    assert "nothing is chosen" in text
    text = invoke_gen("subset", a, "--out", tmp_path / "x", "--policies", "x", exit_code=2).output
    assert "scar" in text and not (tmp_path / "x").exists()


def test_idle_seed_and_what_a_set_has_none_of_are_said(roots, tmp_path):
    a = roots / "a" / "cap"
    subset = ("subset", a, "--policies", "swap", "--quiet")
    text = invoke_gen(*subset, "--seed", 9, "--out", tmp_path / "1").stderr
    assert text == "note: --seed changes nothing without --fraction\n"
    for number, more in enumerate((("--fraction", 0.5, "--seed", 9), ("--fraction", 0.5), ()), 2):
        assert not invoke_gen(*subset, *more, "--out", tmp_path / str(number)).stderr


def test_levels_of_a_set_without_any_are_refused_in_plain_words(roots, tmp_path):
    out = ("--out", tmp_path / "x", "--quiet")
    invoke_gen("subset", roots / "a" / "cap", "--policies", "sgsf", "--out", tmp_path, "--quiet")
    text = invoke_gen("subset", tmp_path / "cap", "--levels", 4, *out, exit_code=2).stderr
    assert "--levels: this set has no negatives of 4; leave --levels out" in text


def test_the_origin_is_said_in_words(roots, tmp_path):
    a, b = roots / "a" / "cap", roots / "b" / "cap"
    invoke_gen("merge", a, b, "--out", tmp_path / "m", "--quiet")
    text = invoke_gen("inspect", tmp_path / "m").stdout
    line = next(line for line in text.splitlines() if "made by" in line)
    assert "False" not in line and "(" not in line and "4 duplicate negatives" in line
    more = ("--renumber", "--drop-saliency", "--quiet")
    invoke_gen("merge", a, b, "--out", tmp_path / "n", *more)
    text = invoke_gen("inspect", tmp_path / "n").stdout
    assert "(saliency maps left out, later repeats renumbered)" in text
    options = ("--image", "*0.png", "--fraction", 1, "--seed", 0)
    invoke_gen("subset", a, "--out", tmp_path / "s", *options, "--quiet")
    text = invoke_gen("inspect", tmp_path / "s").stdout
    assert "(fraction 1.0, images *0.png, seed 0)" in text


def test_diff_exit_codes(roots, tmp_path):
    a, b = roots / "a", roots / "b"
    assert "no difference" in invoke_gen("diff", a / "cap", a, "--category", "cap").output
    text = invoke_gen("diff", a / "cap", b / "cap", exit_code=1).output
    assert "2 images only in A" in text and "2 images only in B" in text
    result = invoke_gen("diff", a / "cap", b / "cap", "--json", exit_code=1)
    assert json.loads(result.stdout)["counts"]["images_only_a"] == 2
    for wrong in (tmp_path, b):
        text = invoke_gen("diff", a / "cap", wrong, exit_code=2).output
        assert "error:" in text
