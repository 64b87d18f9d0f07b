"""Reading, listing and writing image files: everything a factory's disk may hold."""

from __future__ import annotations

import gc
import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from PIL.WebPImagePlugin import WebPImageFile

from manifests.errors import DataError, ImageError, OutputError
from manifests.images import (
    DEFAULT_MAX_PIXELS,
    IMAGE_SUFFIXES,
    decode_image,
    list_images,
    read_bytes,
    read_image,
    read_mask,
    write_png,
)

HEIGHT, WIDTH = 40, 24


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Not square, smooth, and red, green and blue all differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // height, x * 255 // width, 60 + (y + x) % 90], 2).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def tiff(
    rows: bytes, height: int, width: int, *, bits: int, photometric: int = 1, order: str = "<"
) -> bytes:
    """An uncompressed one-strip grey TIFF, for the kinds that Pillow cannot write."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(rows)),
    ]
    data = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(rows)) + rows
    data += struct.pack(order + "H", len(tags))
    for tag, kind, value in tags:
        packed = struct.pack(order + ("I" if kind == 4 else "HH"), *([value, 0][: 5 - kind or 1]))
        data += struct.pack(order + "HHI", tag, kind, 1) + packed
    return data + b"\0\0\0\0"


def png_header(height: int, width: int) -> bytes:
    """A PNG that promises `height` x `width` pixels and has almost none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def patched(data: bytes, offset: int, values: bytes) -> bytes:
    return data[:offset] + values + data[offset + len(values) :]


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Decode with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode_image(data, path="some file.png", max_pixels=max_pixels)


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- what can be read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_are_read_exactly(kind: str, options: dict) -> None:
    image = decode(encoded(picture(), kind, **options))
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
    np.testing.assert_array_equal(image, picture())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_keep_channel_order(kind: str) -> None:
    image = decode(encoded(picture(), kind, quality=95)).astype(int)
    assert np.abs(image - picture()).mean() < 6
    assert np.abs(image[..., ::-1] - picture()).mean() > 30  # BGR would be this far off


def test_grey_alpha_and_bilevel_become_rgb() -> None:
    grey = picture()[..., 0]
    alpha = picture()[..., 1]  # a gradient from 0: premultiplying or blending would show
    expected = np.repeat(grey[..., None], 3, 2)
    np.testing.assert_array_equal(decode(encoded(grey, "PNG")), expected)
    np.testing.assert_array_equal(
        decode(encoded(Image.merge("LA", [Image.fromarray(c) for c in (grey, alpha)]), "PNG")),
        expected,
    )
    rgba = np.dstack([picture(), alpha])
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        np.testing.assert_array_equal(decode(encoded(rgba, kind, **options)), picture())
    bilevel = Image.fromarray(grey > 100)
    assert bilevel.mode == "1"
    np.testing.assert_array_equal(
        decode(encoded(bilevel, "PNG"))[..., 2], np.where(grey > 100, 255, 0)
    )


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_palette_is_looked_up_whatever_its_transparency(transparency: object) -> None:
    index = (np.arange(HEIGHT * WIDTH) % 3).reshape(HEIGHT, WIDTH).astype(np.uint8)
    colours = np.array([[10, 20, 30], [200, 100, 50], [1, 255, 2]], np.uint8)
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode(encoded(image, "PNG", **options)), colours[index])


def test_transparent_colour_of_a_png_without_alpha_is_ignored() -> None:
    data = encoded(picture(), "PNG", transparency=tuple(map(int, picture()[0, 0])))
    np.testing.assert_array_equal(decode(data), picture())


def test_16_bit_keeps_the_high_byte() -> None:
    rng = np.random.default_rng(3)
    low = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    deep = (picture().astype(np.uint16) << 8) | low
    grey = np.repeat(picture()[..., :1], 3, 2)
    for suffix in (".png", ".tiff"):
        colour_data = cv2.imencode(suffix, deep[..., ::-1])[1].tobytes()
        np.testing.assert_array_equal(decode(colour_data), picture())
        grey_data = cv2.imencode(suffix, deep[..., 0])[1].tobytes()
        np.testing.assert_array_equal(decode(grey_data), grey)
    for order in "<>":
        rows = deep[..., 0].astype(order + "u2").tobytes()
        np.testing.assert_array_equal(decode(tiff(rows, HEIGHT, WIDTH, bits=16, order=order)), grey)


def test_16_bit_tiff_where_white_is_zero_is_turned() -> None:
    deep = picture()[..., 0].astype("<u2") << 8
    data = tiff((65535 - deep).astype("<u2").tobytes(), HEIGHT, WIDTH, bits=16, photometric=0)
    np.testing.assert_array_equal(decode(data)[..., 1], picture()[..., 0])


def test_12_bit_tiff_is_not_taken_for_a_dark_16_bit_one() -> None:
    deep = picture()[..., 0].astype(int) << 4 | 9
    first, second = deep[:, 0::2], deep[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 2)
    data = tiff(packed.astype(np.uint8).tobytes(), HEIGHT, WIDTH, bits=12)
    np.testing.assert_array_equal(decode(data)[..., 0], picture()[..., 0])


def test_cmyk_jpeg_becomes_rgb() -> None:
    flat = np.broadcast_to(np.array([200, 120, 40], np.uint8), (HEIGHT, WIDTH, 3))
    data = encoded(Image.fromarray(flat.copy()).convert("CMYK"), "JPEG", quality=98)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(decode(data).astype(int) - flat).max() <= 4


def test_first_page_of_a_multi_page_tiff() -> None:
    pages = [Image.fromarray(255 - picture(32, 32)), Image.fromarray(picture(20, 50))]
    data = encoded(picture(), "TIFF", save_all=True, append_images=pages)
    np.testing.assert_array_equal(decode(data), picture())


def test_animated_png_gives_its_default_picture() -> None:
    data = encoded(
        picture(), "PNG", save_all=True, append_images=[Image.fromarray(255 - picture())]
    )
    np.testing.assert_array_equal(decode(data), picture())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    data = encoded(picture(), kind, exif=exif.tobytes(), **options.get(kind, {}))
    tagged = Image.fromarray(picture())
    tagged.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged)).astype(int)
    assert expected.shape[:2] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    image = decode(data)
    assert image.shape == expected.shape and image.flags.c_contiguous
    assert np.abs(image - expected).max() <= (8 if kind == "JPEG" else 0)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_senseless_orientation_means_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(decode(encoded(picture(), "PNG", exif=exif)), picture())


def test_broken_metadata_neither_warns_nor_hides_the_image() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x09\0\1"):
        assert decode(encoded(picture(), "JPEG", exif=exif)).shape == (HEIGHT, WIDTH, 3)


def test_pillows_own_pixel_limit_does_not_interfere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("PNG", "JPEG", "BMP"):
        assert decode(encoded(picture(), kind)).shape == (HEIGHT, WIDTH, 3)
    for kind in ("TIFF", "WEBP"):  # depends on Pillow's version, but never a warning or a crash
        try:
            assert decode(encoded(picture(), kind)).shape == (HEIGHT, WIDTH, 3)
        except ImageError as error:
            assert "Pillow's own limit" in str(error)


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = written(tmp_path, "really a bmp.JPG", encoded(picture(), "BMP"))
    np.testing.assert_array_equal(read_image(path), picture())


def test_paths_with_spaces_and_unicode(tmp_path: Path) -> None:
    path = written(tmp_path, "Prüfung 検査/Teil nr. 1 é\u0301.PNG", encoded(picture(), "PNG"))
    np.testing.assert_array_equal(read_image(str(path)), picture())
    assert list_images(tmp_path) == [path]


# --- what cannot ----------------------------------------------------------------------------------


def test_zero_byte_file(tmp_path: Path) -> None:
    path = written(tmp_path, "a.png", b"")
    with pytest.raises(ImageError, match=r"a\.png: the file is empty \(0 bytes\)"):
        read_image(path)


def test_text_renamed_to_png(tmp_path: Path) -> None:
    path = written(tmp_path, "a.png", b"hello, this is text")
    with pytest.raises(ImageError, match=r"a\.png: not an image \(expected PNG.*hello"):
        read_image(path)
    with pytest.raises(ImageError, match="not an image"):
        decode(b"RIFF\x24\0\0\0WAVEfmt ")


def test_git_lfs_pointer_is_named() -> None:
    with pytest.raises(ImageError, match="git lfs pull"):
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def test_missing_folder_pipe_and_broken_link(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nothing\.png: no such file"):
        read_image(tmp_path / "nothing.png")
    (tmp_path / "x.png").mkdir()
    with pytest.raises(ImageError, match=r"x\.png: a folder, not an image file"):
        read_image(tmp_path / "x.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="broken link"):
        read_image(tmp_path / "link.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="a special file"):  # and does not wait for a writer
        read_image(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image("a\0b.png")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "a.png", encoded(picture(), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything; refuse in its place

        def refuse(self: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read: Permission denied"):
        read_image(path)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {}),
    ],
)
def test_truncated_anywhere_is_an_error_or_lost_nothing(kind: str, options: dict) -> None:
    data = encoded(picture(), kind, **options)
    whole = decode(data)
    failed = 0
    for end in range(0, len(data), max(1, len(data) // 97)):
        try:
            image = decode(data[:end])
        except ImageError as error:
            failed += 1
            assert "\n" not in str(error) and str(error).startswith("some file.png: ")
        else:
            np.testing.assert_array_equal(image, whole, err_msg=f"cut at {end} of {len(data)}")
    assert failed > 80
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        decode(data[: len(data) * 6 // 10])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_damaged_bytes_never_raise_anything_else(kind: str) -> None:
    data = encoded(picture(), kind)
    rng = np.random.Generator(np.random.PCG64(11))
    failed = 0
    for _ in range(120):
        damaged = bytearray(data)
        # Half of the hits go into the header, where all the parsing is.
        for limit in (60, len(data)):
            damaged[4 + int(rng.integers(min(limit, len(data)) - 4))] = int(rng.integers(256))
        try:
            image = decode(bytes(damaged), max_pixels=1_000_000)
        except ImageError:
            failed += 1
        else:
            assert image.dtype == np.uint8 and image.shape[2] == 3
    assert failed > 10


def test_too_many_pixels_are_refused_from_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise AssertionError("the pixels were asked for")

    small_jpeg = encoded(picture(), "JPEG")
    frame = small_jpeg.index(b"\xff\xc0") + 5
    webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (16383).to_bytes(3, "little") * 2
    bombs = {
        "PNG": png_header(60_000, 50_000),
        "JPEG": patched(small_jpeg, frame, struct.pack(">HH", 60_000, 50_000)),
        "BMP": patched(encoded(picture(), "BMP"), 18, struct.pack("<ii", 50_000, 60_000)),
        "TIFF": tiff(b"\0" * 8, 60_000, 50_000, bits=8),
        "WEBP": webp,
    }
    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    monkeypatch.setattr(WebPImageFile, "_open", explode)
    for kind, data in bombs.items():
        got = "16384 x 16384" if kind == "WEBP" else "60000 x 50000"
        with pytest.raises(ImageError, match=f"too many pixels.*at most 200000000, got {got}"):
            decode(data)


def test_webp_headers_of_all_three_kinds_are_measured() -> None:
    lossy = encoded(picture(), "WEBP")
    lossless = encoded(picture(), "WEBP", lossless=True)
    extended = encoded(picture(), "WEBP", exif=Image.Exif().tobytes() + b"II*\0")
    kinds = [data[12:16] for data in (lossy, lossless, extended)]
    assert kinds == [b"VP8 ", b"VP8L", b"VP8X"]
    for data in (lossy, lossless, extended):
        assert decode(data, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
        with pytest.raises(ImageError, match=f"got {HEIGHT} x {WIDTH}"):
            decode(data, max_pixels=HEIGHT * WIDTH - 1)


def test_pixel_limit_is_inclusive_and_settable() -> None:
    data = encoded(picture(), "PNG")
    assert decode(data, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ImageError, match="too many pixels"):
        decode(data, max_pixels=HEIGHT * WIDTH - 1)


def test_file_far_larger_than_its_pixels_could_be(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.truncate((64 << 20) + 8 * 1000 + 1)  # sparse: takes no space
    with pytest.raises(ImageError, match="too large for an image"):
        read_bytes(path, max_pixels=1000)


@pytest.mark.parametrize(("height", "width"), [(15, 40), (40, 15), (1, 1)])
def test_tiny_images_are_refused(height: int, width: int) -> None:
    with pytest.raises(ImageError, match=rf"too small.*got {height} x {width}"):
        decode(encoded(picture(height, width), "PNG"))


def test_smallest_image_is_read() -> None:
    np.testing.assert_array_equal(decode(encoded(picture(16, 16), "PNG")), picture(16, 16))


def test_floating_point_and_32_bit_are_refused() -> None:
    for dtype, mode in ((np.float32, "F"), (np.int32, "I")):
        values = picture()[..., 0].astype(dtype)
        with pytest.raises(ImageError, match=rf"unsupported kind of pixels.*mode {mode}"):
            decode(encoded(values, "TIFF"))


def test_running_out_of_memory_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", fail)
    with pytest.raises(ImageError, match="not enough memory to decode this PNG file"):
        decode(encoded(picture(), "PNG"))


def test_no_file_handle_is_left_open(tmp_path: Path) -> None:
    good = encoded(picture(), "PNG")
    pages = encoded(picture(), "TIFF", save_all=True, append_images=[Image.fromarray(picture())])
    paths = [
        written(tmp_path, "good.png", good),
        written(tmp_path, "pages.tif", pages),
        written(tmp_path, "lzw.tif", encoded(picture(), "TIFF", compression="tiff_lzw")),
        written(tmp_path, "cut.png", good[:70]),
        written(tmp_path, "cut.tif", encoded(picture(), "TIFF", compression="tiff_lzw")[:300]),
        written(tmp_path, "text.png", b"text"),
        written(tmp_path, "tiny.png", encoded(picture(3, 3), "PNG")),
    ]
    before = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for path in paths:
                try:
                    read_image(path)
                except ImageError:
                    assert path.stem in ("cut", "text", "tiny")
        after = sorted(os.listdir("/proc/self/fd")) if before else []
    finally:
        gc.enable()
    assert after == before


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    data = [encoded(picture(), kind) for kind in ("PNG", "TIFF", "JPEG")]
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [decode_image(d, path="x") for d in data * 10], daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


# --- masks ----------------------------------------------------------------------------------------


def test_mask_thresholds(tmp_path: Path) -> None:
    grey = np.zeros((20, 32), np.uint8)
    grey[3, 4:8] = [1, 127, 128, 255]
    path = written(tmp_path, "mask.png", encoded(grey, "PNG"))
    for binarise_at, columns in ((1, [4, 5, 6, 7]), (128, [6, 7]), (255, [7])):
        mask = read_mask(path, binarise_at=binarise_at)
        assert mask.dtype == bool and mask.shape == (20, 32)
        assert np.argwhere(mask).tolist() == [[3, column] for column in columns]
    for binarise_at in (0, 256):
        with pytest.raises(ValueError, match="1 to 255"):
            read_mask(path, binarise_at=binarise_at)


def test_mask_of_other_kinds(tmp_path: Path) -> None:
    mask = np.zeros((20, 32), bool)
    mask[2:5, 7:30] = True
    colour = np.zeros((20, 32, 3), np.uint8)
    colour[..., 0] = np.where(mask, 200, 0)
    palette = Image.fromarray(mask.astype(np.uint8))
    palette.putpalette([0, 0, 0, 255, 255, 255])
    kinds = {
        "bilevel": encoded(Image.fromarray(mask), "PNG"),
        "colour": encoded(colour, "PNG"),
        "blue": encoded(np.ascontiguousarray(colour[..., ::-1]), "PNG"),
        "green": encoded(np.roll(colour, 1, axis=2), "PNG"),
        "alpha": encoded(np.dstack([colour, np.full((20, 32), 9, np.uint8)]), "PNG"),
        "palette": encoded(palette, "PNG"),
        "deep": encoded(np.where(mask, 65535, 0).astype(np.uint16), "PNG"),
    }
    for name, data in kinds.items():
        path = written(tmp_path, f"{name}.png", data)
        np.testing.assert_array_equal(read_mask(path, binarise_at=128), mask, err_msg=name)


def test_small_labels_of_a_16_bit_mask_survive(tmp_path: Path) -> None:
    deep = np.zeros((20, 32), np.uint16)
    deep[3, 4:8] = [1, 255, 256, 257]
    path = written(tmp_path, "mask.png", encoded(deep, "PNG"))
    assert np.argwhere(read_mask(path, binarise_at=1))[:, 1].tolist() == [4, 5, 6, 7]
    assert np.argwhere(read_mask(path, binarise_at=2))[:, 1].tolist() == [7]


def test_damaged_mask_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "mask.png", b"")
    with pytest.raises(ImageError, match=r"mask\.png: the file is empty"):
        read_mask(path, binarise_at=1)


# --- listing --------------------------------------------------------------------------------------


def test_listing_passes_over_what_is_no_image(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "._a.png", ".hidden/b.png", "notes.txt", "x.png/c.txt"):
        written(tmp_path, name, b"x")
    wanted = [f"sub dir/{i}{suffix}" for i, suffix in enumerate(IMAGE_SUFFIXES)]
    wanted += ["A.PNG", "b.JpG", "deep/deeper/z.TIFF"]
    for name in wanted:
        written(tmp_path, name, b"x")
    listed = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert listed == sorted(wanted)


def test_listing_takes_files_and_folders_and_each_once(tmp_path: Path) -> None:
    a, b = written(tmp_path, "d/a.png", b"x"), written(tmp_path, "d/b.png", b"x")
    other = written(tmp_path, "scan.dat", b"x")
    assert list_images([b, tmp_path / "d", str(a), other]) == [a, b, other]
    assert list_images(str(a)) == [a]


def test_listing_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image files found \(expected \.bmp \.jpeg"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="no image files found"):
        list_images([])
    assert list_images(tmp_path, allow_empty=True) == []
    with pytest.raises(DataError, match="gone: no such file or folder"):
        list_images([tmp_path / "gone"], allow_empty=True)


def test_listing_follows_links_once_and_shows_broken_ones(tmp_path: Path) -> None:
    real = written(tmp_path, "elsewhere/a.png", b"x")
    data = tmp_path / "data"
    data.mkdir()
    (data / "linked").symlink_to(real.parent)
    (real.parent / "loop").symlink_to(real.parent)
    (data / "broken.png").symlink_to(tmp_path / "gone.png")
    assert list_images(data) == [data / "broken.png", data / "linked" / "a.png"]


def test_unreadable_folder_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "a.png", b"x")
    closed = tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refusing(path: object) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match="closed: cannot be read: Permission denied"):
        list_images(tmp_path)


# --- writing --------------------------------------------------------------------------------------


def test_png_round_trip(tmp_path: Path) -> None:
    before = picture()
    write_png(tmp_path / "é a.png", before)
    np.testing.assert_array_equal(read_image(tmp_path / "é a.png"), before)
    write_png(tmp_path / "é a.png", before[::2, :, 1])  # replaces; and a view, grey
    np.testing.assert_array_equal(read_image(tmp_path / "é a.png")[..., 2], before[::2, :, 1])
    np.testing.assert_array_equal(before, picture())
    assert [path.name for path in tmp_path.iterdir()] == ["é a.png"]


@pytest.mark.parametrize(
    "image",
    [np.zeros((20, 20), bool), np.zeros((20, 20, 4), np.uint8), np.zeros((20, 20), np.float32)],
)
def test_png_of_another_shape_or_type_is_refused(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(H,W,3\) or \(H,W\) uint8"):
        write_png(tmp_path / "a.png", image)


def test_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match=r"cannot be written: No such file"):
        write_png(tmp_path / "none" / "a.png", picture())
    path = written(tmp_path, "a.png", b"old")

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"a\.png: cannot be written: No space left on device"):
        write_png(path, picture())
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]
