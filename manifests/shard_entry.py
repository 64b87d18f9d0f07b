"""What a manifest knows of one shard, and the small rules all parts of a set share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

from manifests.errors import SetError

SCHEMA_VERSION = 1
STORES = ("pixels", "anchors")
FALLBACKS = ("none", "shrunk", "moved", "lower-cluster", "anywhere")
"""Where a pair of boxes was found; `negatives/fallback` holds the index into this."""

_SHARD_NAME = re.compile(r"shard-[0-9]{5,9}\.h5")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


def shard_name(index: int) -> str:
    """File name of the shard number `index`: `shard-00000.h5`, ..."""
    return f"shard-{index:05d}.h5"


def is_shard_name(name: object) -> bool:
    """Whether `name` is what `shard_name` gives: a plain name, which cannot leave its folder."""
    return isinstance(name, str) and _SHARD_NAME.fullmatch(name) is not None


def is_digest(value: object) -> TypeGuard[str]:
    """Whether `value` is a SHA-256 as 64 lower-case hex characters."""
    return isinstance(value, str) and _HEX_DIGEST.fullmatch(value) is not None


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest knows of one shard.

    Args:
        name: file name inside the set's folder.
        file_sha256, file_bytes: of the whole file.
        normals, negatives: how many it holds.
        content_digest: over normals and negatives; does not depend on the store (docs/formats.md).
        saliency_digest: over the saliency maps and cluster centres.
        environment: library versions and processor features it was built with.

    Raises:
        SetError: wrong type or out of range.
    """

    name: str
    file_sha256: str
    file_bytes: int
    normals: int
    negatives: int
    content_digest: str
    saliency_digest: str
    environment: dict[str, str]

    def __post_init__(self) -> None:
        if not is_shard_name(self.name):
            raise SetError("shard name is malformed", got=repr(self.name)[:80])
        for name in ("file_sha256", "content_digest", "saliency_digest"):
            require(is_digest(getattr(self, name)), f"{self.name}: {name} is not a digest")
        for name in ("file_bytes", "normals", "negatives"):
            require(is_count(getattr(self, name)), f"{self.name}: {name} is not a count")
        require(is_text_table(self.environment), f"{self.name}: environment is malformed")


def check_version(version: object) -> None:
    """Refuse what this version cannot read.

    Raises:
        SetError: a newer schema version, or none.
    """
    if not is_count(version):
        raise SetError("schema_version is missing or malformed")
    if version > SCHEMA_VERSION:
        raise SetError(
            "was written by a newer cutswap",
            expected=f"schema version {SCHEMA_VERSION}",
            got=version,
            hint="upgrade cutswap to read it",
        )
    if version != SCHEMA_VERSION:
        raise SetError(
            "has an unknown schema version", expected=f"version {SCHEMA_VERSION}", got=version
        )


def set_digest_of(digests: Iterable[str]) -> str:
    """SHA-256 over the 32 raw bytes of each digest, in order: a set's from its shards'."""
    hasher = hashlib.sha256()
    for digest in digests:
        hasher.update(bytes.fromhex(digest))
    return hasher.hexdigest()


def shard_fields(entries: Iterable[ShardEntry]) -> dict[str, Any]:
    """The fields of a manifest that follow from its shards, by name.

    Args:
        entries: in the order of their names.
    """
    shards = tuple(entries)
    return {
        "shards": shards,
        "content_digest": set_digest_of(entry.content_digest for entry in shards),
        "saliency_digest": set_digest_of(entry.saliency_digest for entry in shards),
    }


def require(condition: bool, what: str) -> None:
    """Raise SetError(`what`) unless `condition` holds."""
    if not condition:
        raise SetError(what)


def is_count(value: object) -> TypeGuard[int]:
    """Whether `value` is a whole number that JSON readers of any language keep exact."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def is_text_table(value: object) -> bool:
    """Whether `value` is a dictionary of strings."""
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(item, str) for key, item in value.items()
    )
