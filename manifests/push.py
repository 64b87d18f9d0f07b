"""A set put behind a URL, so that nobody who looks there meanwhile takes a part for the whole."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from manifests.digest import file_digest
from manifests.errors import ConfigError, DigestError, SetError
from manifests.licence import pixel_warning
from manifests.location import Location, RemoteError
from manifests.pull import JOBS, ProgressMaker
from manifests.remote_manifest import MAX_DIGEST_FILE_BYTES, present_digest
from manifests.schema import MANIFEST_DIGEST_NAME, MANIFEST_NAME, ShardEntry, read_manifest
from manifests.shard_entry import is_shard_name
from manifests.transfer import (
    RETRIES,
    Patience,
    fetch_bytes,
    put_bytes,
    remote_digest,
    run_all,
)
from manifests.verify import verify_set

# What a killed push leaves where files are written under a temporary name.
_UNFINISHED = re.compile(r"\.(shard-[0-9]{5,9}\.h5|manifest\.(json|sha256))\.tmp-[0-9]+")
_NONE: frozenset[str] = frozenset()
MARKER_NAME = "build.json"
"""Says which build is writing to a folder behind a URL, while it does."""
_OF_A_BUILD = re.compile(
    r"build\.json|shard-[0-9]{5,9}\.json|\.(build|shard-[0-9]{5,9})\.json\.tmp-[0-9]+"
)


def note_name(shard: str) -> str:
    """Name of what a build notes of a finished shard behind a URL: `shard-00000.json`."""
    return shard.removesuffix(".h5") + ".json"


def clear_traces(target: Location, patience: Patience, *, kept: frozenset[str] = _NONE) -> None:
    """Removes what builds and uploads that were killed left beside shards and manifest.

    Args:
        kept: names that stay.
    """
    left = [
        name
        for name in target.names()
        if name not in kept and (_UNFINISHED.fullmatch(name) or _OF_A_BUILD.fullmatch(name))
    ]
    # What says whose the rest is goes last.
    for name in sorted(left, key=lambda name: name == MARKER_NAME):
        patience.persist(target.child(name).remove)


@dataclass(frozen=True)
class PushSummary:
    """What a push did.

    Attributes:
        url: of the set, as it may be shown.
        set_digest: of the set.
        sent_shards, sent_bytes: what was uploaded of the shards.
        present_shards: shards that an earlier push had uploaded.
    """

    url: str
    set_digest: str
    sent_shards: int
    sent_bytes: int
    present_shards: int


def push_set(
    folder: str | os.PathLike[str],
    url: str,
    *,
    overwrite: bool = False,
    check: bool = False,
    jobs: int = JOBS,
    retries: int = RETRIES,
    make_progress: ProgressMaker | None = None,
) -> PushSummary:
    """Uploads a set, or goes on where an interrupted run stopped.

    `manifest.sha256` goes first and says whose shards lie there, so that another run takes up
    only those of this very set; `manifest.json`, without which there is no set, goes last.

    Args:
        folder: of the set; it is verified before anything is sent.
        url: of the folder that the set's files are to lie in.
        overwrite: replace another set there, which is no set from the beginning on.
        check: read everything back at the end and compare the digests, not only the sizes.
        jobs: shards sent at the same time.
        retries: further tries of what fails.
        make_progress: see `ProgressMaker`.

    Raises:
        SetError: the local set is damaged; or another one is there and `overwrite` is not given.
        ConfigError: not a URL that can be written.
        RemoteError: the transfer fails for good; the same call goes on from there.
        DigestError: what was read back is not what was sent.

    Warns:
        UserWarning: the licence of the images, whose pixels every set holds, restricts sharing.
    """
    folder = Path(folder)
    target = Location.of(url)
    if not target.is_writable:
        raise ConfigError(
            f"{target.scheme}:// cannot be written",
            path=target.name,
            hint="push to s3://, file:// and the like, and serve that over HTTP",
        )
    manifest, digest = read_manifest(folder)
    jobs = jobs if target.has_threads else 1
    _check_local(folder, manifest.shards, jobs)
    warning = pixel_warning(manifest.licence)
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    patience = Patience(retries)
    line = (f"{digest}  {MANIFEST_NAME}\n").encode("ascii")
    is_ours = _take_place(target, digest, line, overwrite=overwrite, patience=patience)
    todo = [
        entry
        for entry in manifest.shards
        if not (is_ours and target.child(entry.name).size() == entry.file_bytes)
    ]
    sent = sum(entry.file_bytes for entry in todo)
    patience = Patience(
        retries,
        show=make_progress and make_progress(f"push {folder.name}", "bytes") if todo else None,
        total_bytes=sent,
    )

    def send(entry: ShardEntry) -> None:
        patience.persist(partial(target.child(entry.name).put, folder / entry.name))
        patience.moved(entry.file_bytes)

    run_all([partial(send, entry) for entry in todo], jobs, patience)
    _check_sizes(target, manifest.shards)
    if check:
        _check_digests(target, manifest.shards, jobs, retries, make_progress)
    put_bytes(target.child(MANIFEST_NAME), (folder / MANIFEST_NAME).read_bytes(), patience)
    if present_digest(target, patience) != digest:
        raise DigestError(
            "is not what was sent",
            path=target.child(MANIFEST_NAME).name,
            expected=digest,
            hint="push again with --overwrite, alone",
        )
    return PushSummary(
        url=target.name,
        set_digest=digest,
        sent_shards=len(todo),
        sent_bytes=sent,
        present_shards=len(manifest.shards) - len(todo),
    )


def _check_local(folder: Path, entries: Sequence[ShardEntry], jobs: int) -> None:
    problems = verify_set(folder, quick=True)
    if not problems:

        def look(entry: ShardEntry) -> None:
            got = file_digest(folder / entry.name)
            if got != entry.file_sha256:
                problems.append(
                    DigestError(
                        "is not the file that was recorded",
                        path=folder / entry.name,
                        expected=entry.file_sha256,
                        got=got,
                    )
                )

        run_all([partial(look, entry) for entry in entries], jobs, Patience())
    if problems:
        first, count = problems[0], len(problems)
        raise type(first)(
            f"{first.what}{f' (and {count - 1} further problems)' if count > 1 else ''}",
            path=first.path,
            expected=first.expected,
            got=first.got,
            hint="nothing was sent; see cutswap-gen verify",
        )


def _take_place(
    target: Location, digest: str, line: bytes, *, overwrite: bool, patience: Patience
) -> bool:
    """Makes the place this set's; whether shards that are there by then are this set's.

    Raises:
        SetError: it is another set's and `overwrite` is not given.
    """
    there = present_digest(target, patience)
    marker = target.child(MANIFEST_DIGEST_NAME)
    try:
        marked = fetch_bytes(marker, MAX_DIGEST_FILE_BYTES, patience)
    except RemoteError as error:
        if not error.is_missing:
            raise
        marked = None
    names = target.names()
    shards = [name for name in names if is_shard_name(name)]
    is_ours = there == digest or (there is None and marked == line)
    if not is_ours and (there or marked is not None or shards):
        if not overwrite:
            raise SetError(
                "already holds another set" if there else "holds part of another set",
                path=target.name,
                expected=digest,
                got=there or "no manifest",
                hint="pass --overwrite to replace it, or another URL",
            )
        # First, so that nobody takes a half-replaced folder for a set.
        patience.persist(target.child(MANIFEST_NAME).remove)
        for name in shards:
            patience.persist(target.child(name).remove)
    clear_traces(target, patience)
    if marked != line:
        put_bytes(marker, line, patience)
    return is_ours


def _check_sizes(target: Location, entries: Sequence[ShardEntry]) -> None:
    for entry in entries:
        got = target.child(entry.name).size()
        if got != entry.file_bytes:
            raise RemoteError(
                "was not stored as it was sent",
                path=target.child(entry.name).name,
                expected=f"{entry.file_bytes} bytes",
                got=got if got is not None else "no file",
                hint="push again",
            )


def _check_digests(
    target: Location,
    entries: Sequence[ShardEntry],
    jobs: int,
    retries: int,
    make_progress: ProgressMaker | None,
) -> None:
    patience = Patience(
        retries,
        show=make_progress and make_progress("read back", "bytes"),
        total_bytes=sum(entry.file_bytes for entry in entries),
    )

    def look(entry: ShardEntry) -> None:
        source = target.child(entry.name)
        got = remote_digest(source, entry.file_bytes, patience)
        if got != entry.file_sha256:
            source.remove()  # else another push would take it for finished
            raise DigestError(
                "was not stored as it was sent",
                path=source.name,
                expected=entry.file_sha256,
                got=got,
                hint="push again",
            )

    run_all([partial(look, entry) for entry in entries], jobs, patience)
