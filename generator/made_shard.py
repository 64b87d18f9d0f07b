"""What is known of a shard by whoever has made it, so that nobody must fetch it to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

from manifests.errors import SetError
from manifests.schema import ShardEntry
from manifests.shard import Shard
from manifests.shard_entry import FALLBACKS, is_count, is_digest, is_text_table, require
from manifests.shard_records import NegativeRecord
from manifests.strict_json import dump_json, load_json
from manifests.versions import library_versions

MAX_BYTES = 1 << 20
_MAX_LEVEL = 9999
_MAX_NEGATIVES = 1 << 24  # they are counted one by one
_FIELDS = {"entry", "unit_digest", "kinds", "versions"}

Kind = tuple[str, int, int]
"""Policy, level and fallback code of a negative."""


@dataclass(frozen=True)
class MadeShard:
    """One finished shard.

    Attributes:
        entry: for the manifest.
        unit_digest: of the unit of work.
        kinds: policy, level, fallback code and number of the negatives of that kind, sorted.
        versions: libraries of the process that made it.

    Raises:
        SetError: wrong type or out of range.
    """

    entry: ShardEntry
    unit_digest: str
    kinds: tuple[tuple[str, int, int, int], ...]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        require(is_digest(self.unit_digest), "unit_digest is not a digest")
        require(all(map(_is_kind, self.kinds)), "kinds are malformed")
        total = sum(row[3] for row in self.kinds)
        require(total == self.entry.negatives, "kinds are not those of the negatives")
        require(total <= _MAX_NEGATIVES, "there are too many negatives")
        require(is_text_table(self.versions), "versions is malformed")

    @classmethod
    def of(
        cls, entry: ShardEntry, unit_digest: str, negatives: Iterable[NegativeRecord]
    ) -> MadeShard:
        """What is known of a shard that this process has just written. Raises SetError."""
        counts = Counter((row.policy, row.level, row.fallback) for row in negatives)
        return cls(
            entry=entry,
            unit_digest=unit_digest,
            kinds=tuple((*kind, count) for kind, count in sorted(counts.items())),
            versions=library_versions(),
        )

    def negative_kinds(self) -> Iterator[Kind]:
        """Policy, level and fallback code of every negative."""
        for policy, level, fallback, count in self.kinds:
            for _ in range(count):
                yield policy, level, fallback

    def to_bytes(self) -> bytes:
        """As JSON, to lie beside a shard that cannot be looked into."""
        return dump_json(asdict(self), indent=1)

    @classmethod
    def from_bytes(cls, data: bytes, *, path: str | PathLike[str] | None = None) -> MadeShard:
        """From bytes that anybody may have written.

        Raises:
            SetError: too large, not JSON, or not what `to_bytes` writes.
        """
        plain = load_json(data, max_bytes=MAX_BYTES, path=path)
        try:
            require(isinstance(plain, dict) and plain.keys() == _FIELDS, "fields are not its own")
            kinds = tuple(tuple(row) for row in plain["kinds"])
            return cls(**{**plain, "entry": ShardEntry(**plain["entry"]), "kinds": kinds})
        except (SetError, TypeError) as error:
            raise SetError("is no note of a finished shard", path=path, got=error) from None


def shard_kinds(path: Path) -> Iterable[Kind]:
    """Policy, level and fallback code of every negative of a shard. Raises SetError."""
    with Shard(path) as shard:
        index = shard.index
        levels, fallbacks = map(int, index.level), map(int, index.fallback)
        return list(zip(index.policies, levels, fallbacks, strict=True))


def _is_kind(row: object) -> bool:
    if not isinstance(row, tuple) or len(row) != 4 or not isinstance(row[0], str):
        return False
    _, level, fallback, count = row
    return (
        is_count(count)
        and count > 0
        and is_count(fallback)
        and fallback < len(FALLBACKS)
        and (level == -1 or (is_count(level) and level <= _MAX_LEVEL))
    )
