"""Shards: the same bytes for the same records, exact reading, and no trust in what is read."""

import errno
import json
import os
import pickle
import signal
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import manifests.atomic
import manifests.shard
from manifests.digest import array_digest, bytes_digest, file_digest
from manifests.edits import Copy, canonical, decode, encode
from manifests.errors import CutswapError, DigestError, EditError, OutputError, SetError
from manifests.schema import FALLBACKS
from manifests.shard import NormalRecord, Shard, negative_digest, shard_entry, write_shard
from manifests.shard_image import shard_image
from manifests.sparse_file import SparseFile
from reference import small_sets
from reference.small_sets import H, W, read_everything, records

UNIT = "b" * 64


def write(path, *, store="pixels", **changes):
    normals, negatives, donors = records()
    options = {"donors": donors, "store": store, "unit_digest": UNIT} | changes
    return write_shard(path, normals, negatives, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shard-00000.h5"


# Round trip


@pytest.mark.parametrize("store", ["pixels", "anchors"])
def test_what_is_written_is_read(path, store):
    normals, negatives, _ = records()
    entry = write(path, store=store, environment={"cpu": "x"})
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
    pixels = write(tmp_path / "shard-00000.h5")
    anchors = write(tmp_path / "shard-00001.h5", store="anchors")
    assert pixels.content_digest == anchors.content_digest
    assert pixels.saliency_digest == anchors.saliency_digest
    assert anchors.file_bytes < pixels.file_bytes


@pytest.mark.parametrize("store", ["pixels", "anchors"])
def test_the_same_records_give_the_same_bytes(tmp_path, store, monkeypatch):
    first = write(tmp_path / "shard-00000.h5", store=store)
    time.sleep(1.1)  # HDF5's own times have a resolution of one second
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    second = write(tmp_path / "elsewhere" / "shard-00000.h5", store=store)
    assert first == second
    assert (tmp_path / "shard-00000.h5").read_bytes() == (
        tmp_path / "elsewhere" / "shard-00000.h5"
    ).read_bytes()


def test_anyone_with_h5py_can_read_the_images(path):
    normals, negatives, _ = records()
    write(path)
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
    write(path)
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
    write(path)
    with Shard(path) as shard:
        for read in (shard.normal_image, shard.negative_image, shard.negative_mask):
            read(1)[:] = 0
            assert read(1).any()


# Writing goes wrong


def wrong_records():
    normals, negatives, _ = records()
    image = normals[0].image
    yield "no normals", [], []
    yield "twice", [normals[0], normals[0]], []
    yield "shape", [normals[0], replace(normals[1], image=image[:-1])], []
    yield "dtype", [replace(normals[0], image=image.astype(np.int32))], []
    yield "box", [replace(normals[0], canvas_box=(0, 0, H + 1, W))], []
    yield "source", [replace(normals[0], source="../outside.png")], []
    yield "absolute", [replace(normals[0], source="/etc/passwd")], []
    yield "newline", [replace(normals[0], source="a\nb")], []
    yield "surrogate", [replace(normals[0], source="a\udcff")], []
    yield "levels", [normals[0], replace(normals[1], saliency={}, centres={})], []
    yield "centres", [replace(normals[0], centres={4: np.ones(2), 10: np.ones(2)})], []
    nan = {level: np.array([1, np.nan], np.float32) for level in (4, 10)}
    yield "NaN", [replace(normals[0], centres=nan)], []
    yield "digest", [replace(normals[0], digest="a" * 64)], []
    yield "normal", normals, [replace(negatives[0], normal=4)]
    yield "policy", normals, [replace(negatives[0], policy="Swap")]
    yield "fallback", normals, [replace(negatives[0], fallback=len(FALLBACKS))]
    yield "repeat", normals, [replace(negatives[0], repeat=65536)]
    yield "anchors", normals, [replace(negatives[0], anchors=np.zeros((2, 4)))]
    yield "mask", normals, [replace(negatives[0], mask=negatives[0].mask.astype(np.uint8))]
    yield "negative digest", normals, [replace(negatives[0], digest="a" * 64)]
    swapped = replace(negatives[0], image=negatives[3].image, mask=negatives[3].mask)
    yield "pixels of another", normals, [swapped]
    yield "donor", normals, [negatives[2]]


@pytest.mark.parametrize("store", ["pixels", "anchors"])
@pytest.mark.parametrize(
    "name, normals, negatives", list(wrong_records()), ids=[w[0] for w in wrong_records()]
)
def test_wrong_records_are_not_written(tmp_path, path, name, normals, negatives, store):
    if name == "pixels of another" and store == "anchors":
        pytest.skip("pixels are not written there, and the edits are right")
    with pytest.raises(SetError):
        write_shard(path, normals, negatives, store=store, unit_digest=UNIT)
    assert os.listdir(tmp_path) == []


def test_edits_that_do_not_fit_are_not_written(tmp_path, path):
    normals, negatives, _ = records()
    outside = (Copy((H - 2, 0, 4, 4), (0, 0, 4, 4)),)
    for store in ("pixels", "anchors"):
        row = replace(negatives[0], edits=outside, image=None, mask=None)
        with pytest.raises((EditError, SetError)):
            write_shard(path, normals, [row], store=store, unit_digest=UNIT)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "options", [{"store": "jpeg"}, {"unit_digest": "x"}, {"environment": {"cpu": "x" * 70000}}]
)
def test_wrong_options_are_refused(tmp_path, path, options):
    with pytest.raises(SetError):
        write(path, **options)
    with pytest.raises(SetError, match="shard name"):
        write(tmp_path / "part.h5")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_what_was_there(tmp_path, path, monkeypatch, call, number):
    write(path, store="anchors")
    before = path.read_bytes()

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(manifests.atomic.os, call, fail)
    with pytest.raises(OutputError) as caught:
        write(path)
    assert ("disk is full" in str(caught.value)) == (number == errno.ENOSPC)
    assert str(path) in str(caught.value)
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_pixels_are_not_copied_on_their_way_to_the_file(path):
    normals, negatives, donors = records()
    options = {"donors": donors, "store": "pixels", "unit_digest": UNIT}
    pieces = shard_image(normals, negatives, environment={}, **options)
    views = [np.frombuffer(piece, np.uint8) for piece in pieces]
    for image in (*(row.image for row in (*normals, *negatives)), *donors.values()):
        assert sum(np.shares_memory(view, image) for view in views) == 1
    write(path)
    assert b"".join(pieces) == path.read_bytes()


def test_rows_that_lie_otherwise_in_memory_are_written_alike(tmp_path, path):
    write(path)
    normals, negatives, donors = records()
    normals = [replace(row, image=np.asfortranarray(row.image)) for row in normals]
    negatives = [
        replace(row, image=np.asfortranarray(row.image), mask=np.asfortranarray(row.mask))
        for row in negatives
    ]
    other = tmp_path / "shard-00001.h5"
    write_shard(other, normals, negatives, donors=donors, store="pixels", unit_digest=UNIT)
    assert other.read_bytes() == path.read_bytes()


def test_ctrl_c_while_a_shard_is_compared_stays_ctrl_c(tmp_path, path, monkeypatch):
    # A map that was closed by hand while its arrays were in use made it a BufferError.
    def interrupt(whole, pieces):
        raise KeyboardInterrupt

    monkeypatch.setattr(manifests.shard, "_is_equal", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert os.listdir(tmp_path) == []


def test_ctrl_c_while_a_shard_is_laid_out_stays_ctrl_c(tmp_path, path, monkeypatch):
    real, writes = SparseFile.write, []

    def interrupted(self, data):
        # Once: a second one would find the main thread anywhere, pytest's own code included.
        if not writes:
            signal.raise_signal(signal.SIGINT)
        writes.append(len(data))
        return real(self, data)

    monkeypatch.setattr(SparseFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert os.listdir(tmp_path) == [] and writes


def test_a_file_system_that_maps_no_files_will_do(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(manifests.shard.mmap, "mmap", refuse)
    entry = write(path)
    assert entry.file_sha256 == file_digest(path)


def test_bytes_the_disk_changed_are_noticed_before_the_shard_has_its_name(
    tmp_path, path, monkeypatch
):
    real = os.fsync

    def corrupt(descriptor):
        with open(f"/proc/self/fd/{descriptor}", "rb+") as file:
            file.seek(20_000)
            byte = file.read(1)
            file.seek(20_000)
            file.write(bytes([byte[0] ^ 1]))
        real(descriptor)

    monkeypatch.setattr(manifests.atomic.os, "fsync", corrupt)
    with pytest.raises(DigestError):
        write(path)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_missing_or_a_file_is_named(tmp_path):
    for folder in ("missing", "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(OutputError, match=folder):
            write(tmp_path / folder / "shard-00000.h5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path, path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="may be written"):
            write(path)
    finally:
        tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


# Structures that are refused


def put(file, name, value):
    del file[name]
    file[name] = value


def typed(file, name, dtype):
    data = file[name][:]
    del file[name]
    file.create_dataset(name, data=data.astype(dtype))


def virtual(file, name):
    shape = file[name].shape
    del file[name]
    layout = h5py.VirtualLayout(shape=shape, dtype="u1")
    layout[:] = h5py.VirtualSource("other.h5", "data", shape=shape)
    file.create_virtual_dataset(name, layout)


def external(file, name):
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, "u1", external=[("/etc/passwd", 0, int(np.prod(shape)))])


def references(file, name):
    rows = len(file[name])
    del file[name]
    file.create_dataset(name, (rows,), dtype=h5py.ref_dtype)[0] = file["normals"].ref


def strings(file, name):
    rows = len(file[name])
    del file[name]
    file.create_dataset(name, data=["swap"] * rows, dtype=h5py.string_dtype())


def filtered(file, name, **options):
    data = file[name][:]
    del file[name]
    file.create_dataset(name, data=data, chunks=(1, *data.shape[1:]), **options)


def unknown_filter(file, name):
    shape = file[name].shape
    del file[name]
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_chunk((1, *shape[1:]))
    storage.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_U8LE, space, storage).close()


def unallocated(file, name, shape, chunks=None):
    del file[name]
    file.create_dataset(name, shape, "u1", chunks=chunks)


def compact(file, name):
    data = file[name][:]
    del file[name]
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(data.shape)
    dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_U8LE, space, storage)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, data)


def chunk(file, name, data):
    file[name].id.write_direct_chunk((1, *(0,) * (file[name].ndim - 1)), data)


def value(file, name, place, new):
    file[name][place] = new


STRUCTURES = {
    "external link": (
        "a link",
        lambda f: put(f, "normals/digest", h5py.ExternalLink("o.h5", "/d")),
    ),
    "external group": ("a link", lambda f: put(f, "normals", h5py.ExternalLink("o.h5", "/"))),
    "soft link": ("a link", lambda f: put(f, "normals/digest", h5py.SoftLink("/normals/image"))),
    "dangling link": ("a link", lambda f: put(f, "normals/digest", h5py.SoftLink("/nowhere"))),
    "virtual": ("virtual", lambda f: virtual(f, "negatives/image")),
    "virtual digests": ("virtual", lambda f: virtual(f, "normals/digest")),
    "external storage": ("another file", lambda f: external(f, "normals/digest")),
    "reference": ("type", lambda f: references(f, "normals/digest")),
    "references as text": ("fixed-length", lambda f: references(f, "negatives/policy")),
    "variable strings": ("fixed-length", lambda f: strings(f, "negatives/policy")),
    "variable digests": ("type", lambda f: strings(f, "normals/digest")),
    "shuffle": ("filters", lambda f: filtered(f, "normals/image", shuffle=True)),
    "lzf": ("filters", lambda f: filtered(f, "negatives/mask", compression="lzf")),
    "two filters": (
        "filters",
        lambda f: filtered(f, "negatives/mask", compression="gzip", fletcher32=True),
    ),
    "unknown filter": ("filters", lambda f: unknown_filter(f, "normals/image")),
    "type": ("type", lambda f: typed(f, "negatives/level", ">i4")),
    "float": ("type", lambda f: typed(f, "negatives/normal", "f4")),
    "enum": ("type", lambda f: typed(f, "negatives/fallback", bool)),
    "compact": ("layout", lambda f: compact(f, "normals/digest")),
    "chunked digests": ("layout", lambda f: filtered(f, "normals/digest")),
    "huge": ("wrong shape", lambda f: unallocated(f, "normals/digest", (1 << 40, 32))),
    "huge rows": (
        "in full",
        lambda f: unallocated(f, "normals/image", (1 << 40, H, W, 3), (1, H, W, 3)),
    ),
    "huge edits": ("in full", lambda f: unallocated(f, "negatives/edits_data", (1 << 40,))),
    "not allocated": ("in full", lambda f: unallocated(f, "normals/digest", (4, 32))),
    "rows not allocated": (
        "in full",
        lambda f: unallocated(f, "negatives/image", (9, H, W, 3), (1, H, W, 3)),
    ),
    "chunked otherwise": (
        "by row",
        lambda f: unallocated(f, "normals/image", (4, H, W, 3), (2, H, W, 3)),
    ),
    "grey": ("shape", lambda f: unallocated(f, "normals/image", (4, H, W), (1, H, W))),
    "scalar": ("shape", lambda f: put(f, "negatives/normal", np.uint32(3))),
    "dataset for group": ("not a group", lambda f: put(f, "negatives", 3)),
    "group for dataset": ("not a dataset", lambda f: put(f, "normals/digest", f["saliency"])),
    "committed type": ("not a dataset", lambda f: put(f, "normals/digest", np.dtype("u1"))),
    "missing data set": ("lacks digest", lambda f: f.__delitem__("negatives/digest")),
    "missing masks": ("lacks mask", lambda f: f.__delitem__("negatives/mask")),
    "missing group": ("lacks normals", lambda f: f.__delitem__("normals")),
    "extra data set": ("unknown members", lambda f: f.__setitem__("normals/extra", 1)),
    "extra group": ("unknown members", lambda f: f.create_group("plugins")),
    "many members": ("too many", lambda f: [f.create_group(f"g{i}") for i in range(300)]),
    "level name": ("unknown members", lambda f: f.move("saliency/level_4", "saliency/level_04")),
    "cycle": ("unknown members", lambda f: f.__setitem__("saliency/level_4/self", f["saliency"])),
    "attribute": ("has attributes", lambda f: f["normals/image"].attrs.__setitem__("a", 1)),
    "root attribute": ("missing or unknown", lambda f: f.attrs.__setitem__("a", 1)),
    "no version": ("no schema_version", lambda f: f.attrs.__delitem__("schema_version")),
    "newer": ("newer cutswap", lambda f: f.attrs.modify("schema_version", np.int64(2))),
    "version zero": ("unknown schema", lambda f: f.attrs.modify("schema_version", np.int64(0))),
    "version text": ("integer", lambda f: f.attrs.__setitem__("schema_version", "1")),
    "version list": ("single", lambda f: f.attrs.__setitem__("schema_version", np.int64([1, 1]))),
    "store": ("store", lambda f: f.attrs.__setitem__("store", np.bytes_(b"zip"))),
    "store variable": ("fixed-length", lambda f: f.attrs.__setitem__("store", "pixels")),
    "store reference": (
        "fixed-length",
        lambda f: f.attrs.create("store", f["normals"].ref, dtype=h5py.ref_dtype),
    ),
    "height": ("height", lambda f: f.attrs.modify("height", np.int64(1 << 40))),
    "digest": ("digest", lambda f: f.attrs.__setitem__("unit_digest", np.bytes_(b"b" * 63))),
    "environment": ("JSON", lambda f: f.attrs.__setitem__("environment", np.bytes_(b"[" * 999))),
    "normal row": ("no normal", lambda f: value(f, "negatives/normal", 3, 4)),
    "fallback": ("fallback", lambda f: value(f, "negatives/fallback", 3, len(FALLBACKS))),
    "level": ("level", lambda f: value(f, "negatives/level", 3, -2)),
    "policy": ("policy", lambda f: value(f, "negatives/policy", 3, b"A b")),
    "policy bytes": ("damaged", lambda f: value(f, "negatives/policy", 3, b"\xff")),
    "box": ("canvas box", lambda f: value(f, "normals/canvas_box", 3, (0, 0, 2**31 - 1, 5))),
    "source": ("source", lambda f: value(f, "normals/source", 3, b"../../x")),
    "centre": ("centre", lambda f: value(f, "saliency/level_4/centre", 3, np.inf)),
    "no centre": ("centre", lambda f: value(f, "saliency/level_4/centre", 3, np.nan)),
    "repeated normal": (
        "twice",
        lambda f: value(f, "normals/digest", 3, f["normals/digest"][0]),
    ),
    "offsets fall": ("edits_offset", lambda f: value(f, "negatives/edits_offset", 2, 0)),
    "offsets beyond": ("edits_offset", lambda f: value(f, "negatives/edits_offset", 9, 1 << 63)),
    "long mask chunk": (
        "in full",
        lambda f: chunk(f, "negatives/mask", zlib.compress(bytes(1 << 24), 1)),
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_other_structures_are_refused(path, name):
    write(path)
    fragment, change = STRUCTURES[name]
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)
    with pytest.raises(SetError) as caught, Shard(path) as shard:
        shard.n_normals  # noqa: B018
    assert fragment in str(caught.value)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("data", [zlib.compress(bytes(900_000), 9), b"junk", zlib.compress(b"x")])
def test_a_mask_that_does_not_unfold_to_its_size_is_refused(path, data):
    write(path)
    with h5py.File(path, "r+") as file:
        chunk(file, "negatives/mask", data)
    with Shard(path) as shard:
        with pytest.raises(SetError, match="row 1 is damaged"):
            shard.negative_mask(1)
        assert any("negatives/mask" in str(problem) for problem in shard.problems())
        assert shard.negative_mask(0).any()


def test_hostile_edits_in_a_shard_are_refused(path):
    write(path, store="anchors")
    with h5py.File(path, "r+") as file:
        file["negatives/edits_data"][:40] = np.frombuffer(b"[" * 40, dtype=np.uint8)
    with Shard(path) as shard:
        for read in (shard.edits, shard.negative_image, shard.negative):
            with pytest.raises(SetError, match="edits of negative 0 are malformed"):
                read(0)
        assert len(list(shard.problems())) == 2  # the negative, and the content digest


def test_a_swapped_pixel_and_a_stray_mask_value_are_found(path):
    write(path)
    with h5py.File(path, "r+") as file:
        file["negatives/image"][4, 0, 0, 0] ^= 1
        mask = file["negatives/mask"][6]
        file["negatives/mask"][6] = np.where(mask == 255, 254, 0)
        file["normals/image"][3, 5, 5, 1] ^= 128
        file["saliency/level_10/map"][0, 0, 0] ^= 1
        file["donors/image"][0] = 255 - file["donors/image"][0]
        file["negatives/rejections"][8] += 1
    with Shard(path) as shard:
        found = "\n".join(map(str, shard.problems()))
    for name in (
        "normal 3",
        "a donor",
        "negative 4 as stored",
        "negative 6 as stored",
        "negative 2 as rendered",
        "content_digest",
        "saliency_digest",
    ):
        assert name in found
    assert "negative 3 as rendered" not in found  # its normal has been named
    assert "negative 4 as rendered" not in found


@pytest.mark.parametrize("data", [b"", b"x", b"\x89HDF\r\n\x1a\n" + bytes(100), b"\x89PNG" * 999])
def test_what_is_no_hdf5_is_refused(path, data):
    path.write_bytes(data)
    with pytest.raises(SetError, match="truncated, damaged or not a shard"):
        Shard(path).n_normals  # noqa: B018


def test_a_file_that_is_missing_a_folder_or_a_link_is_refused(tmp_path, path):
    write(path)
    link = tmp_path / "shard-00001.h5"
    link.symlink_to(path)
    os.mkfifo(tmp_path / "shard-00002.h5")
    for other in (link, tmp_path, tmp_path / "no.h5", tmp_path / "shard-00002.h5"):
        with pytest.raises(SetError, match="no such file"):
            Shard(other).n_normals  # noqa: B018


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_shard_is_refused(path, part):
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(SetError):
        Shard(path).n_normals  # noqa: B018
    with pytest.raises(DigestError):
        Shard(path, expected_sha256=bytes_digest(data)).n_normals  # noqa: B018


def test_flipped_bits_anywhere_are_found_and_raise_nothing_else(path):
    entry = write(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, len(good), 40).tolist(), *range(0, 2000, 70)]
    unseen = 0
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        with pytest.raises(DigestError):
            Shard(path, expected_sha256=entry.file_sha256).n_normals  # noqa: B018
        with Shard(path) as shard:
            try:
                problems = list(shard.problems())
                unseen += not problems
            except SetError:
                continue
            try:
                read_everything(shard)
            except CutswapError:
                assert problems
    # Space nobody reads is all that may change unseen without the file's digest.
    assert unseen < 0.4 * len(places)


# Several readers


def test_a_shard_can_be_pickled_and_used_after_closing(path):
    entry = write(path)
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
    write(path)
    shard = Shard(path)
    assert shard.n_normals == 4
    other = pickle.loads(pickle.dumps(shard))
    shard.close()
    write(tmp_path / "shard-00001.h5", store="anchors")
    os.replace(tmp_path / "shard-00001.h5", path)
    for reader in (shard, other):
        with pytest.raises(SetError, match="has changed"):
            reader.normal_image(0)


def test_threads_may_share_a_shard_even_while_it_is_closed(path):
    normals, negatives, _ = records()
    write(path)
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
