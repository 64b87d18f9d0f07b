"""Edits as bytes: compact JSON for the shard, a canonical form for digests, and a strict parser."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from manifests.digest import bytes_digest
from manifests.edit_rows import EDITS, MAX_EDITS, BlendRow, CopyRow, MaskRow
from manifests.edit_types import Blend, ColourShift, Copy, DonorTransform, Edit
from manifests.errors import EditError
from manifests.strict_json import typed_problem

# Bounds of one negative's record. They hold for writing too: nothing is written that is not read.
MAX_ENCODED_BYTES = 8 << 20
MAX_BLENDS = 8  # each may unfold into a mask of the whole image

_FEATHER_KEY = "feather_px"  # only where it is not 0: records without a seam need no such field


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
    data = bytes(data)
    try:
        rows = EDITS.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise EditError(typed_problem(error, "edit")) from None
    # Also refuses repeated keys, whose meaning differs between JSON readers.
    if msgspec.json.encode(rows, order="sorted") != data:
        raise EditError(
            "edits are not in the canonical form",
            expected="sorted keys, no spaces, no feather_px where it is 0",
        )
    if sum(isinstance(row, BlendRow) for row in rows) > MAX_BLENDS:
        raise EditError("too many blends", expected=f"at most {MAX_BLENDS}")
    return tuple(
        _copy(row) if isinstance(row, CopyRow) else _blend(row, height, width) for row in rows
    )


def _dump(plain: object) -> bytes:
    # All texts in it are ASCII and all numbers integers, which every JSON writer gives alike.
    return msgspec.json.encode(plain, order="sorted")


def _checked(edits: Sequence[Edit]) -> Sequence[Edit]:
    if not 1 <= len(edits) <= MAX_EDITS:
        raise EditError("wrong number of edits", expected=f"1..{MAX_EDITS}", got=len(edits))
    if sum(isinstance(edit, Blend) for edit in edits) > MAX_BLENDS:
        raise EditError("too many blends", expected=f"at most {MAX_BLENDS}")
    return edits


def _plain(edit: Edit, mask_form: Callable[[np.ndarray], dict]) -> dict:
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


def _copy(row: CopyRow) -> Copy:
    colour = None if row.colour is None else ColourShift(row.colour.gain_q8, row.colour.offset)
    return Copy(row.src, row.dst, row.angle_cdeg, colour, row.feather_px)


def _blend(row: BlendRow, height: int, width: int) -> Blend:
    plain = row.transform
    lut = None
    if plain.lut is not None:
        table = _from_base64(plain.lut, "look-up table")
        if len(table) != 3 * 256:
            raise EditError("look-up table has the wrong size", expected=768, got=len(table))
        lut = np.frombuffer(table, dtype=np.uint8).reshape(3, 256)
    transform = DonorTransform(plain.quarter_turns, plain.flip_y, plain.flip_x, plain.shift, lut)
    return Blend(row.donor, transform, _unpacked_mask(row.mask, height, width), row.alpha)


def _from_base64(text: str, name: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = None
    # Re-encoding refuses stray bits after the last byte: one value, one text.
    if data is None or base64.b64encode(data).decode("ascii") != text:
        raise EditError(f"{name} is not valid base64")
    return data


def _unpacked_mask(row: MaskRow, height: int, width: int) -> np.ndarray:
    # The size is fixed by the image before a byte is unfolded, so no record can claim memory.
    if row.shape != (height, width):
        raise EditError(
            "mask has not the size of the image", expected=[height, width], got=list(row.shape)
        )
    packed_bytes = (height * width + 7) // 8
    unfolder = zlib.decompressobj()
    try:
        packed = unfolder.decompress(_from_base64(row.bits, "mask"), packed_bytes + 1)
    except zlib.error:
        raise EditError("mask is not valid zlib data") from None
    if len(packed) != packed_bytes or not unfolder.eof or unfolder.unused_data:
        raise EditError("mask does not unfold to its size", expected=f"{packed_bytes} bytes")
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    if bits[height * width :].any():
        raise EditError("mask has bits set behind its end")
    return bits[: height * width].reshape(height, width).astype(bool)
