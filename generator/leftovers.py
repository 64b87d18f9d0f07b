"""What an earlier run left in the output folder: a whole set, some of its shards, or rubbish."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from generator.leftover_shards import (
    AnyPlanned,
    IsWanted,
    finished_shards,
    lying_shards,
    remove,
)
from generator.scan import Scan
from manifests.atomic import output_error
from manifests.errors import OutputError, SetError
from manifests.run_folder import end_runs
from manifests.schema import (
    MANIFEST_DIGEST_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    read_manifest,
    settle_manifest,
)
from manifests.shard_entry import is_shard_name

_MADE = {
    "replay": "a replay of another set",
    "merge": "a merge of other sets",
    "subset": "a subset of another set",
}
# As `manifests.atomic` and `manifests.pull` name what they have not finished.
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?:tmp-[0-9]+|part)")


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


def check_recipe(
    folder: Path | str,
    manifest: Manifest,
    recipe: dict,
    *,
    hint: str = "pass --overwrite to replace it, or another --out",
) -> None:
    """Make sure that the set in a folder is of this recipe. Raises SetError, with that hint."""
    if manifest.recipe != recipe:
        old = manifest.recipe
        changed = sorted(key for key in {*recipe, *old} if recipe.get(key) != old.get(key))
        raise SetError(
            f"already holds a set of other options ({', '.join(changed)} differ)",
            path=folder,
            hint=hint,
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
        SetError: it was not built, is of other options or images, or a shard is missing.
    """
    manifest, set_digest = read_manifest(folder)
    check_same(folder, manifest, recipe, scan)
    check_shards(folder, manifest)
    return manifest, set_digest


def check_same(folder: Path | str, manifest: Manifest, recipe: dict, scan: Scan) -> None:
    """Make sure that a set was built, with this recipe and of these images. Raises SetError."""
    command = manifest.origin["command"]
    if command != "build":  # a part of a set has its recipe and names its training files
        raise SetError(
            f"holds {_MADE.get(command, 'a set of another command')}",
            path=folder,
            expected="a set made by build",
            hint="pass --overwrite to replace it, or another --out",
        )
    check_recipe(folder, manifest, recipe)
    if list(manifest.training_files) != list(scan.file_digests):
        raise SetError(
            "already holds a set of other images",
            path=folder,
            expected=f"{len(manifest.training_files)} files as recorded",
            got=f"{len(scan.file_digests)} files, not the same",
            hint="pass --add to append new images, --overwrite to replace it, or another --out",
        )


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
    units: Sequence[AnyPlanned],
    *,
    overwrite: bool,
    kept: frozenset[str] = frozenset(),
    is_wanted: IsWanted[AnyPlanned] | None = None,
    check: Callable[[Sequence[AnyPlanned]], None] | None = None,
) -> dict[str, ShardEntry]:
    """Removes leftovers and returns the finished shards of this very plan, by name.

    Nothing is removed before all shards that are there have been looked at. What is not named like
    a shard stays, whatever it is. With `kept`, shards of a set that is there, neither these nor the
    manifest are touched.

    Args:
        folder, units, overwrite, kept, is_wanted, check: as of `generator.assembly.assemble`.

    Raises:
        SetError: a shard of another run, or a file that is none of ours, is in the way and
            `overwrite` is not given.
        OutputError: the folder cannot be written.
        Whatever `check` raises.
    """
    try:
        lying = lying_shards(folder, kept=kept)
        done, others = finished_shards(folder, units, lying, is_wanted=is_wanted)
        for path in lying:
            _check_may_go(path, done, others, overwrite=overwrite, is_added=bool(kept))
        if check is not None and not kept and (folder / MANIFEST_NAME).exists():
            check([unit for unit in units if unit.name not in done])
        # The manifest goes first: without it nobody takes a half-replaced folder for a set.
        for name in () if kept else (MANIFEST_NAME, MANIFEST_DIGEST_NAME):
            (folder / name).unlink(missing_ok=True)
        clear_unfinished(folder)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=folder) from error
    for path in lying:
        if path.name not in done:
            remove(path)
    return done


def _check_may_go(
    path: Path,
    done: Mapping[str, ShardEntry],
    others: Mapping[Path, SetError | None],
    *,
    overwrite: bool,
    is_added: bool,
) -> None:
    if path.is_dir() and not path.is_symlink():
        raise SetError("is a folder", path=path, hint="move it away, or pass another --out")
    if overwrite or path.name in done:
        return
    reason = others.get(
        path,
        SetError(
            "is no shard of this run, perhaps of an unfinished one with other options or images",
            path=path,
        ),
    )
    if reason is not None:
        hint = "pass --overwrite to replace it, or another --out"
        if is_added:
            hint = "run that --add again with its images, or delete this file"
        raise SetError(reason.what, path=path, expected=reason.expected, got=reason.got, hint=hint)


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
    """Removes what a killed run left half written, and locks its workers out. Raises OSError."""
    end_runs(folder)
    for path in list(folder.iterdir()):
        match = _UNFINISHED.fullmatch(path.name)
        if match is None or (path.is_dir() and not path.is_symlink()):
            continue
        name = match["name"]
        if is_shard_name(name) or name in (MANIFEST_NAME, MANIFEST_DIGEST_NAME):
            path.unlink(missing_ok=True)


def disk_bytes(folder: str | os.PathLike[str]) -> int:
    """Size of all files in the folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())
