"""A folder of texture images: donors that are no images of the set."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from generator.anchors import anchor_rng
from manifests.digest import array_digest, bytes_digest
from manifests.errors import BadImages, ConfigError, CutswapError, DataError, ImageError
from manifests.images import (
    DEFAULT_MAX_PIXELS,
    Geometry,
    decode_image,
    fit_image,
    list_images,
    read_bytes,
)
from manifests.terminal import counted

POOL = 16
"""Donors that the images of one shard choose from, where they are none of these images."""
EMPTY_NAME = "the folder of textures has no name"
KEPT_BYTES = 512 << 20
"""Fitted textures that stay in memory; others are read again when a shard needs them."""


@dataclass(frozen=True)
class Texture:
    """One usable texture.

    Attributes:
        digest: of the fitted canvas (H, W, 3).
    """

    path: Path
    file_sha256: str
    digest: str


@dataclass(frozen=True)
class Textures:
    """All usable textures of a folder, fitted to one canvas; `open` makes it.

    Attributes:
        folder: where they lie.
        images: sorted by digest, each content once, so that names and order change nothing.
        files_digest: SHA-256 over the sorted SHA-256 of the files, 32 bytes each.
        n_files: how many those are; files of equal bytes count once.
        skipped: what was wrong with those that were left out.
        geometry, max_pixels: how they are read.
        kept: canvases by digest.
    """

    folder: Path
    images: tuple[Texture, ...]
    files_digest: str
    n_files: int
    skipped: tuple[CutswapError, ...]
    geometry: Geometry
    max_pixels: int
    kept: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        geometry: Geometry,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        jobs: int = 1,
        skip_bad: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Textures:
        """Reads every image below a folder once.

        Args:
            folder: searched recursively.
            geometry: the set's canvas; textures fill it, their middle is cut out.
            max_pixels: of one image.
            jobs: threads.
            skip_bad: go on without unusable images.
            progress: called with images done and images in all.

        Raises:
            ConfigError: the name of the folder is empty, which would be the current one.
            DataError: no such folder, or no image in it.
            BadImages: with every unusable image, unless `skip_bad` and others can be used.
        """
        from joblib import Parallel, delayed

        if not os.fspath(folder):
            raise ConfigError(EMPTY_NAME, hint="name a folder, or leave --textures out")
        folder = Path(folder)
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "there is no such folder"
            raise DataError(what, path=folder, hint="correct --textures")
        geometry = replace(geometry, fit="crop", roi=None)
        paths = list_images(folder, allow_empty=True)
        # Decoding, resizing and hashing all release the interpreter lock: threads are enough.
        results = Parallel(n_jobs=jobs, backend="threading", return_as="generator")(
            delayed(_read_one)(path, geometry, max_pixels) for path in paths
        )
        found: list[Texture] = []
        errors: list[CutswapError] = []
        kept: dict[str, np.ndarray] = {}
        room = KEPT_BYTES
        for done, result in enumerate(results, start=1):
            if isinstance(result, CutswapError):
                errors.append(result)
            else:
                texture, canvas = result
                found.append(texture)
                if texture.digest not in kept and room >= canvas.nbytes:
                    kept[texture.digest] = canvas
                    room -= canvas.nbytes
            if progress is not None:
                progress(done, len(paths))
        if errors and not skip_bad:
            raise BadImages(errors, what=f"{folder}: {counted(len(errors), 'unusable texture')}")
        way = "correct --textures, or pass --donors procedural"
        if errors and not found:
            raise BadImages(errors, what=f"{folder}: no usable image among the textures", hint=way)
        if not found:
            raise DataError("no image among the textures", path=folder, hint=way)
        files = sorted({texture.file_sha256 for texture in found})
        first: dict[str, Texture] = {}
        for texture in sorted(found, key=lambda one: (one.digest, one.path.as_posix())):
            first.setdefault(texture.digest, texture)
        return cls(
            folder=folder,
            images=tuple(first.values()),
            files_digest=bytes_digest(b"".join(map(bytes.fromhex, files))),
            n_files=len(files),
            skipped=tuple(errors),
            geometry=geometry,
            max_pixels=max_pixels,
            kept=kept,
        )

    def recipe(self) -> dict[str, object]:
        """What a recipe says of them."""
        return {"images": self.n_files, "digest": self.files_digest}

    def pool(self, seed: int, digest: str) -> tuple[np.ndarray, ...]:
        """The textures of one shard, (H, W, 3) uint8 each, sorted by digest.

        Args:
            seed: of the set.
            digest: of the shard's first image. With the seed it decides which textures these are.

        Raises:
            ImageError: a file changed since the folder was looked at.
        """
        count = len(self.images)
        rng = anchor_rng(seed, digest, "textures", -1, 0)
        chosen = sorted(rng.choice(count, size=min(POOL, count), replace=False).tolist())
        return tuple(self._canvas(self.images[number]) for number in chosen)

    def _canvas(self, texture: Texture) -> np.ndarray:
        canvas = self.kept.get(texture.digest)
        if canvas is not None:
            return canvas
        again = _read_one(texture.path, self.geometry, self.max_pixels)
        if isinstance(again, CutswapError):
            raise again
        if again[0] != texture:
            raise ImageError(
                "changed while the set was built", path=texture.path, hint="build again"
            )
        return again[1]


def _read_one(
    path: Path, geometry: Geometry, max_pixels: int
) -> tuple[Texture, np.ndarray] | CutswapError:
    """A texture and its canvas, or what makes it unusable."""
    try:
        data = read_bytes(path, max_pixels=max_pixels)
        image = decode_image(data, path=path, max_pixels=max_pixels, repeat_grey=False)
        canvas, _ = fit_image(image, geometry)
    except CutswapError as error:
        return error
    return Texture(path, bytes_digest(data), array_digest(canvas)), canvas
