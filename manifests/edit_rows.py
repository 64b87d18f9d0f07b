"""The JSON of edits as types: what a decoder accepts before a single edit is made."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

MAX_EDITS = 64

_Box = tuple[int, int, int, int]
_Triple = tuple[int, int, int]


class ColourRow(Struct, forbid_unknown_fields=True):
    """A `ColourShift`."""

    gain_q8: _Triple
    offset: _Triple


class CopyRow(Struct, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="copy"):
    """A `Copy`. The seam is only written where there is one, so records without need no field."""

    angle_cdeg: int
    colour: ColourRow | None
    dst: _Box
    src: _Box
    feather_px: int = 0


class TransformRow(Struct, forbid_unknown_fields=True):
    """A `DonorTransform`; `lut` is base64."""

    flip_x: bool
    flip_y: bool
    lut: str | None
    quarter_turns: int
    shift: tuple[int, int]


class MaskRow(Struct, forbid_unknown_fields=True):
    """A mask; `bits` is base64 of a zlib stream."""

    bits: str
    shape: tuple[int, int]


class BlendRow(Struct, forbid_unknown_fields=True, tag_field="kind", tag="blend"):
    """A `Blend`."""

    alpha: int
    donor: str
    mask: MaskRow
    transform: TransformRow


EDITS = msgspec.json.Decoder(
    Annotated[list[CopyRow | BlendRow], Meta(min_length=1, max_length=MAX_EDITS)]
)
