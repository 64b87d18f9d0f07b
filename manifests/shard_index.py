"""The index of a shard: everything in it but its pixels, and where those lie in the file."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from manifests.edit_codec import MAX_ENCODED_BYTES
from manifests.errors import SetError
from manifests.shard_entry import FALLBACKS
from manifests.shard_records import LEVEL_LIMIT, is_policy_name

ReadAt = Callable[[int, int], bytearray]
"""`read_at(offset, size)`: that many bytes of the file, or SetError."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows of a data set lie in the file.

    Args:
        shape: of one row, uint8.
        offset, stored_bytes: (n,) int64 per row.
        is_deflated: whether the rows are zlib streams.
    """

    shape: tuple[int, ...]
    offset: np.ndarray
    stored_bytes: np.ndarray
    is_deflated: bool

    def read(self, index: int, read_at: ReadAt) -> np.ndarray:
        """One row as a fresh uint8 array.

        Raises:
            SetError: it cannot be read or does not unfold to exactly its size.
        """
        data = read_at(int(self.offset[index]), int(self.stored_bytes[index]))
        if self.is_deflated:
            # Bounded by the size it must have: a row cannot claim more memory than that.
            row_bytes = math.prod(self.shape)
            unfolder = zlib.decompressobj()
            try:
                data = bytearray(unfolder.decompress(data, row_bytes + 1))
            except zlib.error as error:
                raise SetError(f"row {index} is damaged ({error})") from None
            if len(data) != row_bytes or not unfolder.eof or unfolder.unused_data:
                raise SetError(f"row {index} is damaged (wrong size)")
        return np.frombuffer(data, dtype=np.uint8).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Everything in a shard but its pixels: n normals, r negatives, d donors."""

    unit_digest: str
    store: str
    height: int
    width: int
    content_digest: str
    saliency_digest: str
    environment: dict[str, str]
    normal_digests: list[str]
    sources: list[str]
    file_digests: list[str]
    canvas_boxes: np.ndarray  # (n, 4) int32
    images: Rows
    maps: dict[int, Rows]
    centres: dict[int, np.ndarray]  # (n, K) float32, NaN where unused
    normal: np.ndarray  # (r,) uint32
    policies: list[str]
    level: np.ndarray  # (r,) int32
    repeat: np.ndarray  # (r,) uint16
    anchors: np.ndarray  # (r, 2, 4) int32
    fallback: np.ndarray  # (r,) uint8
    rejections: np.ndarray  # (r,) uint16
    negative_digests: list[str]
    edits_data: bytes = field(repr=False)
    edits_offset: np.ndarray  # (r + 1,) int64
    negative_images: Rows | None
    negative_masks: Rows | None
    donor_digests: list[str]
    donor_images: Rows | None


def check_boxes(boxes: np.ndarray, height: int, width: int) -> None:
    """Canvas boxes (n, 4) int32 must lie inside the image. Raises SetError."""
    y, x, h, w = boxes.astype(np.int64).T
    if ((np.minimum(y, x) < 0) | (np.minimum(h, w) < 1) | (y + h > height) | (x + w > width)).any():
        raise SetError("a canvas box lies outside the image")


def check_centres(centres: np.ndarray, name: str) -> None:
    """Centres (n, K) must be numbers, at least one a row, then only NaN. Raises SetError."""
    is_number = np.isfinite(centres)
    is_tail_only = (is_number[:, :-1] >= is_number[:, 1:]).all()
    if not (is_number | np.isnan(centres)).all() or not is_number[:, 0].all() or not is_tail_only:
        raise SetError(f"saliency/{name}/centre is malformed")


def check_negatives(
    columns: dict[str, np.ndarray],
    policies: list[str],
    offset: np.ndarray,
    data_bytes: int,
    n_normals: int,
) -> None:
    """Columns, policies and edit offsets of the negatives must be in range. Raises SetError."""
    if (columns["normal"] >= n_normals).any():
        raise SetError("a negative belongs to no normal")
    if not all(map(is_policy_name, set(policies))):
        raise SetError("a policy name is malformed")
    level = columns["level"]
    if (level < -1).any() or (level > LEVEL_LIMIT).any():
        raise SetError("a level is out of range")
    if (columns["fallback"] >= len(FALLBACKS)).any():
        raise SetError("a fallback is unknown")
    # Compared as uint64 before any subtraction, which could wrap.
    is_rising = offset[0] == 0 and offset[-1] == data_bytes and (offset[:-1] <= offset[1:]).all()
    if not is_rising or (np.diff(offset) > MAX_ENCODED_BYTES).any():
        raise SetError("negatives/edits_offset is malformed")
