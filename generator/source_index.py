"""Where the images of a recipe lie on this machine: at their recorded paths, or anywhere below."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from manifests.categories import slugify
from manifests.confine import confined_path
from manifests.dataset_formats import subfolders
from manifests.digest import bytes_digest
from manifests.errors import BadImages, DataError, ImageError
from manifests.images import list_images, read_bytes
from manifests.recipe import RecipeNormal

_FILES_AT_ONCE = 64


@dataclass(frozen=True)
class FoundSources:
    """All images of a recipe.

    Attributes:
        paths: by SHA-256 of the file.
        moved: how many lie elsewhere than at their recorded path.
    """

    paths: Mapping[str, Path]
    moved: int


def find_sources(
    normals: Sequence[RecipeNormal],
    data: str | os.PathLike[str],
    category: str,
    *,
    max_pixels: int,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> FoundSources:
    """Finds the file of every normal by its SHA-256.

    First at its recorded path below `data`, or below a folder in it that is called like the
    category. Only where that fails, the other image files below `data` are read, so that images
    that were moved or renamed are found too.

    Args:
        normals: what to find.
        data: the recipient's images: the category's folder, or a root that holds it.
        category: the set's category.
        max_pixels: of one image; bounds the files that are read.
        jobs: threads.
        progress: called with images found and images wanted.

    Raises:
        DataError: there is no such folder.
        BadImages: with every image that is missing, or is another one at its recorded path.
    """
    data = Path(data)
    if not data.is_dir():
        what = "not a folder" if data.exists() else "no such folder"
        raise DataError(what, path=data, expected="the folder of the recipe's images")
    roots = [data, *(one for one in subfolders(data) if slugify(one.name) == category)]
    places = [(root, root.resolve()) for root in roots]
    recorded = {row.digest: _recorded_paths(places, row.source) for row in normals}
    index = _Index({row.file_sha256 for row in normals}, max_pixels, jobs, progress)
    index.add(path for paths in recorded.values() for path in paths)
    if not index.is_complete:
        index.add(list_images(data, allow_empty=True))
    problems = [
        _problem(row, recorded[row.digest], data, index)
        for row in normals
        if row.file_sha256 not in index.paths
    ]
    if problems:
        are = "is missing or differs" if len(normals) == 1 else "are missing or differ"
        raise BadImages(
            problems,
            what=f"{len(problems)} of {len(normals)} image{'s' * (len(normals) != 1)} {are}",
            hint="pass the folder of the very images the recipe was made from as --data",
        )
    moved = sum(index.paths[row.file_sha256] not in recorded[row.digest] for row in normals)
    return FoundSources(index.paths, moved)


def _recorded_paths(places: Iterable[tuple[Path, Path]], source: str) -> list[Path]:
    """The files at a recorded path below roots, given as they are and resolved."""
    paths = (confined_path(root, source, base=base) for root, base in places)
    return [path for path in paths if path is not None and path.is_file()]


def _problem(row: RecipeNormal, recorded: list[Path], data: Path, index: _Index) -> ImageError:
    if not recorded:
        return ImageError(
            "is missing", path=data / row.source, expected=f"SHA-256 {row.file_sha256}"
        )
    result = index.digests[recorded[0]]
    if isinstance(result, ImageError):
        return result
    return ImageError(
        "is another file than the recorded one",
        path=recorded[0],
        expected=f"SHA-256 {row.file_sha256}",
        got=result,
    )


class _Index:
    """Files by SHA-256, read until all that are wanted are found, none of them twice."""

    def __init__(
        self,
        wanted: set[str],
        max_pixels: int,
        jobs: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.paths: dict[str, Path] = {}
        self.digests: dict[Path, str | ImageError] = {}
        self._wanted, self._max_pixels, self._jobs = wanted, max_pixels, jobs
        self._progress = progress

    @property
    def is_complete(self) -> bool:
        return len(self.paths) == len(self._wanted)

    def add(self, files: Iterable[Path]) -> None:
        todo = [path for path in dict.fromkeys(files) if path not in self.digests]
        # Reading and hashing release the interpreter lock: threads are enough.
        with ThreadPoolExecutor(self._jobs) as pool:
            for start in range(0, len(todo), _FILES_AT_ONCE):
                if self.is_complete:
                    return
                part = todo[start : start + _FILES_AT_ONCE]
                for path, digest in zip(part, pool.map(self._digest, part), strict=True):
                    self.digests[path] = digest
                    if digest in self._wanted:
                        self.paths.setdefault(digest, path)
                if self._progress is not None:
                    self._progress(len(self.paths), len(self._wanted))

    def _digest(self, path: Path) -> str | ImageError:
        try:
            return bytes_digest(read_bytes(path, max_pixels=self._max_pixels))
        except ImageError as error:
            return error
