"""How a file becomes an RGB array, and which files count as images.

Files are decoded by Pillow (`manifests.decoder`): it reports truncated files, where OpenCV fills
the rest with grey. The geometry (`manifests.geometry`) is offered from here as well.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from manifests.canvas import (
    cropped_fraction,
    fit_image,
    fit_mask,
    inspected,
    repeated_grey,
    restore_map,
    restore_mask,
)
from manifests.decoder import MIN_SIDE_PX, decode_values
from manifests.errors import DataError, ImageError, OutputError
from manifests.geometry import FITS, Geometry, Placement, place, valid_region

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "FITS",
    "IMAGE_SUFFIXES",
    "MIN_SIDE_PX",
    "Geometry",
    "Placement",
    "binarised",
    "cropped_fraction",
    "decode_image",
    "fit_image",
    "fit_mask",
    "inspected",
    "list_images",
    "place",
    "read_bytes",
    "read_image",
    "read_mask",
    "restore_map",
    "restore_mask",
    "valid_region",
    "write_png",
]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
DEFAULT_MAX_PIXELS = 200_000_000

_PathLike = str | os.PathLike[str]


def read_image(path: _PathLike, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Read an image file as upright 8-bit RGB.

    16-bit channels keep their high byte, palettes are looked up, grey is repeated, alpha is
    dropped, CMYK is converted without a colour profile. Of several pages the first is read. EXIF
    orientation is applied.

    Args:
        path: PNG, JPEG, BMP, TIFF or WebP; recognised by its content.
        max_pixels: refuse larger images from their header, before any memory is taken.

    Returns:
        (H,W,3) uint8, a new array.

    Raises:
        ImageError: missing, unreadable, empty, not an image, truncated or damaged, over
            `max_pixels`, under `MIN_SIDE_PX`, or of an unsupported kind (floating point, 32 bit).

    Source: ours.
    """
    return decode_image(read_bytes(path, max_pixels=max_pixels), path=path, max_pixels=max_pixels)


def decode_image(
    data: bytes,
    *,
    path: _PathLike,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    repeat_grey: bool = True,
) -> np.ndarray:
    """`read_image` on bytes already in memory; `path` only names them in errors.

    Without `repeat_grey` a grey image is (H,W) uint8: all that `fit_image` needs, in a third of
    the time.
    """
    values = decode_values(data, path=path, max_pixels=max_pixels)
    if values.dtype != np.uint8:
        values = (values >> 8).astype(np.uint8)
    return repeated_grey(values) if values.ndim == 2 and repeat_grey else values


def read_mask(
    path: _PathLike, *, binarise_at: int, max_pixels: int = DEFAULT_MAX_PIXELS
) -> np.ndarray:
    """Read a defect mask: True where the grey value, or any of three colours, is `>= binarise_at`.

    16-bit values are divided by 256 and rounded up, so that a small label stays a label.

    Args:
        path: as for `read_image`.
        binarise_at: 1 to 255.
        max_pixels: as for `read_image`.

    Returns:
        (H,W) bool, a new array.

    Raises:
        ImageError: as for `read_image`.
        ValueError: `binarise_at` out of range.

    Source: ours.
    """
    if not 1 <= binarise_at <= 255:
        raise ValueError(f"binarise_at must be 1 to 255, got {binarise_at}")
    values = decode_values(
        read_bytes(path, max_pixels=max_pixels), path=path, max_pixels=max_pixels
    )
    return binarised(values, binarise_at)


def binarised(values: np.ndarray, binarise_at: int) -> np.ndarray:
    """`read_mask` on values already decoded: (H,W) uint8 or uint16, or (H,W,3) uint8."""
    if values.ndim == 3:
        values = values.max(axis=2)
    if values.dtype != np.uint8:
        # ceil(value / 256) >= binarise_at, without leaving 16 bits.
        return values > (binarise_at - 1) * 256
    return values >= binarise_at


def read_bytes(path: _PathLike, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """Read a whole image file, once, for its digest and for `decode_image`.

    Raises:
        ImageError: missing, not a file, not readable, or larger than `max_pixels` of raw 16-bit
            RGBA could be.
    """
    try:
        # Looked at before it is opened: opening a named pipe would wait for ever.
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            kind = "a folder" if stat.S_ISDIR(info.st_mode) else "a special file"
            raise ImageError(f"{kind}, not an image file", path=path)
        limit = 8 * max_pixels + (64 << 20)
        if info.st_size > limit:
            raise ImageError(
                "the file is too large for an image",
                path=path,
                expected=f"at most {limit} bytes",
                got=info.st_size,
            )
        data = Path(path).read_bytes()
    except FileNotFoundError:
        what = "broken link" if os.path.islink(path) else "no such file"
        raise ImageError(what, path=path, hint="check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read: {reason}", path=path) from error
    return data


def write_png(path: _PathLike, image: np.ndarray) -> None:
    """Write a PNG so that `path` holds either the old content or all of the new.

    Args:
        path: the file; its folder must exist.
        image: (H,W,3) RGB or (H,W) grey, uint8.

    Raises:
        OutputError: the file cannot be written (no folder, no permission, disk full).
        ValueError: `image` has another shape or dtype.

    Source: ours.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise ValueError(f"expected (H,W,3) or (H,W) uint8, got {image.shape} {image.dtype}")
    path = Path(path)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    # Hidden, so that no folder listing takes a half-written file for an image.
    temporary = path.parent / f".tmp-{os.getpid()}-{threading.get_ident()}.png"
    try:
        temporary.write_bytes(buffer.getbuffer())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            path=path,
            hint="check that the folder exists, is writable and has space",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def list_images(paths: _PathLike | Iterable[_PathLike], *, allow_empty: bool = False) -> list[Path]:
    """All image files under the given files and folders, sorted by path, each once.

    Folders are searched recursively, through links too; names that begin with a dot and names
    without an image suffix (`IMAGE_SUFFIXES`, in either case) are passed over. A file that is named
    itself is listed whatever its suffix. A broken link with an image suffix is listed, so that
    reading reports it instead of nobody missing it.

    Raises:
        DataError: a path does not exist, a folder cannot be read, or there is no image at all and
            not `allow_empty`.

    Source: ours.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: set[Path] = set()
    for path in map(Path, given):
        if path.is_dir():
            _walk(path, found, ())
        elif path.exists() or path.is_symlink():
            found.add(path)
        else:
            raise DataError("no such file or folder", path=path, hint="check the path")
    if not found and not allow_empty:
        raise DataError(
            "no image files found",
            path=", ".join(map(str, given)) or None,
            expected=" ".join(IMAGE_SUFFIXES),
        )
    return sorted(found, key=Path.as_posix)


def _walk(folder: Path, found: set[Path], above: tuple[str, ...]) -> None:
    real = os.path.realpath(folder)
    if real in above:  # a link back to a folder above: everything in it is listed already
        return
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=folder) from error
    for entry in listed:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            _walk(folder / entry.name, found, (*above, real))
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and (
            entry.is_file() or entry.is_symlink()
        ):
            found.add(folder / entry.name)
