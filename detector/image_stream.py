"""Reads many images ahead of the network, in threads, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifests.canvas import repeated_grey
from manifests.digest import array_digest, bytes_digest
from manifests.errors import BadImages, CutswapError
from manifests.images import Geometry, Placement, decode_image, fit_image, read_bytes


@dataclass(frozen=True)
class LoadedImage:
    """One image ready for the network.

    Attributes:
        index: its place in the list of paths.
        canvas: (H, W, 3) uint8, fitted.
        original: (H0, W0, 3) uint8 as decoded, or None when it was not asked for.
        file_sha256: of the file's bytes.
    """

    index: int
    path: Path
    canvas: np.ndarray
    placement: Placement
    original: np.ndarray | None
    file_sha256: str


class ImageStream:
    """Batches of images in the order of `paths`.

    A bad file does not stop the reading at once: every remaining file is still decoded, so that
    the error names all of them. With `skip_bad` they are left out and kept in `errors`.

    Args:
        exclude: SHA-256 of files to leave out; their indices are in `excluded` afterwards.
        exclude_pixels: digests of canvases to leave out as well: the same images in other files.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        geometry: Geometry,
        *,
        batch: int,
        max_pixels: int,
        skip_bad: bool = False,
        keep_originals: bool = False,
        exclude: frozenset[str] = frozenset(),
        exclude_pixels: frozenset[str] = frozenset(),
        readers: int = 2,
    ) -> None:
        self.paths = list(paths)
        self.geometry = geometry
        self.batch = batch
        self.max_pixels = max_pixels
        self.skip_bad = skip_bad
        self.keep_originals = keep_originals
        self.exclude = exclude
        self.exclude_pixels = exclude_pixels
        self.readers = readers
        self.errors: list[CutswapError] = []
        self.excluded: list[int] = []

    def __iter__(self) -> Iterator[list[LoadedImage]]:
        """Yields lists of at most `batch` images. Raises BadImages after the last file."""
        pending: list[LoadedImage] = []
        # Only this many images wait at a time: memory does not grow with the list.
        ahead = 2 * self.batch
        with ThreadPoolExecutor(self.readers) as pool:
            futures = {
                index: pool.submit(self._load, index) for index in range(min(ahead, self._count))
            }
            for index in range(self._count):
                result = futures.pop(index).result()  # taken out, which frees the image
                if index + ahead < self._count:
                    futures[index + ahead] = pool.submit(self._load, index + ahead)
                if isinstance(result, CutswapError):
                    self.errors.append(result)
                elif result is None:
                    self.excluded.append(index)
                elif not self.errors or self.skip_bad:
                    pending.append(result)
                if len(pending) == self.batch:
                    yield pending
                    pending = []
        if self.errors and not self.skip_bad:
            raise BadImages(self.errors)
        if pending:
            yield pending

    @property
    def _count(self) -> int:
        return len(self.paths)

    def _load(self, index: int) -> LoadedImage | CutswapError | None:
        path = self.paths[index]
        try:
            data = read_bytes(path, max_pixels=self.max_pixels)
            digest = bytes_digest(data)
            if digest in self.exclude:
                return None
            decoded = decode_image(data, path=path, max_pixels=self.max_pixels, repeat_grey=False)
            # As a training image is: a grey one in one channel.
            canvas, placement = fit_image(decoded, self.geometry, path=path)
        except CutswapError as error:
            return error
        if self.exclude_pixels and array_digest(canvas) in self.exclude_pixels:
            return None
        return LoadedImage(
            index=index,
            path=path,
            canvas=canvas,
            placement=placement,
            original=_as_rgb(decoded) if self.keep_originals else None,
            file_sha256=digest,
        )


def _as_rgb(image: np.ndarray) -> np.ndarray:
    return repeated_grey(image) if image.ndim == 2 else image
