"""`merge`: the union of sets, nothing lost, nothing twice, and nothing in conflict."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPO
from test_gen_pipeline import build, digests, good_photos

import generator.copied_shard
from generator.merge import merge_sets
from generator.set_diff import diff_sets
from manifests.digest import bytes_digest
from manifests.edits import Copy, render
from manifests.errors import ConfigError, DigestError, SetError
from manifests.negative_set import NegativeSet
from manifests.schema import read_manifest, write_manifest
from manifests.shard import negative_digest
from manifests.verify import verify_set
from reference.interruptions import stopped_after_one_shard
from reference.loose_sets import contents, loose_set, part
from reference.small_sets import records


@pytest.fixture(scope="module")
def rows():
    """Seven images and 28 negatives, all kinds of each."""
    return records(7, 28)


def redrawn(normals, negatives, policy="swap"):
    """Other edits under the same numbers for one kind of negatives."""
    edits = (Copy((0, 3, 6, 5), (20, 30, 6, 5)),)
    changed = []
    for row in negatives:
        if row.policy == policy:
            image, mask = render(normals[row.normal].image, edits, {})
            digest = negative_digest(image, mask)
            row = replace(row, edits=edits, image=image, mask=mask, digest=digest)
        changed.append(row)
    return changed


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 30))]
)
def test_union_of_random_parts_is_that_of_the_literal_reference(seed, rows, tmp_path):
    normals, negatives, donors = rows
    rng = np.random.default_rng(seed)
    folders = []
    for number in range(2 + seed % 2):
        chosen = np.flatnonzero(rng.random(len(normals)) < 0.7).tolist() or [0]
        rng.shuffle(chosen)
        some = [row for row in negatives if rng.random() < 0.6]
        folder = tmp_path / f"part{number}"
        loose_set(
            folder, *part(normals, some, chosen), donors, store=("pixels", "anchors")[seed % 2]
        )
        folders.append(folder)
    images, drawn, total = {}, {}, 0
    for folder in folders:
        own_images, own_drawn = contents(folder)
        images |= own_images
        # Equal pixels of one image, policy and level in an earlier set, whatever their number.
        earlier = {(*key[:3], value[4]) for key, value in drawn.items()}
        drawn |= {k: v for k, v in own_drawn.items() if (*k[:3], v[4]) not in earlier}
        total += len(own_drawn)
    summary = merge_sets(folders, tmp_path / "out", shard_images=2)
    assert contents(summary.folder) == (images, drawn)
    assert verify_set(summary.folder) == []
    assert summary.manifest.counts["merged"]["duplicate_negatives"] == total - len(drawn)
    assert summary.manifest.saliency == "stored"
    with NegativeSet.open(summary.folder) as merged:
        order = [merged.normal(i).digest for i in range(merged.n_normals)]
        assert order == sorted(images)
        columns = (
            merged.negative_normal, merged.negative_policy, merged.negative_level,
            merged.negative_repeat,
        )  # fmt: skip
        keys = list(zip(*(column.tolist() for column in columns), strict=True))
    assert keys == sorted(keys)
    assert [entry.normals for entry in summary.manifest.shards][:-1] == [2] * (
        (len(images) - 1) // 2
    )


def test_halves_built_apart_are_the_set_built_at_once(tmp_path):
    options = ("--policies", "cutpaste,random-swap")
    whole = good_photos(tmp_path / "whole" / "photos", 5)
    for number, path in enumerate(sorted(whole.iterdir())):
        half = tmp_path / f"half{number % 2}" / "photos"
        half.mkdir(parents=True, exist_ok=True)
        (half / path.name).write_bytes(path.read_bytes())
    for name in ("whole", "half0", "half1"):
        build(tmp_path / name / "photos", tmp_path / "sets" / name, *options)
    sets = tmp_path / "sets"
    summary = merge_sets([sets / "half1" / "photos", sets / "half0" / "photos"], tmp_path / "out")
    found = diff_sets(sets / "whole" / "photos", summary.folder)
    assert found.is_equal
    assert "parts" not in summary.manifest.recipe
    assert summary.manifest.saliency == "unused"
    whole_manifest, _ = read_manifest(sets / "whole" / "photos")
    assert summary.manifest.training_files == whole_manifest.training_files


def test_kinds_built_apart_are_joined(tmp_path):
    photos = good_photos(tmp_path / "photos", 3)
    for kinds in ("cutpaste", "random-scar", "cutpaste,random-scar"):
        build(photos, tmp_path / kinds, "--policies", kinds)
    folders = [tmp_path / kinds / "photos" for kinds in ("cutpaste", "random-scar")]
    summary = merge_sets(folders, tmp_path / "out")
    found = diff_sets(summary.folder, tmp_path / "cutpaste,random-scar" / "photos")
    assert [one.name for one in found.recipe] == ["parts"]
    assert not (found.negatives or found.negatives_only_a or found.negatives_only_b)
    assert summary.manifest.recipe["policies"] == ["cutpaste", "random-scar"]
    assert [one["policies"] for one in summary.manifest.recipe["parts"]] == [
        ["cutpaste"], ["random-scar"],
    ]  # fmt: skip


def test_conflicts_are_counted_and_refused_or_renumbered(rows, tmp_path):
    normals, negatives, donors = rows
    other = redrawn(normals, negatives)
    n_changed = sum(row.policy == "swap" for row in negatives)
    one = loose_set(tmp_path / "a", normals, negatives, donors)
    two = loose_set(tmp_path / "b", normals, other, donors)
    with pytest.raises(SetError, match=f"{n_changed} negatives are in conflict.*--renumber"):
        merge_sets([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = merge_sets([one, two], tmp_path / "out", renumber=True)
    assert summary.manifest.counts["merged"] == {
        "duplicate_images": 0,
        "duplicate_negatives": len(negatives) - n_changed,
        "renumbered_negatives": n_changed,
    }
    images, drawn = contents(one)
    top = {}
    for _, policy, level, repeat in drawn:
        top[policy, level] = max(repeat, top.get((policy, level), 0))
    for (normal, policy, level, repeat), value in contents(two)[1].items():
        if policy == "swap":
            drawn[normal, policy, level, repeat + top[policy, level] + 1] = value
    assert contents(summary.folder) == (images, drawn)
    assert verify_set(summary.folder) == []


def test_repeats_that_cannot_be_numbered_are_refused(rows, tmp_path):
    normals, negatives, donors = rows
    high = [replace(row, repeat=65000 + row.repeat) for row in negatives]
    one = loose_set(tmp_path / "a", normals, high, donors)
    two = loose_set(tmp_path / "b", normals, redrawn(normals, high), donors)
    with pytest.raises(SetError, match="too many repeats"):
        merge_sets([one, two], tmp_path / "out", renumber=True)


def test_the_first_set_names_an_image(rows, tmp_path):
    normals, negatives, donors = rows
    renamed = [
        replace(normals[0], source="other/name.png"),
        replace(normals[1], file_sha256="0" * 64),
        *normals[2:],
    ]
    one = loose_set(tmp_path / "a", normals, negatives, donors, duplicates=2)
    two = loose_set(tmp_path / "b", renamed, negatives, donors, duplicates=1)
    summary = merge_sets([one, two], tmp_path / "out")
    assert contents(summary.folder) == contents(one)
    assert summary.manifest.counts["merged"]["duplicate_images"] == 2
    assert summary.manifest.counts["merged"]["duplicate_negatives"] == len(negatives)
    assert "0" * 64 in summary.manifest.training_files
    assert summary.manifest.duplicates == 2 + 1 + 1  # of each set, and one file more
    twice = merge_sets([one, one], tmp_path / "twice")
    assert twice.manifest.duplicates == 2


def test_what_does_not_belong_together_is_refused(rows, tmp_path):
    normals, negatives, donors = rows
    one = loose_set(tmp_path / "a", normals, negatives, donors)

    def refused(name, match, *records, **changes):
        other = loose_set(tmp_path / name, *(records or (normals, negatives, donors)), **changes)
        with pytest.raises(SetError, match=match):
            merge_sets([one, other], tmp_path / "out")

    refused("b", "another category", category="bottle")
    letterbox = {"geometry": {"height": 32, "width": 44, "fit": "letterbox"}}
    refused("c", "another canvas.*letterbox", recipe=letterbox)
    moved = [replace(normals[0], canvas_box=(0, 0, 32, 44)), *normals[1:]]
    refused("d", "another part of the canvas", moved, negatives, donors)
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge_sets([one], tmp_path / "out")
    two = loose_set(tmp_path / "e" / "tiles", normals, negatives, donors)
    with pytest.raises(ConfigError, match="read and written"):
        merge_sets([one, two], tmp_path / "e")
    for options in ({"shard_images": 0}, {"store": "png"}):
        with pytest.raises(ConfigError, match="cannot be used"):
            merge_sets([one, two], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_interrupted_merge_resumes_to_equal_bytes(rows, tmp_path, monkeypatch):
    normals, negatives, donors = rows
    folders = [
        loose_set(tmp_path / "a", *part(normals, negatives, [0, 1, 2, 3]), donors),
        loose_set(tmp_path / "b", *part(normals, negatives, [4, 5, 6, 0]), donors),
    ]
    whole = merge_sets(folders, tmp_path / "whole")
    with (
        stopped_after_one_shard(monkeypatch, generator.copied_shard) as written,
        pytest.raises(KeyboardInterrupt),
    ):
        merge_sets(folders, tmp_path / "out")
    folder = tmp_path / "out" / "tiles"
    assert [path.name for path in folder.iterdir()] == written
    with pytest.raises(SetError, match="unfinished"):
        merge_sets(folders[::-1], tmp_path / "out")
    resumed = merge_sets(folders, tmp_path / "out", jobs=2)
    assert resumed.resumed_shards == 1
    assert digests(folder) == digests(whole.folder)
    again = merge_sets(folders, tmp_path / "out")
    assert again.is_unchanged and again.set_digest == whole.set_digest
    for wrong in ({"folders": folders[::-1]}, {"folders": folders, "store": "anchors"}):
        with pytest.raises(SetError, match=r"another set.*--overwrite"):
            merge_sets(out=tmp_path / "out", **wrong)
    assert digests(folder) == digests(whole.folder)
    other = merge_sets(folders[::-1], tmp_path / "out", overwrite=True)
    assert other.set_digest != whole.set_digest and verify_set(folder) == []


def test_damaged_sets_are_not_merged(rows, tmp_path):
    normals, negatives, donors = rows
    one = loose_set(tmp_path / "a", *part(normals, negatives, [0, 1, 2]), donors)
    two = loose_set(tmp_path / "b", *part(normals, negatives, [3, 4]), donors)
    shard = two / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    place = data.index(normals[3].image.tobytes()[:64])
    data[place] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DigestError, match=r"b/shard-00000\.h5: is not the file"):
        merge_sets([one, two], tmp_path / "out")
    # The same, by somebody who knows how to write a manifest.
    manifest, _ = read_manifest(two)
    entry = replace(manifest.shards[0], file_sha256=bytes_digest(data))
    write_manifest(two, replace(manifest, shards=(entry,)))
    with pytest.raises(DigestError, match=r"pixels of.*verify"):
        merge_sets([one, two], tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "tiles" / "manifest.json").exists()


def test_merging_loads_no_network_library(rows, tmp_path):
    normals, negatives, donors = rows
    for number in range(2):
        loose_set(tmp_path / f"{number}", *part(normals, negatives, [number]), donors)
    program = (
        "import sys; from generator.merge import merge_sets\n"
        f"merge_sets([{str(tmp_path / '0')!r}, {str(tmp_path / '1')!r}], "
        f"{str(tmp_path / 'out')!r})\n"
        "assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True)
