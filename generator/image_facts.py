"""What is to be known of an image and of its mask before anything is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from manifests.datasets import Sample
from manifests.decoder import decode_described
from manifests.digest import array_digest
from manifests.errors import CutswapError
from manifests.images import binarised, read_bytes

HASH_SIDE = 16
"""A difference hash has this many rows and columns, so 256 bits."""


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """One image, upright, as a build would read it.

    Attributes:
        height, width: in px.
        pixels: what the file holds, as `decode_described` says it.
        grey_range: highest less lowest 8-bit value of all channels.
        digest: of the 8-bit pixels; of an RGB image with three equal channels that of the grey one,
            so that it is the same whatever file they lie in.
        bits: (HASH_SIDE, HASH_SIDE) bool difference hash.
    """

    height: int
    width: int
    pixels: str
    grey_range: int
    digest: str
    bits: np.ndarray


@dataclass(frozen=True)
class MaskFacts:
    """One mask.

    Attributes:
        height, width: in px.
        values: how many different values its first channel has.
        marked_frac: part of its pixels that count as defect.
    """

    height: int
    width: int
    values: int
    marked_frac: float


@dataclass(frozen=True, eq=False)
class Look:
    """A sample with what was seen of it: facts, or the error that makes a file unusable.

    Attributes:
        mask: None where there is none.
    """

    sample: Sample
    image: ImageFacts | CutswapError
    mask: MaskFacts | CutswapError | None

    @property
    def facts(self) -> ImageFacts:
        """Of an image that could be read."""
        return cast(ImageFacts, self.image)

    @property
    def mask_facts(self) -> MaskFacts:
        """Of a mask that is there and could be read."""
        return cast(MaskFacts, self.mask)


def look_at(sample: Sample, *, binarise_at: int, max_pixels: int) -> Look:
    """Reads the image and the mask of a sample. Unusable files raise nothing."""
    image: ImageFacts | CutswapError
    mask: MaskFacts | CutswapError | None = None
    try:
        image = _image_facts(*_decoded(sample.path, max_pixels))
    except CutswapError as error:
        image = error
    if sample.mask is not None:
        try:
            mask = _mask_facts(_decoded(sample.mask, max_pixels)[0], binarise_at)
        except CutswapError as error:
            mask = error
    return Look(sample, image, mask)


def _decoded(path: Path, max_pixels: int) -> tuple[np.ndarray, str]:
    data = read_bytes(path, max_pixels=max_pixels)
    return decode_described(data, path=path, max_pixels=max_pixels)


def _image_facts(values: np.ndarray, pixels: str) -> ImageFacts:
    if values.dtype != np.uint8:
        values = (values >> 8).astype(np.uint8)  # as `decode_image` does
    if values.ndim == 3 and (values == values[:, :, :1]).all():
        values = np.ascontiguousarray(values[:, :, 0])
    return ImageFacts(
        height=values.shape[0],
        width=values.shape[1],
        pixels=pixels,
        grey_range=int(values.max()) - int(values.min()),
        digest=array_digest(values),
        bits=difference_bits(values),
    )


def difference_bits(values: np.ndarray) -> np.ndarray:
    """A difference hash: whether each cell of a coarse image is brighter than its left neighbour.

    It hardly changes with size, exposure and compression.

    Args:
        values: (H,W) grey or (H,W,3) RGB, uint8.

    Returns:
        (HASH_SIDE, HASH_SIDE) bool.

    Source: Krawetz, "Kind of Like That", hackerfactor.com, 2013. Differs: 16 x 16 instead of 8 x 8
    bits, because images of one product resemble each other.
    """
    import cv2  # not at the top: it takes a noticeable part of a second

    grey = values if values.ndim == 2 else cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)
    coarse = cv2.resize(
        grey.astype(np.float32), (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA
    )
    return coarse[:, 1:] > coarse[:, :-1]


def _mask_facts(values: np.ndarray, binarise_at: int) -> MaskFacts:
    plane = values if values.ndim == 2 else values[:, :, 0]
    counts = np.bincount(plane.reshape(-1)) if plane.dtype == np.uint8 else None
    return MaskFacts(
        height=plane.shape[0],
        width=plane.shape[1],
        values=np.unique(plane).size if counts is None else int(np.count_nonzero(counts)),
        marked_frac=float(binarised(values, binarise_at).mean()),
    )
