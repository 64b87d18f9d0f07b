"""Part of a set as a set of its own: some of its images, some of their negatives."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

from generator.copied_shard import CopyUnit, plan_unit
from generator.leftovers import disk_bytes
from generator.policies import POLICIES
from generator.rearrangement import Draft, rearrange
from generator.recipe_parts import PARTS, parts_of
from generator.set_rows import NegativeRow, NormalRow, SetRows, check_apart, row_tally
from generator.set_summary import SetSummary
from manifests.confine import category_folder
from manifests.errors import ConfigError
from manifests.progress import ProgressMaker
from manifests.schema import (
    Manifest,
    ShardEntry,
    origin,
    shard_fields,
    shard_name,
    tally,
)
from manifests.versions import library_versions

_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class SubsetSummary(SetSummary):
    """What a subset did.

    Attributes:
        n_normals, n_negatives: of the set it is part of.
    """

    n_normals: int
    n_negatives: int


@dataclass(frozen=True)
class _Selection:
    """What to keep; empty or None means all."""

    images: tuple[str, ...]
    policies: tuple[str, ...]
    levels: tuple[int, ...]
    fraction: float | None
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """For the manifest's origin: what was chosen, in one form whatever the order typed."""
        plain: dict[str, Any] = {
            "images": sorted(set(self.images)),
            "policies": sorted(set(self.policies)),
            "levels": sorted(set(self.levels)),
        }
        chosen = {name: value for name, value in plain.items() if value}
        if self.fraction is not None:
            chosen |= {"fraction": float(self.fraction), "seed": self.seed}
        return chosen


def subset_set(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    images: Sequence[str] = (),
    policies: Sequence[str] = (),
    levels: Sequence[int] = (),
    fraction: float | None = None,
    seed: int = 0,
    jobs: int = 1,
    overwrite: bool = False,
    make_progress: ProgressMaker | None = None,
) -> SubsetSummary:
    """Writes part of a set to `out/<category>/`, or goes on where a killed run stopped.

    A shard of the subset holds what was chosen of one shard of the set. Images that keep no
    negatives stay, as do saliency maps. The list of training files stays whole, so that an
    evaluation leaves out what the set as a whole was made from.

    Args:
        path: one category's set.
        out: where the subset's folder is to lie.
        images: glob patterns of the images' paths below the data folder; `*` matches `/` too.
        policies: kinds of negatives.
        levels: saliency levels of negatives; those of policies without a level stay.
        fraction: of the images that the patterns leave, above 0 and at most 1, rounded up.
        seed: of the fraction. Which images it takes depends on it and on their pixels, so that a
            larger fraction of the same seed holds a smaller one.
        jobs: worker processes.
        overwrite: replace what the folder holds.
        make_progress: from a label and the name of a unit to a function of done and total.

    Raises:
        ConfigError: a value is out of range or matches nothing, or `out` is the set itself.
        SetError: the set is damaged, or the folder holds another set and `overwrite` is not given.
        OutputError: the folder cannot be written.

    Source: ours.
    """
    started = time.monotonic()
    selection = _Selection(tuple(images), tuple(policies), tuple(levels), fraction, seed)
    _check_typed(selection)
    rows = SetRows.open(path)
    folder = category_folder(out, rows.manifest.category, path=rows.folder)
    check_apart(folder, [rows])
    made_from = origin("subset", sets=[rows.set_digest], options=selection.options)
    normals, negatives = _chosen(rows, selection)
    there = rearrange(
        folder,
        made_from,
        lambda: Draft(
            units=_units(rows, normals, negatives, made_from),
            manifest=lambda entries: _manifest(
                rows.manifest, selection, entries, negatives, made_from
            ),
        ),
        jobs=jobs,
        overwrite=overwrite,
        make_progress=make_progress,
    )
    return SubsetSummary(
        **vars(there),
        folder=folder,
        n_normals=len(rows.normals),
        n_negatives=len(rows.negatives),
        seconds=time.monotonic() - started,
        disk_bytes=disk_bytes(folder),
    )


def _check_typed(selection: _Selection) -> None:
    fraction = selection.fraction
    if fraction is not None and not 0 < fraction <= 1:
        raise ConfigError("--fraction cannot be used", expected="above 0, at most 1", got=fraction)
    if selection.seed < 0:
        raise ConfigError("--seed cannot be used", expected="0 or more", got=selection.seed)


def _chosen(rows: SetRows, selection: _Selection) -> tuple[list[NormalRow], list[NegativeRow]]:
    """The rows that stay, in the set's order."""
    has_policies = sorted({row.policy for row in rows.negatives})
    has_levels = sorted({row.level for row in rows.negatives} - {-1})
    for name, wanted, there in (
        ("--policies", selection.policies, has_policies),
        ("--levels", selection.levels, has_levels),
    ):
        unknown = [value for value in wanted if value not in there]
        if unknown:
            raise ConfigError(
                f"{name}: this set has no negatives of {unknown[0]}",
                path=rows.folder,
                expected=", ".join(map(str, there)) or None,  # a set without saliency has no level
                hint=f"change {name}" if there else f"leave {name} out",
            )
    normals = list(rows.normals)
    if selection.images:
        normals = [
            row
            for row in normals
            if any(fnmatchcase(row.source, pattern) for pattern in selection.images)
        ]
        for pattern in selection.images:
            if not any(fnmatchcase(row.source, pattern) for row in normals):
                raise ConfigError(
                    f"--image: no image is called {pattern}",
                    path=rows.folder,
                    expected=_some_of([row.source for row in rows.normals]),
                    hint="change --image; * stands for any letters, / included",
                )
    if selection.fraction is not None:
        # Of the decimal that was typed: 0.1 of 30 is 3, not 4.
        count = max(1, math.ceil(Fraction(str(selection.fraction)) * len(normals)))
        lots = sorted(normals, key=lambda row: _lot(selection.seed, row.digest))
        drawn = {row.digest for row in lots[:count]}
        normals = [row for row in normals if row.digest in drawn]
    kept = {row.digest for row in normals}
    negatives = [
        row
        for row in rows.negatives
        if row.normal in kept
        and (not selection.policies or row.policy in selection.policies)
        and (not selection.levels or row.level in (-1, *selection.levels))
    ]
    if not negatives and (selection.policies or selection.levels):
        pairs = sorted({(row.policy, row.level) for row in rows.negatives if row.normal in kept})
        raise ConfigError(
            "no negatives are of these policies and levels at once",
            path=rows.folder,
            expected=", ".join(f"{policy} {level}" for policy, level in pairs) or "none at all",
            hint="change --policies or --levels",
        )
    return normals, negatives


def _lot(seed: int, digest: str) -> str:
    return hashlib.sha256(f"subset|{seed}|{digest}".encode("ascii")).hexdigest()


def _some_of(sources: Sequence[str]) -> str:
    names = sorted(sources)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _units(
    rows: SetRows,
    normals: Sequence[NormalRow],
    negatives: Sequence[NegativeRow],
    made_from: Mapping[str, object],
) -> list[CopyUnit]:
    """One unit per shard of the set that keeps any image, numbered anew."""
    has_maps = rows.manifest.saliency == "stored"
    own: dict[int, list[NormalRow]] = {}
    for row in normals:
        own.setdefault(row.place[0], []).append(row)
    drawn: dict[int, list[NegativeRow]] = {}
    for negative in negatives:
        drawn.setdefault(negative.place[0], []).append(negative)
    units: list[CopyUnit] = []
    for number, kept in sorted(own.items()):
        new_row = {row.digest: i for i, row in enumerate(kept)}
        units.append(
            plan_unit(
                shard_name(len(units)),
                [((rows, row.place), (rows, row.place) if has_maps else None) for row in kept],
                [
                    (rows, row.place, new_row[row.normal], row.repeat)
                    for row in drawn.get(number, ())
                ],
                origin=made_from,
                store=rows.shards[number].store,
            )
        )
    return units


def _manifest(
    whole: Manifest,
    selection: _Selection,
    entries: Sequence[ShardEntry],
    negatives: Sequence[NegativeRow],
    made_from: dict[str, Any],
) -> Manifest:
    counts, fallbacks = tally(sum(entry.normals for entry in entries), row_tally(negatives))
    recipe = dict(whole.recipe)
    if selection.policies and isinstance(recipe.get("policies"), list):
        recipe["policies"] = [name for name in recipe["policies"] if name in selection.policies]
        recipe = _without_forged(recipe, selection.policies)
    return replace(
        whole,
        recipe=recipe,
        counts=counts,
        fallbacks=fallbacks,
        **shard_fields(entries),
        versions=library_versions(),
        origin=made_from,
    )


def _without_forged(recipe: Mapping[str, Any], kept: Sequence[str]) -> dict[str, Any]:
    """A recipe without what belongs to forged anomalies of kinds that are not kept.

    It goes from the recipes of parts as well; all else that these say stays.
    """
    left = dict(recipe)
    named = recipe.get("policies")
    if isinstance(named, list):
        named = [name for name in named if name in kept or name not in _policies_with("donors")]
        left["policies"] = named
        forged = [name for name in named if name in _policies_with("donors")]
        if not forged:
            left.pop("perlin", None)
            left.pop("donors", None)
        elif isinstance(left.get("perlin"), Mapping) and not any(
            name in _policies_with("saliency") for name in forged
        ):
            left["perlin"] = {**left["perlin"], "saliency": None}
    parts = parts_of(recipe)
    if parts is recipe.get(PARTS):
        left[PARTS] = [_without_forged(part, kept) for part in parts]
    return left


def _policies_with(need: str) -> list[str]:
    return [name for name, policy in POLICIES.items() if need in policy.needs]
