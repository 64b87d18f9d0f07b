"""Good images that are to join a model's normals: read, named, and none of them twice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from detector.normal_list import FittedNormal
from manifests.digest import array_digest, bytes_digest
from manifests.errors import BadImages, CutswapError, ImageError, SetError
from manifests.geometry import Geometry
from manifests.images import DEFAULT_MAX_PIXELS, decode_image, fit_image, list_images, read_bytes
from manifests.shard_records import check_source


@dataclass(frozen=True)
class NewNormals:
    """What a model is to be given.

    Attributes:
        normals: sorted by the digest of their pixels, so that names and order change nothing.
        files: where each lies, by its SHA-256.
        repeats: files that the model, or an earlier one of these, holds already.
    """

    normals: tuple[FittedNormal, ...]
    files: dict[str, Path]
    repeats: tuple[Path, ...]

    def path(self, normal: FittedNormal) -> Path:
        """Where one of them lies."""
        return self.files[normal.file_sha256]


def read_new_normals(
    paths: Sequence[str | PathLike[str]],
    geometry: Geometry,
    *,
    known_files: Collection[str],
    known_pixels: Collection[str],
    readers: int = 2,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> NewNormals:
    """Looks at every image once; none is kept in memory.

    Args:
        paths: images and folders of them.
        geometry: of the model.
        known_files, known_pixels: SHA-256 of files and of pixels that the model has seen.

    Raises:
        DataError: no images.
        BadImages: images that cannot be read, or whose names cannot be recorded; all of them.
    """
    files = list_images(paths)
    roots = [Path(path) for path in paths if Path(path).is_dir()]

    def look(path: Path) -> FittedNormal | CutswapError:
        try:
            data = read_bytes(path, max_pixels=max_pixels)
            image = decode_image(data, path=path, max_pixels=max_pixels, repeat_grey=False)
            canvas, placement = fit_image(image, geometry, path=path)
            return FittedNormal(
                source=_source(path, roots),
                file_sha256=bytes_digest(data),
                pixel_digest=array_digest(canvas),
                canvas_box=placement.canvas_box,
            )
        except CutswapError as error:
            return error

    errors, repeats = [], []
    found: dict[str, FittedNormal] = {}
    places: dict[str, Path] = {}
    with ThreadPoolExecutor(readers) as pool:
        for path, one in zip(files, pool.map(look, files), strict=True):
            if isinstance(one, CutswapError):
                errors.append(one)
            elif (
                one.file_sha256 in known_files
                or one.pixel_digest in known_pixels
                or one.pixel_digest in found
            ):
                repeats.append(path)
            else:
                found[one.pixel_digest] = one
                places[one.file_sha256] = path
    if errors:
        raise BadImages(errors, hint="repair them or leave them out")
    normals = tuple(found[digest] for digest in sorted(found))
    return NewNormals(normals, places, tuple(repeats))


def _source(path: Path, roots: Sequence[Path]) -> str:
    """A file's path below the folder that was given, or its name."""
    root = next((root for root in roots if path.is_relative_to(root)), path.parent)
    source = path.relative_to(root).as_posix()
    try:
        check_source(source)
    except SetError as error:
        raise ImageError(error.what, path=path, got=error.got, hint="rename it") from None
    return source
