"""The two kinds of edit that make a negative out of a normal, as plain, validated, frozen data."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from typing import SupportsIndex, cast

import numpy as np

from manifests.errors import EditError

Box = tuple[int, int, int, int]
"""A rectangle `(y, x, h, w)` in pixels: upper-left corner, height, width."""

# Far above the largest canvas (4096 px), and small enough for exact 64-bit rotation arithmetic.
COORDINATE_LIMIT = 1 << 16
ANGLE_LIMIT_CDEG = 36_000
GAIN_LIMIT_Q8 = 16 * 256
OFFSET_LIMIT = 255
FEATHER_LIMIT_PX = 127

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


def _integer(value: object, name: str, low: int, high: int) -> int:
    """`value` as a Python int (NumPy integers are welcome, booleans and floats are not)."""
    if type(value) is int:  # all that comes from a file: a set has some twenty for each negative
        number = value
    elif isinstance(value, bool | np.bool_):
        raise EditError(f"{name} is not an integer", got=repr(value))
    else:
        try:
            number = operator.index(cast(SupportsIndex, value))
        except TypeError:
            raise EditError(f"{name} is not an integer", got=repr(value)[:80]) from None
    if not low <= number <= high:
        raise EditError(f"{name} is out of range", expected=f"{low}..{high}", got=_short(number))
    return number


def _integers(values: object, name: str, count: int, low: int, high: int) -> tuple[int, ...]:
    if not isinstance(values, tuple | list | np.ndarray) or len(values) != count:
        raise EditError(f"{name} is not a list of {count} integers", got=repr(values)[:80])
    # A list is quicker than a generator, and a set has some twenty of these for each negative.
    return tuple([_integer(value, name, low, high) for value in values])


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise EditError(f"{name} is not true or false", got=repr(value)[:80])
    return bool(value)


def _short(number: int) -> str:
    # An integer of a million digits must not become an error message of a million characters.
    return str(number) if number.bit_length() <= 64 else f"an integer of {number.bit_length()} bits"


def _frozen_array(array: np.ndarray) -> np.ndarray:
    """A private read-only copy, so that nobody changes an edit after it was made."""
    copy = np.array(array, order="C", copy=True)
    copy.flags.writeable = False
    return copy


def check_box(box: object, name: str) -> Box:
    """`box` as a tuple of four Python ints with positive height and width.

    Raises:
        EditError: not four integers, or out of range.
    """
    limit = COORDINATE_LIMIT
    y, x, h, w = _integers(box, name, 4, -limit, limit)
    if h < 1 or w < 1:
        raise EditError(
            f"{name} is empty", expected="height and width of at least 1", got=f"{h}x{w}"
        )
    return y, x, h, w


@dataclass(frozen=True)
class ColourShift:
    """A gain and an offset per channel, in integer arithmetic.

    `out = clip((v * gain_q8 + 256 * offset + 128) >> 8, 0, 255)`, so `(256, 256, 256)` and
    `(0, 0, 0)` change nothing.

    Args:
        gain_q8: three gains in 1/256 (R, G, B), 0..4096.
        offset: three offsets in grey levels (R, G, B), -255..255.

    Raises:
        EditError: wrong type or out of range.

    Source: ours (the colour jitter of CutPaste, arXiv 2104.04015, made exact).
    """

    gain_q8: tuple[int, int, int]
    offset: tuple[int, int, int]

    def __post_init__(self) -> None:
        gain = _integers(self.gain_q8, "colour gain", 3, 0, GAIN_LIMIT_Q8)
        offset = _integers(self.offset, "colour offset", 3, -OFFSET_LIMIT, OFFSET_LIMIT)
        object.__setattr__(self, "gain_q8", gain)
        object.__setattr__(self, "offset", offset)

    def table(self) -> np.ndarray:
        """The shift as a look-up table, (3, 256) uint8."""
        value = np.arange(256, dtype=np.int64)
        gain = np.asarray(self.gain_q8, dtype=np.int64)[:, None]
        offset = np.asarray(self.offset, dtype=np.int64)[:, None]
        shifted: np.ndarray = (value * gain + 256 * offset + 128) >> 8
        return shifted.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Copy:
    """A box of the untouched normal, written somewhere else, turned and recoloured if asked.

    Args:
        src: box to read, fully inside the image.
        dst: box of the same height and width to write to. What sticks out of the image, as it is
            or after the turn, is clipped; at least one pixel must remain.
        angle_cdeg: counter-clockwise turn about the centre of `dst` in hundredths of a degree,
            -36000..36000.
        colour: colour shift of the copied pixels, or None.
        feather_px: width of the seam in which the copy fades into the normal, 0..127 px inwards
            from the box's edges; 0 copies every pixel whole. The footprint is the same.

    Raises:
        EditError: wrong type, out of range, or boxes of different sizes.

    Source: CutSwap (arXiv 2311.18332): a swap is two of these, a scar two turned ones. The integer
    rotation is ours, so that a replay is exact on any machine; so is the feathered seam.
    """

    src: Box
    dst: Box
    angle_cdeg: int = 0
    colour: ColourShift | None = None
    feather_px: int = 0

    def __post_init__(self) -> None:
        src, dst = check_box(self.src, "src box"), check_box(self.dst, "dst box")
        if src[2:] != dst[2:]:
            raise EditError(
                "src and dst boxes differ in size",
                expected=f"{src[2]}x{src[3]}",
                got=f"{dst[2]}x{dst[3]}",
            )
        if src[0] < 0 or src[1] < 0:
            raise EditError("src box lies outside the image", got=src)
        if self.colour is not None and not isinstance(self.colour, ColourShift):
            raise EditError("colour is not a ColourShift", got=repr(self.colour)[:80])
        angle = _integer(self.angle_cdeg, "angle", -ANGLE_LIMIT_CDEG, ANGLE_LIMIT_CDEG)
        object.__setattr__(self, "src", src)
        object.__setattr__(self, "dst", dst)
        object.__setattr__(self, "angle_cdeg", angle)
        feather = _integer(self.feather_px, "feather", 0, FEATHER_LIMIT_PX)
        object.__setattr__(self, "feather_px", feather)


@dataclass(frozen=True, eq=False)
class DonorTransform:
    """How a donor image is laid under the mask of a `Blend`; applied in the order of the fields.

    Args:
        quarter_turns: 0..3 turns of 90 degrees counter-clockwise (as `np.rot90`).
        flip_y, flip_x: mirror top-bottom, then left-right.
        shift: `(dy, dx)`; the donor is wrapped, `out[y, x] = donor[(y + dy) % Hd, (x + dx) % Wd]`.
        lut: (3, 256) uint8, a look-up table per channel, or None.

    Raises:
        EditError: wrong type or out of range.

    Source: ours.
    """

    quarter_turns: int = 0
    flip_y: bool = False
    flip_x: bool = False
    shift: tuple[int, int] = (0, 0)
    lut: np.ndarray | None = None

    def __post_init__(self) -> None:
        turns = _integer(self.quarter_turns, "quarter turns", 0, 3)
        shift = _integers(self.shift, "donor shift", 2, -COORDINATE_LIMIT, COORDINATE_LIMIT)
        object.__setattr__(self, "quarter_turns", turns)
        object.__setattr__(self, "flip_y", _flag(self.flip_y, "flip_y"))
        object.__setattr__(self, "flip_x", _flag(self.flip_x, "flip_x"))
        object.__setattr__(self, "shift", shift)
        if self.lut is not None:
            lut = self.lut
            if not isinstance(lut, np.ndarray) or lut.dtype != np.uint8 or lut.shape != (3, 256):
                raise EditError("look-up table is not a (3, 256) uint8 array")
            object.__setattr__(self, "lut", _frozen_array(lut))

    def _key(self) -> tuple:
        lut = None if self.lut is None else self.lut.tobytes()
        return self.quarter_turns, self.flip_y, self.flip_x, self.shift, lut

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DonorTransform) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True, eq=False)
class Blend:
    """Another image mixed into the normal under a mask.

    `out = (alpha * donor + (255 - alpha) * normal + 127) // 255` where the mask is set.

    Args:
        donor: digest of the donor image (`array_digest`, 64 hex characters).
        transform: how the donor is turned, shifted and recoloured first.
        mask: (H, W) bool, the size of the image, at least one pixel set.
        alpha: weight of the donor, 0..255.

    Raises:
        EditError: wrong type, out of range, or an empty mask.

    Source: forged anomalies of SGSF (arXiv 2209.12440); integer arithmetic ours.
    """

    donor: str
    transform: DonorTransform
    mask: np.ndarray = field(repr=False)
    alpha: int

    def __post_init__(self) -> None:
        if not isinstance(self.donor, str) or not _HEX_DIGEST.fullmatch(self.donor):
            raise EditError("donor is not a digest of 64 hex characters", got=repr(self.donor)[:80])
        if not isinstance(self.transform, DonorTransform):
            raise EditError("transform is not a DonorTransform", got=repr(self.transform)[:80])
        mask = self.mask
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
            raise EditError("blend mask is not an (H, W) bool array")
        if not mask.any():
            raise EditError("blend mask is empty")
        object.__setattr__(self, "alpha", _integer(self.alpha, "alpha", 0, 255))
        object.__setattr__(self, "mask", _frozen_array(mask))

    def _key(self) -> tuple:
        return self.donor, self.transform, self.mask.shape, self.mask.tobytes(), self.alpha

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blend) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


Edit = Copy | Blend
