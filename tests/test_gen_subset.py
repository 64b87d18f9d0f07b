"""`subset`: part of a set, with nothing of it changed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import REPO
from test_gen_pipeline import digests

import generator.copied_shard
from generator.merge import merge_sets
from generator.set_diff import diff_sets
from generator.subset import subset_set
from manifests.errors import ConfigError, DigestError, SetError
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest
from manifests.verify import verify_set
from reference.interruptions import stopped_after_one_shard
from reference.loose_sets import contents, loose_set
from reference.small_sets import records


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set of ten images in four shards, with 40 negatives."""
    normals, negatives, donors = records(10, 40)
    return loose_set(
        tmp_path_factory.mktemp("whole") / "tiles", normals, negatives, donors,
        licence="CC0-1.0", skipped=({"source": "x.png", "reason": "truncated"},), duplicates=3,
    )  # fmt: skip


def chosen(folder, *, image=lambda _: True, negative=lambda _: True):
    """What a subset must hold: images by digest and source, negatives by their key."""
    images, negatives = contents(folder)
    kept = {digest: value for digest, value in images.items() if image((digest, value[1]))}
    return kept, {
        key: value for key, value in negatives.items() if key[0] in kept and negative(key)
    }


def test_images_by_pattern(whole, tmp_path):
    summary = subset_set(whole, tmp_path, images=("train/*é[1-3].png", "*é8*"))
    wanted = {f"train/gut-é{i}.png" for i in (1, 2, 3, 8)}
    assert contents(summary.folder) == chosen(whole, image=lambda row: row[1] in wanted)
    assert verify_set(summary.folder) == []
    # Of the shards 0-2, 3-5, 6-8 and 9, what is left of each.
    assert [entry.normals for entry in summary.manifest.shards] == [2, 1, 1]
    old, digest = read_manifest(whole)
    new = summary.manifest
    for name in ("training_files", "recipe", "licence", "skipped", "duplicates", "saliency"):
        assert getattr(new, name) == getattr(old, name)
    assert new.origin == {
        "command": "subset", "sets": [digest], "options": {"images": ["*é8*", "train/*é[1-3].png"]},
    }  # fmt: skip
    assert new.shards[0].environment == old.shards[0].environment
    assert (summary.n_normals, summary.n_negatives) == (10, 40)


def test_order_is_that_of_the_set(whole, tmp_path):
    folder = subset_set(whole, tmp_path, images=("*é[7531].png",), policies=("swap", "scar")).folder
    with NegativeSet.open(whole) as old, NegativeSet.open(folder) as new:
        kept = {new.normal(i).digest for i in range(new.n_normals)}
        order = [old.normal(i).digest for i in range(old.n_normals)]
        assert [new.normal(i).digest for i in range(new.n_normals)] == [
            digest for digest in order if digest in kept
        ]
        assert [one.digest for one in new] == [
            one.digest for one in old if order[one.normal] in kept and one.policy != "sgsf"
        ]


def test_policies_and_levels(whole, tmp_path):
    by_policy = subset_set(whole, tmp_path / "p", policies=("sgsf", "swap"))
    assert contents(by_policy.folder) == chosen(whole, negative=lambda key: key[1] != "scar")
    assert by_policy.manifest.recipe["policies"] == ["swap", "sgsf"]  # in the old order
    assert by_policy.manifest.recipe["draws"] == 2
    by_level = subset_set(whole, tmp_path / "l", levels=(10,))
    # As for training, negatives of no level stay.
    assert contents(by_level.folder) == chosen(whole, negative=lambda key: key[2] in (-1, 10))
    both = subset_set(whole, tmp_path / "b", policies=("swap",), levels=(4, 10))
    assert contents(both.folder) == chosen(whole, negative=lambda key: key[1] == "swap")
    for summary in (by_policy, by_level, both):
        assert verify_set(summary.folder) == []
        assert summary.manifest.counts["normals"] == 10  # also those that keep no negatives


def test_fraction_is_drawn_by_digest(whole, tmp_path):
    images, _ = contents(whole)
    lots = sorted(images, key=lambda d: hashlib.sha256(f"subset|7|{d}".encode()).hexdigest())
    for fraction, count in ((0.3, 3), (0.31, 4), (0.0001, 1), (1, 10)):
        summary = subset_set(whole, tmp_path / str(fraction), fraction=fraction, seed=7)
        assert set(contents(summary.folder)[0]) == set(lots[:count])
        assert summary.manifest.origin["options"] == {"fraction": float(fraction), "seed": 7}
    other = subset_set(whole, tmp_path / "seed", fraction=0.3, seed=8)
    assert set(contents(other.folder)[0]) != set(lots[:3])
    # Of the images that the patterns leave.
    some = subset_set(whole, tmp_path / "some", images=("*é[0-3]*",), fraction=0.5, seed=7)
    wanted = [digest for digest in lots if images[digest][1][-5] in "0123"][:2]
    assert set(contents(some.folder)[0]) == set(wanted)


def test_parts_merge_to_the_whole(whole, tmp_path):
    parts = [
        subset_set(whole, tmp_path / "a", policies=("swap",)).folder,
        subset_set(whole, tmp_path / "b", policies=("scar", "sgsf"), images=("*é[0-4]*",)).folder,
        subset_set(whole, tmp_path / "c", images=("*é[5-9]*",)).folder,
    ]
    found = diff_sets(whole, merge_sets(parts, tmp_path / "out").folder)
    assert [one.name for one in found.recipe] == ["parts"]
    assert replace(found, recipe=()).is_equal


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"images": ("*.jpg",)}, r"no image is called .*jpg.*gut.* and 5 more"),
        ({"images": ("*é1.png", "nothing")}, "no image is called nothing"),
        ({"policies": ("cutpaste",)}, r"--policies.*cutpaste.*scar, sgsf, swap"),
        ({"levels": (4, 5)}, r"--levels.*5.*4, 10"),
        ({"levels": (-1,)}, "--levels"),
        ({"images": ("*é9*",), "policies": ("swap",), "levels": (4,)}, "at once"),
        ({"fraction": 0}, "--fraction"),
        ({"fraction": 1.01}, "--fraction"),
        ({"fraction": float("nan")}, "--fraction"),
        ({"fraction": 0.5, "seed": -1}, "--seed"),
    ],
)
def test_what_is_not_there_is_named(options, match, whole, tmp_path):
    with pytest.raises(ConfigError, match=match):
        subset_set(whole, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_into_itself_is_refused(whole):
    before = digests(whole)
    with pytest.raises(ConfigError, match="read and written"):
        subset_set(whole, whole.parent, policies=("swap",), overwrite=True)
    assert digests(whole) == before


def test_interrupted_subset_resumes_to_equal_bytes(whole, tmp_path, monkeypatch):
    selection = {"images": ("*é[1-7]*",), "policies": ("swap", "sgsf")}
    finished = subset_set(whole, tmp_path / "whole", **selection)
    with (
        stopped_after_one_shard(monkeypatch, generator.copied_shard) as written,
        pytest.raises(KeyboardInterrupt),
    ):
        subset_set(whole, tmp_path / "out", **selection)
    folder = tmp_path / "out" / "tiles"
    assert [path.name for path in folder.iterdir()] == written
    resumed = subset_set(whole, tmp_path / "out", **selection)
    assert resumed.resumed_shards == 1
    assert digests(folder) == digests(finished.folder)
    # The same selection typed in another order is the same.
    again = subset_set(whole, tmp_path / "out", images=("*é[1-7]*",), policies=("sgsf", "swap"))
    assert again.is_unchanged and again.set_digest == finished.set_digest
    with pytest.raises(SetError, match=r"another set.*--overwrite"):
        subset_set(whole, tmp_path / "out", policies=("swap",))
    assert digests(folder) == digests(finished.folder)
    replaced = subset_set(whole, tmp_path / "out", policies=("swap",), overwrite=True)
    assert replaced.manifest.counts["normals"] == 10 and verify_set(folder) == []


def test_damaged_set_is_refused(tmp_path):
    normals, negatives, donors = records(3, 6)
    folder = loose_set(tmp_path / "tiles", normals, negatives, donors, store="anchors")
    shard = folder / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[data.index(normals[1].image.tobytes()[:64])] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DigestError, match="is not the file"):
        subset_set(folder, tmp_path / "out", policies=("swap",))
    assert not (tmp_path / "out" / "tiles" / "manifest.json").exists()


def test_store_and_absent_saliency_stay(tmp_path):
    normals, negatives, donors = records(3, 6)
    bare = [replace(row, saliency={}, centres={}) for row in normals]
    folder = loose_set(
        tmp_path / "tiles", bare, negatives, donors, store="anchors", saliency="absent"
    )
    summary = subset_set(folder, tmp_path / "out", images=("*é[02]*",))
    assert summary.manifest.saliency == "absent"
    with NegativeSet.open(summary.folder) as negative_set:
        assert negative_set.levels == ()
        assert negative_set._shard(0).index.store == "anchors"
    wanted = {"train/gut-é0.png", "train/gut-é2.png"}
    assert contents(summary.folder) == chosen(folder, image=lambda row: row[1] in wanted)
    assert verify_set(summary.folder) == []


def test_subset_loads_no_network_library(whole, tmp_path):
    program = (
        "import sys; from generator.subset import subset_set\n"
        f"subset_set({str(whole)!r}, {str(tmp_path)!r}, policies=('swap',))\n"
        "assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True)
