"""How an image of any shape becomes a canvas of one shape, and how results find their way back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from manifests.errors import ConfigError, ImageError
from manifests.roi import Roi

if TYPE_CHECKING:
    from manifests.edits import Box

FITS = ("stretch", "letterbox", "crop")
MIN_CANVAS_PX = 32
MAX_CANVAS_PX = 4096
ASPECT_TOLERANCE = 0.02
"""Images whose aspect ratio is further than this from that of a region's mask do not fit it."""


@dataclass(frozen=True)
class Geometry:
    """The canvas that every image of a set or a model is fitted to.

    Args:
        height, width: the canvas in pixels, 32 to 4096 each.
        fit: `stretch` fills the canvas and changes the aspect ratio; `letterbox` keeps the aspect
            ratio and pads with black; `crop` keeps it and cuts the centre.
        roi: the part that is inspected; None for all of it. What lies outside is black on every
            canvas, so that nothing that happens there can be seen by anyone.

    Raises:
        ConfigError: a side out of range or not an int, an unknown fit, or a region of another
            canvas.

    Source: ours.
    """

    height: int = 256
    width: int = 256
    fit: str = "stretch"
    roi: Roi | None = None

    def __post_init__(self) -> None:
        for side in ("height", "width"):
            value = getattr(self, side)
            # bool is an int to Python, and `true` in a JSON file is a mistake, not one pixel.
            if type(value) is not int or not MIN_CANVAS_PX <= value <= MAX_CANVAS_PX:
                raise ConfigError(
                    f"image {side} cannot be used",
                    expected=f"{MIN_CANVAS_PX} to {MAX_CANVAS_PX} pixels",
                    got=repr(value),
                    hint="change --image-size",
                )
        if self.fit not in FITS:
            raise ConfigError("unknown --fit", expected=" | ".join(FITS), got=repr(self.fit))
        if self.roi is not None and (self.roi.height, self.roi.width) != (self.height, self.width):
            raise ConfigError(
                "the region of interest is of another canvas",
                expected=f"{self.height} x {self.width}",
                got=f"{self.roi.height} x {self.roi.width}",
            )

    def to_json(self) -> dict[str, object]:
        """The fields as plain JSON values; no `roi` where everything is inspected."""
        plain: dict[str, object] = {"height": self.height, "width": self.width, "fit": self.fit}
        return plain if self.roi is None else plain | {"roi": self.roi.to_json()}

    @classmethod
    def from_json(cls, values: object) -> Geometry:
        """Inverse of `to_json`. Raises ConfigError on missing, unknown or unusable fields."""
        names = {"height", "width", "fit"}
        if not isinstance(values, Mapping) or set(values) - {"roi"} != names:
            got = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise ConfigError("malformed geometry", expected=sorted(names), got=got)
        whole = cls(values["height"], values["width"], values["fit"])
        if "roi" not in values:
            return whole
        roi = Roi.from_json(values["roi"], height=whole.height, width=whole.width)
        return replace(whole, roi=roi)

    @property
    def roi_mask(self) -> np.ndarray | None:
        """(height, width) bool, the pixels that are inspected; None for all."""
        return None if self.roi is None else self.roi.mask

    @property
    def in_words(self) -> str:
        """For people: `256x256 stretch`, and how much of it is inspected."""
        words = f"{self.height}x{self.width} {self.fit}"
        return words if self.roi is None else f"{words}, {100 * self.roi.area_frac:.0f} % inspected"


@dataclass(frozen=True)
class Placement:
    """Which part of a source image is shown where on the canvas.

    Args:
        geometry: the canvas.
        source_height, source_width: the source image in pixels, after EXIF orientation.
        source_box: `(y, x, h, w)` of the source that is shown; smaller than it only for `crop`.
        canvas_box: `(y, x, h, w)` of the canvas it fills; smaller than it only for `letterbox`.
    """

    geometry: Geometry
    source_height: int
    source_width: int
    source_box: Box
    canvas_box: Box


def place(source_height: int, source_width: int, geometry: Geometry) -> Placement:
    """Where a source image of this shape lands on the canvas. Integer arithmetic throughout.

    Raises:
        ValueError: a side of the source is below one pixel.

    Source: ours.
    """
    if source_height < 1 or source_width < 1:
        raise ValueError(f"an image of {source_height} x {source_width} pixels has no placement")
    height, width = geometry.height, geometry.width
    source_box = (0, 0, source_height, source_width)
    canvas_box = (0, 0, height, width)
    # Compare aspect ratios by cross-multiplication, so that equal ratios are exactly equal.
    is_wider = source_width * height > source_height * width
    if geometry.fit == "letterbox":
        if is_wider:
            shown_h, shown_w = _scaled(source_height, width, source_width), width
        else:
            shown_h, shown_w = height, _scaled(source_width, height, source_height)
        canvas_box = _centred(shown_h, shown_w, height, width)
    elif geometry.fit == "crop":
        if is_wider:
            shown_h, shown_w = source_height, _scaled(width, source_height, height)
        else:
            shown_h, shown_w = _scaled(height, source_width, width), source_width
        source_box = _centred(shown_h, shown_w, source_height, source_width)
    return Placement(geometry, source_height, source_width, source_box, canvas_box)


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
    if geometry.roi is not None and not _cut(geometry.roi.mask, placement.canvas_box).any():
        raise ImageError("shows nothing of the region of interest", path=path)
    shown = _resized(_cut(image, placement.source_box), h, w)
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
    canvas[y : y + h, x : x + w] = _nearest(_cut(mask, placement.source_box), h, w)
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
    shown = np.ascontiguousarray(_cut(map, placement.canvas_box), np.float32)
    restored = np.full((placement.source_height, placement.source_width), outside, np.float32)
    roi = placement.geometry.roi
    if roi is None:
        restored[y : y + h, x : x + w] = cv2.resize(shown, (w, h), interpolation=cv2.INTER_LINEAR)
        return restored
    # Means over the region alone: what lies outside has no score that could darken its edge.
    inside = np.ascontiguousarray(_cut(roi.mask, placement.canvas_box), np.float32)
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
    restored[y : y + h, x : x + w] = _nearest(_cut(mask, placement.canvas_box), h, w)
    return restored


def valid_region(canvas_box: Box, geometry: Geometry) -> tuple[Box, np.ndarray | None]:
    """The part of a canvas that negatives are made from: what is inspected and no padding.

    Args:
        canvas_box: `(y, x, h, w)` of the part that shows the image.
        geometry: the canvas.

    Returns:
        The smallest box around it, and (Hc,Wc) bool of its pixels, None where they fill the box.

    Source: ours.
    """
    if geometry.roi is None:
        return canvas_box, None
    y, x, h, w = canvas_box
    inside = np.zeros((geometry.height, geometry.width), bool)
    inside[y : y + h, x : x + w] = _cut(geometry.roi.mask, canvas_box)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        raise ValueError(f"nothing of the region of interest is in the box {canvas_box}")
    box = (
        int(rows[0]),
        int(columns[0]),
        int(rows[-1] - rows[0] + 1),
        int(columns[-1] - columns[0] + 1),
    )
    return box, None if _cut(inside, box).all() else inside


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
        kept = int(np.count_nonzero(_cut(mask, placement.source_box)))
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


def _scaled(side: int, numerator: int, denominator: int) -> int:
    """`side * numerator / denominator`, rounded half up, at least one pixel."""
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def _centred(h: int, w: int, height: int, width: int) -> Box:
    return ((height - h) // 2, (width - w) // 2, h, w)


def _cut(array: np.ndarray, box: Box) -> np.ndarray:
    y, x, h, w = box
    return array[y : y + h, x : x + w]


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
