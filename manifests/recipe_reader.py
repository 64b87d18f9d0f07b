"""The reader of a recipe, which trusts nothing: rows are compared with the manifest's digests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from manifests.digest import bytes_digest
from manifests.errors import ConfigError, DigestError, SetError
from manifests.geometry import Geometry
from manifests.recipe_rows import (
    RecipeDonor,
    RecipeNegative,
    RecipeNormal,
    content_line,
    parse_donor,
    parse_negative,
    parse_normal,
    parse_shard,
)
from manifests.recipe_sums import RecipeSums
from manifests.recipe_text import MAX_FIRST_LINE_BYTES, RecipeFile
from manifests.schema import Manifest, ShardEntry
from manifests.strict_json import dump_json, load_json

# A build draws 30,000 at the very most: 1000 repeats of six policies at five levels.
MAX_NEGATIVES_OF_A_NORMAL = 1 << 16
_REPORT_EVERY = 1 << 12


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
        on_manifest: called with the manifest, where nothing is wrong with it, before any row.
        progress: called with (negatives read, negatives) from time to time and at the end.
    """

    def __init__(
        self,
        file: RecipeFile,
        *,
        expect: str | None = None,
        on_manifest: Callable[[Manifest], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.path = file.path
        self.expect = expect
        self.on_manifest = on_manifest
        self.progress = progress
        self.problems: list[SetError] = []
        self._lines = enumerate(file.lines(), start=1)
        self._number = 0

    def recipe(self) -> Recipe:
        """The whole recipe; it is to be used only where `problems` is empty. Raises SetError."""
        shards: list[RecipeShard] = []
        donors: dict[str, RecipeDonor] = {}
        manifest, set_digest = self._walk(shards, donors)
        return Recipe(manifest, set_digest, tuple(shards), donors)

    def check(self) -> None:
        """Fills `problems` and keeps no row, however many there are. Raises SetError."""
        self._walk(None, None)

    def _walk(
        self, shards: list[RecipeShard] | None, donors: dict[str, RecipeDonor] | None
    ) -> tuple[Manifest, str]:
        """Manifest and set digest; rows are added to the lists where there are such."""
        try:
            manifest, set_digest = self._manifest()
            try:
                geometry = Geometry.from_json(manifest.recipe.get("geometry"))
            except (ConfigError, TypeError, ValueError, AttributeError):
                raise SetError("recipe has no usable geometry") from None
            if self.on_manifest is not None and not self.problems:
                self.on_manifest(manifest)
            summary = RecipeSums(manifest, geometry, self.path, self.problems)
            self._report(0, summary.total)
            for entry in manifest.shards:
                shard = self._shard(entry, geometry, summary, keep=shards is not None)
                if shards is not None:
                    shards.append(shard)
            for donor in self._donors(summary, geometry):
                if donors is not None:
                    donors[donor.digest] = donor
            summary.compare()
            self._report(summary.total, summary.total)
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
        return manifest, set_digest

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

    def _shard(
        self, entry: ShardEntry, geometry: Geometry, summary: RecipeSums, *, keep: bool
    ) -> RecipeShard:
        """The rows of the next shard; without `keep`, none of them."""
        name = parse_shard(self._next(f"shard {entry.name}"))
        if name != entry.name:
            raise SetError("is not the next shard", expected=entry.name, got=name)
        if entry.normals < 1:
            raise SetError("a shard without normals", got=name)
        normals: list[RecipeNormal] = []
        negatives: list[RecipeNegative] = []
        digests: list[str] = []
        height, width = geometry.height, geometry.width
        summary.begin()
        while len(digests) < entry.normals:
            line = self._next(f"normal {len(digests)} of {name}")
            normal = parse_normal(line, height, width)
            summary.add_normal(normal, line)
            digests.append(normal.digest)
            if keep:
                normals.append(normal)
        drawn = [0] * len(digests)
        for number in range(entry.negatives):
            line = self._next(f"negative {number} of {name}")
            row = parse_negative(line, len(digests), height, width)
            drawn[row.normal] += 1
            if drawn[row.normal] > MAX_NEGATIVES_OF_A_NORMAL:
                raise SetError(
                    "too many negatives of one normal",
                    expected=f"at most {MAX_NEGATIVES_OF_A_NORMAL}",
                    hint="do not use it",
                )
            summary.add_negative(row, content_line(line, row, digests[row.normal]))
            if summary.negatives % _REPORT_EVERY == 0:
                self._report(summary.negatives, summary.total)
            if keep:
                negatives.append(row)
        summary.end(entry)
        return RecipeShard(name, tuple(normals), tuple(negatives))

    def _donors(self, summary: RecipeSums, geometry: Geometry) -> Iterator[RecipeDonor]:
        """Donors that are no normals; no other line may follow the shards."""
        for digest in summary.foreign_donors():
            line = self._next(f"donor {digest}")
            donor = parse_donor(line, geometry.height, geometry.width)
            if donor.digest != digest:
                raise SetError("is not the next donor", expected=digest, got=donor.digest)
            yield donor
        self._number, rest = next(self._lines, (self._number, None))
        if rest is not None:
            raise SetError("nothing needs this line", got=ascii(rest[:40].decode("ascii")))

    def _report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(min(done, total), total)
