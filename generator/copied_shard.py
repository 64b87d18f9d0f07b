"""Shards made of rows of others: what `merge` and `subset` share.

Pixels are read where a shard is made, one shard at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from generator.set_rows import Place, SetRows, SourceShard
from manifests.allocator import keep_freed_memory
from manifests.digest import bytes_digest
from manifests.errors import DigestError, SetError
from manifests.schema import ShardEntry
from manifests.shard import NegativeRecord, NormalRecord, Shard, write_shard
from manifests.shard_records import check_donor_room, donors_of
from manifests.strict_json import dump_json


@dataclass(frozen=True)
class CopyUnit:
    """One shard to be made of rows of others.

    Attributes:
        name: file name of the shard.
        digest: see `plan_unit`.
        shards: what `Place` counts.
        normals: where each is, and where its saliency is; None for no saliency.
        negatives: where each is, row of its normal in the new shard, and its repeat.
        store: "pixels" or "anchors".
    """

    name: str
    digest: str
    shards: tuple[SourceShard, ...]
    normals: tuple[tuple[Place, Place | None], ...]
    negatives: tuple[tuple[Place, int, int], ...]
    store: str

    @property
    def n_images(self) -> int:
        """How many normals it holds."""
        return len(self.normals)


def plan_unit(
    name: str,
    normals: Sequence[tuple[tuple[SetRows, Place], tuple[SetRows, Place] | None]],
    negatives: Sequence[tuple[SetRows, Place, int, int]],
    *,
    origin: Mapping[str, object],
    store: str,
) -> CopyUnit:
    """A unit of rows of several sets.

    Its digest is over what the set is made from and how, and over the rows and the files they lie
    in, so that an interrupted run's shards are taken up by the same command only.

    Args:
        name: of the shard.
        normals: per normal, set and place of its record, and of its saliency or None.
        negatives: per negative its set, its place, row of its normal in the new shard, repeat.
        origin: the manifest's.
        store: "pixels" or "anchors".
    """
    used: dict[Path, int] = {}
    shards: list[SourceShard] = []

    def local(rows: SetRows, place: Place) -> Place:
        shard = rows.shards[place[0]]
        if shard.path not in used:
            used[shard.path] = len(shards)
            shards.append(shard)
        return used[shard.path], place[1]

    taken = tuple((local(*own), None if maps is None else local(*maps)) for own, maps in normals)
    drawn = tuple((local(rows, place), normal, repeat) for rows, place, normal, repeat in negatives)
    files = [shard.file_sha256 for shard in shards]
    digest = bytes_digest(dump_json([dict(origin), store, files, taken, drawn]))
    return CopyUnit(name, digest, tuple(shards), taken, drawn, store)


def copy_unit(unit: CopyUnit, folder: Path) -> ShardEntry:
    """Makes and writes one shard; every pixel is compared with its digest on the way.

    Raises:
        SetError: a shard it is made from changed or is damaged, or it would need too many donors.
        DigestError: a shard it is made from is not the recorded one, or its pixels are not.
        OutputError: the shard cannot be written.
    """
    keep_freed_memory()
    with ExitStack() as stack:
        shards = [stack.enter_context(shard.open()) for shard in unit.shards]
        normals = [_normal(shards, own, maps) for own, maps in unit.normals]
        negatives = [_negative(shards, *row, store=unit.store) for row in unit.negatives]
        donors = _donors(unit, shards, normals, negatives, path=folder / unit.name)
    try:
        return write_shard(
            folder / unit.name,
            normals,
            negatives,
            donors=donors,
            store=unit.store,
            unit_digest=unit.digest,
            environment=_environment(unit),
        )
    except DigestError as error:
        raise DigestError(
            error.what,
            path=folder / unit.name,
            expected=error.expected,
            got=error.got,
            hint="run cutswap-gen verify on what it was to be made from",
        ) from None


def _normal(shards: Sequence[Shard], own: Place, maps: Place | None) -> NormalRecord:
    shard, row = shards[own[0]], own[1]
    index = shard.index
    saliency, centres = {}, {}
    if maps is not None:
        stored, i = shards[maps[0]], maps[1]
        saliency = {level: stored.saliency(i, level) for level in stored.index.maps}
        centres = {level: stored.centres(i, level) for level in stored.index.maps}
    return NormalRecord(
        image=shard.normal_image(row),
        digest=index.normal_digests[row],
        source=index.sources[row],
        file_sha256=index.file_digests[row],
        canvas_box=tuple(index.canvas_boxes[row].tolist()),
        saliency=saliency,
        centres=centres,
    )


def _negative(
    shards: Sequence[Shard], place: Place, normal: int, repeat: int, *, store: str
) -> NegativeRecord:
    shard, row = shards[place[0]], place[1]
    # Pixels that are not stored are rendered where they are needed, once all donors are known.
    is_read = store == shard.index.store == "pixels"
    record = shard.negative(row) if is_read else shard.record(row)
    return replace(record, normal=normal, repeat=repeat)


def _donors(
    unit: CopyUnit,
    shards: Sequence[Shard],
    normals: Sequence[NormalRecord],
    negatives: Sequence[NegativeRecord],
    *,
    path: Path,
) -> dict[str, np.ndarray]:
    """By digest, the donor images that are not normals of the new shard at `path`."""
    known = {row.digest for row in normals}
    lenders: dict[str, Shard] = {}
    for (place, _, _), record in zip(unit.negatives, negatives, strict=True):
        for digest in donors_of(record.edits) - known - lenders.keys():
            lenders[digest] = shards[place[0]]
    try:
        check_donor_room(len(lenders), *normals[0].image.shape[:2])
    except SetError as error:
        raise SetError(
            error.what,
            path=path,
            expected=error.expected,
            got=error.got,
            hint="merge with a smaller --shard-images, or leave policies out with subset",
        ) from None
    return {digest: shard.donor(digest) for digest, shard in lenders.items()}


def _environment(unit: CopyUnit) -> dict[str, str]:
    """What the saliency was made with, as far as the shards it comes from agree."""
    used = {maps[0] for _, maps in unit.normals if maps is not None}
    shards = [unit.shards[number] for number in sorted(used)] or unit.shards
    return _agreed([shard.environment for shard in shards])


def _agreed(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The entries that all tables share."""
    first, *others = tables
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
    }
