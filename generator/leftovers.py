"""What an earlier run left in the output folder: a whole set, some of its shards, or rubbish."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from generator.scan import Scan
from manifests.atomic import output_error
from manifests.errors import OutputError, SetError
from manifests.schema import (
    MANIFEST_DIGEST_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    read_manifest,
    settle_manifest,
)
from manifests.shard import Shard, shard_entry

UNFINISHED = (".shard-*.tmp-*", ".manifest.*.tmp-*", ".shard-*.h5.part")


class Planned(Protocol):
    """A shard that is to be there: its file name and the digest of all that decides its bytes."""

    name: str
    digest: str


def check_writable(folder: Path) -> None:
    """Make the folder and write to it once. Raises OutputError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            path=folder,
            hint="choose another --out",
        ) from error


def check_recipe(folder: Path, manifest: Manifest, recipe: dict) -> None:
    """Make sure that the set in a folder is of this recipe. Raises SetError."""
    if manifest.recipe != recipe:
        old = manifest.recipe
        changed = sorted(key for key in {*recipe, *old} if recipe.get(key) != old.get(key))
        raise SetError(
            f"already holds a set of other options ({', '.join(changed)} differ)",
            path=folder,
            hint="pass --overwrite to replace it, or another --out",
        )


def check_shards(folder: Path, manifest: Manifest) -> None:
    """Make sure that every shard of a set that is there is there, too. Raises SetError."""
    missing = [entry.name for entry in manifest.shards if not (folder / entry.name).is_file()]
    if missing:
        raise SetError(
            f"shard {missing[0]} is missing", path=folder, hint="pass --overwrite to make it again"
        )


def same_set(folder: Path, recipe: dict, scan: Scan) -> tuple[Manifest, str]:
    """The manifest and the digest of the set that is there, if it is the one that is wanted.

    Raises:
        SetError: it is of other options or images, or a shard is missing.
    """
    manifest, set_digest = read_manifest(folder)
    check_recipe(folder, manifest, recipe)
    if list(manifest.training_files) != list(scan.file_digests):
        raise SetError(
            "already holds a set of other images",
            path=folder,
            expected=f"{len(manifest.training_files)} files as recorded",
            got=f"{len(scan.file_digests)} files, not the same",
            hint="pass --add to append new images, --overwrite to replace it, or another --out",
        )
    check_shards(folder, manifest)
    return manifest, set_digest


def same_origin(folder: Path, origin: Mapping[str, object]) -> tuple[Manifest, str]:
    """The manifest and the digest of the set that is there, if it was made from the same things.

    Raises:
        SetError: it was made from others or in another way, or a shard is missing.
    """
    manifest, set_digest = read_manifest(folder)
    if manifest.origin != origin:
        raise SetError(
            "already holds another set",
            path=folder,
            hint="pass --overwrite to replace it, or another --out",
        )
    check_shards(folder, manifest)
    return manifest, set_digest


def finished_set(
    folder: Path, origin: Mapping[str, object], *, overwrite: bool
) -> tuple[Manifest, str] | None:
    """The set that an earlier run of the same command finished; None where there is work to do.

    Raises:
        SetError: as `same_origin`, unless `overwrite`.
    """
    if overwrite or not (folder / MANIFEST_NAME).exists():
        return None
    return same_origin(folder, origin)


def clear_and_resume(
    folder: Path,
    units: Sequence[Planned],
    *,
    overwrite: bool,
    kept: frozenset[str] = frozenset(),
) -> dict[str, ShardEntry]:
    """Removes leftovers and returns the finished shards of this very plan, by name.

    With `kept`, shards of a set that is there, neither these nor the manifest are touched.

    Raises:
        SetError: a shard of another build is in the way and `overwrite` is not given.
        OutputError: the folder cannot be written.
    """
    done: dict[str, ShardEntry] = {}
    by_name = {unit.name: unit for unit in units}
    try:
        # The manifest goes first: without it nobody takes a half-replaced folder for a set.
        for name in () if kept else (MANIFEST_NAME, MANIFEST_DIGEST_NAME):
            (folder / name).unlink(missing_ok=True)
        clear_unfinished(folder)
        for path in sorted(folder.glob("shard-*.h5")):
            if path.name in kept:
                continue
            unit = by_name.get(path.name)
            entry = None if unit is None else _finished(path, unit)
            if entry is not None:
                done[path.name] = entry
            elif overwrite or _is_damaged(path):
                path.unlink()
            else:
                raise SetError(
                    "belongs to an unfinished build with other options or images",
                    path=path,
                    hint="run that --add again with its images, or delete this file"
                    if kept
                    else "pass --overwrite to replace it, or another --out",
                )
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=folder) from error
    return done


def settle(folder: Path) -> None:
    """Removes what a killed run left beside a set that is whole, and has nothing to be done to it.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        clear_unfinished(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    settle_manifest(folder)


def clear_unfinished(folder: Path) -> None:
    """Removes files that a killed run left half written."""
    for pattern in UNFINISHED:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def disk_bytes(folder: str | os.PathLike[str]) -> int:
    """Size of all files in the folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())


def _finished(path: Path, unit: Planned) -> ShardEntry | None:
    try:
        with Shard(path) as shard:
            is_ours = shard.index.unit_digest == unit.digest
        return shard_entry(path) if is_ours else None
    except SetError:
        return None


def _is_damaged(path: Path) -> bool:
    try:
        with Shard(path) as shard:
            return not shard.index.unit_digest
    except SetError:
        return True
