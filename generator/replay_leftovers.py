"""What an earlier replay left in the output folder: the same set, or shards with other pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from generator.leftovers import check_shards
from generator.replay_unit import ReplayUnit
from manifests.errors import SetError
from manifests.recipe import Recipe
from manifests.schema import Manifest, origin, read_manifest
from manifests.shard import Shard
from manifests.versions import decoder_versions


def same_replay(
    folder: Path, recipe: Recipe, store: str, *, allow_drift: bool
) -> tuple[Manifest, str]:
    """The manifest and the digest of the set that is there, if it is what is wanted.

    Raises:
        SetError: it is another set, or a shard is missing.
    """
    manifest, set_digest = read_manifest(folder)
    wanted = origin("replay", sets=(recipe.set_digest,))
    is_same = (
        {**manifest.origin, "options": {}} == wanted
        and manifest.recipe.get("store") == store
        and (allow_drift or manifest.content_digest == recipe.manifest.content_digest)
    )
    if not is_same:
        raise SetError(
            "already holds another set",
            path=folder,
            expected=f"a replay of {recipe.set_digest[:12]}, store {store}",
            got=f"{manifest.origin['command']}, store {manifest.recipe.get('store')}",
            hint="pass --overwrite to replace it, or another --out",
        )
    check_shards(folder, manifest)
    return manifest, set_digest


def wanted_shards(
    units: Sequence[ReplayUnit], recipe: Recipe, *, allow_drift: bool
) -> Callable[[ReplayUnit, Shard], bool]:
    """Which finished shards of an interrupted run are as this one would make them.

    It may have been made with other libraries, or with drift allowed that is not wanted now.
    """
    ours = decoder_versions()
    recorded = {
        unit.name: entry.content_digest
        for unit, entry in zip(units, recipe.manifest.shards, strict=True)
    }

    def is_wanted(unit: ReplayUnit, shard: Shard) -> bool:
        is_drifted = shard.index.content_digest != recorded[unit.name]
        return not is_drifted or (allow_drift and shard.index.environment == ours)

    return is_wanted
