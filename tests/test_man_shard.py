"""Shards: the same bytes for the same records, exact reading, by any number of readers."""

import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from manifests.digest import array_digest, bytes_digest, file_digest
from manifests.edits import Copy, canonical, decode, encode
from manifests.errors import SetError
from manifests.schema import FALLBACKS
from manifests.shard import NormalRecord, Shard, negative_digest, shard_entry, write_shard
from reference import small_sets
from reference.small_sets import UNIT, H, W, records, write_shard_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shard-00000.h5"


# Round trip


@pytest.mark.parametrize("store", ["pixels", "anchors"])
def test_what_is_written_is_read(path, store):
    normals, negatives, _ = records()
    entry = write_shard_of(path, store=store, environment={"cpu": "x"})
    with Shard(path) as shard:
        assert (shard.n_normals, shard.n_negatives) == (4, 9)
        assert shard.index.store == store and shard.index.unit_digest == UNIT
        for i, expected in enumerate(normals):
            row = shard.normal(i)
            assert np.array_equal(row.image, expected.image)
            assert row.canvas_box == expected.canvas_box
            for name in ("digest", "source", "file_sha256"):
                assert getattr(row, name) == getattr(expected, name)
            assert list(row.saliency) == [4, 10]
            for level in (4, 10):
                assert np.array_equal(row.saliency[level], expected.saliency[level])
                assert np.array_equal(row.centres[level], expected.centres[level])
                assert row.centres[level].dtype == np.float32
        for j, expected in enumerate(negatives):
            row = shard.negative(j)
            assert np.array_equal(row.image, expected.image)
            assert np.array_equal(row.mask, expected.mask) and row.mask.dtype == bool
            assert np.array_equal(row.anchors, expected.anchors)
            for name in [
                "normal",
                "policy",
                "level",
                "repeat",
                "edits",
                "fallback",
                "rejections",
                "digest",
            ]:
                assert getattr(row, name) == getattr(expected, name), name
            assert np.array_equal(shard.negative_image(j), expected.image)
            assert np.array_equal(shard.negative_mask(j), expected.mask)
        assert list(shard.problems()) == []
    assert entry.file_sha256 == file_digest(path) and entry.file_bytes == path.stat().st_size
    assert (entry.name, entry.normals, entry.negatives) == (path.name, 4, 9)
    assert shard_entry(path) == entry and entry.environment == {"cpu": "x"}


def test_both_stores_have_the_same_digests(tmp_path):
    pixels = write_shard_of(tmp_path / "shard-00000.h5")
    anchors = write_shard_of(tmp_path / "shard-00001.h5", store="anchors")
    assert pixels.content_digest == anchors.content_digest
    assert pixels.saliency_digest == anchors.saliency_digest
    assert anchors.file_bytes < pixels.file_bytes


@pytest.mark.parametrize("store", ["pixels", "anchors"])
def test_the_same_records_give_the_same_bytes(tmp_path, store, monkeypatch):
    first = write_shard_of(tmp_path / "shard-00000.h5", store=store)
    time.sleep(1.1)  # HDF5's own times have a resolution of one second
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    second = write_shard_of(tmp_path / "elsewhere" / "shard-00000.h5", store=store)
    assert first == second
    assert (tmp_path / "shard-00000.h5").read_bytes() == (
        tmp_path / "elsewhere" / "shard-00000.h5"
    ).read_bytes()


def test_anyone_with_h5py_can_read_the_images(path):
    normals, negatives, _ = records()
    write_shard_of(path)
    with h5py.File(path, "r") as file:
        assert np.array_equal(file["normals/image"][2], normals[2].image)
        assert np.array_equal(file["negatives/image"][5], negatives[5].image)
        assert np.array_equal(file["negatives/mask"][5], negatives[5].mask * np.uint8(255))
        assert file["normals/image"].chunks == (1, H, W, 3)
        assert file["normals/source"].asstr()[1] == "train/gut-é1.png"
        assert file["negatives/policy"][0] == b"swap"
        assert file.attrs["schema_version"] == 1 and file.attrs["store"] == b"pixels"


def test_the_content_digest_by_hand(path):
    normals, negatives, donors = records(1, 1)
    entry = write_shard(path, normals, negatives, donors=donors, store="pixels", unit_digest=UNIT)
    normal, negative = normals[0], negatives[0]
    lines = [
        ["normal", normal.digest, normal.source, normal.file_sha256, [0, 2, H, W - 4]],
        [
            "negative",
            normal.digest,
            "swap",
            4,
            0,
            [[1, 2, 9, 6], [15, 20, 9, 6]],
            bytes_digest(canonical(negative.edits)),
            0,
            0,
            negative.digest,
        ],
    ]
    text = "cutswap content 1\n"
    text += "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    assert entry.content_digest == bytes_digest(text.encode())
    text = "cutswap saliency 1\n"
    for level in (4, 10):
        digests = [array_digest(normal.saliency[level]), array_digest(normal.centres[level])]
        row = ["saliency", normal.digest, level, *digests]
        text += json.dumps(row, separators=(",", ":")) + "\n"
    assert entry.saliency_digest == bytes_digest(text.encode())
    mask = negative.mask * np.uint8(255)
    raw = bytes.fromhex(array_digest(negative.image)) + bytes.fromhex(array_digest(mask))
    assert negative.digest == bytes_digest(raw)


def test_the_page_on_formats_names_every_part(path):
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    write_shard_of(path)
    names = []
    with h5py.File(path, "r") as file:
        names += list(file.attrs)
        file.visititems(
            lambda name, part: names.append(name) if isinstance(part, h5py.Dataset) else None
        )
    assert len(names) > 25
    for name in names:
        assert f"`{name.replace('level_4', 'level_<l>').replace('level_10', 'level_<l>')}`" in page
    for code, name in enumerate(FALLBACKS):
        assert f"{code} `{name}`" in page
    example = next(line for line in page.splitlines() if line.startswith('[{"angle_cdeg"'))
    assert encode(decode(example.encode(), H, W)).decode() == example


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "other"},
        {"level": 5},
        {"repeat": 7},
        {"fallback": 3},
        {"rejections": 9},
        {"anchors": np.zeros((2, 4), np.int32)},
    ],
)
def test_every_field_of_a_negative_counts_in_the_content_digest(tmp_path, change):
    normals, negatives, donors = records(2, 1)
    digests = set()
    for number, rows in enumerate((negatives, [replace(negatives[0], **change)])):
        entry = write_shard(
            tmp_path / f"shard-0000{number}.h5",
            normals,
            rows,
            donors=donors,
            store="anchors",
            unit_digest=UNIT,
        )
        digests.add(entry.content_digest)
        assert entry.saliency_digest
    assert len(digests) == 2


@pytest.mark.parametrize("store", ["pixels", "anchors"])
def test_missing_pixels_are_rendered_and_empty_parts_are_allowed(tmp_path, store):
    normals, negatives, donors = records()
    bare = [replace(row, image=None, mask=None) for row in negatives]
    options = {"donors": donors, "store": store, "unit_digest": UNIT}
    first = write_shard(tmp_path / "shard-00000.h5", normals, negatives, **options)
    second = write_shard(tmp_path / "shard-00001.h5", normals, bare, **options)
    assert first.file_sha256 == second.file_sha256
    plain = [replace(row, saliency={}, centres={}) for row in normals]
    entry = write_shard(tmp_path / "shard-00002.h5", plain, [], **options)
    assert (entry.normals, entry.negatives) == (4, 0)
    with Shard(tmp_path / "shard-00002.h5") as shard:
        assert shard.index.maps == {} and shard.index.donor_digests == []
        assert np.array_equal(shard.normal_image(3), normals[3].image)
        with pytest.raises(SetError, match="no saliency level 4"):
            shard.saliency(0, 4)
        with pytest.raises(IndexError):
            shard.negative_image(0)


def test_a_donor_that_is_a_normal_of_the_shard_is_not_stored_twice(path):
    normals, negatives, _ = records()
    blend = replace(negatives[2].edits[0], donor=normals[1].digest)
    image, mask = small_sets.render(
        normals[0].image, [blend], {normals[1].digest: normals[1].image}
    )
    row = replace(
        negatives[0], edits=(blend,), image=image, mask=mask, digest=negative_digest(image, mask)
    )
    write_shard(path, normals, [row], store="anchors", unit_digest=UNIT)
    with Shard(path) as shard:
        assert shard.index.donor_images is None
        assert np.array_equal(shard.negative_image(0), image)


def test_rows_are_fresh_and_may_be_changed(path):
    write_shard_of(path)
    with Shard(path) as shard:
        for read in (shard.normal_image, shard.negative_image, shard.negative_mask):
            read(1)[:] = 0
            assert read(1).any()


# Several readers


def test_a_shard_can_be_pickled_and_used_after_closing(path):
    entry = write_shard_of(path)
    shard = Shard(path, expected_sha256=entry.file_sha256)
    image = shard.negative_image(3)
    other = pickle.loads(pickle.dumps(shard))
    assert np.array_equal(other.negative_image(3), image)
    shard.close()
    shard.close()
    assert np.array_equal(shard.negative_image(3), image)
    shard.close()
    other.close()


def test_a_file_replaced_behind_a_reader_is_noticed(tmp_path, path):
    write_shard_of(path)
    shard = Shard(path)
    assert shard.n_normals == 4
    other = pickle.loads(pickle.dumps(shard))
    shard.close()
    write_shard_of(tmp_path / "shard-00001.h5", store="anchors")
    os.replace(tmp_path / "shard-00001.h5", path)
    for reader in (shard, other):
        with pytest.raises(SetError, match="has changed"):
            reader.normal_image(0)


def test_threads_may_share_a_shard_even_while_it_is_closed(path):
    normals, negatives, _ = records()
    write_shard_of(path)
    with Shard(path) as shard, ThreadPoolExecutor(4) as pool:

        def read(k):
            if k % 17 == 0:
                shard.close()
            return array_digest(shard.normal_image(k % 4)) == normals[k % 4].digest and (
                negative_digest(*shard.negative_pixels(k % 9)) == negatives[k % 9].digest
            )

        assert all(pool.map(read, range(300)))


def test_reading_a_row_is_fast(tmp_path):
    """In processor time, so that a busy machine changes little; well under a millisecond alone."""
    image = small_sets.picture(1, 256, 256)
    normal = NormalRecord(image, array_digest(image), "a.png", "a" * 64, (0, 0, 256, 256))
    _, negatives, _ = records()
    edits = (
        Copy((0, 0, 80, 60), (100, 100, 80, 60)),
        Copy((100, 100, 80, 60), (0, 0, 80, 60)),
    )
    image, mask = small_sets.render(normal.image, edits)
    row = replace(
        negatives[0], edits=edits, image=image, mask=mask, digest=negative_digest(image, mask)
    )
    for number, store in enumerate(("pixels", "anchors")):
        path = tmp_path / f"shard-0000{number}.h5"
        write_shard(path, [normal], [row], store=store, unit_digest=UNIT)
        with Shard(path) as shard:
            shard.negative_pixels(0)
            best = min(_seconds(lambda s=shard: s.negative_pixels(0)) for _ in range(30))
        assert best < 2e-3, store


def _seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start
