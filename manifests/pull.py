"""A set fetched from a URL into a folder: whole, checked, and not before."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from manifests.confine import confined_path
from manifests.digest import bytes_digest, file_digest
from manifests.errors import DigestError, OutputError, SetError
from manifests.location import Location
from manifests.lock import folder_lock
from manifests.probe import mark_familiar, probe_shards
from manifests.progress import ProgressMaker
from manifests.remote_manifest import named_after, one_set, remote_manifest
from manifests.run_folder import end_runs
from manifests.schema import (
    MANIFEST_DIGEST_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    read_manifest_bytes,
    read_recorded_digests,
    write_manifest,
)
from manifests.set_checks import entry_problems
from manifests.shard import Shard
from manifests.shard_entry import is_shard_name
from manifests.transfer import RETRIES, Patience, fetch_file, run_all

JOBS = 4
_UNFINISHED = (".shard-*.h5.part", ".shard-*.tmp-*", ".manifest.*.tmp-*")


def pull_set(
    url: str,
    out: str | os.PathLike[str],
    *,
    expect: str | None = None,
    jobs: int = JOBS,
    overwrite: bool = False,
    retries: int = RETRIES,
    make_progress: ProgressMaker | None = None,
) -> tuple[Path, str]:
    """Fetches a set into `out/<category>/`, or goes on where an interrupted run stopped.

    Nothing of the set is fetched before its manifest is found in order, and nothing that the
    folder holds is touched before all shards are there, have the digests that the manifest names,
    and have been parsed in a process of their own. A shard that is there already is not fetched;
    one that is damaged is, so that pulling again repairs a set.

    Args:
        url: of the set's folder, or of one that holds a single set and can be listed.
        out: where the set's folder is to lie.
        expect: the set digest it must have.
        jobs: shards fetched at the same time.
        overwrite: replace another set.
        retries: tries in a row without a byte more before it gives up.
        make_progress: see `ProgressMaker`.

    Returns:
        The set's folder and its set digest.

    Raises:
        RemoteError: there is no set, it cannot be reached, or the connection fails for good; what
            has arrived stays, and the same call goes on from there.
        DigestError: another set than expected, or bytes that are damaged each time.
        SetError: the folder holds another set and `overwrite` is not given; or what is behind the
            URL is no set that this version can read.
        ConfigError: not a URL that can be read.
        OutputError: the folder cannot be written, another run is writing there, or the disk is
            too small.

    Source: ours (temporary file, check, move: as pooch does it).
    """
    source = Location.of(one_set(url, retries=retries))
    manifest, digest = remote_manifest(source, retries=retries)
    if expect is not None and expect.strip().lower() != digest:
        raise DigestError(
            "is another set than expected", path=source.name, expected=expect, got=digest
        )
    folder = confined_path(out, manifest.category)
    if folder is None:
        raise _no_place(Path(out) / manifest.category, manifest.category, source.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be made ({error.strerror})", path=folder) from error
    jobs = jobs if source.has_threads else 1
    with folder_lock(folder):
        present = _present_digest(folder)
        if present not in (None, digest) and not overwrite:
            raise SetError(
                "already holds another set",
                path=folder,
                expected=digest,
                got=present,
                hint="pass --overwrite to replace it, or another --out",
            )
        is_free = overwrite or present is not None
        todo = _missing(folder, manifest, jobs, is_free=is_free)
        parts = {entry.name: folder / f".{entry.name}.part" for entry in todo}
        try:
            _clear(folder, set(parts.values()))
            _fetch(source, folder, todo, parts, jobs, retries, make_progress)
            _check(source, manifest, parts)
            if present not in (None, digest):
                # Without it nobody takes a half-replaced folder for a set.
                (folder / MANIFEST_NAME).unlink()
                (folder / MANIFEST_DIGEST_NAME).unlink(missing_ok=True)
            for name, part in parts.items():
                os.replace(part, folder / name)
            if present != digest:
                named = {entry.name for entry in manifest.shards}
                for path in folder.glob("shard-*.h5"):
                    if is_shard_name(path.name) and path.name not in named:
                        path.unlink()
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", path=folder) from error
        if present != digest or not _is_recorded(folder, digest):
            write_manifest(folder, manifest)
        if len(todo) == len(manifest.shards):  # others were not parsed now, and need not be ours
            mark_familiar(folder)
    return folder, digest


def _no_place(path: Path, category: str, source: str) -> SetError | OutputError:
    """Why a set cannot lie in `path`, which leads out of its folder."""
    if not path.is_symlink():
        return SetError("its category is no name for a folder here", path=source, got=category)
    target = Path(os.path.realpath(path))
    # A set's folder is called like its category, wherever that is.
    out = target.parent if target.name == category else target
    return OutputError(
        "is a link that leads out of --out", path=path, got=target, hint=f"pass --out {out}"
    )


def _present_digest(folder: Path) -> str | None:
    path = folder / MANIFEST_NAME
    is_there = path.is_symlink() or path.exists()
    return bytes_digest(read_manifest_bytes(folder)) if is_there else None


def _is_recorded(folder: Path, digest: str) -> bool:
    try:
        return read_recorded_digests(folder) == (digest,)
    except SetError:
        return False


def _missing(folder: Path, manifest: Manifest, jobs: int, *, is_free: bool) -> list[ShardEntry]:
    """The shards that are not there yet.

    Raises:
        SetError: not `is_free`, and shards of an unfinished set of something else are in the way.
    """
    whole: set[str] = set()

    def look(entry: ShardEntry) -> None:
        path = folder / entry.name
        with contextlib.suppress(OSError):
            is_plain = path.is_file() and not path.is_symlink()
            has_size = is_plain and path.stat().st_size == entry.file_bytes
            if has_size and file_digest(path) == entry.file_sha256:
                whole.add(entry.name)

    run_all([partial(look, entry) for entry in manifest.shards], jobs, Patience())
    for path in () if is_free else sorted(folder.glob("shard-*.h5")):
        if path.name not in whole:
            raise SetError(
                "belongs to an unfinished set of other options or images",
                path=path,
                hint="pass --overwrite to replace it, or another --out",
            )
    return [entry for entry in manifest.shards if entry.name not in whole]


def _fetch(
    source: Location,
    folder: Path,
    todo: Sequence[ShardEntry],
    parts: dict[str, Path],
    jobs: int,
    retries: int,
    make_progress: ProgressMaker | None,
) -> None:
    wanted = sum(entry.file_bytes for entry in todo)
    sizes = {entry.name: _size(parts[entry.name]) for entry in todo}
    done = sum(min(sizes[entry.name], entry.file_bytes) for entry in todo)
    free = shutil.disk_usage(folder).free
    if wanted - done > free:
        raise OutputError(
            "has not enough free space",
            path=folder,
            expected=f"{wanted - done} bytes",
            got=free,
            hint="free some space or pass another --out",
        )
    if not todo:
        return
    patience = Patience(
        retries,
        show=make_progress and make_progress(f"pull {folder.name}", "bytes"),
        total_bytes=wanted,
        done_bytes=done,
    )
    run_all(
        [
            partial(
                fetch_file,
                source.child(entry.name),
                parts[entry.name],
                file_bytes=entry.file_bytes,
                sha256=entry.file_sha256,
                patience=patience,
            )
            for entry in todo
        ],
        jobs,
        patience,
    )


def _check(source: Location, manifest: Manifest, parts: dict[str, Path]) -> None:
    """Whether all that has arrived are shards, and those of the manifest. Raises SetError."""
    try:
        probe_shards(parts.values())
        for number, entry in enumerate(manifest.shards):
            if entry.name in parts:
                with Shard(parts[entry.name]) as shard:
                    problem = next(entry_problems(shard, manifest, number), None)
                if problem is not None:
                    raise problem
    except SetError as error:
        refused = next((name for name, part in parts.items() if str(part) == error.path), None)
        if refused is None:
            raise
        # Its bytes are the published ones: it would be refused again.
        parts[refused].unlink(missing_ok=True)
        raise named_after(error, source.child(refused).name) from None


def _clear(folder: Path, kept: Iterable[Path]) -> None:
    end_runs(folder)
    for pattern in _UNFINISHED:
        for path in folder.glob(pattern):
            if path not in kept:
                path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
