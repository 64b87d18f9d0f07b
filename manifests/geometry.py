"""The canvas that images of any shape are fitted to, and where an image lies on it.

Pixels are brought there and back by `manifests.canvas`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from manifests.errors import ConfigError
from manifests.roi import Roi

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
    inside[y : y + h, x : x + w] = cut(geometry.roi.mask, canvas_box)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        raise ValueError(f"nothing of the region of interest is in the box {canvas_box}")
    box = (
        int(rows[0]),
        int(columns[0]),
        int(rows[-1] - rows[0] + 1),
        int(columns[-1] - columns[0] + 1),
    )
    return box, None if cut(inside, box).all() else inside


def _scaled(side: int, numerator: int, denominator: int) -> int:
    """`side * numerator / denominator`, rounded half up, at least one pixel."""
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def _centred(h: int, w: int, height: int, width: int) -> Box:
    return ((height - h) // 2, (width - w) // 2, h, w)


def cut(array: np.ndarray, box: Box) -> np.ndarray:
    """The box of a (H,W,...) array, a view."""
    y, x, h, w = box
    return array[y : y + h, x : x + w]
