"""Images that are known to be anomalous, of which weakly supervised training learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manifests.digest import bytes_digest, file_digest
from manifests.errors import DataError
from manifests.images import (
    DEFAULT_MAX_PIXELS,
    Geometry,
    decode_image,
    fit_image,
    list_images,
    read_bytes,
)


class AnomalousImages:
    """Images that are known to be anomalous, on the canvas.

    Attributes:
        images: (n, H, W, 3) uint8.
        boxes: (n, 4) `y, x, h, w` of what is not padding.
        file_digests: SHA-256 of the files, sorted.
        digest: over these; order and names change nothing.
    """

    def __init__(self, images: np.ndarray, boxes: np.ndarray, file_digests: Sequence[str]) -> None:
        self.images = images
        self.boxes = boxes
        self.file_digests = tuple(sorted(file_digests))
        self.digest = _digest_of(self.file_digests)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    @classmethod
    def read(
        cls, folder: Path, geometry: Geometry, *, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> AnomalousImages:
        """All images below a folder, sorted by their files' digests.

        Raises:
            ImageError: one that cannot be read.
            DataError: there is no such folder, or no image in it.
        """
        found = []
        for path in list_images([folder]):
            data = read_bytes(path, max_pixels=max_pixels)
            decoded = decode_image(data, path=path, max_pixels=max_pixels)
            canvas, placement = fit_image(decoded, geometry, path=path)
            found.append((bytes_digest(data), canvas, placement.canvas_box))
        found.sort(key=lambda one: one[0])
        return cls(
            np.stack([canvas for _, canvas, _ in found]),
            np.array([box for *_, box in found], dtype=np.int64),
            [digest for digest, *_ in found],
        )


def files_digest(folder: Path) -> str:
    """What `AnomalousImages.digest` will be of a folder. Raises DataError as its `read`."""
    paths = list_images([folder])
    try:
        return _digest_of([file_digest(path) for path in paths])
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", path=error.filename or folder
        ) from error


def _digest_of(digests: Sequence[str]) -> str:
    return bytes_digest("\n".join(sorted(digests)).encode("ascii"))
