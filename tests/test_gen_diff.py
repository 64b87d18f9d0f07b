"""`diff`: every kind of difference is found and named, and only differences are."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from generator.diff_text import LISTED, describe_diff, diff_json
from generator.merge import merge_sets
from generator.set_diff import diff_sets
from manifests.edits import Copy, render
from manifests.errors import SetError
from manifests.negative_set import NegativeSet
from manifests.shard import negative_digest
from reference.loose_sets import loose_set, part
from reference.small_sets import H, W, records


@pytest.fixture(scope="module")
def rows():
    """Six images and 18 negatives."""
    return records(6, 18)


@pytest.fixture(scope="module")
def base(rows, tmp_path_factory):
    return loose_set(tmp_path_factory.mktemp("base") / "tiles", *rows)


def only(found, *names):
    """Asserts that exactly these fields of a comparison are filled."""
    filled = {
        name for name in (
            "recipe", "manifest", "images_only_a", "images_only_b", "images", "negatives_only_a",
            "negatives_only_b", "negatives", "saliency",
        ) if getattr(found, name)
    }  # fmt: skip
    assert filled == set(names)
    assert found.is_equal == (not names)
    assert diff_json(found)["is_equal"] == found.is_equal
    return "\n".join(describe_diff(found))


def test_a_set_equals_itself(base):
    found = diff_sets(base, base)
    assert "no difference" in only(found)
    assert found.notes == ()


def test_cut_store_and_order_are_no_difference(rows, base, tmp_path):
    normals, negatives, donors = rows
    other = loose_set(tmp_path / "a", *rows, shard_images=4, store="anchors")
    found = diff_sets(base, other)
    text = only(found)
    assert "same contents" in text
    assert "note: stored as pixels in A, as anchors in B" in text
    assert "cut into 2 shards in A, 2 in B" in text
    turned = loose_set(tmp_path / "b", *part(normals, negatives, [5, 4, 3, 2, 1, 0]), donors)
    assert "in another order" in only(diff_sets(base, turned))
    bare = [replace(row, saliency={}, centres={}) for row in normals]
    absent = loose_set(tmp_path / "c", bare, negatives, donors, saliency="absent")
    assert "saliency stored in A, absent in B" in only(diff_sets(base, absent))
    merged = merge_sets([base, base], tmp_path / "d").folder
    assert "made by build in A, merge in B" in only(diff_sets(base, merged))


def test_recipe_and_manifest(rows, base, tmp_path):
    other = loose_set(
        tmp_path / "a", *rows, recipe={"seed": 3, "extra": [1] * 90}, licence="CC0-1.0",
        training_files=tuple(sorted(["0" * 64, *(row.file_sha256 for row in rows[0])])),
        skipped=({"source": "x.png", "reason": "truncated"},),
    )  # fmt: skip
    found = diff_sets(base, other)
    text = only(found, "recipe", "manifest")
    assert [(one.name, one.a, one.b) for one in found.recipe] == [
        ("seed", 0, 3), ("extra", None, [1] * 90),
    ]  # fmt: skip
    assert "  seed: 0 | 3" in text and "recipe: 2 fields differ" in text
    assert max(map(len, text.splitlines())) < 200
    assert [one.name for one in found.manifest] == ["licence", "training_files", "skipped"]
    assert "7 files, 1 of them not in the other" in text


def test_images_and_their_negatives(rows, base, tmp_path):
    normals, negatives, donors = rows
    less = loose_set(
        tmp_path / "a", *part(normals, negatives, [0, 1, 2]), donors,
        training_files=tuple(sorted(row.file_sha256 for row in normals)),
    )  # fmt: skip
    found = diff_sets(base, less)
    text = only(found, "images_only_a", "negatives_only_a")
    assert [image.source for image in found.images_only_a] == [row.source for row in normals[3:]]
    assert len(found.negatives_only_a) == 9
    assert "3 images only in A" in text and "9 negatives only in A" in text
    assert f"... and {9 - LISTED} more" in text
    only(diff_sets(less, base), "images_only_b", "negatives_only_b")
    renamed = [replace(normals[0], source="b.png"), *normals[1:]]
    found = diff_sets(base, loose_set(tmp_path / "b", renamed, negatives, donors))
    assert "train/gut-é0.png | b.png" in only(found, "images")
    boxed = [replace(normals[0], canvas_box=(0, 0, H, W)), *normals[1:]]
    found = diff_sets(base, loose_set(tmp_path / "c", boxed, negatives, donors))
    only(found, "images")
    assert (found.images[0].a.canvas_box, found.images[0].b.canvas_box) == (
        (0, 2, H, W - 4), (0, 0, H, W),
    )  # fmt: skip


def changed(normals, negatives, number, **fields):
    """The negatives with one of them changed; with other edits its pixels follow."""
    row = negatives[number]
    if "edits" in fields:
        image, mask = render(normals[row.normal].image, fields["edits"], {})
        fields |= {"image": image, "mask": mask, "digest": negative_digest(image, mask)}
    return [*negatives[:number], replace(row, **fields), *negatives[number + 1 :]]


def test_edits_anchors_and_fallbacks(rows, base, tmp_path):
    normals, negatives, donors = rows
    other = changed(normals, negatives, 0, edits=(Copy((0, 0, 5, 5), (9, 9, 5, 5)),))
    other = changed(normals, other, 1, anchors=np.full((2, 4), 3, dtype=np.int32))
    other = changed(normals, other, 2, fallback=4)
    other = changed(normals, other, 3, rejections=77, fallback=4)
    other = changed(normals, other, 4, repeat=9)
    found = diff_sets(base, loose_set(tmp_path / "a", normals, other, donors))
    text = only(found, "negatives", "negatives_only_a", "negatives_only_b")
    assert sorted((pair.a.source, pair.what) for pair in found.negatives) == [
        ("train/gut-é0.png", ("edits",)),
        ("train/gut-é1.png", ("anchors",)),
        ("train/gut-é2.png", ("fallback",)),
        ("train/gut-é3.png", ("fallback", "rejections")),
    ]
    assert (found.negatives_only_a[0].repeat, found.negatives_only_b[0].repeat) == (0, 9)
    assert "1 negative with other edits\n  train/gut-é0.png: swap, level 4, repeat 0" in text
    assert diff_json(found)["counts"]["negatives"] == {
        "edits": 1, "anchors": 1, "fallback": 2, "rejections": 1,
    }  # fmt: skip


def test_pixels_that_contradict_equal_edits(rows, base, tmp_path, monkeypatch):
    # A set that no build makes: what is compared is what sets record.
    import manifests.shard_checks

    normals, negatives, donors = rows
    other = changed(normals, negatives, 0, digest="0" * 64)
    with monkeypatch.context() as patch:
        patch.setattr(manifests.shard_checks, "_pixel_problems", lambda _shard: ())
        lying = loose_set(tmp_path / "a", normals, other, donors)
    found = diff_sets(base, lying)
    assert "of the same edits with other pixels" in only(found, "negatives")
    assert found.negatives[0].what == ("pixels",)


def test_saliency_that_differs(rows, base, tmp_path):
    normals, negatives, donors = rows
    row = normals[2]
    other = replace(row, saliency={**row.saliency, 4: 255 - row.saliency[4]})
    folder = loose_set(
        tmp_path / "a", [*normals[:2], other, *normals[3:]], negatives, donors, shard_images=2
    )
    found = diff_sets(base, folder)
    assert "1 image with other saliency\n  train/gut-é2.png" in only(found, "saliency")


def test_draws_that_have_one_number_are_compared_one_by_one(rows, tmp_path):
    normals, negatives, donors = rows
    double = [*negatives, negatives[0]]
    one = loose_set(tmp_path / "a", normals, negatives, donors)
    two = loose_set(tmp_path / "b", normals, double, donors)
    found = diff_sets(one, two)
    only(found, "negatives_only_b")
    assert len(found.negatives_only_b) == 1
    only(diff_sets(two, two))


def test_json_is_plain(rows, base, tmp_path):
    normals, negatives, donors = rows
    other = loose_set(tmp_path / "a", *part(normals, negatives, [0, 1, 2]), donors)
    plain = json.loads(json.dumps(diff_json(diff_sets(base, other))))
    assert plain["counts"]["images_only_a"] == len(plain["images_only_a"]) == 3
    assert plain["counts"]["negatives_only_a"] == len(plain["negatives_only_a"]) == 9
    assert plain["a"]["images"] == 6 and plain["b"]["images"] == 3
    assert plain["negatives_only_a"][0]["policy"] in ("swap", "scar", "sgsf")


def test_a_recipe_file_is_compared_like_its_set(rows, base, tmp_path):
    from manifests.recipe import write_recipe

    normals, negatives, donors = rows
    file = tmp_path / "tiles.recipe"
    with NegativeSet.open(base) as negative_set:
        write_recipe(file, negative_set, with_donors=True)
    text = only(diff_sets(base, file))
    assert "stored as pixels in A, as recipe in B" in text
    only(diff_sets(file, file))
    other = changed(normals, negatives, 0, edits=(Copy((0, 0, 5, 5), (9, 9, 5, 5)),))
    blind = [replace(row, saliency={k: v + 1 for k, v in row.saliency.items()}) for row in normals]
    folder = loose_set(tmp_path / "a", blind, other, donors)
    text = only(diff_sets(file, folder), "negatives")
    assert "saliency not compared" in text
    only(diff_sets(folder, file), "negatives")


def test_equal_draws_are_paired_in_their_order(rows, tmp_path):
    """A set may hold a draw more than once; the first is then compared with the first."""
    normals, negatives, donors = rows
    same = [replace(row, policy="swap", level=4, repeat=0) for row in negatives]
    same = sorted(same, key=lambda row: row.normal)
    one = loose_set(tmp_path / "a", normals, same, donors)
    only(diff_sets(one, one))
    less = loose_set(tmp_path / "b", normals, same[:-1], donors)
    found = diff_sets(one, less)
    only(found, "negatives_only_a")
    assert [row.digest for row in found.negatives_only_a] == [same[-1].digest]


def test_what_is_no_set_is_an_error(base, tmp_path):
    (tmp_path / "file").write_bytes(b"something else")
    for path in (tmp_path / "nothing", tmp_path, tmp_path / "file"):
        with pytest.raises(SetError):
            diff_sets(base, path)
