"""Sets behind URLs before they are fetched: which there are, and what their manifests say."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from manifests.digest import bytes_digest
from manifests.errors import OutputError, SetError
from manifests.location import Location, RemoteError
from manifests.schema import (
    MANIFEST_DIGEST_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    read_manifest,
)
from manifests.transfer import RETRIES, Patience, fetch_bytes

MAX_DIGEST_FILE_BYTES = 1024

_TRIES = 3
_MAX_CATEGORIES = 1000
_SLUG = re.compile(r"[a-z0-9_-]{1,128}")


def find_remote_sets(url: str, *, retries: int = RETRIES) -> list[str]:
    """URLs of the sets behind a URL: itself, or the categories of a root, sorted.

    Raises:
        RemoteError: there are none, or the server does not list what it has.
        ConfigError: not a URL that can be read.
    """
    root = Location.of(url)
    if _has_set(root, retries):
        return [url]
    try:
        names = root.names()
    except RemoteError as error:
        raise RemoteError(
            "no negative set here, and no list of what is",
            path=root.name,
            got=error.got,
            hint="give the URL of one category's folder",
        ) from None
    slugs = [name for name in names if _SLUG.fullmatch(name)][:_MAX_CATEGORIES]
    found = [root.child(name).url for name in slugs if _has_set(root.child(name), retries)]
    if not found:
        raise RemoteError(
            "no negative set here",
            path=root.name,
            expected=f"{MANIFEST_NAME} in it or in a folder directly below",
            hint="check the URL, or give that of one category's folder",
        )
    return found


def one_set(url: str, *, retries: int = RETRIES) -> str:
    """The URL of the only set behind a URL. Raises RemoteError, also where there are several."""
    found = find_remote_sets(url, retries=retries)
    if len(found) > 1:
        names = [one.split("?")[0].rstrip("/").rsplit("/", 1)[-1] for one in found]
        raise RemoteError(
            f"{len(found)} sets here ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})",
            path=Location.of(url).name,
            hint="give the URL of one category's folder",
        )
    return found[0]


def remote_manifest(source: Location, *, retries: int = RETRIES) -> tuple[Manifest, str]:
    """The manifest of a set behind a URL, as `read_manifest` gives it, and the set digest.

    Raises:
        RemoteError: not there, or it does not come.
        DigestError: not the bytes that `manifest.sha256` names, several times.
        SetError: malformed, newer, or contradicting itself.
    """
    patience = Patience(retries)
    tries = 0
    while True:
        tries += 1
        recorded = fetch_bytes(source.child(MANIFEST_DIGEST_NAME), MAX_DIGEST_FILE_BYTES, patience)
        try:
            data = fetch_bytes(source.child(MANIFEST_NAME), MAX_MANIFEST_BYTES, patience)
        except RemoteError as error:
            if error.is_missing:
                error.hint = "an unfinished push or build has none: run it again, it goes on"
            raise
        try:
            return _read_copy(recorded, data)
        except SetError as error:
            # Damaged on the way, or replaced between the two: another look tells.
            problem = named_after(error, source.child(Path(error.path or "").name).name)
        if tries >= _TRIES:
            raise problem
        patience.pause(tries)


def present_digest(location: Location, patience: Patience) -> str | None:
    """SHA-256 of the manifest behind a URL, None without one. Raises RemoteError."""
    try:
        data = fetch_bytes(location.child(MANIFEST_NAME), MAX_MANIFEST_BYTES, patience)
    except RemoteError as error:
        if error.is_missing:
            return None
        raise
    return bytes_digest(data)


def named_after(error: SetError, name: str) -> SetError:
    """The same error about the copy behind a URL instead of a file here."""
    return type(error)(
        error.what, path=name, expected=error.expected, got=error.got, hint=error.hint
    )


def _read_copy(recorded: bytes, data: bytes) -> tuple[Manifest, str]:
    """What `read_manifest` says to these two files, which it wants in a folder."""
    try:
        with tempfile.TemporaryDirectory(prefix="cutswap-") as folder:
            Path(folder, MANIFEST_DIGEST_NAME).write_bytes(recorded)
            Path(folder, MANIFEST_NAME).write_bytes(data)
            return read_manifest(Path(folder))
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})", path=tempfile.gettempdir()
        ) from error


def _has_set(location: Location, retries: int) -> bool:
    try:
        fetch_bytes(location.child(MANIFEST_DIGEST_NAME), MAX_DIGEST_FILE_BYTES, Patience(retries))
    except RemoteError as error:
        if error.is_missing:
            return False
        raise
    return True
