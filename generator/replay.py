"""Orders the steps of `replay`: recipe, images, shards in parallel, manifest."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from generator.assembly import assemble, publish, writing
from generator.leftovers import disk_bytes, settle
from generator.replay_drift import check_drift
from generator.replay_leftovers import same_replay, wanted_shards
from generator.replay_unit import ReplayConfig, ReplayUnit, replay_unit
from generator.set_summary import SetSummary
from generator.source_index import find_sources
from generator.workers import start_workers
from manifests.confine import category_folder
from manifests.digest import bytes_digest
from manifests.errors import ConfigError, DigestError, SetError
from manifests.images import DEFAULT_MAX_PIXELS
from manifests.progress import ProgressMaker
from manifests.recipe import Recipe, RecipeNormal, read_recipe
from manifests.schema import (
    MANIFEST_NAME,
    STORES,
    Manifest,
    ShardEntry,
    origin,
    shard_fields,
)
from manifests.shard import Shard
from manifests.versions import library_versions


@dataclass(frozen=True, kw_only=True)
class ReplaySummary(SetSummary):
    """What a replay did.

    Attributes:
        recipe_digest: set digest of the original.
        fresh_images: images whose negatives were rendered in this run.
        moved_images: images found elsewhere than at their recorded path.
        drifted_images: images whose pixels are not the recorded ones.
    """

    recipe_digest: str
    fresh_images: int
    moved_images: int
    drifted_images: int


def replay_set(
    recipe_path: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    store: str | None = None,
    jobs: int = 1,
    allow_drift: bool = False,
    overwrite: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    expect: str | None = None,
    make_progress: ProgressMaker | None = None,
) -> ReplaySummary:
    """Renders `out/<category>/` from a recipe and one's own images, bit for bit.

    The set has the normals, negatives and content digest of the original, but no saliency maps.
    It takes no network, in either sense. An interrupted run is taken up where it stopped.

    Args:
        recipe_path: what `export-recipe` wrote.
        data: the images: the category's folder, or a root that holds it. They are known by their
            SHA-256, wherever they lie.
        out: where the set's folder is to lie.
        store: "pixels" or "anchors"; as in the original where it is None.
        jobs: worker processes.
        allow_drift: where an image decodes to other pixels than the recorded ones, render its
            negatives from these. The set then has digests of its own.
        overwrite: replace what the folder holds.
        max_pixels: of one source image.
        expect: the set digest of the original, as its maker published it.
        make_progress: see `ProgressMaker`.

    Raises:
        SetError: the recipe is malformed, or the folder holds another set and `overwrite` is not
            given.
        DigestError: the recipe is damaged or of another set than expected, or a negative is not
            the recorded one.
        BadImages: with every image that is missing or differs, before anything is written; where
            a set is to be replaced, also with every one whose pixels are not the recorded ones,
            unless `allow_drift`.
        ImageError: a file is the recorded one and its pixels are not, unless `allow_drift`.
        OutputError: the folder cannot be written.
    """
    started = time.monotonic()

    def start(manifest: Manifest) -> None:
        there = category_folder(out, manifest.category, path=recipe_path)
        if overwrite or not (there / MANIFEST_NAME).exists():
            start_workers(min(jobs, len(manifest.shards)), replay_unit, take_part=True)

    # Workers take as long to start as the recipe to be read and the images to be found.
    recipe = read_recipe(Path(recipe_path), expect=expect, on_manifest=start)
    store = _store(recipe, store)
    folder = category_folder(out, recipe.manifest.category, path=recipe_path)
    normals = [row for shard in recipe.shards for row in shard.normals]
    found = find_sources(
        normals,
        data,
        recipe.manifest.category,
        max_pixels=max_pixels,
        jobs=jobs,
        progress=make_progress and make_progress(f"find {recipe.manifest.category}", "images"),
    )
    summary = partial(
        ReplaySummary, folder=folder, recipe_digest=recipe.set_digest, moved_images=found.moved
    )
    with writing(folder):
        if not overwrite and (folder / MANIFEST_NAME).exists():
            manifest, set_digest = same_replay(folder, recipe, store, allow_drift=allow_drift)
            settle(folder)
            return summary(
                set_digest=set_digest,
                manifest=manifest,
                resumed_shards=len(manifest.shards),
                is_unchanged=True,
                seconds=time.monotonic() - started,
                fresh_images=0,
                disk_bytes=disk_bytes(folder),
                drifted_images=_recorded_drift(manifest),
            )
        units = _units(recipe, found.paths, store)
        config = ReplayConfig(
            geometry=recipe.geometry,
            store=store,
            allow_drift=allow_drift,
            recorded_versions=recipe.manifest.versions,
            max_pixels=max_pixels,
        )
        made = assemble(
            units,
            partial(replay_unit, folder=folder, config=config),
            folder,
            jobs=jobs,
            take_part=True,
            overwrite=overwrite,
            is_wanted=wanted_shards(units, recipe, allow_drift=allow_drift),
            check=None
            if allow_drift
            else partial(check_drift, config=config, jobs=jobs, make_progress=make_progress),
            progress=make_progress and make_progress(f"replay {folder.name}", "images"),
        )
        drifted = _drifted_images(folder, recipe, made.entries) if allow_drift else 0
        manifest = _manifest(recipe, made.entries, store, drifted)
        if not allow_drift and manifest.content_digest != recipe.manifest.content_digest:
            raise DigestError(
                "was not rendered as recorded",
                path=folder,
                expected=f"content {recipe.manifest.content_digest}",
                got=manifest.content_digest,
                hint="pass --overwrite to render all of it again",
            )
        set_digest = publish(folder, manifest)
        return summary(
            set_digest=set_digest,
            manifest=manifest,
            resumed_shards=len(made.resumed),
            is_unchanged=False,
            seconds=time.monotonic() - started,
            fresh_images=made.fresh_images,
            disk_bytes=disk_bytes(folder),
            drifted_images=drifted,
        )


def _store(recipe: Recipe, store: str | None) -> str:
    if store is None:
        own = recipe.manifest.recipe.get("store")
        return own if own in STORES else STORES[0]
    if store not in STORES:
        raise ConfigError("unknown --store", expected=" | ".join(STORES), got=repr(store))
    return store


def _units(recipe: Recipe, paths: Mapping[str, Path], store: str) -> list[ReplayUnit]:
    """A unit per shard of the original."""
    normals = {row.digest: row for shard in recipe.shards for row in shard.normals}
    units = []
    for shard in recipe.shards:
        own = {row.digest for row in shard.normals}
        lenders = _rows(normals, shard.donors - own)
        files = (*shard.normals, *lenders)
        # What the shard should hold follows from these three. Pixels that drifted do not count
        # here, so that allowing drift where there is none changes no byte.
        decided_by = f"cutswap replay 1\n{recipe.set_digest}\n{shard.name}\n{store}\n"
        units.append(
            ReplayUnit(
                name=shard.name,
                digest=bytes_digest(decided_by.encode("ascii")),
                normals=shard.normals,
                negatives=shard.negatives,
                paths={row.digest: paths[row.file_sha256] for row in files},
                lenders=lenders,
                donors=tuple(
                    recipe.donors[digest] for digest in sorted(shard.donors & recipe.donors.keys())
                ),
            )
        )
    return units


def _rows(normals: Mapping[str, RecipeNormal], digests: frozenset[str]) -> tuple[RecipeNormal, ...]:
    return tuple(normals[digest] for digest in sorted(digests & normals.keys()))


def _drifted_images(folder: Path, recipe: Recipe, entries: Sequence[ShardEntry]) -> int:
    """How many normals are not the recorded ones. Raises SetError where two became alike."""
    drifted = 0
    seen: set[str] = set()
    for entry, shard in zip(entries, recipe.shards, strict=True):
        with Shard(folder / entry.name) as there:
            digests = there.index.normal_digests
            boxes = there.index.canvas_boxes.tolist()
        for digest, box, row in zip(digests, boxes, shard.normals, strict=True):
            drifted += (digest, tuple(box)) != (row.digest, row.canvas_box)
            if digest in seen:
                raise SetError(
                    "two images of the set became alike by drift",
                    path=folder / entry.name,
                    got=row.source,
                    hint="build a set from these images instead",
                )
            seen.add(digest)
    return drifted


def _manifest(recipe: Recipe, entries: Sequence[ShardEntry], store: str, drifted: int) -> Manifest:
    old = recipe.manifest
    return replace(
        old,
        recipe={**old.recipe, "store": store},
        **shard_fields(entries),
        versions=library_versions(),
        saliency="unused" if old.saliency == "unused" else "absent",
        origin=origin(
            "replay",
            sets=(recipe.set_digest,),
            options={"drifted_images": drifted} if drifted else {},
        ),
    )


def _recorded_drift(manifest: Manifest) -> int:
    drifted = manifest.origin["options"].get("drifted_images", 0)
    return drifted if isinstance(drifted, int) else 0
