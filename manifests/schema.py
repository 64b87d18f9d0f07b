"""The manifest of a negative set: what is in it, how it was made, and the digests of its shards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from manifests.atomic import write_atomic
from manifests.bounded_file import read_bounded
from manifests.digest import bytes_digest
from manifests.errors import DigestError, SetError
from manifests.manifest_json import MAX_MANIFEST_BYTES, check_canonical, parse_manifest
from manifests.shard_entry import (
    FALLBACKS,
    SCHEMA_VERSION,
    STORES,
    ShardEntry,
    check_version,
    is_count,
    is_digest,
    is_text_table,
    require,
    set_digest_of,
    shard_fields,
    shard_name,
)
from manifests.strict_json import dump_json
from manifests.tally import check_tally, tally

__all__ = [
    "COMMANDS",
    "FALLBACKS",
    "MANIFEST_DIGEST_NAME",
    "MANIFEST_NAME",
    "SALIENCY",
    "SCHEMA_VERSION",
    "STORES",
    "Manifest",
    "ShardEntry",
    "origin",
    "read_manifest",
    "set_digest_of",
    "settle_manifest",
    "shard_fields",
    "shard_name",
    "tally",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"
MANIFEST_DIGEST_NAME = "manifest.sha256"
SALIENCY = ("stored", "absent", "unused")
COMMANDS = ("build", "replay", "merge", "subset")

_SLUG = re.compile(r"[a-z0-9_-]{1,128}")


@dataclass(frozen=True)
class Manifest:
    """Everything a set says about itself; `manifest.json` is exactly this.

    Args:
        schema_version: 1.
        category, format: slug of the data folder's name, and its layout ("mvtec", ...).
        recipe: every option that shapes pixels; `recipe["geometry"]` is `Geometry.to_json()`.
        licence, attribution, split_rule: free text.
        training_files: SHA-256 of every training file, sorted, without repeats.
        duplicates: training files left out because their pixels equal another's.
        skipped: training files left out for another reason, `{"source", "reason"}`.
        counts: as `tally` gives; further counts, and tables of counts, are allowed.
        fallbacks: as `tally` gives.
        shards: in the order of their names.
        content_digest, saliency_digest: `set_digest_of` the shards' digests.
        versions: library versions.
        saliency: "stored", "absent" (negatives were drawn with maps that are not here, so nothing
            that needs maps can be made from this set) or "unused" (no policy needed any).
        origin: which command made the set, and from what, as `origin` gives it.

    Raises:
        SetError: wrong type or out of range.
    """

    schema_version: int
    category: str
    format: str
    recipe: dict[str, Any]
    licence: str
    attribution: str
    split_rule: str
    training_files: tuple[str, ...]
    duplicates: int
    skipped: tuple[dict[str, str], ...]
    counts: dict[str, Any]
    fallbacks: dict[str, Any]
    shards: tuple[ShardEntry, ...]
    content_digest: str
    saliency_digest: str
    versions: dict[str, str]
    saliency: str
    origin: dict[str, Any]

    def __post_init__(self) -> None:
        check_version(self.schema_version)
        require(
            isinstance(self.category, str) and _SLUG.fullmatch(self.category) is not None,
            "category is not a slug of a-z, 0-9, _ and -",
        )
        for name in ("format", "licence", "attribution", "split_rule"):
            require(isinstance(getattr(self, name), str), f"{name} is not text")
        require(isinstance(self.recipe, dict), "recipe is not a table")
        check_tally(self.counts, self.fallbacks)
        for name in ("training_files", "skipped", "shards"):
            require(isinstance(getattr(self, name), tuple | list), f"{name} is not a list")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        files = self.training_files
        require(all(map(is_digest, files)), "training_files are not digests")
        require(list(files) == sorted(set(files)), "training_files are not sorted and unique")
        require(is_count(self.duplicates), "duplicates is not a count")
        require(
            all(is_text_table(row) and row.keys() == {"source", "reason"} for row in self.skipped),
            "skipped is not a list of source and reason",
        )
        object.__setattr__(self, "skipped", tuple(map(_unicode, self.skipped)))
        require(all(isinstance(entry, ShardEntry) for entry in self.shards), "shards are malformed")
        require(is_digest(self.content_digest), "content_digest is not a digest")
        require(is_digest(self.saliency_digest), "saliency_digest is not a digest")
        require(is_text_table(self.versions), "versions is malformed")
        require(self.saliency in SALIENCY, "saliency is unknown")
        _check_origin(self.origin)

    def to_bytes(self) -> bytes:
        """`manifest.json`: ASCII JSON, sorted keys, indent 1, trailing newline."""
        return dump_json(asdict(self), indent=1)

    @classmethod
    def from_bytes(cls, data: bytes, *, path: Path | None = None) -> Manifest:
        """A manifest from untrusted bytes.

        Raises:
            SetError: too large, not canonical JSON, written by a newer cutswap, a field missing,
                unknown, of the wrong type or out of range.
        """
        try:
            plain, row = parse_manifest(data)
            shards = tuple(ShardEntry(**entry) for entry in plain["shards"])
            manifest = cls(**{**plain, "shards": shards})
            check_canonical(data, row)
        except SetError as error:
            raise SetError(
                error.what,
                path=path,
                expected=error.expected,
                got=error.got,
                hint=error.hint or "fetch the set again, or build it again with --overwrite",
            ) from None
        return manifest

    def inconsistencies(self, *, path: Path | None = None) -> list[SetError]:
        """Contradictions between the fields: digests, counts and names that do not agree."""
        found: list[SetError] = []
        names = [entry.name for entry in self.shards]
        wanted = [shard_name(index) for index in range(len(names))]
        if names != wanted:
            odd = next(name for name, want in zip(names, wanted, strict=True) if name != want)
            found.append(SetError("shards are not numbered from 0", path=path, got=odd))
        for name in ("content_digest", "saliency_digest"):
            expected = set_digest_of(getattr(entry, name) for entry in self.shards)
            if getattr(self, name) != expected:
                found.append(
                    DigestError(
                        f"{name} is not that of its shards",
                        path=path,
                        expected=expected,
                        got=getattr(self, name),
                    )
                )
        for name in ("normals", "negatives"):
            total = sum(getattr(entry, name) for entry in self.shards)
            count = self.counts.get(name)
            if count != total or isinstance(count, bool):
                found.append(
                    SetError(
                        f"count of {name} is not that of its shards",
                        path=path,
                        expected=total,
                        got=repr(count)[:40],
                    )
                )
        return found


def origin(
    command: str, *, sets: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The manifest's `origin`.

    Args:
        command: what made the set, one of `COMMANDS`.
        sets: set digests of what it was made from.
        options: what else decides what it holds.
    """
    return {"command": command, "sets": list(sets), "options": dict(options or {})}


def _unicode(row: dict[str, str]) -> dict[str, str]:
    """A row whose file name may not be text: its odd bytes are written as `\\udcff`."""
    return {
        name: text.encode("utf-8", "backslashreplace").decode("utf-8") for name, text in row.items()
    }


def _check_origin(value: object) -> None:
    if not isinstance(value, dict):
        raise SetError("origin is not a table")
    require(value.keys() == {"command", "sets", "options"}, "origin is malformed")
    require(value["command"] in COMMANDS, "origin names an unknown command")
    sets = value["sets"]
    require(isinstance(sets, list) and all(map(is_digest, sets)), "origin's sets are no digests")
    require(isinstance(value["options"], dict), "origin's options are not a table")


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write `manifest.sha256` and then, last of all, `manifest.json`; both atomically.

    Where a manifest is replaced, `manifest.sha256` names both for a moment, so that a reader finds
    the old set or the new one whenever it looks, and also after a kill.

    Returns:
        The set digest: SHA-256 of `manifest.json`.

    Raises:
        OutputError: the folder cannot be written.
        SetError: the manifest contradicts itself.
    """
    folder = Path(folder)
    data = manifest.to_bytes()
    # Reading it back refuses now what would be refused later (text keys, NaN, size).
    problems = Manifest.from_bytes(data, path=folder / MANIFEST_NAME).inconsistencies(path=folder)
    if problems:
        raise problems[0]
    digest = bytes_digest(data)
    old = _present_digest(folder)
    if old not in (None, digest):
        write_atomic(folder / MANIFEST_DIGEST_NAME, _digest_line(old) + _digest_line(digest))
        write_atomic(folder / MANIFEST_NAME, data)
        write_atomic(folder / MANIFEST_DIGEST_NAME, _digest_line(digest))
    else:
        write_atomic(folder / MANIFEST_DIGEST_NAME, _digest_line(digest))
        write_atomic(folder / MANIFEST_NAME, data)
    return digest


def settle_manifest(folder: Path) -> None:
    """Lets `manifest.sha256` name the manifest alone again after a kill that came before that.

    To be called by who holds the folder, where it turns out that there is nothing to do.

    Raises:
        OutputError: the folder cannot be written.
        SetError: no manifest, or `manifest.sha256` is malformed.
    """
    digest = bytes_digest(read_manifest_bytes(folder))
    if read_recorded_digests(folder) != (digest,):
        write_atomic(Path(folder) / MANIFEST_DIGEST_NAME, _digest_line(digest))


def _digest_line(digest: str) -> bytes:
    return f"{digest}  {MANIFEST_NAME}\n".encode("ascii")


def _present_digest(folder: Path) -> str | None:
    path = folder / MANIFEST_NAME
    return bytes_digest(read_manifest_bytes(folder)) if path.is_file() else None


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a set's folder, checked against `manifest.sha256` and against itself.

    Returns:
        The manifest and the set digest.

    Raises:
        SetError: no manifest, malformed, newer, or contradicting itself.
        DigestError: not the bytes that `manifest.sha256` names.
    """
    path = Path(folder) / MANIFEST_NAME
    data = read_manifest_bytes(folder)
    digest, recorded = bytes_digest(data), read_recorded_digests(folder)
    if digest not in recorded:
        # It may have been replaced between the two reads.
        data = read_manifest_bytes(folder)
        digest, recorded = bytes_digest(data), read_recorded_digests(folder)
    if digest not in recorded:
        raise DigestError(
            f"is not the one {MANIFEST_DIGEST_NAME} names",
            path=path,
            expected=" or ".join(recorded),
            got=digest,
            hint="fetch the set again, or build it again",
        )
    manifest = Manifest.from_bytes(data, path=path)
    problems = manifest.inconsistencies(path=path)
    if problems:
        raise problems[0]
    return manifest, digest


def read_manifest_bytes(folder: Path) -> bytes:
    """The bytes of `manifest.json`.

    Raises:
        SetError: missing, not a plain file, or too large.
    """
    return _read(
        Path(folder) / MANIFEST_NAME,
        MAX_MANIFEST_BYTES,
        hint="an unfinished build has none: run cutswap-gen build again, it resumes",
    )


def read_recorded_digests(folder: Path) -> tuple[str, ...]:
    """The digest in `manifest.sha256`, as `sha256sum` writes it.

    Two while a manifest is replaced by another, and after a kill in that moment.

    Raises:
        SetError: missing or malformed.
    """
    path = Path(folder) / MANIFEST_DIGEST_NAME
    lines = _read(path, 1024).splitlines()
    found = [re.fullmatch(rb"([0-9a-f]{64}) [ *]manifest\.json", line) for line in lines]
    if not 1 <= len(found) <= 2 or None in found:
        raise SetError("is malformed", path=path, expected=f"'<sha256>  {MANIFEST_NAME}'")
    return tuple(match[1].decode("ascii") for match in found if match is not None)


def _read(path: Path, max_bytes: int, *, hint: str | None = None) -> bytes:
    try:
        return read_bounded(path, max_bytes, error=SetError)
    except FileNotFoundError:
        raise SetError("there is no such file", path=path, hint=hint) from None
