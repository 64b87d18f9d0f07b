"""One normal and one negative image, as a set hands them out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from manifests.edits import Box, Edit


@dataclass(frozen=True, eq=False)
class Normal:
    """A normal image of a set.

    Args:
        image: (H, W, 3) uint8 RGB on the set's canvas.
        digest: `array_digest(image)`.
        source: path of its source image below the category's folder.
        file_sha256: of the source file.
        canvas_box: part of the canvas the source covers, `(y, x, h, w)`.
    """

    image: np.ndarray = field(repr=False)
    digest: str
    source: str
    file_sha256: str
    canvas_box: Box


@dataclass(frozen=True, eq=False)
class Negative:
    """A negative of a set.

    Args:
        image: (H, W, 3) uint8 RGB on the set's canvas.
        mask: (H, W) bool, the pixels that were edited.
        policy, level, repeat: which draw it is; level is -1 where no single level's map was
            looked at.
        anchors: (2, 4) int32, boxes `(y, x, h, w)`, -1 where unused.
        source: path of the source image of its normal.
        normal: index of its normal in the set.
        edits: what makes it out of its normal.
        fallback: index into `FALLBACKS`.
        digest: `negative_digest(image, mask)`.
    """

    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    policy: str
    level: int
    repeat: int
    anchors: np.ndarray
    source: str
    normal: int
    edits: tuple[Edit, ...] = field(repr=False)
    fallback: int
    digest: str
