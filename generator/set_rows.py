"""Rows of finished sets: an index of everything but the pixels."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from manifests.digest import file_digest
from manifests.edits import Box
from manifests.errors import ConfigError, DigestError, SetError
from manifests.negative_set import NegativeSet
from manifests.probe import familiarise
from manifests.schema import Manifest
from manifests.set_checks import entry_problems
from manifests.shard import Shard
from manifests.shard_records import lines_digest, saliency_line

Place = tuple[int, int]
"""Number of a shard in a list of them, and row in it."""

_SALIENCY_TITLE = "cutswap saliency of one image 1"


@dataclass(frozen=True)
class SourceShard:
    """A shard that rows are taken from, small enough to be sent to a worker process."""

    path: Path
    file_sha256: str
    environment: dict[str, str]
    store: str

    def open(self) -> Shard:
        """The shard, to be closed by the caller.

        Raises:
            SetError: missing or damaged.
            DigestError: not the file that its manifest names.
        """
        try:
            status = os.stat(self.path)
            _check_file(
                self.path, self.file_sha256, status.st_ino, status.st_size, status.st_mtime_ns
            )
        except OSError as error:
            raise SetError(f"cannot be read ({error.strerror})", path=self.path) from error
        return Shard(self.path)


@dataclass(frozen=True, slots=True)
class NormalRow:
    """A normal of a set without its pixels.

    Attributes:
        place: in the set's shards.
        digest, source, file_sha256, canvas_box: as `NormalRecord` has them.
    """

    place: Place
    digest: str
    source: str
    file_sha256: str
    canvas_box: Box


@dataclass(frozen=True, slots=True)
class NegativeRow:
    """A negative of a set without its pixels.

    Attributes:
        place: in the set's shards.
        normal: digest of its normal.
        policy, level, repeat, fallback, digest: as `NegativeRecord` has them.
    """

    place: Place
    normal: str
    policy: str
    level: int
    repeat: int
    fallback: int
    digest: str


@dataclass(frozen=True, eq=False)
class SetRows:
    """A set's index.

    Attributes:
        shards, normals, negatives: in the set's order.
        maps: level -> (h, w) of the saliency maps that the set stores.
    """

    folder: Path
    set_digest: str
    manifest: Manifest
    shards: tuple[SourceShard, ...]
    normals: tuple[NormalRow, ...]
    negatives: tuple[NegativeRow, ...]
    maps: dict[int, tuple[int, ...]]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SetRows:
        """The index of one category's set.

        Raises:
            SetError: no set, incomplete, damaged, or with a normal twice.
            DigestError: its manifest is not the recorded one.
        """
        with NegativeSet.open(Path(path)) as negative_set:
            folder, manifest = negative_set.path, negative_set.manifest
            set_digest = negative_set.digest
        # What a process of its own refused is named below, and not parsed here.
        refused = familiarise(folder, [entry.name for entry in manifest.shards])
        shards: list[SourceShard] = []
        normals: list[NormalRow] = []
        negatives: list[NegativeRow] = []
        maps: dict[int, tuple[int, ...]] = {}
        for number, entry in enumerate(manifest.shards):
            # The file's digest is checked where its pixels are read, in parallel.
            file = folder / entry.name
            with Shard(file, refused=refused.get(file)) as shard:
                problem = next(entry_problems(shard, manifest, number), None)
                if problem is not None:
                    raise problem
                store = shard.index.store
                shards.append(SourceShard(shard.path, entry.file_sha256, entry.environment, store))
                normals += _normal_rows(shard, number)
                negatives += _negative_rows(shard, number)
                here = {level: rows.shape for level, rows in shard.index.maps.items()}
                if number and here != maps:
                    raise SetError("has other saliency levels than shard 0", path=shard.path)
                maps = here
        if len({row.digest for row in normals}) != len(normals):
            raise SetError("holds a normal twice", path=folder, hint="do not use this set")
        return cls(
            folder, set_digest, manifest, tuple(shards), tuple(normals), tuple(negatives), maps
        )

    def saliency_digests(self, wanted: Collection[str]) -> dict[str, str]:
        """Per normal of `wanted`: a digest over its saliency maps and cluster centres.

        Raises:
            SetError: a shard is damaged.
        """
        by_shard: dict[int, list[NormalRow]] = {}
        for row in self.normals:
            if row.digest in wanted:
                by_shard.setdefault(row.place[0], []).append(row)
        found = {}
        for number, rows in by_shard.items():
            with Shard(self.shards[number].path) as shard:
                for row in rows:
                    i = row.place[1]
                    found[row.digest] = lines_digest(
                        _SALIENCY_TITLE,
                        (
                            saliency_line(
                                row.digest, level, shard.saliency(i, level), shard.centres(i, level)
                            )
                            for level in sorted(self.maps)
                        ),
                    )
        return found


def check_apart(folder: Path, sources: Sequence[SetRows]) -> None:
    """Refuse to write into a set that is read. Raises ConfigError."""
    for rows in sources:
        if rows.folder.resolve() == folder.resolve():
            raise ConfigError(
                "this set would be read and written at once", path=folder, hint="change --out"
            )


def row_tally(rows: Sequence[NegativeRow]) -> list[tuple[str, int, int]]:
    """What `manifests.schema.tally` counts."""
    return [(row.policy, row.level, row.fallback) for row in rows]


@cache
def _check_file(path: Path, sha256: str, _inode: int, _size: int, _mtime_ns: int) -> None:
    """Hashes a file once per process: several units take rows of one shard."""
    got = file_digest(path)
    if got != sha256:
        raise DigestError(
            "is not the file that was recorded",
            path=path,
            expected=sha256,
            got=got,
            hint="fetch or build it again",
        )


def _normal_rows(shard: Shard, number: int) -> list[NormalRow]:
    index = shard.index
    columns = (index.normal_digests, index.sources, index.file_digests, index.canvas_boxes.tolist())
    return [
        NormalRow((number, row), digest, source, file_sha256, tuple(box))
        for row, (digest, source, file_sha256, box) in enumerate(zip(*columns, strict=True))
    ]


def _negative_rows(shard: Shard, number: int) -> list[NegativeRow]:
    index = shard.index
    columns = (
        index.normal.tolist(),
        index.policies,
        index.level.tolist(),
        index.repeat.tolist(),
        index.fallback.tolist(),
        index.negative_digests,
    )
    return [
        NegativeRow((number, row), index.normal_digests[normal], *values)
        for row, (normal, *values) in enumerate(zip(*columns, strict=True))
    ]
