"""Writing a shard: wrong records, failing disks, Ctrl-C, and no copy on the way."""

import errno
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

import manifests.atomic
import manifests.shard
from manifests import shard_records
from manifests.digest import array_digest, file_digest
from manifests.edits import Copy, render
from manifests.errors import DigestError, EditError, OutputError, SetError
from manifests.schema import FALLBACKS
from manifests.shard import negative_digest, write_shard
from manifests.shard_image import shard_image
from manifests.sparse_file import SparseFile
from reference.small_sets import UNIT, H, W, records, write_shard_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shard-00000.h5"


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


def test_donors_of_another_size_or_too_many_are_not_written(tmp_path, path, monkeypatch):
    normals, negatives, donors = records()
    other = np.zeros((H, W + 1, 3), np.uint8)
    edits = (replace(negatives[2].edits[0], donor=array_digest(other)),)
    image, mask = render(normals[2].image, edits, {array_digest(other): other})
    row = replace(
        negatives[2], edits=edits, image=image, mask=mask, digest=negative_digest(image, mask)
    )
    options = {"store": "pixels", "unit_digest": UNIT}
    with pytest.raises(SetError, match=r"donor image has the wrong.*\(32, 44, 3\)"):
        write_shard(path, normals, [row], donors={array_digest(other): other}, **options)
    monkeypatch.setattr(shard_records, "MAX_DONOR_BYTES", H * W * 3 - 1)
    with pytest.raises(SetError, match="too many donor images"):
        write_shard(path, normals, negatives, donors=donors, **options)
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
        write_shard_of(path, **options)
    with pytest.raises(SetError, match="shard name"):
        write_shard_of(tmp_path / "part.h5")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_what_was_there(tmp_path, path, monkeypatch, call, number):
    write_shard_of(path, store="anchors")
    before = path.read_bytes()

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(manifests.atomic.os, call, fail)
    with pytest.raises(OutputError) as caught:
        write_shard_of(path)
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
    write_shard_of(path)
    assert b"".join(pieces) == path.read_bytes()


def test_rows_that_lie_otherwise_in_memory_are_written_alike(tmp_path, path):
    write_shard_of(path)
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
        write_shard_of(path)
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
        write_shard_of(path)
    assert os.listdir(tmp_path) == [] and writes


def test_a_file_system_that_maps_no_files_will_do(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(manifests.shard.mmap, "mmap", refuse)
    entry = write_shard_of(path)
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
        write_shard_of(path)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_missing_or_a_file_is_named(tmp_path):
    for folder in ("missing", "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(OutputError, match=folder):
            write_shard_of(tmp_path / folder / "shard-00000.h5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path, path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="may be written"):
            write_shard_of(path)
    finally:
        tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []
