"""A merged set: its saliency, donors and words, and what other commands make of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import invoke_det, invoke_gen
from test_gen_pipeline import build

from generator.merge import merge_sets
from generator.merged_manifest import joined_texts, merged_recipe
from manifests import shard_records
from manifests.errors import SetError
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest
from manifests.shard import Shard
from manifests.verify import verify_set
from reference.loose_sets import contents, loose_set, part
from reference.small_sets import H, W, records


@pytest.fixture(scope="module")
def rows():
    """Seven images and 28 negatives, all kinds of each."""
    return records(7, 28)


def no_maps(normals):
    return [replace(row, saliency={}, centres={}) for row in normals]


# what travels with the images


def test_saliency_is_kept_where_it_fits_together(rows, tmp_path):
    normals, negatives, donors = rows
    one = loose_set(tmp_path / "a", *part(normals, negatives, [0, 1, 2, 3]), donors)
    same = loose_set(tmp_path / "b", *part(normals, negatives, [3, 4]), donors)
    without = loose_set(tmp_path / "c", no_maps(normals[:4]), [], donors)
    foreign = loose_set(tmp_path / "d", no_maps(normals), [], donors)
    replayed = loose_set(tmp_path / "e", no_maps(normals), [], donors, saliency="absent")
    changed = replace(normals[3], saliency={k: v + 1 for k, v in normals[3].saliency.items()})
    other = loose_set(tmp_path / "f", [changed], [], donors)
    fewer = replace(normals[5], saliency={4: normals[5].saliency[4]}, centres={4: np.ones(1, "f4")})
    levels = loose_set(tmp_path / "g", [fewer], [], donors)

    def merged(name, *folders, **options):
        return merge_sets(folders, tmp_path / name, **options)

    for name, folders in (("1", (one, same)), ("2", (one, without)), ("3", (without, one))):
        summary = merged(name, *folders)
        assert summary.manifest.saliency == "stored"
        wanted = contents(one)[0] | (contents(same)[0] if same in folders else {})
        assert contents(summary.folder)[0] == wanted
        assert summary.manifest.shards[0].environment["threads"] == "1"
    for number, (bad, match) in enumerate(
        [
            (foreign, "no saliency of"),
            (replayed, "no saliency of"),
            (other, "another saliency of"),
            (levels, "other saliency levels"),
        ]
    ):
        with pytest.raises(SetError, match=f"{match}.*--drop-saliency"):
            merged("refused", one, bad)
        summary = merged(f"dropped{number}", one, bad, drop_saliency=True)
        assert summary.manifest.saliency == "absent"
        assert verify_set(summary.folder) == []
        with NegativeSet.open(summary.folder) as negative_set:
            assert negative_set.levels == ()
    assert merged("none", without, foreign).manifest.saliency == "unused"
    assert merged("still", without, foreign, drop_saliency=True).manifest.saliency == "unused"
    assert merged("lost", without, replayed).manifest.saliency == "absent"


def test_donors_travel_and_the_store_changes_no_digest(rows, tmp_path):
    normals, negatives, donors = rows
    one = loose_set(tmp_path / "a", *part(normals, negatives, [0, 1, 2]), donors)
    two = loose_set(tmp_path / "b", *part(normals, negatives, [3, 4]), donors, store="anchors")
    pixels = merge_sets([one, two], tmp_path / "p")
    anchors = merge_sets([one, two], tmp_path / "q", store="anchors")
    assert pixels.manifest.recipe["store"] == "pixels"  # the first set's
    assert anchors.manifest.recipe["store"] == "anchors"
    assert "parts" not in pixels.manifest.recipe  # how a set is written is no difference
    assert pixels.manifest.content_digest == anchors.manifest.content_digest
    for summary in (pixels, anchors):
        assert verify_set(summary.folder) == []
    images, drawn = contents(pixels.folder)
    assert any(policy == "sgsf" for _, policy, _, _ in drawn)
    assert contents(anchors.folder) == (images, drawn)


def test_donors_of_a_shard_are_counted_before_any_is_read(tmp_path, monkeypatch):
    folders = []
    for number in range(2):
        normals, negatives, donors = records(1, 3, seed=number)
        folders.append(loose_set(tmp_path / f"{number}", normals, negatives, donors))
    monkeypatch.setattr(shard_records, "MAX_DONOR_BYTES", H * W * 3)
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "donor", None)
        with pytest.raises(SetError, match=r"too many donor.*at most 1.*--shard-images") as caught:
            merge_sets(folders, tmp_path / "out")
    assert caught.value.path.endswith("shard-00000.h5")
    assert not list((tmp_path / "out").rglob("*.h5"))
    assert verify_set(merge_sets(folders, tmp_path / "out", shard_images=1).folder) == []


def test_words_of_the_manifests_are_joined(rows, tmp_path):
    normals, negatives, donors = rows
    skipped = {"source": "x.png", "reason": "truncated"}
    one = loose_set(
        tmp_path / "a", *part(normals, negatives, [0]), donors, licence="CC0-1.0",
        attribution="Ann", skipped=(skipped,), recipe={"draws": 5, "seed": 1},
    )  # fmt: skip
    two = loose_set(
        tmp_path / "b", *part(normals, negatives, [1]), donors, split_rule="80 %",
        attribution="Bob", skipped=(skipped,), recipe={"policies": ["cutpaste", "scar"]},
    )  # fmt: skip
    three = loose_set(tmp_path / "c", *part(normals, negatives, [2]), donors, attribution="Ann")
    first = merge_sets([one, two], tmp_path / "ab")
    manifest = first.manifest
    assert (manifest.licence, manifest.attribution) == ("CC0-1.0; not stated", "Ann; Bob")
    assert (manifest.format, manifest.split_rule) == ("folder", "all images; 80 %")
    assert manifest.skipped == (skipped,)
    assert manifest.origin["command"] == "merge"
    assert manifest.origin["sets"] == [read_manifest(folder)[1] for folder in (one, two)]
    recipe = manifest.recipe
    assert (recipe["seed"], recipe["draws"]) == (None, 5)
    assert recipe["policies"] == ["swap", "scar", "sgsf", "cutpaste"]
    assert [one["seed"] for one in recipe["parts"]] == [1, 0]
    second = merge_sets([first.folder, three], tmp_path / "abc").manifest
    assert second.attribution == "Ann; Bob" and second.licence == "CC0-1.0; not stated"
    assert len(second.recipe["parts"]) == 3
    assert all("parts" not in one for one in second.recipe["parts"])


def test_joined_texts():
    assert joined_texts(["", ""], empty="none") == ""
    assert joined_texts(["a", "a"]) == "a"
    assert joined_texts(["a; b", "b", "c", "a"]) == "a; b; c"
    assert joined_texts(["ab", "a", ""], empty="none") == "ab; a; none"
    assert merged_recipe([{"x": 1}, {"x": 1}], shard_images=4, store="pixels") == {
        "x": 1, "shard_images": 4, "store": "pixels",
    }  # fmt: skip


# what other commands make of it


@pytest.fixture(scope="module")
def merged_kinds(sample_data, built, category_name, tmp_path_factory) -> Path:
    """Root of a set merged from one with saliency, one without, and one of other options."""
    tmp = tmp_path_factory.mktemp("kinds")
    build(sample_data, tmp / "free", "--policies", "cutpaste", "--seed", 3)
    other = ("--policies", "scar", "--clusters", 2, "--seed", 4)
    build(sample_data, tmp / "other", *other, "--reuse-saliency", built)
    folders = [root / category_name for root in (built, tmp / "free")]
    merge_sets(folders, tmp / "kept")
    folders.append(tmp / "other" / category_name)
    merge_sets(folders, tmp / "out", renumber=True, drop_saliency=True)
    return tmp


def test_inspect_and_preview_of_a_merged_set(merged_kinds, tmp_path):
    text = invoke_gen("inspect", merged_kinds / "out").output
    assert "swap, scar, cutpaste" in text
    assert "seed 0 | 3 | 4" in text and "K=4, max | none | k-means, K=2, max" in text
    assert "merge of" in text and "later repeats renumbered" in text and "absent" in text
    text = invoke_gen("inspect", merged_kinds / "kept").output
    assert "seed 0 | 3" in text and "absent" not in text
    for root in ("out", "kept"):
        invoke_gen("preview", merged_kinds / root, "--out", tmp_path / root, "--count", 1)
        assert len(list((tmp_path / root).rglob("*.png"))) == 1
    assert not verify_set(next((merged_kinds / "kept").iterdir()))


def test_saliency_of_a_merged_set_is_not_reused(sample_data, merged_kinds, tmp_path):
    result = build(sample_data, tmp_path, "--reuse-saliency", merged_kinds / "kept", exit_code=2)
    assert "made by merge" in result.output


@pytest.mark.parametrize("updates", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_fit_takes_a_merged_set(updates, merged_kinds, tmp_path):
    invoke_det(
        "fit", merged_kinds / "out", "--out", tmp_path, "--updates", updates, "--batch", 4,
        "--coreset", 0.05, "--quiet",
    )  # fmt: skip
    assert len(list(tmp_path.rglob("model.json"))) == 1
