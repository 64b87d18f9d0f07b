"""A new set of what old sets hold: planned, copied shard by shard, published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from generator.assembly import assemble, publish, writing
from generator.copied_shard import CopyUnit, copy_unit
from generator.leftovers import finished_set, settle
from manifests.progress import ProgressMaker
from manifests.schema import Manifest, ShardEntry


@dataclass(frozen=True)
class Draft:
    """What a new set is to hold.

    Attributes:
        units: its shards.
        manifest: of the shards' entries, once they are there.
    """

    units: Sequence[CopyUnit]
    manifest: Callable[[Sequence[ShardEntry]], Manifest]


@dataclass(frozen=True)
class Rearranged:
    """A set that is there; see `SetSummary` for the fields."""

    manifest: Manifest
    set_digest: str
    resumed_shards: int
    is_unchanged: bool


def rearrange(
    folder: Path,
    made_from: dict[str, Any],
    draft: Callable[[], Draft],
    *,
    jobs: int,
    overwrite: bool,
    make_progress: ProgressMaker | None,
) -> Rearranged:
    """Writes the drafted set into a folder, unless an earlier run of the same command has.

    Args:
        folder: of the new set; its name is the category's.
        made_from: the origin that the draft's manifest will have, by which a finished set is known.
        draft: plans it; called only where there is work, and before the folder is made or touched,
            so that a refusal leaves nothing behind.
        jobs, overwrite, make_progress: as in `merge_sets`.

    Raises:
        SetError: the folder holds another set and `overwrite` is not given; whatever `draft` finds.
        OutputError: the folder cannot be written.
    """
    finished = finished_set(folder, made_from, overwrite=overwrite)
    planned = draft() if finished is None else None
    made = None
    with writing(folder):
        if finished is None:
            # Another run may have finished one since.
            finished = finished_set(folder, made_from, overwrite=overwrite)
        if finished is None and planned is not None:
            label = f"{made_from['command']} {folder.name}"
            made = assemble(
                planned.units,
                partial(copy_unit, folder=folder),
                folder,
                jobs=jobs,
                overwrite=overwrite,
                progress=make_progress(label, "images") if make_progress else None,
            )
            manifest = planned.manifest(made.entries)
            set_digest = publish(folder, manifest)
        elif finished is not None:
            manifest, set_digest = finished
            settle(folder)
    return Rearranged(
        manifest=manifest,
        set_digest=set_digest,
        resumed_shards=len(manifest.shards if made is None else made.resumed),
        is_unchanged=made is None,
    )
