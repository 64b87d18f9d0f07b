"""What one shard holds, row by row, and the digests over it, which no way of storing changes."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np

from manifests.digest import PrefixDigest, array_digest, bytes_digest
from manifests.edit_codec import canonical
from manifests.edit_types import Blend, Box, Edit
from manifests.errors import SetError
from manifests.shard_entry import FALLBACKS, is_digest
from manifests.strict_json import dump_json

MAX_SIDE_PX = 4096
MAX_SOURCE_BYTES = 4096
MAX_LEVELS = 64
LEVEL_LIMIT = 9999
COUNT_LIMIT = 65535  # of 16-bit fields: repeat, rejections
MAX_DONOR_BYTES = 1 << 30
"""Of the pixels of all donors of a shard that are none of its normals: who makes one holds them at
once."""
CONTENT_TITLE = "cutswap content 1"
SALIENCY_TITLE = "cutswap saliency 1"
_POLICY = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
# Control characters, line and paragraph separators, and what turns the direction of text.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class NormalValues(Protocol):
    """What a normal is besides its pixels."""

    @property
    def digest(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def file_sha256(self) -> str: ...
    @property
    def canvas_box(self) -> Box: ...


class NegativeValues(Protocol):
    """What a negative is besides its pixels; its edits are read only where their digest is asked
    for."""

    @property
    def normal(self) -> int: ...
    @property
    def policy(self) -> str: ...
    @property
    def level(self) -> int: ...
    @property
    def repeat(self) -> int: ...
    @property
    def anchors(self) -> Any: ...
    @property
    def edits(self) -> Any: ...
    @property
    def fallback(self) -> int: ...
    @property
    def rejections(self) -> int: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, eq=False)
class NormalRecord:
    """One normal image of a shard.

    Args:
        image: (H, W, 3) uint8 RGB, as fitted to the canvas.
        digest: `array_digest(image)`.
        source: path of the source image below its category's folder, with `/`.
        file_sha256: of the source file.
        canvas_box: part of the canvas the source covers (all of it unless letterboxed).
        saliency: per level, the map at its native grid, (h, w) uint8.
        centres: per level, the cluster centres, (K,) float32; the same levels as `saliency`.
    """

    image: np.ndarray = field(repr=False)
    digest: str
    source: str
    file_sha256: str
    canvas_box: Box
    saliency: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    centres: dict[int, np.ndarray] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class NegativeRecord:
    """One negative of a shard.

    Args:
        normal: row of its normal in the same shard.
        policy: name of the policy that made it.
        level: saliency level, -1 for a policy that looks at no level by itself.
        repeat: number of the draw, from 0.
        anchors: (2, 4) int32, boxes `(y, x, h, w)`, -1 where unused.
        edits: what makes it out of the normal.
        fallback: index into `FALLBACKS`.
        rejections: how often a draw that changed nothing was thrown away.
        digest: `negative_digest(image, mask)`.
        image: (H, W, 3) uint8 RGB, or None to have it rendered.
        mask: (H, W) bool, or None to have it rendered.
    """

    normal: int
    policy: str
    level: int
    repeat: int
    anchors: np.ndarray
    edits: tuple[Edit, ...]
    fallback: int
    rejections: int
    digest: str
    image: np.ndarray | None = field(default=None, repr=False)
    mask: np.ndarray | None = field(default=None, repr=False)


def negative_digest(image: np.ndarray, mask: np.ndarray) -> str:
    """SHA-256 over the raw array digests of a negative's image and of its mask as 0 and 255.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
    """
    return painted_digest(image, mask.view(np.uint8) * np.uint8(255))


def edited_digest(image: np.ndarray, mask: np.ndarray, normal: PrefixDigest) -> str:
    """`negative_digest` of what was rendered from a normal, in two thirds of the time.

    Above the first row of the mask the image is the normal and the mask is empty: what is hashed
    of them is known.

    Args:
        image, mask: as for `negative_digest`; outside the mask the image is the normal.
        normal: of the normal's image.
    """
    first = int(mask.argmax()) // mask.shape[1]
    painted = mask.view(np.uint8) * np.uint8(255)
    return _joined(normal.of(image, first), _empty_mask(mask.shape).of(painted, first))


@functools.lru_cache(maxsize=4)
def _empty_mask(shape: tuple[int, int]) -> PrefixDigest:
    return PrefixDigest(np.zeros(shape, np.uint8))


def painted_digest(image: np.ndarray, painted: np.ndarray) -> str:
    """`negative_digest` of a mask that is (H, W) uint8 already, as a shard stores it."""
    return _joined(array_digest(image), array_digest(painted))


def _joined(image_digest: str, mask_digest: str) -> str:
    return bytes_digest(bytes.fromhex(image_digest) + bytes.fromhex(mask_digest))


def normal_line(digest: str, source: str, file_sha256: str, canvas_box: Sequence[int]) -> bytes:
    """One normal's line in the content digest."""
    box = [int(value) for value in canvas_box]
    return dump_json(["normal", digest, source, file_sha256, box])


def negative_line(
    normal_digest: str, record: NegativeValues, *, edits_digest: str | None = None
) -> bytes:
    """One negative's line in the content digest. Pixels count through `record.digest` alone.

    Args:
        normal_digest: of its normal.
        record: the negative.
        edits_digest: SHA-256 of its canonical edits, from a caller who has it already.
    """
    return dump_json(
        [
            "negative",
            normal_digest,
            record.policy,
            int(record.level),
            int(record.repeat),
            np.asarray(record.anchors).tolist(),
            edits_digest or bytes_digest(canonical(record.edits)),
            int(record.fallback),
            int(record.rejections),
            record.digest,
        ]
    )


def saliency_line(
    normal_digest: str, level: int, saliency: np.ndarray, centres: np.ndarray
) -> bytes:
    """One normal's line of one level in the saliency digest."""
    digests = [array_digest(saliency), array_digest(centres)]
    return dump_json(["saliency", normal_digest, level, *digests])


def lines_digest(title: str, lines: Iterable[bytes]) -> str:
    """SHA-256 over a title line and `lines`, each ended by a newline."""
    hasher = hashlib.sha256(title.encode("ascii") + b"\n")
    for line in lines:
        hasher.update(line + b"\n")
    return hasher.hexdigest()


def content_digest(normals: Sequence[NormalRecord], negatives: Sequence[NegativeRecord]) -> str:
    """Digest over everything in a shard but its saliency; the same for either store."""
    lines = [
        normal_line(row.digest, row.source, row.file_sha256, row.canvas_box) for row in normals
    ]
    lines += [negative_line(normals[row.normal].digest, row) for row in negatives]
    return lines_digest(CONTENT_TITLE, lines)


def saliency_digest(normals: Sequence[NormalRecord]) -> str:
    """Digest over a shard's saliency maps and cluster centres."""
    return lines_digest(
        SALIENCY_TITLE,
        (
            saliency_line(row.digest, level, row.saliency[level], row.centres[level])
            for row in normals
            for level in sorted(row.saliency)
        ),
    )


def check_source(source: str) -> None:
    """Refuse a source path that could lead out of a folder or garble a report.

    Raises:
        SetError: empty, absolute, with `..`, not in its shortest form, with control characters or
            with such that turn the direction of text, or too long.
    """
    try:
        encoded = source.encode("utf-8")
    except UnicodeEncodeError:
        raise SetError("source path is not Unicode text", got=ascii(source)[:120]) from None
    path = PurePosixPath(source)
    if (
        not path.parts
        or str(path) != source  # `a//b`, `./a` and `a/` are second names of one file
        or len(encoded) > MAX_SOURCE_BYTES
        or path.is_absolute()
        or ".." in path.parts
        or _UNSEEN.search(source)
    ):
        raise SetError("source is not a plain relative path", got=ascii(source)[:120])


def check_records(
    normals: Sequence[NormalRecord], negatives: Sequence[NegativeRecord]
) -> tuple[int, int]:
    """Make sure that records can be written and read back.

    Pixels are not compared with edits here; that is done on what was written.

    Returns:
        Height and width of the images.

    Raises:
        SetError: no normals, one normal twice, wrong types or shapes, values out of range.
    """
    if not normals:
        raise SetError("a shard needs at least one normal")
    height, width = normals[0].image.shape[:2]
    _require(max(height, width) <= MAX_SIDE_PX, "image is too large", f"{height}x{width}")
    first = normals[0]
    for normal in normals:
        _check_normal(normal, first, height, width)
    _require(len({row.digest for row in normals}) == len(normals), "a normal is there twice")
    for negative in negatives:
        _check_negative(negative, len(normals), height, width)
    return height, width


def check_donor(image: np.ndarray, height: int, width: int) -> None:
    """Make sure that a donor image can be stored in a shard of that canvas. Raises SetError."""
    _require_array(image, np.uint8, (height, width, 3), "donor image")


def check_donor_room(count: int, height: int, width: int) -> None:
    """Make sure that a shard of that canvas has room for so many donors. Raises SetError.

    Asked before any is unfolded: a few KB may hold a large image of one colour.
    """
    room = MAX_DONOR_BYTES // (height * width * 3)
    if count > room:
        raise SetError(
            "needs too many donor images that are no normals of its own",
            expected=f"at most {room} of {height}x{width} px",
            got=count,
        )


def is_policy_name(name: str) -> bool:
    """Whether `name` is lower-case letters, digits and dashes, at most 32 of them."""
    return _POLICY.fullmatch(name) is not None


def donors_of(edits: Iterable[Edit]) -> set[str]:
    """Digests of the donor images that edits need."""
    return {edit.donor for edit in edits if isinstance(edit, Blend)}


def check_normal_values(row: NormalValues, height: int, width: int) -> None:
    """Make sure that what a normal is besides its pixels fits a canvas of that size.

    Raises:
        SetError: a malformed digest or source, or a canvas box that leaves the canvas.
    """
    _require(is_digest(row.digest), "normal digest is malformed", row.digest)
    _require(is_digest(row.file_sha256), "file_sha256 is malformed", row.file_sha256)
    check_source(row.source)
    y, x, h, w = row.canvas_box
    is_inside = y >= 0 and x >= 0 and h > 0 and w > 0 and y + h <= height and x + w <= width
    _require(is_inside, "canvas box lies outside the image", row.canvas_box)


def check_negative_values(row: NegativeValues, n_normals: int) -> None:
    """Make sure that what a negative is besides anchors, edits and pixels is in range.

    Raises:
        SetError: it is of none of the `n_normals`, or a value is malformed or out of range.
    """
    _require(0 <= row.normal < n_normals, "negative of no normal", row.normal)
    _require(is_policy_name(row.policy), "policy name is malformed", row.policy)
    _require(-1 <= row.level <= LEVEL_LIMIT, "level is out of range", row.level)
    _require(0 <= row.repeat <= COUNT_LIMIT, "repeat is out of range", row.repeat)
    _require(0 <= row.rejections <= COUNT_LIMIT, "rejections are out of range", row.rejections)
    _require(0 <= row.fallback < len(FALLBACKS), "fallback is unknown", row.fallback)
    _require(is_digest(row.digest), "negative digest is malformed", row.digest)


def _check_normal(row: NormalRecord, first: NormalRecord, height: int, width: int) -> None:
    _require_array(row.image, np.uint8, (height, width, 3), "normal image")
    check_normal_values(row, height, width)
    levels = row.saliency.keys()
    _require(
        levels == first.saliency.keys() == row.centres.keys(),
        "normals differ in their saliency levels",
        sorted(levels),
    )
    _require(len(levels) <= MAX_LEVELS, "too many saliency levels", len(levels))
    for level in levels:
        _require(0 <= level <= LEVEL_LIMIT, "saliency level is out of range", level)
        shape = first.saliency[level].shape
        _require(len(shape) == 2 and max(shape) <= MAX_SIDE_PX, "saliency map is too large", shape)
        _require_array(row.saliency[level], np.uint8, shape, "saliency map")
        centres = row.centres[level]
        _require_array(centres, np.float32, (len(centres),), "cluster centres")
        _require(1 <= len(centres) <= 256, "there must be 1..256 centres", len(centres))
        _require(bool(np.isfinite(centres).all()), "cluster centres are not finite")


def _check_negative(row: NegativeRecord, n_normals: int, height: int, width: int) -> None:
    check_negative_values(row, n_normals)
    _require_array(row.anchors, np.int32, (2, 4), "anchors")
    if row.image is not None:
        _require_array(row.image, np.uint8, (height, width, 3), "negative image")
    if row.mask is not None:
        _require_array(row.mask, np.bool_, (height, width), "negative mask")


def _require(condition: bool, what: str, got: object = None) -> None:
    if not condition:
        # A stranger's text may hold what steers a terminal.
        text = str(got)[:120]
        raise SetError(
            what, got=None if got is None else text if text.isprintable() else ascii(text)
        )


def _require_array(array: object, dtype: type, shape: tuple[int, ...], name: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array)
        raise SetError(
            f"{name} has the wrong type or shape",
            expected=f"{np.dtype(dtype).name} {shape}",
            got=found,
        )
