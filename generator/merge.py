"""Sets of one category joined into one: their images, their policies, their repeats."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from generator.leftovers import disk_bytes
from generator.merge_plan import plan_merge
from generator.merged_manifest import merged_manifest, merged_recipe
from generator.rearrangement import Draft, rearrange
from generator.set_rows import SetRows, check_apart
from generator.set_summary import SetSummary
from manifests.confine import category_folder
from manifests.errors import ConfigError, SetError
from manifests.geometry import Geometry
from manifests.progress import ProgressMaker
from manifests.schema import STORES, origin

DEFAULT_SHARD_IMAGES = 16
MAX_SHARD_IMAGES = 4096


@dataclass(frozen=True, kw_only=True)
class MergeSummary(SetSummary):
    """What a merge did. `manifest.counts["merged"]` says how many duplicates were found.

    Attributes:
        n_sets: that were joined.
    """

    n_sets: int


def merge_sets(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    renumber: bool = False,
    drop_saliency: bool = False,
    shard_images: int | None = None,
    store: str | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    make_progress: ProgressMaker | None = None,
) -> MergeSummary:
    """Joins sets of one category into `out/<category>/`, or goes on where a killed run stopped.

    Normals are united by their pixels and sorted by digest. A negative that several sets hold is
    kept once: same normal, policy, level and digest. What comes out depends on the sets, their
    order and the options, and on nothing else.

    Args:
        folders: two sets or more, of one category and on one canvas. Where sets say different
            things about one image (its file, its path), the first counts.
        out: where the set's folder is to lie.
        renumber: where two sets have different negatives of one image, policy, level and repeat,
            give the later set's repeats of that policy and level numbers above those before.
        drop_saliency: leave the saliency maps out.
        shard_images: normals per shard; None for the first set's.
        store: "pixels" or "anchors"; None for the first set's.
        jobs: worker processes.
        overwrite: replace what the folder holds.
        make_progress: from a label and the name of a unit to a function of done and total.

    Raises:
        ConfigError: fewer than two sets, an option out of range, or `out` is one of the sets.
        SetError: a set is damaged; they are of different categories or canvases; negatives are in
            conflict and `renumber` is not given; their saliency does not fit together and
            `drop_saliency` is not given; the folder holds another set and `overwrite` is not given.
        OutputError: the folder cannot be written.

    Source: ours.
    """
    started = time.monotonic()
    sets = _opened(folders)
    first = sets[0].manifest
    folder = category_folder(out, first.category, path=sets[0].folder)
    check_apart(folder, sets)
    shard_images = _chosen_shard_images(shard_images, first.recipe)
    store = _chosen_store(store, first.recipe)
    made_from = origin(
        "merge",
        sets=[rows.set_digest for rows in sets],
        options={
            "drop_saliency": drop_saliency,
            "renumber": renumber,
            "shard_images": shard_images,
            "store": store,
        },
    )

    def draft() -> Draft:
        plan = plan_merge(sets, renumber=renumber, drop_saliency=drop_saliency)
        recipe = merged_recipe(
            [rows.manifest.recipe for rows in sets], shard_images=shard_images, store=store
        )
        return Draft(
            units=plan.units(made_from, shard_images=shard_images, store=store),
            manifest=lambda entries: merged_manifest(
                [rows.manifest for rows in sets],
                recipe=recipe,
                entries=entries,
                rows=[row for _, row, _ in plan.negatives],
                merged=plan.counts,
                extra_duplicates=plan.other_files,
                saliency=plan.saliency,
                made_from=made_from,
            ),
        )

    there = rearrange(
        folder, made_from, draft, jobs=jobs, overwrite=overwrite, make_progress=make_progress
    )
    return MergeSummary(
        **vars(there),
        folder=folder,
        n_sets=len(sets),
        seconds=time.monotonic() - started,
        disk_bytes=disk_bytes(folder),
    )


def _opened(folders: Sequence[str | os.PathLike[str]]) -> list[SetRows]:
    if len(folders) < 2:
        raise ConfigError("there is nothing to merge", expected="at least 2 sets", got=len(folders))
    sets = [SetRows.open(folder) for folder in folders]
    first = sets[0]
    for other in sets[1:]:
        if other.manifest.category != first.manifest.category:
            raise SetError(
                "is of another category",
                path=other.folder,
                expected=first.manifest.category,
                got=other.manifest.category,
                hint="merge each category by itself",
            )
        shown = [rows.manifest.recipe["geometry"] for rows in (first, other)]
        if shown[0] != shown[1]:
            raise SetError(
                "is on another canvas",
                path=other.folder,
                expected=Geometry.from_json(shown[0]).in_words,
                got=Geometry.from_json(shown[1]).in_words,
                hint="build it with the same --image-size, --fit and --roi",
            )
    return sets


def _chosen_shard_images(wanted: int | None, recipe: Mapping[str, Any]) -> int:
    recorded = recipe.get("shard_images")
    if wanted is None:
        wanted = recorded if type(recorded) is int else DEFAULT_SHARD_IMAGES
    if not 1 <= wanted <= MAX_SHARD_IMAGES:
        raise ConfigError(
            "--shard-images cannot be used", expected=f"1 to {MAX_SHARD_IMAGES}", got=wanted
        )
    return wanted


def _chosen_store(wanted: str | None, recipe: Mapping[str, Any]) -> str:
    recorded = recipe.get("store")
    if wanted is None:
        wanted = recorded if recorded in STORES else STORES[0]
    if wanted not in STORES:
        raise ConfigError("--store cannot be used", expected=" or ".join(STORES), got=wanted)
    return wanted
