"""Edits as bytes: compact JSON for the shard, a canonical form for digests, and a strict parser."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Sequence

import numpy as np

from manifests.digest import bytes_digest
from manifests.edit_types import Blend, ColourShift, Copy, DonorTransform, Edit
from manifests.errors import EditError

# Bounds of one negative's record. They hold for writing too: nothing is written that is not read.
MAX_ENCODED_BYTES = 8 << 20
MAX_EDITS = 64
MAX_BLENDS = 8  # each may unfold into a mask of the whole image

_COPY_KEYS = {"kind", "src", "dst", "angle_cdeg", "colour"}
_FEATHER_KEY = "feather_px"  # only where it is not 0: records without a seam need no such field
_BLEND_KEYS = {"kind", "donor", "transform", "mask", "alpha"}
_COLOUR_KEYS = {"gain_q8", "offset"}
_TRANSFORM_KEYS = {"quarter_turns", "flip_y", "flip_x", "shift", "lut"}
_MASK_KEYS = {"shape", "bits"}


def encode(edits: Sequence[Edit]) -> bytes:
    """Edits as compact ASCII JSON with sorted keys; masks as base64 of zlib-packed bits.

    The inverse of `manifests.edits.decode`. The bytes of a mask depend on the version of zlib, so
    digests are taken over `canonical` instead.

    Raises:
        EditError: no edits, or more than a record may hold.
    """
    data = _dump([_plain(edit, _packed_mask) for edit in _checked(edits)])
    if len(data) > MAX_ENCODED_BYTES:
        raise EditError("edits are too large", expected=f"at most {MAX_ENCODED_BYTES} bytes")
    return data


def canonical(edits: Sequence[Edit]) -> bytes:
    """Edits as bytes for digests: as `encode`, but a mask is the SHA-256 of its packed bits."""
    return _dump([_plain(edit, _mask_digest) for edit in _checked(edits)])


def parse(data: bytes, height: int, width: int) -> tuple[Edit, ...]:
    """Edits from untrusted bytes, without a look at whether Copies fit the image.

    Use `manifests.edits.decode`, which also checks that.

    Raises:
        EditError: too large, not canonical JSON, unknown or missing fields, values of the wrong
            type or out of range, a mask of another size than the image or one that does not
            unfold to exactly its size.
    """
    if len(data) > MAX_ENCODED_BYTES:
        raise EditError(
            "edits are too large", expected=f"at most {MAX_ENCODED_BYTES} bytes", got=len(data)
        )
    try:
        plain = json.loads(bytes(data).decode("ascii"))
        is_canonical = _dump(plain) == data
    except (ValueError, RecursionError):
        # UnicodeDecodeError and JSONDecodeError are ValueErrors, and so is NaN in _dump.
        raise EditError("edits are not valid JSON") from None
    if not is_canonical:
        # Also refuses repeated keys, whose meaning differs between JSON readers.
        raise EditError("edits are not in the canonical form (sorted keys, no spaces)")
    if not isinstance(plain, list) or not 1 <= len(plain) <= MAX_EDITS:
        raise EditError("edits are not a list", expected=f"1..{MAX_EDITS} edits")
    kinds = [item.get("kind") if isinstance(item, dict) else None for item in plain]
    if kinds.count("blend") > MAX_BLENDS:
        raise EditError("too many blends", expected=f"at most {MAX_BLENDS}")
    return tuple(_edit(item, kind, height, width) for item, kind in zip(plain, kinds, strict=True))


def _dump(plain: object) -> bytes:
    text = json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode("ascii")


def _checked(edits: Sequence[Edit]) -> Sequence[Edit]:
    if not 1 <= len(edits) <= MAX_EDITS:
        raise EditError("wrong number of edits", expected=f"1..{MAX_EDITS}", got=len(edits))
    if sum(isinstance(edit, Blend) for edit in edits) > MAX_BLENDS:
        raise EditError("too many blends", expected=f"at most {MAX_BLENDS}")
    return edits


def _plain(edit: Edit, mask_form) -> dict:
    if isinstance(edit, Copy):
        colour = None
        if edit.colour is not None:
            colour = {"gain_q8": list(edit.colour.gain_q8), "offset": list(edit.colour.offset)}
        plain = {
            "kind": "copy",
            "src": list(edit.src),
            "dst": list(edit.dst),
            "angle_cdeg": edit.angle_cdeg,
            "colour": colour,
        }
        return plain | {_FEATHER_KEY: edit.feather_px} if edit.feather_px else plain
    if isinstance(edit, Blend):
        transform = edit.transform
        lut = transform.lut
        return {
            "kind": "blend",
            "donor": edit.donor,
            "transform": {
                "quarter_turns": transform.quarter_turns,
                "flip_y": transform.flip_y,
                "flip_x": transform.flip_x,
                "shift": list(transform.shift),
                "lut": None if lut is None else base64.b64encode(lut.tobytes()).decode("ascii"),
            },
            "mask": mask_form(edit.mask),
            "alpha": edit.alpha,
        }
    raise EditError("unknown kind of edit", expected="Copy or Blend", got=type(edit).__name__)


def _packed_mask(mask: np.ndarray) -> dict:
    packed = zlib.compress(np.packbits(mask.reshape(-1)).tobytes(), 9)
    return {"shape": list(mask.shape), "bits": base64.b64encode(packed).decode("ascii")}


def _mask_digest(mask: np.ndarray) -> dict:
    packed = np.packbits(mask.reshape(-1)).tobytes()
    return {"shape": list(mask.shape), "sha256": bytes_digest(packed)}


def _fields(item: object, keys: set[str], name: str) -> dict:
    if not isinstance(item, dict) or item.keys() != keys:
        raise EditError(f"{name} has not the fields it must have", expected=sorted(keys))
    return item


def _edit(item: object, kind: object, height: int, width: int) -> Edit:
    if kind == "copy":
        is_feathered = isinstance(item, dict) and _FEATHER_KEY in item
        item = _fields(item, _COPY_KEYS | {_FEATHER_KEY} if is_feathered else _COPY_KEYS, "copy")
        colour = item["colour"]
        if colour is not None:
            colour = ColourShift(**_fields(colour, _COLOUR_KEYS, "colour"))
        feather = item.get(_FEATHER_KEY, 0)
        copy = Copy(item["src"], item["dst"], item["angle_cdeg"], colour, feather)
        if is_feathered and copy.feather_px == 0:
            raise EditError("feather of 0 is written out", expected="no feather_px where it is 0")
        return copy
    if kind == "blend":
        item = _fields(item, _BLEND_KEYS, "blend")
        transform = _fields(item["transform"], _TRANSFORM_KEYS, "transform")
        lut = transform["lut"]
        if lut is not None:
            table = _from_base64(lut, "look-up table")
            if len(table) != 3 * 256:
                raise EditError("look-up table has the wrong size", expected=768, got=len(table))
            lut = np.frombuffer(table, dtype=np.uint8).reshape(3, 256)
        mask = _unpacked_mask(item["mask"], height, width)
        return Blend(
            item["donor"], DonorTransform(**{**transform, "lut": lut}), mask, item["alpha"]
        )
    raise EditError("unknown kind of edit", expected="copy or blend", got=repr(kind)[:40])


def _from_base64(text: object, name: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        data = None
    # Re-encoding refuses stray bits after the last byte: one value, one text.
    if data is None or base64.b64encode(data).decode("ascii") != text:
        raise EditError(f"{name} is not valid base64")
    return data


def _unpacked_mask(item: object, height: int, width: int) -> np.ndarray:
    item = _fields(item, _MASK_KEYS, "mask")
    # The size is fixed by the image before a byte is unfolded, so no record can claim memory.
    if item["shape"] != [height, width] or not all(type(side) is int for side in item["shape"]):
        raise EditError(
            "mask has not the size of the image",
            expected=[height, width],
            got=repr(item["shape"])[:80],
        )
    packed_bytes = (height * width + 7) // 8
    unfolder = zlib.decompressobj()
    try:
        packed = unfolder.decompress(_from_base64(item["bits"], "mask"), packed_bytes + 1)
    except zlib.error:
        raise EditError("mask is not valid zlib data") from None
    if len(packed) != packed_bytes or not unfolder.eof or unfolder.unused_data:
        raise EditError("mask does not unfold to its size", expected=f"{packed_bytes} bytes")
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    if bits[height * width :].any():
        raise EditError("mask has bits set behind its end")
    return bits[: height * width].reshape(height, width).astype(bool)
