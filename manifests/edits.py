"""The record of truth of every negative, and its only renderer: exact, pure, without a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from manifests.edit_codec import canonical, encode, parse
from manifests.edit_types import Blend, Box, ColourShift, Copy, DonorTransform, Edit
from manifests.errors import EditError

__all__ = [
    "Blend",
    "Box",
    "ColourShift",
    "Copy",
    "DonorTransform",
    "Edit",
    "canonical",
    "check_fits",
    "decode",
    "encode",
    "footprint",
    "render",
]

_NO_DONORS: Mapping[str, np.ndarray] = MappingProxyType({})
# Pixels of a mask at a time: their places take forty times as much memory as they themselves.
_BAND_PX = 1 << 20


def decode(data: bytes, height: int, width: int) -> tuple[Edit, ...]:
    """Edits from untrusted bytes written by `encode`, checked to fit an image.

    Raises:
        EditError: malformed in any way, or an edit that does not fit `(height, width)`.
    """
    edits = parse(data, height, width)
    for edit in edits:
        check_fits(edit, height, width)
    return edits


def check_fits(edit: Edit, height: int, width: int) -> None:
    """Make sure that an edit can be rendered on an image of `(height, width)`.

    Raises:
        EditError: a source box that leaves the image, a target with no pixel inside it, or a mask
            of another size.
    """
    if isinstance(edit, Blend):
        if edit.mask.shape != (height, width):
            raise EditError(
                "blend mask has not the size of the image",
                expected=f"{height}x{width}",
                got="x".join(map(str, edit.mask.shape)),
            )
        return
    if not isinstance(edit, Copy):
        raise EditError("unknown kind of edit", expected="Copy or Blend", got=type(edit).__name__)
    y, x, h, w = edit.src
    if y + h > height or x + w > width:
        raise EditError(
            "src box lies outside the image", expected=f"inside {height}x{width}", got=edit.src
        )
    y, x, h, w = edit.dst
    # A turned box keeps its centre, so one that lies inside always leaves a pixel inside.
    is_inside = y >= 0 and x >= 0 and y + h <= height and x + w <= width
    if not is_inside and not _has_pixels(edit, height, width):
        raise EditError(
            "dst box has no pixel inside the image",
            expected=f"inside {height}x{width}",
            got=edit.dst,
        )


def footprint(copy: Copy, height: int, width: int) -> np.ndarray:
    """The pixels a Copy writes, (height, width) bool.

    Raises:
        EditError: the copy does not fit the image.
    """
    check_fits(copy, height, width)
    mask = np.zeros((height, width), dtype=bool)
    if _is_upright(copy):
        rows, columns = _clipped_box(copy.dst, height, width)
        mask[rows, columns] = True
    else:
        rows, columns, inside, _, _ = _turned(copy, height, width)
        mask[rows, columns] = inside
    return mask


def render(
    normal: np.ndarray,
    edits: Sequence[Edit],
    donors: Mapping[str, np.ndarray] = _NO_DONORS,
) -> tuple[np.ndarray, np.ndarray]:
    """A negative and its mask from a normal image and a list of edits.

    Every edit reads the *untouched* normal; they are written in order, so where two overlap the
    later one counts. Pixels outside the mask are those of the normal.

    Args:
        normal: (H, W, 3) uint8 RGB; not changed.
        edits: `Copy` and `Blend` records.
        donors: donor images (Hd, Wd, 3) uint8 RGB of any size by digest, for `Blend`.

    Returns:
        The image, (H, W, 3) uint8, and the union of all footprints and masks, (H, W) bool.

    Raises:
        EditError: wrong array, an edit that does not fit, or a donor that is missing.

    Source: CutSwap (arXiv 2311.18332) for swap and scar, SGSF (arXiv 2209.12440) for the blend;
    the exact integer arithmetic is ours (docs/formats.md).
    """
    _check_image(normal, "normal")
    height, width = normal.shape[:2]
    image = np.array(normal, order="C", copy=True)
    mask = np.zeros((height, width), dtype=bool)
    for edit in edits:
        check_fits(edit, height, width)
        if isinstance(edit, Copy):
            _write_copy(edit, normal, image, mask)
        else:
            _write_blend(edit, normal, donors, image, mask)
    return image, mask


def _check_image(image: object, name: str) -> None:
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or image.size == 0
    ):
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
        raise EditError(f"{name} is not an image", expected="(H, W, 3) uint8", got=kind)


def _is_upright(copy: Copy) -> bool:
    return copy.angle_cdeg % 36_000 == 0


def _has_pixels(copy: Copy, height: int, width: int) -> bool:
    if _is_upright(copy):
        rows, columns = _clipped_box(copy.dst, height, width)
        return bool(rows.start < rows.stop and columns.start < columns.stop)
    return bool(_turned(copy, height, width)[2].any())


def _clipped_box(box: Box, height: int, width: int) -> tuple[slice, slice]:
    y, x, h, w = box
    return slice(max(y, 0), min(y + h, height)), slice(max(x, 0), min(x + w, width))


def _turned(
    copy: Copy, height: int, width: int
) -> tuple[slice, slice, np.ndarray, np.ndarray, np.ndarray]:
    """The window of the image that holds the turned box, and where each pixel of it comes from.

    Returns:
        rows, columns: the window; inside (hh, ww) bool: which of its pixels belong to the
        footprint; i, j (hh, ww) integers: row and column in the source box (valid where inside).
    """
    y, x, h, w = copy.dst
    radians = math.radians(copy.angle_cdeg / 100)
    c, s = round(math.cos(radians) * 65536), round(math.sin(radians) * 65536)
    # Coordinates are doubled, so that the centre of a box of even size is an integer too.
    centre_y, centre_x = 2 * y + h - 1, 2 * x + w - 1
    reach_y = ((abs(c) * h + abs(s) * w) >> 16) + 4  # 4: more than all rounding together
    reach_x = ((abs(s) * h + abs(c) * w) >> 16) + 4
    top, bottom = max((centre_y - reach_y) // 2, 0), min((centre_y + reach_y) // 2 + 1, height)
    left, right = max((centre_x - reach_x) // 2, 0), min((centre_x + reach_x) // 2 + 1, width)
    bottom, right = max(bottom, top), max(right, left)
    # Half the memory traffic where 32 bits suffice, which is every canvas of up to 4096 px a side.
    kind: type[np.signedinteger] = np.int32 if h + w <= 8192 and width <= 8192 else np.int64
    u = (2 * np.arange(top, bottom, dtype=kind) - kind(centre_y))[:, None]
    v = (2 * np.arange(left, right, dtype=kind) - kind(centre_x))[None, :]
    i = (kind(c) * u + (kind(s) * v + kind(h << 16))) >> 17
    j = (kind(-s) * u + (kind(c) * v + kind(w << 16))) >> 17
    inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
    return slice(top, bottom), slice(left, right), inside, i, j


def _write_copy(copy: Copy, normal: np.ndarray, image: np.ndarray, mask: np.ndarray) -> None:
    height, width = mask.shape
    sy, sx = copy.src[:2]
    if _is_upright(copy):
        rows, columns = _clipped_box(copy.dst, height, width)
        dy, dx = sy - copy.dst[0], sx - copy.dst[1]
        pixels = normal[rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]
        pixels = _recoloured(pixels, copy.colour)
        if copy.feather_px:
            y, x, h, w = copy.dst
            down = _seam_weights(h, copy.feather_px)[rows.start - y : rows.stop - y]
            across = _seam_weights(w, copy.feather_px)[columns.start - x : columns.stop - x]
            weight = np.minimum(down[:, None], np.repeat(across, 3)).reshape(pixels.shape)
            pixels = _mixed(pixels, normal[rows, columns], weight)
        image[rows, columns] = pixels
        mask[rows, columns] = True
        return
    rows, columns, inside, i, j = _turned(copy, height, width)
    here = np.flatnonzero(inside)  # positions in the window, then in source and target image
    source = (i * width + j).take(here) + (sy * width + sx)
    window_width = columns.stop - columns.start
    target = here + here // window_width * (width - window_width)
    target += rows.start * width + columns.start
    originals = _pixel_items(np.ascontiguousarray(normal))
    pixels = originals.take(source)
    if copy.colour is not None:
        pixels = _pixel_items(_recoloured(_rgb_rows(pixels), copy.colour))
    if copy.feather_px:
        h, w = copy.dst[2:]
        down = _seam_weights(h, copy.feather_px).take(i.take(here))
        across = _seam_weights(w, copy.feather_px).take(j.take(here))
        weight = np.repeat(np.minimum(down, across), 3).reshape(-1, 3)
        under = _rgb_rows(originals.take(target))
        pixels = _pixel_items(_mixed(_rgb_rows(pixels), under, weight))
    _pixel_items(image)[target] = pixels
    mask[rows, columns] |= inside


def _seam_weights(side: int, feather_px: int) -> np.ndarray:
    """Weight of a copied pixel by its row or column in the box, (side,) uint16, 0..255.

    Weights grow with the distance from the edge, so that the smaller of a pixel's row and column
    weights is that of its distance from the nearest edge.
    """
    place = np.arange(side)
    distance = np.minimum(place, side - 1 - place)
    weights: np.ndarray = np.minimum((distance + 1) * 255 // (feather_px + 1), 255)
    return weights.astype(np.uint16)


def _mixed(over: np.ndarray, under: np.ndarray, weight: np.ndarray | np.uint16) -> np.ndarray:
    """`(weight * over + (255 - weight) * under + 127) // 255`, uint8.

    Args:
        over, under: (..., 3) uint8.
        weight: uint16 of 0..255, one for all or an array of the same shape.
    """
    # weight * 255 + (255 - weight) * 255 + 127 is at most 65152, so 16 bits are enough.
    mixed = over.astype(np.uint16) * weight
    mixed += under.astype(np.uint16) * (np.uint16(255) - weight)
    mixed += np.uint16(127)
    mixed //= np.uint16(255)
    return mixed.astype(np.uint8)


def _pixel_items(image: np.ndarray) -> np.ndarray:
    """A contiguous (..., 3) uint8 array seen as a flat array of pixels.

    NumPy gathers and scatters three-byte items several times faster than rows of three bytes.
    """
    return image.reshape(-1, 3).view("V3").reshape(-1)


def _rgb_rows(pixels: np.ndarray) -> np.ndarray:
    """The inverse of `_pixel_items`: a flat array of pixels seen as (n, 3) uint8."""
    return pixels.view(np.uint8).reshape(-1, 3)


def _recoloured(pixels: np.ndarray, colour: ColourShift | None) -> np.ndarray:
    return pixels if colour is None else _looked_up(pixels, colour.table())


def _looked_up(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`pixels` (..., 3) uint8 through one row of `table` (3, 256) uint8 per channel."""
    return np.stack([table[channel][pixels[..., channel]] for channel in range(3)], axis=-1)


def _write_blend(
    blend: Blend,
    normal: np.ndarray,
    donors: Mapping[str, np.ndarray],
    image: np.ndarray,
    mask: np.ndarray,
) -> None:
    donor = donors.get(blend.donor)
    if donor is None:
        raise EditError("donor image is missing", expected=blend.donor)
    _check_image(donor, "donor")
    transform = blend.transform
    turned = np.rot90(donor, transform.quarter_turns)
    if transform.flip_y:
        turned = turned[::-1]
    if transform.flip_x:
        turned = turned[:, ::-1]
    dy, dx = transform.shift
    height, width = mask.shape
    band = max(1, _BAND_PX // width)
    for top in range(0, height, band):
        rows, columns = np.divmod(np.flatnonzero(blend.mask[top : top + band]), width)
        rows += top
        # Masks of forged anomalies are sparse, so that only their pixels are looked at.
        patch = turned[(rows + dy) % turned.shape[0], (columns + dx) % turned.shape[1]]  # (n, 3)
        if transform.lut is not None:
            patch = _looked_up(patch, transform.lut)
        image[rows, columns] = _mixed(patch, normal[rows, columns], np.uint16(blend.alpha))
    mask |= blend.mask
