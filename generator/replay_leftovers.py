"""What an earlier replay left in the output folder: the same set, or shards with other pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from generator.leftovers import check_shards
from generator.replay_unit import ReplayUnit
from manifests.errors import OutputError, SetError
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


def drop_drifted(
    folder: Path, units: Sequence[ReplayUnit], recipe: Recipe, *, allow_drift: bool
) -> None:
    """Removes finished shards of an interrupted run whose drift is not wanted, or not ours.

    Such a run may have been made with other libraries, or without drift being allowed now.

    Raises:
        OutputError: one cannot be removed.
    """
    ours = decoder_versions()
    for unit, entry in zip(units, recipe.manifest.shards, strict=True):
        path = folder / unit.name
        try:
            with Shard(path) as shard:
                index = shard.index
                is_drifted = (
                    index.unit_digest == unit.digest
                    and index.content_digest != entry.content_digest
                )
                is_wanted = allow_drift and index.environment == ours
        except SetError:  # missing or damaged: assemble sees to it
            continue
        if is_drifted and not is_wanted:
            try:
                path.unlink()
            except OSError as error:
                raise OutputError(
                    f"cannot be removed: {error.strerror or error}", path=path
                ) from error
