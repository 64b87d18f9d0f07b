"""A shard's bytes: records laid out as HDF5, the same bytes for the same records."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

import h5py
import numpy as np

from manifests.edit_codec import encode
from manifests.shard_entry import SCHEMA_VERSION
from manifests.shard_records import (
    NegativeRecord,
    NormalRecord,
    content_digest,
    saliency_digest,
)
from manifests.sparse_file import SparseFile
from manifests.strict_json import dump_json

# One fixed file format: superblock 3, readable by HDF5 1.10 and later, metadata checksummed.
_LIBVER = ("v110", "v110")
_MASK_DEFLATE_LEVEL = 1
Placed = tuple[int, memoryview]  # where in the file a row lies, and its bytes


def shard_image(
    normals: Sequence[NormalRecord],
    negatives: Sequence[NegativeRecord],
    *,
    donors: Mapping[str, np.ndarray],
    store: str,
    unit_digest: str,
    environment: Mapping[str, str],
) -> list[memoryview]:
    """The bytes of a shard file, in pieces that follow each other.

    HDF5 lays the file out in memory, so that a full disk is an OSError of a plain write and not a
    half-flushed HDF5 library. It only makes room for images: their pieces are the records' own
    arrays, which saves two copies of all pixels. Nothing depends on the time, the path or the
    process.

    Args:
        normals, negatives: checked records; the negatives carry pixels where `store` is "pixels".
        donors: the donor images to store, all of one shape.
        store: "pixels" or "anchors".
        unit_digest: digest of the unit of work this shard is the result of.
        environment: what it was built with.
    """
    height, width = normals[0].image.shape[:2]
    attributes = {
        "schema_version": np.int64(SCHEMA_VERSION),
        "height": np.int64(height),
        "width": np.int64(width),
        "store": np.bytes_(store.encode("ascii")),
        "unit_digest": np.bytes_(unit_digest.encode("ascii")),
        "content_digest": np.bytes_(content_digest(normals, negatives).encode("ascii")),
        "saliency_digest": np.bytes_(saliency_digest(normals).encode("ascii")),
        "environment": np.bytes_(dump_json(dict(environment))),
    }
    sketch, images = SparseFile(), []
    with h5py.File(sketch, "w", libver=_LIBVER) as file:
        for name, value in attributes.items():
            file.attrs.create(name, value)
        images += _write_normals(file.create_group("normals"), normals)
        if normals[0].saliency:
            _write_saliency(file.create_group("saliency"), normals)
        negative_group = file.create_group("negatives")
        _write_negatives(negative_group, negatives)
        if store == "pixels":
            images += _write_pixels(negative_group, negatives, (height, width))
        if donors:
            images += _write_donors(file.create_group("donors"), donors)
    return _pieces(sketch, images)


def _pieces(sketch: SparseFile, images: Sequence[Placed]) -> list[memoryview]:
    pieces, end = [], 0
    for offset, image in sorted(images, key=itemgetter(0)):
        if offset > end:
            pieces.append(memoryview(sketch.read_at(end, offset - end)))
        pieces.append(image)
        end = offset + len(image)
    if sketch.size > end:
        pieces.append(memoryview(sketch.read_at(end, sketch.size - end)))
    return pieces


def _write_normals(group: h5py.Group, normals: Sequence[NormalRecord]) -> list[Placed]:
    images = _place_images(group, [row.image for row in normals])
    _write(group, "digest", _digests(row.digest for row in normals))
    _write(group, "file_sha256", _digests(row.file_sha256 for row in normals))
    _write(group, "canvas_box", np.array([row.canvas_box for row in normals], dtype="<i4"))
    _write_text(group, "source", [row.source for row in normals], "utf-8")
    return images


def _write_saliency(group: h5py.Group, normals: Sequence[NormalRecord]) -> None:
    for level in sorted(normals[0].saliency):
        below = group.create_group(f"level_{level}", track_times=False)
        maps = [row.saliency[level] for row in normals]
        _write_rows(below, "map", len(maps), maps, maps[0].shape)
        count = max(len(row.centres[level]) for row in normals)
        # A map with fewer grey values than clusters has fewer centres; NaN fills the rest.
        centre = np.full((len(normals), count), np.nan, dtype="<f4")
        for index, row in enumerate(normals):
            centre[index, : len(row.centres[level])] = row.centres[level]
        _write(below, "centre", centre)


def _write_negatives(group: h5py.Group, negatives: Sequence[NegativeRecord]) -> None:
    def column(name: str, dtype: str) -> None:
        _write(group, name, np.array([getattr(row, name) for row in negatives], dtype=dtype))

    column("normal", "<u4")
    column("level", "<i4")
    column("repeat", "<u2")
    column("fallback", "u1")
    column("rejections", "<u2")
    anchors = [row.anchors for row in negatives]
    _write(group, "anchors", np.array(anchors, dtype="<i4").reshape(-1, 2, 4))
    _write(group, "digest", _digests(row.digest for row in negatives))
    _write_text(group, "policy", [row.policy for row in negatives], "ascii")
    blobs = [encode(row.edits) for row in negatives]
    _write(group, "edits_data", np.frombuffer(b"".join(blobs), dtype=np.uint8))
    _write(group, "edits_offset", np.cumsum([0, *map(len, blobs)], dtype="<u8"))


def _write_pixels(
    group: h5py.Group, negatives: Sequence[NegativeRecord], sides: tuple[int, int]
) -> list[Placed]:
    if not negatives:
        # HDF5 has no chunks in an empty data set of fixed size.
        for name, shape in (("image", (0, *sides, 3)), ("mask", (0, *sides))):
            group.create_dataset(name, shape, dtype="u1", track_times=False)
        return []
    pixels = [(row.image, row.mask) for row in negatives]
    images = _place_images(group, [image for image, _ in pixels if image is not None])
    masks = (mask.view(np.uint8) * np.uint8(255) for _, mask in pixels if mask is not None)
    _write_rows(group, "mask", len(negatives), masks, sides, deflate=True)
    return images


def _write_donors(group: h5py.Group, donors: Mapping[str, np.ndarray]) -> list[Placed]:
    names = sorted(donors)
    images = _place_images(group, [donors[name] for name in names])
    _write(group, "digest", _digests(names))
    return images


def _digests(digests: Iterable[str]) -> np.ndarray:
    raw = b"".join(bytes.fromhex(digest) for digest in digests)
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, 32)


def _write(group: h5py.Group, name: str, data: np.ndarray) -> None:
    group.create_dataset(name, data=data, track_times=False)


def _write_text(group: h5py.Group, name: str, texts: Sequence[str], encoding: str) -> None:
    encoded = [text.encode(encoding) for text in texts]
    length = max([1, *map(len, encoded)])
    kind = h5py.string_dtype(encoding, length)
    _write(group, name, np.array(encoded, dtype=f"S{length}").astype(kind))


def _write_rows(
    group: h5py.Group,
    name: str,
    count: int,
    rows: Iterable[np.ndarray],
    row_shape: tuple[int, ...],
    *,
    deflate: bool = False,
) -> None:
    """A data set of one chunk per row, so that a reader fetches exactly the row it wants."""
    dataset = group.create_dataset(
        name,
        (count, *row_shape),
        dtype="u1",
        chunks=(1, *row_shape),
        compression="gzip" if deflate else None,
        compression_opts=_MASK_DEFLATE_LEVEL if deflate else None,
        track_times=False,
    )
    rest = (0,) * len(row_shape)
    for index, row in enumerate(rows):
        data = np.ascontiguousarray(row)
        chunk = zlib.compress(data.data, _MASK_DEFLATE_LEVEL) if deflate else data
        dataset.id.write_direct_chunk((index, *rest), chunk)


def _place_images(group: h5py.Group, rows: Sequence[np.ndarray]) -> list[Placed]:
    """Has HDF5 make room for a data set `image` of one chunk per row, and puts nothing there."""
    shape = (len(rows), *rows[0].shape)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((1, *shape[1:]))
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(group.id, b"image", h5py.h5t.STD_U8LE, space, layout)
    offsets = {}
    dataset.chunk_iter(lambda chunk: offsets.update({chunk.chunk_offset[0]: chunk.byte_offset}))
    return [
        (offsets[index], np.ascontiguousarray(row).reshape(-1).data)
        for index, row in enumerate(rows)
    ]
