"""No trust in a shard that is read: other structures, damage, hostile edits."""

import os
import zlib

import h5py
import numpy as np
import pytest

from manifests import shard_records
from manifests.digest import array_digest, bytes_digest
from manifests.errors import CutswapError, DigestError, SetError
from manifests.schema import FALLBACKS
from manifests.shard import Shard
from reference.small_sets import H, W, read_everything, records, write_shard_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shard-00000.h5"


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


def donors(file, images, digests):
    del file["donors"]
    shape = (1, *images[0].shape)
    file.create_dataset("donors/image", data=np.stack(images), chunks=shape)
    rows = [np.frombuffer(bytes.fromhex(digest), np.uint8) for digest in digests]
    file.create_dataset("donors/digest", data=np.stack(rows))


def also_donors(file, digest):
    """One more donor, of pixels that have no digest in the file: `digest` is that of others."""
    own = file["donors/digest"][0].tobytes().hex()
    donors(file, [file["donors/image"][0], np.full((H, W, 3), 77, np.uint8)], [own, digest(file)])


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
    "repeated donor": (
        "a donor twice",
        lambda f: also_donors(f, lambda f: f["donors/digest"][0].tobytes().hex()),
    ),
    "a normal's digest": (
        "a normal as a donor",
        lambda f: also_donors(f, lambda f: f["normals/digest"][2].tobytes().hex()),
    ),
    "larger donor": (
        "donors/image has the wrong shape",
        lambda f: donors(f, [np.zeros((H, W + 1, 3), np.uint8)], ["a" * 64]),
    ),
    "no donors": (
        "no rows",
        lambda f: [
            put(f, "donors/image", np.zeros((0, H, W, 3), np.uint8)),
            put(f, "donors/digest", np.zeros((0, 32), np.uint8)),
        ],
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
    write_shard_of(path)
    fragment, change = STRUCTURES[name]
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)
    with pytest.raises(SetError) as caught, Shard(path) as shard:
        shard.n_normals  # noqa: B018
    assert fragment in str(caught.value)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600


def test_more_donors_than_a_shard_may_have_are_refused(path, monkeypatch):
    write_shard_of(path)
    for room, is_refused in ((H * W * 3, False), (H * W * 3 - 1, True)):
        monkeypatch.setattr(shard_records, "MAX_DONOR_BYTES", room)
        with Shard(path) as shard:
            if not is_refused:
                assert len(shard.index.donor_digests) == 1
                continue
            with pytest.raises(SetError, match=r"too many donor images.*at most 0 of 32x44 px"):
                shard.n_normals  # noqa: B018


@pytest.mark.parametrize("pixels", [True, False])
def test_donors_that_nobody_needs_or_has_are_found_without_pixels_too(path, pixels):
    """No digest that is published covers which donors are there."""
    write_shard_of(path)
    own = next(iter(records()[2]))
    spare = np.full((H, W, 3), 77, np.uint8)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        images = [file["donors/image"][0], spare]
        donors(file, images, [own, array_digest(spare)])
    with Shard(path) as shard:
        (problem,) = shard.problems(pixels=pixels)
    assert problem.what == "has 1 donor image that no negative needs"
    assert problem.got == array_digest(spare)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        donors(file, [spare], [array_digest(spare)])
    with Shard(path) as shard:
        found = {problem.what: problem.got for problem in shard.problems(pixels=pixels)}
    assert found["has 1 donor image too few"] == own
    assert found["has 1 donor image that no negative needs"] == array_digest(spare)


@pytest.mark.parametrize("data", [zlib.compress(bytes(900_000), 9), b"junk", zlib.compress(b"x")])
def test_a_mask_that_does_not_unfold_to_its_size_is_refused(path, data):
    write_shard_of(path)
    with h5py.File(path, "r+") as file:
        chunk(file, "negatives/mask", data)
    with Shard(path) as shard:
        with pytest.raises(SetError, match="row 1 is damaged"):
            shard.negative_mask(1)
        assert any("negatives/mask" in str(problem) for problem in shard.problems())
        assert shard.negative_mask(0).any()


def test_hostile_edits_in_a_shard_are_refused(path):
    write_shard_of(path, store="anchors")
    with h5py.File(path, "r+") as file:
        file["negatives/edits_data"][:40] = np.frombuffer(b"[" * 40, dtype=np.uint8)
    with Shard(path) as shard:
        for read in (shard.edits, shard.negative_image, shard.negative):
            with pytest.raises(SetError, match="edits of negative 0 are malformed"):
                read(0)
        assert len(list(shard.problems())) == 2  # the negative, and the content digest


def test_a_swapped_pixel_and_a_stray_mask_value_are_found(path):
    write_shard_of(path)
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
    write_shard_of(path)
    link = tmp_path / "shard-00001.h5"
    link.symlink_to(path)
    os.mkfifo(tmp_path / "shard-00002.h5")
    for other in (link, tmp_path, tmp_path / "no.h5", tmp_path / "shard-00002.h5"):
        with pytest.raises(SetError, match="no such file"):
            Shard(other).n_normals  # noqa: B018


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_shard_is_refused(path, part):
    write_shard_of(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(SetError):
        Shard(path).n_normals  # noqa: B018
    with pytest.raises(DigestError):
        Shard(path, expected_sha256=bytes_digest(data)).n_normals  # noqa: B018


def test_flipped_bits_anywhere_are_found_and_raise_nothing_else(path):
    entry = write_shard_of(path)
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
