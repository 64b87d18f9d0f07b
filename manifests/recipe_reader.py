"""The reader of a recipe, which trusts nothing: rows are compared with the manifest's digests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifests.digest import bytes_digest
from manifests.errors import ConfigError, DigestError, SetError
from manifests.geometry import Geometry
from manifests.recipe_rows import (
    RecipeDonor,
    RecipeNegative,
    RecipeNormal,
    parse_donor,
    parse_negative,
    parse_normal,
    parse_shard,
)
from manifests.recipe_text import MAX_FIRST_LINE_BYTES, RecipeFile
from manifests.schema import Manifest, ShardEntry, tally
from manifests.shard_records import CONTENT_TITLE, lines_digest, negative_line, normal_line
from manifests.strict_json import dump_json, load_json


@dataclass(frozen=True)
class RecipeShard:
    """The rows of one shard, in its order."""

    name: str
    normals: tuple[RecipeNormal, ...]
    negatives: tuple[RecipeNegative, ...]

    @property
    def donors(self) -> frozenset[str]:
        """Digests of all donor images that its negatives need."""
        return frozenset().union(*(row.donors for row in self.negatives))


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read and agrees with itself.

    Attributes:
        manifest: of the set it was made from.
        set_digest: SHA-256 of that manifest.
        shards: in the manifest's order.
        donors: donor images that are no normals of the set, by digest.
    """

    manifest: Manifest
    set_digest: str
    shards: tuple[RecipeShard, ...]
    donors: Mapping[str, RecipeDonor]

    @property
    def geometry(self) -> Geometry:
        """The canvas of all images."""
        return Geometry.from_json(self.manifest.recipe["geometry"])

    @property
    def n_normals(self) -> int:
        """Number of normals."""
        return sum(len(shard.normals) for shard in self.shards)

    @property
    def n_negatives(self) -> int:
        """Number of negatives."""
        return sum(len(shard.negatives) for shard in self.shards)


class RecipeReader:
    """One walk through the lines of a recipe.

    What makes it impossible to read on is raised; what else is wrong is kept in `problems`.

    Args:
        file: an open recipe file.
        expect: the set digest it must have.
    """

    def __init__(self, file: RecipeFile, *, expect: str | None = None) -> None:
        self.path = file.path
        self.expect = expect
        self.problems: list[SetError] = []
        self._lines = enumerate(file.lines(), start=1)
        self._number = 0

    def recipe(self) -> Recipe:
        """The whole recipe; it is to be used only where `problems` is empty. Raises SetError."""
        try:
            manifest, set_digest = self._manifest()
            try:
                geometry = Geometry.from_json(manifest.recipe.get("geometry"))
            except (ConfigError, TypeError, ValueError, AttributeError):
                raise SetError("recipe has no usable geometry") from None
            self._summary = _Summary(manifest, self.path, self.problems)
            shards = tuple(self._shard(entry, geometry) for entry in manifest.shards)
            donors = self._donors(shards)
        except SetError as error:
            if error.path is not None:
                raise
            raise type(error)(
                f"line {self._number}: {error.what}",
                path=self.path,
                expected=error.expected,
                got=error.got,
                hint=error.hint,
            ) from None
        self._summary.compare()
        return Recipe(manifest, set_digest, shards, donors)

    def _next(self, wanted: str) -> bytes:
        self._number, line = next(self._lines, (self._number + 1, None))
        if line is None:
            raise SetError("is missing, the recipe ends early", expected=wanted)
        return line

    def _manifest(self) -> tuple[Manifest, str]:
        line = self._next("the manifest")
        row = load_json(line, max_bytes=MAX_FIRST_LINE_BYTES)
        is_row = isinstance(row, list) and len(row) == 2 and row[0] == "manifest"
        if not is_row or dump_json(row) != line:
            raise SetError("is not a manifest in the canonical form")
        data = dump_json(row[1], indent=1)
        manifest, digest = Manifest.from_bytes(data), bytes_digest(data)
        if self.expect is not None and self.expect.strip().lower() != digest:
            self.problems.append(
                DigestError(
                    "is the recipe of another set than expected",
                    path=self.path,
                    expected=self.expect,
                    got=digest,
                )
            )
        self.problems += manifest.inconsistencies(path=self.path)
        return manifest, digest

    def _shard(self, entry: ShardEntry, geometry: Geometry) -> RecipeShard:
        name = parse_shard(self._next(f"shard {entry.name}"))
        if name != entry.name:
            raise SetError("is not the next shard", expected=entry.name, got=name)
        if entry.normals < 1:
            raise SetError("a shard without normals", got=name)
        normals: list[RecipeNormal] = []
        negatives: list[RecipeNegative] = []
        height, width = geometry.height, geometry.width
        while len(normals) < entry.normals:
            row = parse_normal(self._next(f"normal {len(normals)} of {name}"), height, width)
            self._summary.add_normal(row)
            normals.append(row)
        while len(negatives) < entry.negatives:
            line = self._next(f"negative {len(negatives)} of {name}")
            negatives.append(parse_negative(line, len(normals), height, width))
        shard = RecipeShard(name, tuple(normals), tuple(negatives))
        self._summary.add_negatives(shard, entry)
        return shard

    def _donors(self, shards: Iterable[RecipeShard]) -> dict[str, RecipeDonor]:
        """Donors that are no normals; no other line may follow the shards."""
        needed = frozenset().union(*(shard.donors for shard in shards))
        wanted = sorted(needed - self._summary.normals.keys())
        donors = {}
        for digest in wanted:
            donor = parse_donor(self._next(f"donor {digest}"))
            if donor.digest != digest:
                raise SetError("is not the next donor", expected=digest, got=donor.digest)
            donors[digest] = donor
        self._number, line = next(self._lines, (self._number, None))
        if line is not None:
            raise SetError("nothing needs this line", got=ascii(line[:40].decode("ascii")))
        return donors


class _Summary:
    """What the rows say together, to be compared with what the manifest says."""

    def __init__(self, manifest: Manifest, path: Path, found: list[SetError]) -> None:
        self.manifest = manifest
        self.path = path
        self.normals: dict[str, str] = {}
        self.rows: list[tuple[str, int, int]] = []
        self.found = found
        self.training_files = frozenset(manifest.training_files)

    def add_normal(self, row: RecipeNormal) -> None:
        if row.digest in self.normals:
            self._add("normal is there twice", self.normals[row.digest], row.source)
        self.normals[row.digest] = row.source
        if row.file_sha256 not in self.training_files:
            self._add("normal is not one of the manifest's training files", None, row.source)

    def add_negatives(self, shard: RecipeShard, entry: ShardEntry) -> None:
        self.rows += [(row.policy, row.level, row.fallback) for row in shard.negatives]
        got = lines_digest(CONTENT_TITLE, _content_lines(shard))
        if got != entry.content_digest:
            self.found.append(
                DigestError(
                    f"{shard.name}: its rows are not those of its content digest",
                    path=self.path,
                    expected=entry.content_digest,
                    got=got,
                )
            )

    def compare(self) -> None:
        counts, fallbacks = tally(len(self.normals), self.rows)
        for name, expected, got in (
            ("counts of policies", counts["policies"], self.manifest.counts.get("policies")),
            ("fallbacks", fallbacks, self.manifest.fallbacks),
        ):
            if expected != got:
                self._add(f"{name} are not those of the rows", str(expected)[:160], str(got)[:160])

    def _add(self, what: str, expected: object, got: object) -> None:
        self.found.append(SetError(what, path=self.path, expected=expected, got=got))


def _content_lines(shard: RecipeShard) -> Iterator[bytes]:
    for row in shard.normals:
        yield normal_line(row.digest, row.source, row.file_sha256, row.canvas_box)
    for row in shard.negatives:
        digest = shard.normals[row.normal].digest
        yield negative_line(digest, row, edits_digest=row.edits_digest)
