"""Sets behind URLs: fetched, put there, or opened where a folder is asked for."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from manifests.digest import bytes_digest, file_digest
from manifests.errors import DigestError, OutputError, SetError
from manifests.familiar import CACHE_VARIABLE, cache_folder
from manifests.location import Location, RemoteError
from manifests.progress import ProgressMaker
from manifests.pull import JOBS, pull_set
from manifests.push import PushSummary, push_set
from manifests.remote_manifest import find_remote_sets, one_set, remote_manifest
from manifests.schema import ShardEntry, read_manifest
from manifests.set_checks import size_problems
from manifests.transfer import Patience, run_all
from manifests.url import is_url, redacted

__all__ = [
    "PushSummary",
    "RemoteError",
    "find_remote_sets",
    "is_url",
    "open_location",
    "pull_set",
    "push_set",
]

_SHOWN_BYTES = 200_000_000
"""Copies from this size on take so long to compare that a user should see why."""


def open_location(
    path_or_url: str | os.PathLike[str],
    *,
    expect: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    make_progress: ProgressMaker | None = None,
) -> Path:
    """The local folder of a set that may lie behind a URL.

    A path passes through. A URL is pulled into the cache, unless the set that it holds now is
    there already; with `expect`, a set of that digest in the cache is used without a look at the
    server. The SHA-256 of a copy's shards is compared at every opening, because nobody else looks
    after it; a damaged shard is fetched again.

    Args:
        path_or_url: a folder, or the URL of a set's folder.
        expect: the set digest that the set must have; a path must be one set's folder then.
        cache: folder for sets behind URLs; None for `$CUTSWAP_CACHE`, or the platform's.
        make_progress: see `ProgressMaker`.

    Raises:
        DigestError: it is another set than expected.
        RemoteError: the server does not give it; the error names a copy from before.
        SetError, OutputError, ConfigError: as `pull_set` does.
    """
    if not is_url(path_or_url):
        folder = Path(path_or_url)
        if expect is not None:
            _check_expected(read_manifest(folder)[1], expect, str(folder))
        return folder
    url = str(path_or_url)
    root = Path(cache) if cache is not None else _sets_folder()
    place = root / bytes_digest(url.rstrip("/").encode())[:16]
    copies = _copies(place)
    damaged: list[Path] = []
    try:
        named = expect.strip().lower() if expect is not None else None
        if named in copies:
            damaged = _damaged(copies[named], make_progress)
            if not damaged:
                return copies[named]
        url = one_set(url)
        if copies and not damaged:
            digest = remote_manifest(Location.of(url))[1]
            if digest in copies:
                _check_expected(digest, expect, redacted(url))
                damaged = _damaged(copies[digest], make_progress)
                if not damaged:
                    return copies[digest]
        # What is there is damaged, or a copy of what was behind the URL before.
        return pull_set(url, place, expect=expect, overwrite=True, make_progress=make_progress)[0]
    except RemoteError as error:
        if copies:
            error.hint = "; ".join(filter(None, (error.hint, _way_out(copies, damaged))))
        raise


def _sets_folder() -> Path:
    folder = cache_folder()
    if folder is None:
        raise OutputError(
            "there is no folder for copies of sets",
            hint=f"set {CACHE_VARIABLE} to one, or use cutswap-gen pull",
        )
    return folder / "sets"


def _copies(place: Path) -> dict[str, Path]:
    """The finished sets in a place of the cache, by set digest, by manifest and sizes alone."""
    found = {}
    for folder in sorted(place.iterdir()) if place.is_dir() else ():
        try:
            manifest, digest = read_manifest(folder)
        except SetError:
            continue
        if next(size_problems(folder, manifest), None) is None:
            found[digest] = folder
    return found


def _way_out(copies: dict[str, Path], damaged: list[Path]) -> str:
    """What to do where the server does not answer and there is a copy."""
    if damaged:
        folder, name = damaged[0].parent, damaged[0].name
        return (
            f"the copy in {folder} is damaged ({name}) and will be repaired when the server is back"
        )
    folder = next(iter(copies.values()))
    return f"an earlier copy lies in {folder}, which can be given in place of the URL"


def _damaged(folder: Path, make_progress: ProgressMaker | None) -> list[Path]:
    """The shards of a copy whose bytes are not the recorded ones, sorted."""
    entries = read_manifest(folder)[0].shards
    total = sum(entry.file_bytes for entry in entries)
    show = None
    if make_progress is not None and total >= _SHOWN_BYTES:
        show = make_progress(f"check the copy of {folder.name}", "bytes")
    patience = Patience(show=show, total_bytes=total)
    found = []

    def look(entry: ShardEntry) -> None:
        path = folder / entry.name
        try:
            is_whole = file_digest(path) == entry.file_sha256
        except OSError:
            is_whole = False
        if not is_whole:
            found.append(path)
        patience.moved(entry.file_bytes)

    run_all([partial(look, entry) for entry in entries], JOBS, patience)
    return sorted(found)


def _check_expected(digest: str, expect: str | None, name: str) -> None:
    if expect is not None and expect.strip().lower() != digest:
        raise DigestError("is another set than expected", path=name, expected=expect, got=digest)
