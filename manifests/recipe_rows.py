"""The rows of a recipe: a shard's normals and negatives without their pixels, and donors."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass, field

import numpy as np

from manifests.digest import array_digest, bytes_digest
from manifests.edits import Box, Edit, canonical, decode, encode
from manifests.errors import EditError, SetError
from manifests.shard_entry import is_digest, is_shard_name, require
from manifests.shard_records import (
    MAX_SIDE_PX,
    NegativeRecord,
    check_negative_values,
    check_normal_values,
    donors_of,
)
from manifests.strict_json import dump_json, load_json

# Rows have one text each, so a pattern is a whole parser; what it lets through is then checked.
_NUMBER = rb"(0|-?[1-9][0-9]{0,9})"
_BOX = rb"\[" + rb",".join([_NUMBER] * 4) + rb"\]"
_NEGATIVE = re.compile(
    rb'\["negative",%(n)s,"([a-z0-9-]{1,32})",%(n)s,%(n)s,\[%(box)s,%(box)s\],(\[.*\]),%(n)s,%(n)s,'
    rb'"([0-9a-f]{64})"\]' % {b"n": _NUMBER, b"box": _BOX}
)
_INT32 = range(-(1 << 31), 1 << 31)


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
        edits_digest: SHA-256 of the edits' canonical form.
        donors: digests of the donor images they need.
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
    edits_digest: str
    donors: frozenset[str]

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
    return row[1]


def parse_normal(line: bytes, height: int, width: int) -> RecipeNormal:
    """A normal of a recipe for a canvas of `height` and `width`. Raises SetError."""
    _, digest, source, file_sha256, box = _fields(line, "normal", 5)
    require(isinstance(source, str), "source is not text")
    is_box = isinstance(box, list) and len(box) == 4 and all(type(side) is int for side in box)
    require(is_box, "canvas box is not four integers")
    row = RecipeNormal(digest, source, file_sha256, tuple(box))
    check_normal_values(row, height, width)
    return row


def parse_negative(line: bytes, n_normals: int, height: int, width: int) -> RecipeNegative:
    """A negative of a shard with `n_normals`, its edits checked to fit the canvas.

    Raises:
        SetError: malformed, or a value out of range.
    """
    match = _NEGATIVE.fullmatch(line)
    if match is None:
        raise SetError("is not a negative in the canonical form", got=ascii(line[:60].decode()))
    normal, level, repeat = (int(match[group]) for group in (1, 3, 4))
    sides = [int(match[group]) for group in range(5, 13)]
    require(all(side in _INT32 for side in sides), "anchors are out of range")
    edits_json = match[13]
    try:
        edits = decode(edits_json, height, width)
        donors = frozenset(donors_of(edits))
        # The two forms differ in the masks of blends, and nothing else has donors.
        edits_digest = bytes_digest(canonical(edits) if donors else edits_json)
    except EditError as error:
        raise SetError(
            f"edits are malformed: {error.what}", expected=error.expected, got=error.got
        ) from None
    row = RecipeNegative(
        normal=normal,
        policy=match[2].decode("ascii"),
        level=level,
        repeat=repeat,
        anchors=(tuple(sides[:4]), tuple(sides[4:])),
        edits_json=edits_json,
        fallback=int(match[14]),
        rejections=int(match[15]),
        digest=match[16].decode("ascii"),
        edits_digest=edits_digest,
        donors=donors,
    )
    check_negative_values(row, n_normals)
    return row


def parse_donor(line: bytes) -> RecipeDonor:
    """A donor, its pixels unfolded once and compared with its digest. Raises SetError."""
    _, digest, shape, text = _fields(line, "donor", 4)
    require(is_digest(digest), "donor digest is malformed")
    is_shape = (
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(side) is int and 1 <= side <= MAX_SIDE_PX for side in shape)
        and shape[2] == 3
    )
    require(is_shape, "donor shape is malformed")
    try:
        folded = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        folded = None
    # Encoded again, so that stray bits behind the last byte are refused: one value, one text.
    is_base64 = folded is not None and base64.b64encode(folded).decode("ascii") == text
    require(is_base64, "donor pixels are not valid base64")
    donor = RecipeDonor(digest, shape[0], shape[1], folded)
    require(array_digest(donor.image()) == digest, "donor pixels are not those of its digest")
    return donor


def _fields(line: bytes, kind: str, count: int) -> list:
    """The items of a JSON array that begins with `kind`. Raises SetError."""
    row = load_json(line, max_bytes=len(line))
    is_row = isinstance(row, list) and len(row) == count and row[0] == kind
    if not is_row:
        raise SetError(f"is not a {kind}", expected=f"a list of {count}, the first '{kind}'")
    require(dump_json(row) == line, f"{kind} is not in the canonical form")
    return row
