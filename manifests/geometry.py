"""How an image of any shape becomes a canvas of one shape, and how results find their way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from manifests.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from manifests.edits import Box

FITS = ("stretch", "letterbox", "crop")
MIN_CANVAS_PX = 32
MAX_CANVAS_PX = 4096


@dataclass(frozen=True)
class Geometry:
    """The canvas that every image of a set or a model is fitted to.

    Args:
        height, width: the canvas in pixels, 32 to 4096 each.
        fit: `stretch` fills the canvas and changes the aspect ratio; `letterbox` keeps the aspect
            ratio and pads with black; `crop` keeps it and cuts the centre.

    Raises:
        ConfigError: a side out of range or not an int, or an unknown fit.

    Source: ours.
    """

    height: int = 256
    width: int = 256
    fit: str = "stretch"

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

    def to_json(self) -> dict[str, int | str]:
        """The three fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: object) -> Geometry:
        """Inverse of `to_json`. Raises ConfigError on missing, unknown or unusable fields."""
        names = {"height", "width", "fit"}
        if not isinstance(values, Mapping) or set(values) != names:
            got = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise ConfigError("malformed geometry", expected=sorted(names), got=got)
        return cls(**values)


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


def fit_image(image: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Placement]:
    """Fit an image to the canvas.

    An axis that shrinks is resized by area averaging (INTER_AREA), one that grows linearly in
    fixed-point arithmetic (INTER_LINEAR_EXACT); where the axes differ, the shrinking one is resized
    first and the result rounded to 8 bits in between. Cubic interpolation is left out because its
    results change between OpenCV versions.

    Args:
        image: (H,W,3) uint8 RGB, or (H,W) uint8 grey, which is repeated after it was resized.
        geometry: the canvas.

    Returns:
        The canvas (Hc,Wc,3) uint8, a new array, black outside `canvas_box`; and the placement.

    Raises:
        ValueError: not such an array.

    Source: ours.
    """
    if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or image.ndim < 2:
        raise ValueError(f"expected (H,W,3) or (H,W) uint8, got {image.shape} {image.dtype}")
    placement = place(image.shape[0], image.shape[1], geometry)
    y, x, h, w = placement.canvas_box
    shown = _resized(_cut(image, placement.source_box), h, w)
    # Without a base it is no part of `image`, but was made by resizing: nobody else has it.
    if shown.shape == (geometry.height, geometry.width, 3) and shown.base is None:
        return shown, placement
    canvas = np.zeros((geometry.height, geometry.width, 3), np.uint8)
    canvas[y : y + h, x : x + w] = shown
    return canvas, placement


def fit_mask(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """Fit a mask to the canvas as its image was, by nearest neighbour.

    Args:
        mask: (H,W) bool, in the source's pixels.
        placement: what `fit_image` returned for the image.

    Returns:
        (Hc,Wc) bool, False outside `canvas_box`.

    Raises:
        ImageError: the mask and its image differ in height or width.

    Source: ours.
    """
    _check_source(mask, placement)
    y, x, h, w = placement.canvas_box
    canvas = np.zeros((placement.geometry.height, placement.geometry.width), bool)
    canvas[y : y + h, x : x + w] = _nearest(_cut(mask, placement.source_box), h, w)
    return canvas


def restore_map(map: np.ndarray, placement: Placement, *, outside: float = 0.0) -> np.ndarray:
    """Bring a score map back from the canvas to the source's pixels, linearly.

    Padding never bleeds in: only `canvas_box` is read.

    Args:
        map: (Hc,Wc) float32.
        placement: what `fit_image` returned for the image.
        outside: value for source pixels that a crop cut off.

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
    restored[y : y + h, x : x + w] = cv2.resize(shown, (w, h), interpolation=cv2.INTER_LINEAR)
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


def cropped_fraction(mask: np.ndarray, placement: Placement) -> float:
    """The part of a mask's area that a crop cuts off, 0.0 to 1.0; 0.0 for an empty mask.

    Args:
        mask: (H,W) bool, in the source's pixels.
        placement: what `fit_image` returned for the image.

    Raises:
        ImageError: the mask and its image differ in height or width.

    Source: ours.
    """
    _check_source(mask, placement)
    area = int(np.count_nonzero(mask))
    kept = int(np.count_nonzero(_cut(mask, placement.source_box)))
    return (area - kept) / area if area else 0.0


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
