"""How an image becomes a canvas, and how what was found there finds its way back."""

from __future__ import annotations

import os

import numpy as np

from manifests.errors import ImageError
from manifests.geometry import Geometry, Placement, cut, place

ASPECT_TOLERANCE = 0.02
"""Images whose aspect ratio is further than this from that of a region's mask do not fit it."""


def fit_image(
    image: np.ndarray, geometry: Geometry, *, path: str | os.PathLike[str] | None = None
) -> tuple[np.ndarray, Placement]:
    """Fit an image to the canvas.

    An axis that shrinks is resized by area averaging (INTER_AREA), one that grows linearly in
    fixed-point arithmetic (INTER_LINEAR_EXACT); where the axes differ, the shrinking one is resized
    first and the result rounded to 8 bits in between. Cubic interpolation is left out because its
    results change between OpenCV versions.

    Args:
        image: (H,W,3) uint8 RGB, or (H,W) uint8 grey, which is repeated after it was resized.
        geometry: the canvas.
        path: names the image in errors.

    Returns:
        The canvas (Hc,Wc,3) uint8, a new array, black outside `canvas_box` and outside the region
        of interest; and the placement.

    Raises:
        ImageError: there is a region of interest, the aspect ratio is kept, and the image's is not
            that of the region's mask; or it shows nothing of the region.
        ValueError: not such an array.

    Source: ours.
    """
    if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or image.ndim < 2:
        raise ValueError(f"expected (H,W,3) or (H,W) uint8, got {image.shape} {image.dtype}")
    _check_aspect(image, geometry, path)
    placement = place(image.shape[0], image.shape[1], geometry)
    y, x, h, w = placement.canvas_box
    if geometry.roi is not None and not cut(geometry.roi.mask, placement.canvas_box).any():
        raise ImageError("shows nothing of the region of interest", path=path)
    shown = _resized(cut(image, placement.source_box), h, w)
    # Without a base it is no part of `image`, but was made by resizing: nobody else has it.
    if shown.shape == (geometry.height, geometry.width, 3) and shown.base is None:
        canvas = shown
    else:
        canvas = np.zeros((geometry.height, geometry.width, 3), np.uint8)
        canvas[y : y + h, x : x + w] = shown
    if geometry.roi is not None:
        canvas[~geometry.roi.mask] = 0
    return canvas, placement


def fit_mask(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """Fit a mask to the canvas as its image was, by nearest neighbour.

    Args:
        mask: (H,W) bool, in the source's pixels.
        placement: what `fit_image` returned for the image.

    Returns:
        (Hc,Wc) bool, False outside `canvas_box` and the region of interest.

    Raises:
        ImageError: the mask and its image differ in height or width.

    Source: ours.
    """
    _check_source(mask, placement)
    y, x, h, w = placement.canvas_box
    canvas = np.zeros((placement.geometry.height, placement.geometry.width), bool)
    canvas[y : y + h, x : x + w] = _nearest(cut(mask, placement.source_box), h, w)
    if placement.geometry.roi is not None:
        canvas &= placement.geometry.roi.mask
    return canvas


def inspected(placement: Placement) -> np.ndarray:
    """Which of the source's pixels the canvas shows, (source_height, source_width) bool.

    All but what a crop cuts off and what lies outside the region of interest.
    """
    geometry = placement.geometry
    everything = np.ones((geometry.height, geometry.width), bool)
    return restore_mask(everything if geometry.roi is None else geometry.roi.mask, placement)


def restore_map(map: np.ndarray, placement: Placement, *, outside: float = 0.0) -> np.ndarray:
    """Bring a score map back from the canvas to the source's pixels, linearly.

    Padding never bleeds in: only `canvas_box` is read.

    Args:
        map: (Hc,Wc) float32.
        placement: what `fit_image` returned for the image.
        outside: value for source pixels that a crop cut off or the region of interest leaves out.

    Returns:
        (source_height, source_width) float32, a new array.

    Raises:
        ValueError: the map is not of the canvas's shape.

    Source: ours.
    """
    # cv2 takes a noticeable part of a second to import, and `--help` does not need it.
    import cv2

    _check_canvas(map, placement)
    y, x, h, w = placement.source_box
    shown = np.ascontiguousarray(cut(map, placement.canvas_box), np.float32)
    restored = np.full((placement.source_height, placement.source_width), outside, np.float32)
    roi = placement.geometry.roi
    if roi is None:
        restored[y : y + h, x : x + w] = cv2.resize(shown, (w, h), interpolation=cv2.INTER_LINEAR)
        return restored
    # Means over the region alone: what lies outside has no score that could darken its edge.
    inside = np.ascontiguousarray(cut(roi.mask, placement.canvas_box), np.float32)
    total = cv2.resize(shown * inside, (w, h), interpolation=cv2.INTER_LINEAR)
    weight = cv2.resize(inside, (w, h), interpolation=cv2.INTER_LINEAR)
    restored[y : y + h, x : x + w] = total / np.maximum(weight, np.finfo(np.float32).tiny)
    restored[~inspected(placement)] = outside
    return restored


def restore_mask(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """Bring a mask back from the canvas to the source's pixels, by nearest neighbour.

    Args:
        mask: (Hc,Wc) bool.
        placement: what `fit_image` returned for the image.

    Returns:
        (source_height, source_width) bool, False where a crop cut off.

    Raises:
        ValueError: the mask is not of the canvas's shape.

    Source: ours.
    """
    _check_canvas(mask, placement)
    y, x, h, w = placement.source_box
    restored = np.zeros((placement.source_height, placement.source_width), bool)
    restored[y : y + h, x : x + w] = _nearest(cut(mask, placement.canvas_box), h, w)
    return restored


def cropped_fraction(mask: np.ndarray, placement: Placement) -> float:
    """The part of a mask's area that a crop or the region of interest leaves out.

    Args:
        mask: (H,W) bool, in the source's pixels.
        placement: what `fit_image` returned for the image.

    Returns:
        0.0 to 1.0; 0.0 for an empty mask.

    Raises:
        ImageError: the mask and its image differ in height or width.

    Source: ours.
    """
    _check_source(mask, placement)
    area = int(np.count_nonzero(mask))
    if placement.geometry.roi is None:
        kept = int(np.count_nonzero(cut(mask, placement.source_box)))
    else:
        kept = int(np.count_nonzero(mask & inspected(placement)))
    return (area - kept) / area if area else 0.0


def _check_aspect(
    image: np.ndarray, geometry: Geometry, path: str | os.PathLike[str] | None
) -> None:
    """A region is drawn for one camera; a photo of another shape would be cut in other places."""
    roi = geometry.roi
    if roi is None or geometry.fit == "stretch":
        return
    height, width = image.shape[:2]
    this, other = height * roi.source_width, width * roi.source_height
    if abs(this - other) > ASPECT_TOLERANCE * other:
        raise ImageError(
            "not of the shape that the region of interest was drawn for",
            path=path,
            expected=f"the aspect ratio of {roi.source_height} x {roi.source_width}",
            got=f"{height} x {width}",
        )


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    import cv2  # inside the function for the same reason as in restore_map

    h, w = image.shape[:2]
    image = np.ascontiguousarray(image)
    # INTER_AREA quietly becomes a kind of linear interpolation as soon as one axis grows, so the
    # axes that shrink go first, alone.
    small_h, small_w = min(h, height), min(w, width)
    if (small_h, small_w) != (h, w):
        image = cv2.resize(image, (small_w, small_h), interpolation=cv2.INTER_AREA)
    if (small_h, small_w) != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return repeated_grey(image) if image.ndim == 2 else image


def repeated_grey(grey: np.ndarray) -> np.ndarray:
    """(H,W) uint8 as (H,W,3)."""
    import cv2  # as above

    return cv2.merge((grey, grey, grey))  # a quarter of the time of np.repeat


def _nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask's value under the centre of every new pixel, in exact integer arithmetic."""
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    nearest: np.ndarray = mask[rows][:, columns]
    return nearest


def _check_source(mask: np.ndarray, placement: Placement) -> None:
    shape = (placement.source_height, placement.source_width)
    if mask.shape != shape:
        raise ImageError(
            "the mask does not have its image's height and width",
            expected=f"{shape[0]} x {shape[1]}",
            got=" x ".join(map(str, mask.shape)),
        )


def _check_canvas(array: np.ndarray, placement: Placement) -> None:
    shape = (placement.geometry.height, placement.geometry.width)
    if array.shape != shape:
        raise ValueError(f"expected the canvas's shape {shape}, got {array.shape}")
