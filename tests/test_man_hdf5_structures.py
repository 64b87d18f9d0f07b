"""HDF5 has more ways to store a thing than this format uses: each is refused, or harmless."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from manifests.edits import render
from manifests.errors import SetError
from manifests.shard import Shard, negative_digest, write_shard
from reference.lookup3 import seal, sealed_ranges
from reference.small_sets import H, W, read_everything, records, write_set

LIBVER = {"libver": ("v110", "v110")}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("structures") / "tiles"
    write_set(path, shards=1)
    return path / "shard-00000.h5"


@pytest.fixture
def path(original, tmp_path):
    return shutil.copy(original, tmp_path / original.name)


def created(file, name, kind, shape, prepare=None):
    """An empty data set in the place of another, with a creation list as `prepare` leaves it."""
    del file[name]
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_chunk((1, *shape[1:]))
    if prepare is not None:
        prepare(storage)
    space = h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file.id, name.encode(), kind, space, storage)


def filtered(file, number, values=(), flags=h5py.h5z.FLAG_OPTIONAL):
    created(
        file,
        "normals/image",
        h5py.h5t.STD_U8LE,
        (4, H, W, 3),
        lambda storage: storage.set_filter(number, flags, values),
    )


def typed(file, name, dtype):
    """The rows of a data set as zeros of another type."""
    rows = file[name].shape[0]
    del file[name]
    file.create_dataset(name, (rows, 32), dtype=dtype)


def committed(file, name):
    """The same values, of a type that lies in the file under a name of its own."""
    data = file[name][:]
    del file[name]
    file["kind"] = np.dtype("u1")
    file.create_dataset(name, data=data, dtype=file["kind"])


def cyclic(file, name):
    """A hard link to a group above: a walk that follows it never ends."""
    h5py.h5o.link(file["/"].id, file[name].id, b"up")


STRUCTURES = {
    "lzf": ("filters", lambda f: filtered(f, h5py.h5z.FILTER_LZF)),
    "shuffle": ("filters", lambda f: filtered(f, h5py.h5z.FILTER_SHUFFLE, (1,))),
    "fletcher32": ("filters", lambda f: filtered(f, h5py.h5z.FILTER_FLETCHER32)),
    "szip": ("filters", lambda f: filtered(f, h5py.h5z.FILTER_SZIP, (141, 16))),
    "nbit": ("filters", lambda f: filtered(f, h5py.h5z.FILTER_NBIT)),
    "scaleoffset": ("filters", lambda f: filtered(f, h5py.h5z.FILTER_SCALEOFFSET, (2, 0))),
    "unknown filter": ("filters", lambda f: filtered(f, 32015, tuple(range(200)))),
    "deflate twice": (
        "filters",
        lambda f: created(
            f, "normals/image", h5py.h5t.STD_U8LE, (4, H, W, 3),
            lambda storage: [storage.set_deflate(1), storage.set_deflate(1)],
        ),
    ),
    "compound": ("type", lambda f: typed(f, "normals/digest", [("a", "u1")])),
    "array": ("type", lambda f: typed(f, "normals/digest", np.dtype(("u1", (1,))))),
    "enum": ("type", lambda f: typed(f, "normals/digest", h5py.enum_dtype({"a": 1}, "u1"))),
    "vlen": ("type", lambda f: typed(f, "normals/digest", h5py.vlen_dtype("u1"))),
    "opaque": ("type", lambda f: typed(f, "normals/digest", np.dtype("V1"))),
    "object reference": ("type", lambda f: typed(f, "normals/digest", h5py.ref_dtype)),
    "region reference": ("type", lambda f: typed(f, "normals/digest", h5py.regionref_dtype)),
    "signed": ("type", lambda f: typed(f, "normals/digest", "i1")),
    "type in the file": ("unknown members", lambda f: committed(f, "normals/digest")),
    "cycle": ("unknown members", lambda f: cyclic(f, "normals")),
    "cycle in a level": ("unknown members", lambda f: cyclic(f, "saliency/level_4")),
    "group is its own level": (
        "lacks",
        lambda f: [f.__delitem__("saliency/level_4"),
                   f["saliency"].__setitem__("level_4", f["saliency"])],
    ),
    "unlimited": (
        "chunk",
        lambda f: [
            f.__delitem__("normals/digest"),
            f.create_dataset("normals/digest", (4, 32), "u1", maxshape=(None, 32)),
        ],
    ),
    "huge canvas": ("height is out of range", lambda f: f.attrs.modify("height", np.int64(4097))),
    "huge donors": (
        "wrong shape",
        lambda f: [
            f.__delitem__("donors/image"),
            f.create_dataset("donors/image", (1 << 30, 4096, 4096, 3), "u1",
                             chunks=(1, 4096, 4096, 3)),
        ],
    ),
    "endless donors": (
        "in full",
        lambda f: [
            f.__delitem__("donors/image"),
            f.create_dataset("donors/image", (1 << 30, H, W, 3), "u1", chunks=(1, H, W, 3)),
        ],
    ),
    "huge maps": (
        "in full",
        lambda f: [
            f.__delitem__("saliency/level_4/map"),
            f.create_dataset("saliency/level_4/map", (4, 4096, 4096), "u1",
                             chunks=(1, 4096, 4096)),
        ],
    ),
    "long strings": (
        "too long",
        lambda f: [
            f.__delitem__("normals/source"),
            f.create_dataset("normals/source", (1,), "S60000"),
        ],
    ),
    "dense attributes": (
        "missing or unknown",
        lambda f: [f.attrs.__setitem__(f"a{number}", "x" * 900) for number in range(60)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_other_structures_are_refused(path, name):
    fragment, change = STRUCTURES[name]
    with h5py.File(path, "r+", **LIBVER) as file:
        change(file)
    with pytest.raises(SetError) as caught, Shard(path) as shard:
        shard.n_normals  # noqa: B018
    text = str(caught.value)
    assert fragment in text or (name == "unlimited" and "layout" in text), text
    assert str(path) in text and len(text) < 600 and text.isprintable()


def test_the_format_itself_has_dense_attributes(original):
    """So that a file of another writer, which has fewer, is none of the exotic cases."""
    assert b"FRHP" in original.read_bytes()


def test_rows_that_share_their_bytes_are_only_equal_rows(path):
    """Two chunks in one place: no digest would agree, and nothing worse comes of it."""
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        # Our own writer lays images out in a row; another's have an index, which can be bent.
        images = file["normals/image"][...]
        del file["normals/image"]
        row = (1, *images.shape[1:])
        file.create_dataset("normals/image", data=images, chunks=row, track_times=False)
        file.flush()
        first, second = (file["normals/image"].id.get_chunk_info(row) for row in (0, 1))
    data = bytearray(path.read_bytes())
    ranges = sealed_ranges(data)
    needle, other = (place.byte_offset.to_bytes(8, "little") for place in (second, first))
    at = [i for i in range(len(data) - 8) if data[i : i + 8] == needle]
    assert at
    for place in at:
        data[place : place + 8] = other
    seal(data, ranges)
    path.write_bytes(data)
    with Shard(path) as shard:
        assert np.array_equal(shard.normal_image(0), records()[0][0].image)
        assert np.array_equal(shard.normal_image(1), shard.normal_image(0))
        found = "\n".join(map(str, shard.problems()))
        read_everything(shard)
    assert "pixels of normal 1 are not the recorded ones" in found
    assert "normal 0" not in found


def test_rows_that_share_their_bytes_rightly_are_read(path):
    """A writer that stores two equal masks once does no harm."""
    normals, negatives, _ = records()
    first = negatives[0]
    rows = []
    for row in range(2):
        image, mask = render(normals[row].image, first.edits)
        digest = negative_digest(image, mask)
        rows.append(replace(first, normal=row, image=image, mask=mask, digest=digest))
    write_shard(path, normals, rows, store="pixels", unit_digest="b" * 64)
    with h5py.File(path, "r") as file:
        places = [file["negatives/mask"].id.get_chunk_info(row) for row in range(2)]
    data = bytearray(path.read_bytes())
    ranges = sealed_ranges(data)
    at = data.find(places[1].byte_offset.to_bytes(8, "little"))
    assert at > 0 and places[0].size == places[1].size
    data[at : at + 8] = places[0].byte_offset.to_bytes(8, "little")
    seal(data, ranges)
    start = places[1].byte_offset
    data[start : start + places[1].size] = bytes(places[1].size)  # nobody needs them any more
    path.write_bytes(data)
    with Shard(path) as shard:
        assert list(shard.problems()) == []
        assert np.array_equal(shard.negative_mask(1), rows[1].mask)
