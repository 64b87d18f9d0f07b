"""A negative set on disk, read as one sequence of negatives and the normals they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

import numpy as np

from manifests.edits import Box
from manifests.errors import ConfigError, SetError
from manifests.geometry import Geometry
from manifests.negative import Negative, Normal
from manifests.probe import HostileShard, familiarise
from manifests.schema import MANIFEST_NAME, Manifest, read_manifest
from manifests.set_checks import entry_problems, size_problems
from manifests.shard import Shard
from manifests.shard_records import donors_of
from manifests.url import is_url

__all__ = ["CHECKS", "Negative", "NegativeSet", "Normal"]

CHECKS = ("none", "quick", "files")
# Open at once; a set of thousands of shards must not use up a process's file descriptors.
_MAX_OPEN_SHARDS = 64


class NegativeSet:
    """One category's set: `set[j]` is a negative, `len(set)` how many there are.

    Can be pickled and used after a fork and from threads; every process opens the shards itself.
    Use `NegativeSet.open`.

    Attributes:
        path: the set's folder.
        manifest: its manifest.
        digest: its set digest.
    """

    def __init__(self, path: Path, manifest: Manifest, digest: str, shards: list[Shard]) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        self._shards = shards
        self._open_shards: dict[int, None] = {}
        self._normal_start = _starts(entry.normals for entry in manifest.shards)
        self._negative_start = _starts(entry.negatives for entry in manifest.shards)
        self._columns: dict[str, np.ndarray] | None = None

    @classmethod
    def open(cls, path: str | PathLike[str], *, check: str = "quick") -> NegativeSet:
        """Open one category's folder, or what lies behind a URL.

        Args:
            path: the folder with `manifest.json`, or its URL: it is copied to the cache first, as
                `manifests.remote.open_location` does.
            check: "none": the manifest alone; "quick": also that every shard is there in its
                full size; "files": also the SHA-256 of every shard when it is first read.

        Raises:
            SetError: no set, malformed, newer, or a shard missing or of another size.
            HostileShard: a shard that a process of its own could not parse; every shard is tried
                there first, unless it has been before and is unchanged.
            DigestError: the manifest is not the recorded one.
            ConfigError: an unknown check.
        """
        if check not in CHECKS:
            raise ConfigError("unknown check", expected=" or ".join(CHECKS), got=check)
        if is_url(path):
            from manifests.remote import open_location  # knows sets, and so this module

            path = open_location(path)
        folder = Path(path)
        if not folder.is_dir():
            raise SetError("there is no such folder", path=folder)
        manifest, digest = read_manifest(folder)
        if check != "none":
            problem = next(size_problems(folder, manifest), None)
            if problem is not None:
                raise problem
        refused = familiarise(folder, [entry.name for entry in manifest.shards])
        for problem in refused.values():
            if isinstance(problem, HostileShard):  # others are named when the shard is read
                raise problem
        shards = [
            Shard(
                folder / entry.name,
                expected_sha256=entry.file_sha256 if check == "files" else None,
                refused=refused.get(folder / entry.name),
            )
            for entry in manifest.shards
        ]
        negative_set = cls(folder, manifest, digest, shards)
        negative_set.geometry  # noqa: B018 (refuses a recipe without a usable geometry)
        return negative_set

    def __enter__(self) -> NegativeSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open_shards": {}}

    def close(self) -> None:
        """Close all files. A later read opens them again."""
        for shard in self._shards:
            shard.close()
        self._open_shards.clear()

    def __repr__(self) -> str:
        return (
            f"NegativeSet({str(self.path)!r}, {self.n_normals} normals, {len(self)} negatives, "
            f"digest {self.digest[:12]})"
        )

    def __len__(self) -> int:
        return int(self._negative_start[-1])

    def __iter__(self) -> Iterator[Negative]:
        return (self[j] for j in range(len(self)))

    @property
    def n_normals(self) -> int:
        """Number of normals."""
        return int(self._normal_start[-1])

    @property
    def geometry(self) -> Geometry:
        """The canvas all images of the set are on. Raises SetError where the recipe lacks it."""
        plain = self.manifest.recipe.get("geometry")
        try:
            return Geometry.from_json(plain)
        except (ConfigError, TypeError, KeyError, ValueError, AttributeError):
            raise SetError(
                "recipe has no usable geometry",
                path=self.path / MANIFEST_NAME,
                got=ascii(plain)[:120],
            ) from None

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the policies that made the negatives, sorted."""
        return tuple(sorted(set(self.negative_policy.tolist())))

    @property
    def levels(self) -> tuple[int, ...]:
        """Saliency levels whose maps the set holds, ascending."""
        return tuple(sorted(self._shard(0).index.maps)) if self._shards else ()

    @property
    def negative_normal(self) -> np.ndarray:
        """Index of every negative's normal, (len,) int64, read-only."""
        return self._column("normal")

    @property
    def negative_policy(self) -> np.ndarray:
        """Policy name of every negative, (len,) str, read-only."""
        return self._column("policy")

    @property
    def negative_level(self) -> np.ndarray:
        """Saliency level of every negative, (len,) int64, -1 for none, read-only."""
        return self._column("level")

    @property
    def negative_repeat(self) -> np.ndarray:
        """Number of every negative's draw, (len,) int64, read-only."""
        return self._column("repeat")

    @property
    def negative_anchors(self) -> np.ndarray:
        """Boxes of every negative, (len, 2, 4) int64 `(y, x, h, w)`, -1 where unused, read-only."""
        return self._column("anchors")

    def normal_digests(self) -> tuple[str, ...]:
        """SHA-256 of every normal's pixels, in order. Raises SetError for a damaged shard."""
        shards = map(self._shard, range(len(self._shards)))
        return tuple(digest for shard in shards for digest in shard.index.normal_digests)

    def normal_names(self) -> Iterator[tuple[str, str, str, tuple[int, int, int, int]]]:
        """Every normal's source, its file's SHA-256, its pixels' and its canvas box, in order.

        What `normal` gives, without reading pixels. Raises SetError for a damaged shard.
        """
        for number in range(len(self._shards)):
            index = self._shard(number).index
            boxes = map(tuple, index.canvas_boxes.tolist())
            yield from zip(
                index.sources, index.file_digests, index.normal_digests, boxes, strict=True
            )

    def normal(self, i: int) -> Normal:
        """Normal number `i`. Raises IndexError, or SetError for a damaged shard."""
        shard, row, _ = self._place(self._normal_start, i)
        index = shard.index
        return Normal(
            image=shard.normal_image(row),
            digest=index.normal_digests[row],
            source=index.sources[row],
            file_sha256=index.file_digests[row],
            canvas_box=tuple(index.canvas_boxes[row].tolist()),
        )

    def normal_box(self, i: int) -> Box:
        """Part of the canvas that normal `i` covers, `(y, x, h, w)`, without reading its image."""
        shard, row, _ = self._place(self._normal_start, i)
        return tuple(shard.index.canvas_boxes[row].tolist())

    def saliency(self, i: int, level: int) -> np.ndarray:
        """Saliency map of normal `i` at its native grid, (h, w) uint8.

        Raises:
            SetError: the set has no such level, or none at all.
        """
        self._need_saliency()
        shard, row, _ = self._place(self._normal_start, i)
        return shard.saliency(row, level)

    def centres(self, i: int, level: int) -> np.ndarray:
        """Cluster centres of normal `i`, (K,) float32. Raises SetError as `saliency` does."""
        self._need_saliency()
        shard, row, _ = self._place(self._normal_start, i)
        return shard.centres(row, level)

    def __getitem__(self, j: int) -> Negative:
        """Negative number `j`, read or rendered. Raises IndexError, or SetError if damaged."""
        shard, row, number = self._place(self._negative_start, j)
        index = shard.index
        image, mask = shard.negative_pixels(row)
        normal = int(index.normal[row])
        return Negative(
            image=image,
            mask=mask,
            policy=index.policies[row],
            level=int(index.level[row]),
            repeat=int(index.repeat[row]),
            anchors=index.anchors[row].astype(np.int32),
            source=index.sources[normal],
            normal=int(self._normal_start[number]) + normal,
            edits=shard.edits(row),
            fallback=int(index.fallback[row]),
            digest=index.negative_digests[row],
        )

    def donors(self, j: int) -> dict[str, np.ndarray]:
        """Images (H, W, 3) uint8 that negative `j` mixes in, by digest. Raises as `[j]` does."""
        shard, row, _ = self._place(self._negative_start, j)
        return {digest: shard.donor(digest) for digest in sorted(donors_of(shard.edits(row)))}

    def negative_image(self, j: int) -> np.ndarray:
        """Image of negative `j` alone, (H, W, 3) uint8: what training reads."""
        shard, row, _ = self._place(self._negative_start, j)
        return shard.negative_image(row)

    def negative_mask(self, j: int) -> np.ndarray:
        """Mask of negative `j` alone, (H, W) bool."""
        shard, row, _ = self._place(self._negative_start, j)
        return shard.negative_mask(row)

    def _need_saliency(self) -> None:
        if self.manifest.saliency == "absent":
            raise SetError(
                "saliency: absent, the set holds negatives but not the maps they were drawn with",
                path=self.path,
                hint="build the set from its images (cutswap-gen build) to have them",
            )

    def _column(self, name: str) -> np.ndarray:
        if self._columns is None:
            indexes = [self._shard(number).index for number in range(len(self._shards))]
            starts = self._normal_start[:-1]
            columns = {
                "normal": [
                    index.normal.astype(np.int64) + start
                    for index, start in zip(indexes, starts, strict=True)
                ],
                "level": [index.level.astype(np.int64) for index in indexes],
                "repeat": [index.repeat.astype(np.int64) for index in indexes],
                "policy": [np.array(index.policies, dtype=np.str_) for index in indexes],
                "anchors": [
                    np.reshape(index.anchors, (-1, 2, 4)).astype(np.int64) for index in indexes
                ],
            }
            self._columns = {key: _joined(parts) for key, parts in columns.items()}
        return self._columns[name]

    def _place(self, starts: np.ndarray, index: int) -> tuple[Shard, int, int]:
        """The shard of an index, the row in it, and the shard's number."""
        total = int(starts[-1])
        index = index + total if index < 0 else index
        if not 0 <= index < total:
            raise IndexError(f"index {index} of {total}")
        number = int(np.searchsorted(starts, index, side="right")) - 1
        return self._shard(number), int(index - starts[number]), number

    def _shard(self, number: int) -> Shard:
        shard = self._shards[number]
        if number not in self._open_shards:
            self._check_shard(shard, number)
            if len(self._open_shards) >= _MAX_OPEN_SHARDS:
                oldest = min(list(self._open_shards))  # a copy: other threads add to it
                self._open_shards.pop(oldest, None)
                self._shards[oldest].close()
            self._open_shards[number] = None
        return shard

    def _check_shard(self, shard: Shard, number: int) -> None:
        """Whether an opened shard is the one the manifest speaks of. Raises SetError."""
        problem = next(entry_problems(shard, self.manifest, number), None)
        if problem is not None:
            raise problem


def _starts(counts: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *counts], dtype=np.int64)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    joined.flags.writeable = False
    return joined
