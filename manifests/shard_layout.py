"""What a shard file must look like: its groups, data sets, types, shapes and values."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np

from manifests.errors import SetError
from manifests.shard_entry import STORES, check_version, is_digest
from manifests.shard_hdf5 import StrictFile
from manifests.shard_index import (
    ReadAt,
    Rows,
    ShardIndex,
    check_boxes,
    check_centres,
    check_negatives,
)
from manifests.shard_records import (
    MAX_LEVELS,
    MAX_SIDE_PX,
    MAX_SOURCE_BYTES,
    check_donor_room,
    check_source,
)
from manifests.strict_json import load_json

_MAX_ENVIRONMENT_BYTES = 32 << 10
_NORMALS = {"image", "digest", "file_sha256", "canvas_box", "source"}
_NEGATIVES = {
    "normal",
    "policy",
    "level",
    "repeat",
    "anchors",
    "edits_data",
    "edits_offset",
    "fallback",
    "rejections",
    "digest",
}
_ATTRIBUTES = {
    "schema_version": None,
    "height": None,
    "width": None,
    "store": 16,
    "unit_digest": 64,
    "content_digest": 64,
    "saliency_digest": 64,
    "environment": _MAX_ENVIRONMENT_BYTES,
}


def read_index(path: Path, file_bytes: int, read_at: ReadAt) -> ShardIndex:
    """The index of a shard file, after its whole structure has been compared with the format.

    Args:
        path: the file, for HDF5 to open.
        file_bytes: its size.
        read_at: reads from the same file.

    Raises:
        SetError: not HDF5, a newer schema, a part missing, unknown, of the wrong type or shape,
            stored in a way this format does not use, or with values out of range.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _Structure(file, file_bytes, read_at).index()
    except SetError as error:
        raise SetError(
            error.what, path=path, expected=error.expected, got=error.got, hint=error.hint
        ) from None
    except (
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        # Everything h5py makes of damaged bytes: it names no reason a user could act on.
        raise SetError(
            f"is truncated, damaged or not a shard ({' '.join(str(error).split())[:160]})",
            path=path,
            hint="fetch or build it again",
        ) from None


class _Structure(StrictFile):
    """The walk through one open file."""

    def index(self) -> ShardIndex:
        head = self._attributes()
        height, width, store = head["height"], head["width"], head["store"]
        optional = {"saliency", "donors"}
        groups = self.children(self.file, {"normals", "negatives"}, optional, h5py.Group)

        normals = self.children(groups["normals"], _NORMALS, set(), h5py.Dataset)
        images = self.rows(normals["image"], (height, width, 3))
        n = len(images.offset)
        if n < 1:
            raise SetError("holds no normals")
        normal_digests = self.digests(normals["digest"], n)
        if len(set(normal_digests)) != n:
            raise SetError("holds a normal twice")
        boxes = self.array(normals["canvas_box"], "<i4", (n, 4))
        check_boxes(boxes, height, width)
        sources = self.texts(normals["source"], n, "utf-8", MAX_SOURCE_BYTES)
        for source in sources:
            check_source(source)

        maps: dict[int, Rows] = {}
        centres: dict[int, np.ndarray] = {}
        if "saliency" in groups:
            maps, centres = self._saliency(groups["saliency"], n)

        wanted = _NEGATIVES | ({"image", "mask"} if store == "pixels" else set())
        negatives = self.children(groups["negatives"], wanted, set(), h5py.Dataset)
        r = self.length(negatives["normal"])
        offset = self.array(negatives["edits_offset"], "<u8", (r + 1,))
        data = self.array(negatives["edits_data"], "u1", (self.length(negatives["edits_data"]),))
        columns = {
            "normal": self.array(negatives["normal"], "<u4", (r,)),
            "level": self.array(negatives["level"], "<i4", (r,)),
            "repeat": self.array(negatives["repeat"], "<u2", (r,)),
            "anchors": self.array(negatives["anchors"], "<i4", (r, 2, 4)),
            "fallback": self.array(negatives["fallback"], "u1", (r,)),
            "rejections": self.array(negatives["rejections"], "<u2", (r,)),
        }
        policies = self.texts(negatives["policy"], r, "ascii", 32)
        check_negatives(columns, policies, offset, len(data), n)

        donor_digests, donor_images = [], None
        if "donors" in groups:
            donors = self.children(groups["donors"], {"image", "digest"}, set(), h5py.Dataset)
            donor_images = self.rows(donors["image"], (height, width, 3))
            count = len(donor_images.offset)
            if count < 1:
                raise SetError("donors/image has no rows")
            check_donor_room(count, height, width)
            donor_digests = self.digests(donors["digest"], count)
            if len(set(donor_digests)) != count:
                raise SetError("holds a donor twice")
            # Nobody would read the second image of a digest, and so nobody compare it.
            if not set(donor_digests).isdisjoint(normal_digests):
                raise SetError("holds a normal as a donor, too")
        is_pixels = store == "pixels"
        return ShardIndex(
            **head,
            normal_digests=normal_digests,
            sources=sources,
            file_digests=self.digests(normals["file_sha256"], n),
            canvas_boxes=boxes,
            images=images,
            maps=maps,
            centres=centres,
            policies=policies,
            normal=columns["normal"],
            level=columns["level"],
            repeat=columns["repeat"],
            anchors=columns["anchors"],
            fallback=columns["fallback"],
            rejections=columns["rejections"],
            negative_digests=self.digests(negatives["digest"], r),
            edits_data=data.tobytes(),
            edits_offset=offset.astype(np.int64),
            negative_images=self.rows(negatives["image"], (height, width, 3), r)
            if is_pixels
            else None,
            negative_masks=self.rows(negatives["mask"], (height, width), r) if is_pixels else None,
            donor_digests=donor_digests,
            donor_images=donor_images,
        )

    def _attributes(self) -> dict:
        attributes = self.file.attrs
        if "schema_version" not in attributes:
            raise SetError("is not a cutswap shard (no schema_version)")
        # First, so that a newer format is named as such and not by its first unknown part.
        version = self.integer("schema_version")
        check_version(version)
        if set(attributes) != set(_ATTRIBUTES):
            odd = sorted(set(attributes) ^ set(_ATTRIBUTES))
            raise SetError("attributes are missing or unknown", got=ascii(odd)[:120])
        head: dict = {
            name: self.integer(name) if limit is None else self.text(name, limit)
            for name, limit in _ATTRIBUTES.items()
            if name != "schema_version"
        }
        for name in ("height", "width"):
            if not 1 <= head[name] <= MAX_SIDE_PX:
                raise SetError(f"{name} is out of range", got=head[name])
        if head["store"] not in STORES:
            raise SetError("store is unknown", expected=STORES, got=ascii(head["store"]))
        for name in ("unit_digest", "content_digest", "saliency_digest"):
            if not is_digest(head[name]):
                raise SetError(f"{name} is not a digest")
        environment = load_json(head["environment"].encode(), max_bytes=_MAX_ENVIRONMENT_BYTES)
        if not isinstance(environment, dict) or not all(
            isinstance(value, str) for value in environment.values()
        ):
            raise SetError("environment is malformed")
        head["environment"] = environment
        return head

    def _saliency(self, group: h5py.Group, n: int) -> tuple[dict, dict]:
        names = {name for name in group if re.fullmatch(r"level_(0|[1-9][0-9]{0,3})", name)}
        levels = self.children(group, names, set(), h5py.Group)
        if not 1 <= len(levels) <= MAX_LEVELS:
            raise SetError("has the wrong number of saliency levels", got=len(levels))
        maps, centres = {}, {}
        for name in sorted(levels, key=lambda name: int(name[6:])):
            parts = self.children(levels[name], {"map", "centre"}, set(), h5py.Dataset)
            shape, level = parts["map"].shape, int(name[6:])
            if len(shape) != 3 or not all(1 <= side <= MAX_SIDE_PX for side in shape[1:]):
                raise SetError(f"{parts['map'].name} has the wrong shape", got=shape)
            maps[level] = self.rows(parts["map"], shape[1:], n)
            shape = parts["centre"].shape
            if len(shape) != 2 or not 1 <= shape[1] <= 256:
                raise SetError(f"{parts['centre'].name} has the wrong shape", got=shape)
            centres[level] = self.array(parts["centre"], "<f4", (n, shape[1]))
            check_centres(centres[level], name)
        return maps, centres
