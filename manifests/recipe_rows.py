"""The rows of a recipe: a shard's normals and negatives without their pixels, and donors."""

from __future__ import annotations

import base64
import binascii
import sys
import zlib
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct

from manifests.digest import array_digest, bytes_digest
from manifests.edit_rows import MAX_EDITS, BlendRow, CopyRow
from manifests.edit_types import ANGLE_LIMIT_CDEG, FEATHER_LIMIT_PX
from manifests.edits import Box, ColourShift, Edit, canonical, decode, encode
from manifests.errors import EditError, SetError
from manifests.shard_entry import is_digest, is_shard_name, require
from manifests.shard_records import (
    NegativeRecord,
    check_negative_values,
    check_normal_values,
    donors_of,
)
from manifests.strict_json import dump_json, dump_typed, load_json, load_typed, typed_problem

_Int32 = Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)]
_Int32Box = tuple[_Int32, _Int32, _Int32, _Int32]
_NO_DONORS: frozenset[str] = frozenset()
_EDITS_AT = "`$[6]"  # in what msgspec says of a negative


class _NormalRow(Struct, array_like=True, forbid_unknown_fields=True, tag="normal"):
    digest: str
    source: str
    file_sha256: str
    canvas_box: _Int32Box


class _NegativeRow(Struct, array_like=True, forbid_unknown_fields=True, tag="negative"):
    normal: int
    policy: str
    level: int
    repeat: int
    anchors: tuple[_Int32Box, _Int32Box]
    edits: Annotated[list[CopyRow | BlendRow], Meta(min_length=1, max_length=MAX_EDITS)]
    fallback: int
    rejections: int
    digest: str


_NORMAL = msgspec.json.Decoder(_NormalRow)
_NEGATIVE = msgspec.json.Decoder(_NegativeRow)
_ENCODER = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class RecipeNormal:
    """A normal image of a recipe: what to look for, and what it must become.

    Attributes:
        digest: array digest of the image on the set's canvas.
        source, file_sha256: path and SHA-256 of the file it was read from.
        canvas_box: part of the canvas that the source covers.
    """

    digest: str
    source: str
    file_sha256: str
    canvas_box: Box


@dataclass(frozen=True, slots=True)
class RecipeNegative:
    """A negative of a recipe; fields as those of `manifests.shard.NegativeRecord`.

    Attributes:
        normal: row of its normal in the same shard.
        anchors: two boxes, -1 where unused.
        edits_json: its edits, as `manifests.edits.encode` gives them.
        donors: digests of the donor images they need.
        masked_digest: SHA-256 of the edits' canonical form where it is not `edits_json`.
    """

    normal: int
    policy: str
    level: int
    repeat: int
    anchors: tuple[Box, Box]
    edits_json: bytes = field(repr=False)
    fallback: int
    rejections: int
    digest: str
    donors: frozenset[str]
    masked_digest: str | None

    @property
    def edits_digest(self) -> str:
        """SHA-256 of the edits' canonical form."""
        return self.masked_digest or bytes_digest(self.edits_json)

    def edits(self, height: int, width: int) -> tuple[Edit, ...]:
        """The edits, for images of the recipe's canvas."""
        return decode(self.edits_json, height, width)


@dataclass(frozen=True, slots=True)
class RecipeDonor:
    """A donor image that travels with a recipe, because it is none of the set's normals.

    Attributes:
        digest: its array digest.
        height, width: in pixels.
        folded: its pixels, (height, width, 3) uint8 RGB in C order, as a zlib stream.
    """

    digest: str
    height: int
    width: int
    folded: bytes = field(repr=False)

    def image(self) -> np.ndarray:
        """The donor, (height, width, 3) uint8. Raises SetError, DigestError has the caller."""
        size = self.height * self.width * 3
        unfolder = zlib.decompressobj()
        try:
            pixels = unfolder.decompress(self.folded, size + 1)
        except zlib.error as error:
            raise SetError(f"donor image is damaged ({error})") from None
        is_whole = unfolder.eof and not unfolder.unused_data
        require(is_whole and len(pixels) == size, "donor image has the wrong size")
        return np.frombuffer(pixels, dtype=np.uint8).reshape(self.height, self.width, 3)


def shard_line(name: str) -> bytes:
    """The line that begins a shard's rows."""
    return dump_json(["shard", name])


def negative_row(record: NegativeRecord) -> bytes:
    """A negative's line."""
    anchors = dump_json(np.asarray(record.anchors).tolist()).decode("ascii")
    return (
        f'["negative",{record.normal},"{record.policy}",{record.level},{record.repeat},{anchors},'
        f"{encode(record.edits).decode('ascii')},"
        f'{record.fallback},{record.rejections},"{record.digest}"]'
    ).encode("ascii")


def donor_line(image: np.ndarray) -> bytes:
    """A donor's line; image (H, W, 3) uint8."""
    folded = zlib.compress(np.ascontiguousarray(image).tobytes(), 9)
    text = base64.b64encode(folded).decode("ascii")
    return dump_json(["donor", array_digest(image), list(image.shape), text])


def parse_shard(line: bytes) -> str:
    """The name of the shard that begins. Raises SetError."""
    row = _fields(line, "shard", 2)
    require(is_shard_name(row[1]), "shard name is malformed")
    return str(row[1])


def parse_normal(line: bytes, height: int, width: int) -> RecipeNormal:
    """A normal of a recipe for a canvas of `height` and `width`.

    Its line is also its line in the content digest.

    Raises:
        SetError: malformed, or a value out of range.
    """
    row = load_typed(line, _NORMAL, name="normal")
    require(dump_typed(row) == line, "normal is not in the canonical form")
    check_normal_values(row, height, width)
    return RecipeNormal(row.digest, row.source, row.file_sha256, row.canvas_box)


def parse_negative(line: bytes, n_normals: int, height: int, width: int) -> RecipeNegative:
    """A negative of a shard with `n_normals`, its edits checked to fit the canvas.

    Raises:
        SetError: malformed, or a value out of range.
    """
    try:
        row = _NEGATIVE.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        where = "edits are malformed: " if _EDITS_AT in str(error) else ""
        raise SetError(where + typed_problem(error, "negative"), got=_start(line)) from None
    if _ENCODER.encode(row) != line:
        raise SetError("negative is not in the canonical form", got=_start(line))
    check_negative_values(row, n_normals)
    start, end = _edits_span(line)
    edits_json = line[start:end]
    donors, masked_digest = _NO_DONORS, None
    try:
        if not all(_is_within(edit, height, width) for edit in row.edits):
            edits = decode(edits_json, height, width)
            donors = frozenset(donors_of(edits))
            # The two forms differ in the masks of blends, and nothing else has donors.
            masked_digest = bytes_digest(canonical(edits)) if donors else None
    except EditError as error:
        raise SetError(
            f"edits are malformed: {error.what}", expected=error.expected, got=error.got
        ) from None
    return RecipeNegative(
        normal=row.normal,
        policy=sys.intern(row.policy),
        level=row.level,
        repeat=row.repeat,
        anchors=row.anchors,
        edits_json=edits_json,
        fallback=row.fallback,
        rejections=row.rejections,
        digest=row.digest,
        donors=donors,
        masked_digest=masked_digest,
    )


def content_line(line: bytes, row: RecipeNegative, normal_digest: str) -> bytes:
    """The line in the content digest of a negative that was parsed from `line`.

    It is that of the recipe with digests in place of the normal's row and of the edits.
    """
    start, end = _edits_span(line)
    values = line[len(f'["negative",{row.normal},') : start]
    return b'["negative","%s",%s"%s"%s' % (
        normal_digest.encode("ascii"), values, row.edits_digest.encode("ascii"), line[end:],
    )  # fmt: skip


def parse_donor(line: bytes, height: int, width: int) -> RecipeDonor:
    """A donor for a canvas of `height` and `width`, unfolded once and compared with its digest.

    Raises:
        SetError: malformed, of another size, or with other pixels than those of its digest.
    """
    _, digest, shape, text = _fields(line, "donor", 4)
    require(is_digest(digest), "donor digest is malformed")
    canvas = [height, width, 3]
    if shape != canvas or any(type(side) is not int for side in shape):
        raise SetError("donor is not of the canvas' size", expected=canvas, got=_shown(shape))
    try:
        folded = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        folded = None
    # Encoded again, so that stray bits behind the last byte are refused: one value, one text.
    if folded is None or base64.b64encode(folded).decode("ascii") != text:
        raise SetError("donor pixels are not valid base64")
    donor = RecipeDonor(digest, height, width, folded)
    require(array_digest(donor.image()) == digest, "donor pixels are not those of its digest")
    return donor


def _fields(line: bytes, kind: str, count: int) -> list:
    """The items of a JSON array that begins with `kind`. Raises SetError."""
    row = load_json(line, max_bytes=len(line))
    if not (isinstance(row, list) and len(row) == count and row[0] == kind):
        raise SetError(f"is not a {kind}", expected=f"a list of {count}, the first '{kind}'")
    require(dump_json(row) == line, f"{kind} is not in the canonical form")
    return row


def _edits_span(line: bytes) -> tuple[int, int]:
    """Where the edits stand in a negative's line: behind the anchors, before the fallback."""
    return line.index(b"]],") + 3, line.rindex(b"],") + 1


def _is_within(edit: CopyRow | BlendRow, height: int, width: int) -> bool:
    """Whether an edit is beyond doubt: a copy within the canvas, as nearly all are.

    Others are decoded in full, which takes ten times as long and says what is wrong with them.
    Raises EditError for a colour out of range.
    """
    if not isinstance(edit, CopyRow):
        return False
    y, x, h, w = edit.src
    to_y, to_x, *size = edit.dst
    if edit.colour is not None:
        ColourShift(edit.colour.gain_q8, edit.colour.offset)
    return (
        size == [h, w]
        and min(h, w) > 0
        and min(y, x, to_y, to_x) >= 0
        and max(y, to_y) + h <= height
        and max(x, to_x) + w <= width
        and -ANGLE_LIMIT_CDEG <= edit.angle_cdeg <= ANGLE_LIMIT_CDEG
        and 0 <= edit.feather_px <= FEATHER_LIMIT_PX
    )


def _shown(value: object) -> str:
    return ascii(value)[:60]


def _start(line: bytes) -> str:
    return ascii(line[:60].decode("ascii", errors="replace"))
