"""The bytes of `manifest.json`, decoded without trust into plain values.

Memory stays in proportion to the file: rows are decoded into types, in which one wrong value ends
it, and open tables are bounded before an object is made of them.
"""

from __future__ import annotations

from os import PathLike
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from manifests.errors import SetError
from manifests.shard_entry import check_version, require
from manifests.strict_json import (
    MAX_TABLE_BYTES,
    dump_json,
    dump_typed,
    load_table,
    load_typed,
)

MAX_MANIFEST_BYTES = 64 << 20
MAX_SKIPPED_BYTES = 16 << 20
# At most, in a manifest: the digest of an image's file, a shard with an environment of the usual
# size, and everything else.
_IMAGE_BYTES, _SHARD_BYTES, _SPARE_BYTES = 72, 768, 4 << 20
MAX_TEXTS_BYTES = 64 << 10  # of versions, and of a shard's environment

# A string of any other length ends it at once: nobody gets millions of small ones made.
_Digest = Annotated[str, Meta(min_length=64, max_length=64)]
_Text = Annotated[str, Meta(max_length=64 << 10)]
_OPEN = ("recipe", "counts", "fallbacks", "origin")


class _Head(Struct):
    schema_version: Raw | UnsetType = UNSET


class _EntryRow(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=32)]
    file_sha256: _Digest
    file_bytes: int
    normals: int
    negatives: int
    content_digest: _Digest
    saliency_digest: _Digest
    environment: Raw


class _ManifestRow(Struct, forbid_unknown_fields=True):
    schema_version: int
    category: Annotated[str, Meta(max_length=128)]
    format: _Text
    recipe: Raw
    licence: _Text
    attribution: _Text
    split_rule: _Text
    training_files: list[_Digest]
    duplicates: int
    skipped: Raw
    counts: Raw
    fallbacks: Raw
    shards: list[_EntryRow]
    content_digest: _Digest
    saliency_digest: _Digest
    versions: Raw
    saliency: Annotated[str, Meta(max_length=32)]
    origin: Raw


_HEAD = msgspec.json.Decoder(_Head)
_MANIFEST = msgspec.json.Decoder(_ManifestRow)


def check_room(images: int, shards: int, *, path: str | PathLike[str] | None = None) -> None:
    """Refuses, before anything is made, a set whose manifest nobody would read.

    Raises:
        SetError: so many images and shards may take more than `MAX_MANIFEST_BYTES`.
    """
    room = MAX_MANIFEST_BYTES - _SPARE_BYTES
    if images * _IMAGE_BYTES + shards * _SHARD_BYTES > room:
        raise SetError(
            f"{images} images are too many for one set",
            path=path,
            expected=f"at most {int(room / (_IMAGE_BYTES + _SHARD_BYTES * shards / images))}",
            hint="build parts of the folder as sets of their own",
        )


def parse_manifest(data: bytes) -> tuple[dict[str, Any], _ManifestRow]:
    """The fields of a manifest; each shard is a dictionary of the fields of its entry.

    Types of the typed fields and sizes are checked; what the values mean is not.

    Returns:
        The fields, and what `check_canonical` compares with the bytes.

    Raises:
        SetError: too large, not JSON, written by a newer cutswap, a field missing, unknown or of
            the wrong type, an open table that is too large or too deep.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise SetError("is too large", expected=f"{MAX_MANIFEST_BYTES} bytes", got=len(data))
    # First, so that a newer format is named as such and not by its first unknown field.
    head = load_typed(data, _HEAD, name="manifest")
    if head.schema_version is UNSET:
        raise SetError("schema_version is missing or malformed")
    check_version(load_table(head.schema_version, name="schema_version", max_bytes=64))
    row = load_typed(data, _MANIFEST, name="manifest")
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    limits = dict.fromkeys(_OPEN, MAX_TABLE_BYTES) | {
        "skipped": MAX_SKIPPED_BYTES,
        "versions": MAX_TEXTS_BYTES,
    }
    for name, limit in limits.items():
        fields[name] = load_table(fields[name], name=name, max_bytes=limit)
        setattr(row, name, Raw(dump_json(fields[name])))
    fields["shards"] = [_entry_fields(entry) for entry in row.shards]
    return fields, row


def check_canonical(data: bytes, row: _ManifestRow) -> None:
    """Refuse a second text for the same manifest, repeated keys among them.

    Raises:
        SetError: `data` is not what `Manifest.to_bytes` writes.
    """
    require(dump_typed(row, indent=1) == data, "is not in the canonical form")


def _entry_fields(entry: _EntryRow) -> dict[str, Any]:
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    texts = load_table(entry.environment, name="environment", max_bytes=MAX_TEXTS_BYTES)
    entry.environment = Raw(dump_json(texts))
    return fields | {"environment": texts}
