"""Sets behind URLs: fetched, put there, or opened where a folder is asked for."""

from __future__ import annotations

import os
from pathlib import Path

from manifests.digest import bytes_digest
from manifests.errors import DigestError, OutputError, SetError
from manifests.familiar import CACHE_VARIABLE, cache_folder
from manifests.location import Location, RemoteError
from manifests.pull import pull_set
from manifests.push import PushSummary, push_set
from manifests.remote_manifest import find_remote_sets, one_set, remote_manifest
from manifests.schema import read_manifest
from manifests.set_checks import size_problems
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


def open_location(
    path_or_url: str | os.PathLike[str],
    *,
    expect: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Path:
    """The local folder of a set that may lie behind a URL.

    A path passes through. A URL is pulled into the cache, unless the set that it holds now is
    there already; with `expect`, a set of that digest in the cache is used without a look at the
    server.

    Args:
        path_or_url: a folder, or the URL of a set's folder.
        expect: the set digest that the set must have; a path must be one set's folder then.
        cache: folder for sets behind URLs; None for `$CUTSWAP_CACHE`, or the platform's.

    Raises:
        DigestError: it is another set than expected.
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
    cached = _cached(place)
    if expect is not None and expect.strip().lower() in cached:
        return cached[expect.strip().lower()]
    url = one_set(url)
    if cached:
        digest = remote_manifest(Location.of(url))[1]
        if digest in cached:
            _check_expected(digest, expect, redacted(url))
            return cached[digest]
    # What is there is a copy of what was behind the URL before.
    return pull_set(url, place, expect=expect, overwrite=True)[0]


def _sets_folder() -> Path:
    folder = cache_folder()
    if folder is None:
        raise OutputError(
            "there is no folder for copies of sets",
            hint=f"set {CACHE_VARIABLE} to one, or use cutswap-gen pull",
        )
    return folder / "sets"


def _cached(place: Path) -> dict[str, Path]:
    """The finished sets in a place of the cache, by set digest."""
    found = {}
    for folder in sorted(place.iterdir()) if place.is_dir() else ():
        try:
            manifest, digest = read_manifest(folder)
        except SetError:
            continue
        if next(size_problems(folder, manifest), None) is None:
            found[digest] = folder
    return found


def _check_expected(digest: str, expect: str | None, name: str) -> None:
    if expect is not None and expect.strip().lower() != digest:
        raise DigestError("is another set than expected", path=name, expected=expect, got=digest)
