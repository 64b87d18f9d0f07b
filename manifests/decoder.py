"""The bytes of an image file, decoded to an upright array without trusting them."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from manifests.errors import ImageError

MIN_SIDE_PX = 16

# First bytes -> decoder. The content decides, not the suffix. The classes are called directly,
# because `Image.open` compares every image with a global limit of its own, warns above it and
# refuses above twice that, whatever `max_pixels` says here. (Newer Pillows ask that limit in their
# TIFF and WebP decoders too; it belongs to the host program, so it is reported and not moved.)
_DECODERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"BM", BmpImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
    (b"II+\x00", TiffImageFile),
    (b"RIFF", WebPImageFile),
)

# What Pillow's decoders raise on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262

# Muting warnings swaps a list that all threads share, so one thread at a time may do it.
_warnings_lock = threading.Lock()


# Pillow modes in words; those of 16-bit grey are left out.
_KINDS = {
    "1": "black and white",
    "LA": "grey with alpha",
    "La": "grey with alpha",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGB with alpha",
    "RGBa": "RGB with alpha",
    "P": "palette",
    "PA": "palette with alpha",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
}


def decode_values(data: bytes, *, path: str | os.PathLike[str], max_pixels: int) -> np.ndarray:
    """The values of `decode_described`."""
    return decode_described(data, path=path, max_pixels=max_pixels)[0]


def decode_described(
    data: bytes, *, path: str | os.PathLike[str], max_pixels: int
) -> tuple[np.ndarray, str]:
    """Decode a PNG, JPEG, BMP, TIFF or WebP file, recognised by its content, EXIF-oriented.

    Of several pages or pictures the first is decoded. Palettes are looked up, alpha is dropped,
    CMYK and YCbCr are converted without a colour profile.

    Args:
        data: the whole file.
        path: names the file in errors.
        max_pixels: refuse larger images from their header, before memory is taken for them.

    Returns:
        A new array: (H,W) uint8 grey, (H,W) uint16 grey spread over all 16 bits, or (H,W,3) uint8
        RGB (of 16-bit colour the high byte). And what pixels the file holds: "grey, 8 bit", "RGB
        with alpha, 16 bit", "palette, 8 bit" and so on.

    Raises:
        ImageError: not an image, truncated or damaged, over `max_pixels`, a side under
            `MIN_SIDE_PX`, or of an unsupported kind (floating point, 32 bits).

    Source: ours.
    """
    decoder = next((kind for magic, kind in _DECODERS if data.startswith(magic)), None)
    if decoder is None or (decoder is WebPImageFile and data[8:12] != b"WEBP"):
        raise _not_an_image(data, path)
    try:
        if decoder is WebPImageFile:
            # Pillow's WebP decoder takes memory for the canvas before its size can be asked for.
            _check_sides(*_webp_sides(data), path=path, max_pixels=max_pixels)
        with _muted():
            image = decoder(io.BytesIO(data))
        with contextlib.closing(image):
            _check_sides(image.height, image.width, path=path, max_pixels=max_pixels)
            # Only TIFF's loader reads tags, and so warns, once more; the others need not queue.
            with _muted() if decoder is TiffImageFile else contextlib.nullcontext():
                image.load()
            values = _values(image, path)
            kind = f"{_KINDS.get(image.mode, 'grey')}, {_bits(image, data)} bit"
            with _muted():
                # Pillow turns a TIFF itself since version 11 and then removes this tag.
                orientation = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise ImageError(
            f"not enough memory to decode this {decoder.format} file",
            path=path,
            hint="scale the image down",
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            "too many pixels for Pillow's own limit",
            path=path,
            got=error,
            hint="scale the image down, or raise PIL.Image.MAX_IMAGE_PIXELS as well",
        ) from error
    except _DAMAGE as error:
        is_truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise ImageError(
            f"{'truncated' if is_truncated else 'damaged'} {decoder.format} file",
            path=path,
            got=str(error) or type(error).__name__,
            hint="copy the file again or remove it",
        ) from error
    return np.ascontiguousarray(_turned(values, orientation)), kind


def _not_an_image(data: bytes, path: str | os.PathLike[str]) -> ImageError:
    expected = "PNG, JPEG, BMP, TIFF or WebP"
    if not data:
        return ImageError(
            "the file is empty (0 bytes)",
            path=path,
            expected=expected,
            hint="copy the file again or remove it",
        )
    if data.startswith(b"version https://git-lfs"):
        return ImageError(
            "a Git LFS pointer instead of the image",
            path=path,
            expected=expected,
            hint="fetch the image with `git lfs pull`",
        )
    return ImageError(
        "not an image", path=path, expected=expected, got=f"a file that begins {data[:8]!r}"
    )


def _check_sides(height: int, width: int, *, path: str | os.PathLike[str], max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError(
            "too many pixels",
            path=path,
            expected=f"at most {max_pixels}",
            got=f"{height} x {width}",
            hint="scale the image down",
        )
    if min(height, width) < MIN_SIDE_PX:
        raise ImageError(
            "too small",
            path=path,
            expected=f"at least {MIN_SIDE_PX} pixels in height and width",
            got=f"{height} x {width}",
        )


def _webp_sides(data: bytes) -> tuple[int, int]:
    """Height and width from a WebP header (RFC 9649, sections 2.5 to 2.7)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise SyntaxError("the first WebP chunk is not an image")
    return height, width


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Silence Pillow's warnings: odd metadata is no news, and damage raises an error anyway."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _values(image: ImageFile.ImageFile, path: str | os.PathLike[str]) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I;16"):
        return _grey_16(image)
    if mode == "I" and image.format == "PNG":  # older Pillows give 16-bit grey PNGs this mode
        return np.asarray(image).astype(np.uint16)
    if mode == "1":
        return np.array(image.convert("L"))
    if mode == "L":
        return np.array(image)
    if mode in ("LA", "La"):
        return np.array((image if mode == "LA" else image.convert("LA")).getchannel(0))
    if mode in ("RGB", "RGBA", "RGBX"):
        return np.array(image)[:, :, :3]
    if mode in ("P", "PA", "RGBa"):
        # By way of RGBA, because a direct conversion warns about transparent palettes.
        return np.asarray(image.convert("RGBA"))[:, :, :3]
    if mode in ("CMYK", "YCbCr"):
        return np.array(image.convert("RGB"))
    raise ImageError(
        "unsupported kind of pixels",
        path=path,
        expected="8 or 16 bits per channel, grey or colour",
        got=f"Pillow mode {mode}",
        hint="convert the image to 8-bit PNG",
    )


def _bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """Bits per channel; Pillow's modes do not tell those of 16-bit colour."""
    if image.mode == "1":
        return 1
    if isinstance(image, TiffImageFile):
        return int(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))[0])
    if isinstance(image, PngImageFile):
        return max(8, data[24])  # of the IHDR chunk, which always comes first
    return 8


def _grey_16(image: ImageFile.ImageFile) -> np.ndarray:
    values: np.ndarray = np.asarray(image).astype(np.uint16)  # native byte order
    if isinstance(image, TiffImageFile):
        # Pillow leaves 12-bit values in the low bits and white-is-zero files unturned.
        bits = int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])
        values = values << max(0, 16 - bits)
        if image.tag_v2.get(_PHOTOMETRIC) == 0:
            values = ~values
    return values


def _turned(values: np.ndarray, orientation: object) -> np.ndarray:
    """Apply an EXIF orientation (tag 274); values outside 2 to 8 mean upright."""
    if orientation == 2:
        return values[:, ::-1]
    if orientation == 3:
        return values[::-1, ::-1]
    if orientation == 4:
        return values[::-1]
    if orientation == 5:
        return values.swapaxes(0, 1)
    if orientation == 6:
        return np.rot90(values, -1)
    if orientation == 7:
        return values[::-1, ::-1].swapaxes(0, 1)
    if orientation == 8:
        return np.rot90(values, 1)
    return values
