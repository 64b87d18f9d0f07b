"""A recipe: a negative set without its pixels, to be rendered again from the same images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import OutputError, SetError
from manifests.licence import donor_warnings
from manifests.recipe_reader import Recipe, RecipeReader, RecipeShard
from manifests.recipe_rows import (
    RecipeDonor,
    RecipeNegative,
    RecipeNormal,
    donor_line,
    negative_row,
    shard_line,
)
from manifests.recipe_text import RecipeFile, is_recipe_file, write_lines
from manifests.schema import Manifest
from manifests.shard import Shard
from manifests.shard_records import normal_line
from manifests.strict_json import dump_json

if TYPE_CHECKING:
    from manifests.negative_set import NegativeSet

__all__ = [
    "Recipe",
    "RecipeDonor",
    "RecipeNegative",
    "RecipeNormal",
    "RecipeShard",
    "RecipeSummary",
    "dump_recipe",
    "read_recipe",
    "recipe_problems",
    "write_recipe",
]


@dataclass(frozen=True)
class RecipeSummary:
    """What was written.

    Attributes:
        file_bytes: of the recipe file.
        text_bytes: of the text it unfolds to.
        set_digest, content_digest: of the set it was made from.
        is_unchanged: the file was there already, whole and of this set, and was left alone.
    """

    file_bytes: int
    text_bytes: int
    n_normals: int
    n_negatives: int
    set_digest: str
    content_digest: str
    is_unchanged: bool = False


def write_recipe(
    path: Path,
    negative_set: NegativeSet,
    *,
    with_donors: bool = False,
    overwrite: bool = False,
) -> RecipeSummary:
    """Write the recipe of a set, and read it back before it gets its name.

    Args:
        path: the file. The same set gives the same bytes, with the same zlib library. Where a
            whole recipe of this set is there already, there is nothing to do.
        negative_set: an open set. Its pixels are not read, but those of donors.
        with_donors: let donor images travel that are no normals of the set, which the recipient
            therefore cannot have.
        overwrite: replace another recipe; whatever is no recipe is never replaced.

    Warns:
        UserWarning: a licence has a say in passing on donors that travel, or none is recorded.

    Raises:
        SetError: a damaged set; donors that would have to travel; or more than a recipe holds.
        OutputError: the file cannot be written, or holds something else. Nothing is left behind.
    """
    path, manifest = Path(path), negative_set.manifest
    if os.path.lexists(path):
        there = _there(path, negative_set, overwrite=overwrite)
        if there is not None:
            return there
    files = [negative_set.path / entry.name for entry in manifest.shards]
    travelling = _travelling_donors(files)
    if travelling and not with_donors:
        raise SetError(
            f"{len(travelling)} donor images are no normals of the set, so their pixels would "
            "have to travel with the recipe",
            path=negative_set.path,
            got=min(travelling),
            hint="pass --with-donors to let them, or share the set itself",
        )
    if travelling:
        for line in donor_warnings(manifest.recipe, manifest.licence, len(travelling)):
            warnings.warn(line, stacklevel=2)

    def check(temporary: Path) -> None:
        problem = next(iter(recipe_problems(temporary, expect=negative_set.digest)), None)
        if problem is not None:
            raise type(problem)(
                f"contradicts itself: {problem.what}",
                path=negative_set.path,
                expected=problem.expected,
                got=problem.got,
                hint="look at it with cutswap-gen verify",
            )

    file_bytes, text_bytes = write_lines(path, _lines(manifest, files, travelling), check=check)
    return _summary(negative_set, file_bytes, text_bytes)


def read_recipe(
    path: Path,
    *,
    expect: str | None = None,
    on_manifest: Callable[[Manifest], None] | None = None,
) -> Recipe:
    """A recipe from an untrusted file, checked against the set digest of its own manifest.

    Args:
        path: the file.
        expect: the set digest it must have, as its maker published it.
        on_manifest: called with the set's manifest before the rows are read, for what may go on
            meanwhile. It agrees with itself and is the expected one; whether the rows are
            its own is not known yet.

    Raises:
        SetError: no recipe, newer, malformed, too large, or contradicting itself.
        DigestError: damaged, of another set than expected, or rows that are not those of the
            manifest's content digests.
    """
    with RecipeFile(path) as file:
        problem = file.digest_problem()
        if problem is not None:
            raise problem
        reader = RecipeReader(file, expect=expect, on_manifest=on_manifest)
        recipe = reader.recipe()
        if reader.problems:
            raise reader.problems[0]
        return recipe


def recipe_problems(
    path: Path,
    *,
    expect: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[SetError]:
    """All that is wrong with a recipe file; an empty list means it is as it was made.

    A damaged file never raises. No row is kept, so that memory does not grow with the recipe.

    Args:
        path, expect: those of `read_recipe`.
        progress: called with (negatives read, negatives) from time to time and at the end.
    """
    problems: list[SetError] = []
    try:
        with RecipeFile(path) as file:
            damage = file.digest_problem()
            problems += [] if damage is None else [damage]
            reader = RecipeReader(file, expect=expect, progress=progress)
            try:
                reader.check()
            finally:
                problems += reader.problems
    except SetError as error:
        problems.append(error)
    return problems


def dump_recipe(path: Path) -> Iterator[str]:
    """The lines of a recipe as text, printable ASCII: JSON, one array a line.

    Raises:
        SetError: no recipe, newer, or not to be unfolded. Rows are not looked at.
    """
    with RecipeFile(path) as file:
        for line in file.lines():
            yield line.decode("ascii")


def _summary(
    negative_set: NegativeSet, file_bytes: int, text_bytes: int, *, is_unchanged: bool = False
) -> RecipeSummary:
    manifest = negative_set.manifest
    return RecipeSummary(
        file_bytes=file_bytes,
        text_bytes=text_bytes,
        n_normals=sum(entry.normals for entry in manifest.shards),
        n_negatives=sum(entry.negatives for entry in manifest.shards),
        set_digest=negative_set.digest,
        content_digest=manifest.content_digest,
        is_unchanged=is_unchanged,
    )


def _there(path: Path, negative_set: NegativeSet, *, overwrite: bool) -> RecipeSummary | None:
    """What is at `path` already, if it is this set's recipe; None if it is to be replaced.

    Raises:
        OutputError: it is no recipe, or another one and `overwrite` is not given.
    """
    if not is_recipe_file(path):
        raise OutputError(
            "is there and is no recipe", path=path, hint="it is not replaced; choose another name"
        )
    if not recipe_problems(path, expect=negative_set.digest):
        with RecipeFile(path) as file:
            text_bytes = sum(len(line) + 1 for line in file.lines())
        return _summary(negative_set, path.stat().st_size, text_bytes, is_unchanged=True)
    if not overwrite:
        raise OutputError(
            "holds another recipe, or a damaged one",
            path=path,
            expected=f"that of set {negative_set.digest[:12]}",
            hint="pass --overwrite to replace it, or choose another name",
        )
    return None


def _travelling_donors(files: Iterable[Path]) -> dict[str, Path]:
    """Donors that are no normals of the set, and a shard that holds each."""
    normals: set[str] = set()
    found: dict[str, Path] = {}
    for file in files:
        with Shard(file) as shard:
            normals.update(shard.index.normal_digests)
            found |= dict.fromkeys(shard.index.donor_digests, file)
    return {digest: found[digest] for digest in sorted(found.keys() - normals)}


def _lines(
    manifest: Manifest, files: Iterable[Path], donors: Mapping[str, Path]
) -> Iterator[bytes]:
    yield dump_json(["manifest", asdict(manifest)])
    for file in files:
        yield shard_line(file.name)
        with Shard(file) as shard:
            index = shard.index
            yield from map(
                normal_line,
                index.normal_digests,
                index.sources,
                index.file_digests,
                index.canvas_boxes,
            )
            for row in range(shard.n_negatives):
                yield negative_row(shard.record(row))
    for digest, file in donors.items():
        with Shard(file) as shard:
            yield donor_line(shard.donor(digest))
