"""What the rows of a recipe say together: compared with the manifest while they pass by."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from manifests.errors import DigestError, SetError
from manifests.geometry import Geometry
from manifests.recipe_rows import RecipeNegative, RecipeNormal
from manifests.schema import Manifest, ShardEntry
from manifests.shard_entry import FALLBACKS
from manifests.shard_records import CONTENT_TITLE, check_donor_room

MAX_PROBLEMS = 100
# Far more than the manifest's table of counts, of 1 MiB, could hold; and than a recipe of 1 GiB
# could hold images.
_MAX_KINDS = 1 << 18
_MAX_DONORS = 1 << 16


class RecipeSums:
    """Digests and counts of rows that are given one by one and not kept.

    What stays in memory is 32 bytes for every normal and donor, and the counts.

    Args:
        manifest: of the recipe.
        geometry: the canvas.
        path: of the recipe.
        problems: where to put what is wrong.
    """

    def __init__(
        self, manifest: Manifest, geometry: Geometry, path: Path, problems: list[SetError]
    ) -> None:
        self.manifest = manifest
        self.geometry = geometry
        self.path = path
        self.problems = problems
        self.total = sum(entry.negatives for entry in manifest.shards)
        self.negatives = 0
        self._normals: set[bytes] = set()
        self._donors: set[bytes] = set()
        self._shard_normals: set[bytes] = set()
        self._shard_donors: set[bytes] = set()
        self._kinds: Counter[tuple[str, int, int]] = Counter()
        self._training_files = frozenset(manifest.training_files)
        self._content = hashlib.sha256()

    def begin(self) -> None:
        """A shard begins."""
        self._content = hashlib.sha256(CONTENT_TITLE.encode("ascii") + b"\n")
        self._shard_normals.clear()
        self._shard_donors.clear()

    def add_normal(self, row: RecipeNormal, line: bytes) -> None:
        """A normal of the shard, and its line in the content digest. Raises SetError."""
        digest = bytes.fromhex(row.digest)
        if digest in self._normals:
            self._add("normal is there twice", None, row.source)
        self._normals.add(digest)
        self._shard_normals.add(digest)
        if row.file_sha256 not in self._training_files:
            self._add("normal is not one of the manifest's training files", None, row.source)
        self._content.update(line + b"\n")

    def add_negative(self, row: RecipeNegative, line: bytes) -> None:
        """A negative of the shard, and its line in the content digest. Raises SetError."""
        self.negatives += 1
        self._kinds[row.policy, row.level, row.fallback] += 1
        if len(self._kinds) > _MAX_KINDS:
            raise SetError("too many policies and levels", expected=f"at most {_MAX_KINDS}")
        if row.donors:
            donors = set(map(bytes.fromhex, row.donors))
            self._donors |= donors
            if len(self._donors) > _MAX_DONORS:
                raise SetError("too many donor images", expected=f"at most {_MAX_DONORS}")
            # Those that other shards lend are no less in memory once this one is made.
            self._shard_donors |= donors - self._shard_normals
            sides = self.geometry.height, self.geometry.width
            check_donor_room(len(self._shard_donors), *sides)
        self._content.update(line + b"\n")

    def end(self, entry: ShardEntry) -> None:
        """The shard ends."""
        got = self._content.hexdigest()
        if got != entry.content_digest:
            self.problems.append(
                DigestError(
                    f"{entry.name}: its rows are not those of its content digest",
                    path=self.path,
                    expected=entry.content_digest,
                    got=got,
                )
            )

    def foreign_donors(self) -> list[str]:
        """Digests of the donors that are no normals, in order."""
        return [digest.hex() for digest in sorted(self._donors - self._normals)]

    def compare(self) -> None:
        """All rows were given: the manifest must count as many. Raises SetError."""
        policies: dict[str, dict[str, int]] = {}
        fallbacks: dict[str, dict[str, dict[str, int]]] = {}
        for (policy, level, fallback), count in self._kinds.items():
            levels = policies.setdefault(policy, {})
            levels[str(level)] = levels.get(str(level), 0) + count
            reasons = fallbacks.setdefault(policy, {}).setdefault(str(level), {})
            reasons[FALLBACKS[fallback]] = count
        for name, expected, got in (
            ("counts of policies", policies, self.manifest.counts.get("policies")),
            ("fallbacks", fallbacks, self.manifest.fallbacks),
        ):
            if expected != got:
                self._add(f"{name} are not those of the rows", str(expected)[:160], str(got)[:160])

    def _add(self, what: str, expected: object, got: object) -> None:
        if len(self.problems) >= MAX_PROBLEMS:
            raise SetError(f"more than {MAX_PROBLEMS} problems; the rest is not looked at")
        self.problems.append(SetError(what, path=self.path, expected=expected, got=got))
