"""The pixels of normals that a model was fitted to, from a set or from the images themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import MappingProxyType

import numpy as np

from detector.normal_list import FittedNormal
from manifests.confine import confined_path
from manifests.digest import array_digest, bytes_digest, file_digest
from manifests.errors import ModelError
from manifests.geometry import Geometry
from manifests.images import (
    DEFAULT_MAX_PIXELS,
    decode_image,
    fit_image,
    list_images,
    read_bytes,
)
from manifests.negative_set import NegativeSet


class NormalPixels:
    """Finds normals by the digests that a model has of them; another image is never taken for one.

    Args:
        geometry: of the model.
        negative_set: a set that holds some of them, open for as long as this is used.
        data: the folder that they lie in, or that their category's folder lies in, or one image.
        category: name of that folder.
        files: where images lie that are known already, by their SHA-256.
        max_pixels: of an image file.

    Raises:
        DataError: `data` is not there.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        negative_set: NegativeSet | None = None,
        data: str | PathLike[str] | None = None,
        category: str = "",
        files: Mapping[str, Path] = MappingProxyType({}),
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.geometry = geometry
        self.max_pixels = max_pixels
        self._set = negative_set
        self._data = None if data is None else Path(data)
        self._category = category
        self._rows: dict[str, int] | None = None
        self._files = dict(files)
        self._unread: list[Path] = []
        if data is not None:
            self._unread = list_images(data, allow_empty=True)

    @property
    def is_empty(self) -> bool:
        """Whether there is nowhere to look."""
        return self._set is None and self._data is None and not self._files

    def canvas(self, normal: FittedNormal) -> np.ndarray:
        """A normal on the model's canvas, (H, W, 3) uint8.

        Raises:
            ModelError: it is nowhere, or is read as other pixels than it was.
            ImageError: its file cannot be read.
            SetError: a damaged shard.
        """
        if self._set is not None:
            if self._rows is None:
                digests = self._set.normal_digests()
                self._rows = {digest: row for row, digest in enumerate(digests)}
            row = self._rows.get(normal.pixel_digest)
            if row is not None:
                return self._checked(self._set.normal(row).image, normal, self._set.path)
        path = self._find(normal)
        if path is not None:
            data = read_bytes(path, max_pixels=self.max_pixels)
            if bytes_digest(data) != normal.file_sha256:
                raise ModelError("changed while it was read", path=path, hint="run it again")
            image = decode_image(data, path=path, max_pixels=self.max_pixels, repeat_grey=False)
            return self._checked(fit_image(image, self.geometry, path=path)[0], normal, path)
        if self._data is not None:
            raise ModelError(
                f"holds no image like {normal.source}, which the model was fitted to",
                path=self._data,
                expected=f"a file with SHA-256 {normal.file_sha256}",
                hint="give the folder that the set was built from",
            )
        raise ModelError(
            f"the model was fitted to {normal.source}, which is not in the set",
            path=None if self._set is None else self._set.path,
            hint="give the folder of the images with --data",
        )

    def _find(self, normal: FittedNormal) -> Path | None:
        """The file with a normal's digest: where the model says it lay, or anywhere below."""
        if normal.file_sha256 in self._files:
            return self._files[normal.file_sha256]
        if self._data is None:
            return None
        for root in (self._data, self._data / self._category):
            path = confined_path(root, normal.source)
            if path is not None and path.is_file() and file_digest(path) == normal.file_sha256:
                return path
        while normal.file_sha256 not in self._files and self._unread:
            path = self._unread.pop(0)
            if path.is_file():
                self._files.setdefault(file_digest(path), path)
        return self._files.get(normal.file_sha256)

    def _checked(self, image: np.ndarray, normal: FittedNormal, path: Path) -> np.ndarray:
        got = array_digest(image)
        if got != normal.pixel_digest:
            raise ModelError(
                f"gives other pixels for {normal.source} than the model was fitted to",
                path=path,
                expected=normal.pixel_digest,
                got=got,
                hint="other libraries may decode it differently: give the set with --set",
            )
        return image


class NormalCanvases:
    """Normals with their pixels in batches, as often as a detector wants to read them.

    Args:
        pixels: where they are.
        normals: which, in order.
        batch: images at a time.
        progress: called with (images read, images).
    """

    def __init__(
        self,
        pixels: NormalPixels,
        normals: Sequence[FittedNormal],
        batch: int,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._pixels = pixels
        self._normals = normals
        self._batch = batch
        self._progress = progress

    def __len__(self) -> int:
        """The number of images."""
        return len(self._normals)

    def __iter__(self) -> Iterator[tuple[np.ndarray, list[tuple[int, int, int, int]]]]:
        """Yields images (B, H, W, 3) uint8 and their canvas boxes."""
        for start in range(0, len(self), self._batch):
            part = self._normals[start : start + self._batch]
            images = np.stack([self._pixels.canvas(one) for one in part])
            yield images, [one.canvas_box for one in part]
            if self._progress is not None:
                self._progress(start + len(part), len(self))
