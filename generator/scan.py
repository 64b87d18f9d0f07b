"""Looks at every training image once, before any work: readable, not flat, not there twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from manifests.datasets import Sample
from manifests.digest import array_digest, bytes_digest
from manifests.edits import Box
from manifests.errors import CutswapError, ImageError
from manifests.images import Geometry, decode_image, fit_image, read_bytes

MIN_GREY_RANGE = 2
KEPT_BYTES = 1 << 30
"""Canvases that a scan keeps, so that nobody need decode their files again."""

Canvas = tuple[np.ndarray, Box]
"""A fitted image, (H, W, 3) uint8, and the part of it that shows the source."""


@dataclass(frozen=True)
class ScannedImage:
    """A usable training image: where it is and what it is.

    Attributes:
        digest: of the fitted canvas (H, W, 3), the image's identity from here on.
        file_sha256: of the file's bytes.
    """

    path: Path
    source: str
    file_sha256: str
    digest: str


@dataclass(frozen=True)
class Scan:
    """All training images of a category, sorted by digest, so that names and order change nothing.

    Attributes:
        images: usable ones, each content once.
        duplicates: (source, source it equals after fitting).
        skipped: the errors of the unusable ones.
        file_digests: SHA-256 of every usable file, duplicates included, sorted.
        canvases: by digest, as many as were to be kept. Whoever has used one takes it out.
    """

    images: tuple[ScannedImage, ...]
    duplicates: tuple[tuple[str, str], ...]
    skipped: tuple[CutswapError, ...]
    skipped_sources: tuple[str, ...]
    file_digests: tuple[str, ...]
    canvases: dict[str, Canvas] = field(default_factory=dict, repr=False)


def scan_samples(
    samples: Sequence[Sample],
    geometry: Geometry,
    *,
    max_pixels: int,
    jobs: int,
    kept_bytes: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Reads, fits and digests every sample; collects errors instead of stopping at the first.

    Args:
        samples, geometry, max_pixels: what is read, and how.
        jobs: threads.
        kept_bytes: how much of the canvases to keep.
        progress: called with images done and images in all.
    """
    from joblib import Parallel, delayed

    # Decoding, resizing and hashing all release the interpreter lock: threads are enough.
    results = Parallel(n_jobs=jobs, backend="threading", return_as="generator")(
        delayed(scan_one)(sample, geometry, max_pixels=max_pixels) for sample in samples
    )
    usable, errors, bad_sources = [], [], []
    canvases: dict[str, Canvas] = {}
    for done, (sample, result) in enumerate(zip(samples, results, strict=True), start=1):
        if isinstance(result, CutswapError):
            errors.append(result)
            bad_sources.append(sample.source)
        else:
            image, canvas = result
            usable.append(image)
            if image.digest not in canvases and kept_bytes >= canvas[0].nbytes:
                canvases[image.digest] = canvas
                kept_bytes -= canvas[0].nbytes
        if progress is not None:
            progress(done, len(samples))
    usable.sort(key=lambda image: (image.digest, image.source))
    images: list[ScannedImage] = []
    duplicates = []
    for image in usable:
        if images and images[-1].digest == image.digest:
            duplicates.append((image.source, images[-1].source))
        else:
            images.append(image)
    return Scan(
        images=tuple(images),
        duplicates=tuple(duplicates),
        skipped=tuple(errors),
        skipped_sources=tuple(bad_sources),
        file_digests=tuple(sorted({image.file_sha256 for image in usable})),
        canvases=canvases,
    )


def _check_region(canvas: np.ndarray, geometry: Geometry, path: Path) -> None:
    if geometry.roi is None:
        return
    values = canvas[geometry.roi.mask]
    if int(values.max()) - int(values.min()) < MIN_GREY_RANGE:
        raise ImageError(
            "constant within the region of interest: swapping patches of it changes nothing",
            path=path,
            hint="remove it, pass --skip-bad, or enlarge the region",
        )


def scan_one(
    sample: Sample, geometry: Geometry, *, max_pixels: int
) -> tuple[ScannedImage, Canvas] | CutswapError:
    """One image's identity and canvas, or the error that makes it unusable."""
    try:
        data = read_bytes(sample.path, max_pixels=max_pixels)
        image = decode_image(data, path=sample.path, max_pixels=max_pixels, repeat_grey=False)
        if int(image.max()) - int(image.min()) < MIN_GREY_RANGE:
            raise ImageError(
                "constant image: swapping patches of it changes nothing",
                path=sample.path,
                hint="remove it, or pass --skip-bad",
            )
        canvas, placement = fit_image(image, geometry, path=sample.path)
        _check_region(canvas, geometry, sample.path)
    except CutswapError as error:
        return error
    scanned = ScannedImage(
        path=sample.path,
        source=sample.source,
        file_sha256=bytes_digest(data),
        digest=array_digest(canvas),
    )
    return scanned, (canvas, placement.canvas_box)
