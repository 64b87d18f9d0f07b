"""Orders the steps of `build`: scan, plan, shards in parallel, manifest."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from generator.config import BuildConfig
from generator.scan import Scan, scan_samples
from generator.unit import Unit, build_unit, cached_network, plan_units
from manifests.datasets import Category
from manifests.errors import BadImages, ConfigError, DataError, OutputError, SetError
from manifests.images import DEFAULT_MAX_PIXELS
from manifests.schema import (
    MANIFEST_DIGEST_NAME,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Manifest,
    ShardEntry,
    read_manifest,
    set_digest_of,
    tally,
    write_manifest,
)
from manifests.shard import Shard, shard_entry
from manifests.versions import library_versions

LOG = "build.log"
MIN_NORMALS = 2

ProgressMaker = Callable[[str, str], Callable[[int, int], None]]


@dataclass(frozen=True)
class BuildSummary:
    """What a build did.

    Attributes:
        resumed_shards: shards an earlier, interrupted run had finished.
        is_unchanged: the set was already there, whole, with the same options.
        seconds: wall time of this run.
        fresh_images: images whose saliency was computed in this run.
    """

    folder: Path
    set_digest: str
    manifest: Manifest
    resumed_shards: int
    is_unchanged: bool
    seconds: float
    fresh_images: int
    disk_bytes: int


def build_set(
    category: Category,
    config: BuildConfig,
    out: str | os.PathLike[str],
    *,
    weights: Path | None = None,
    device: str = "cpu",
    jobs: int = 1,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    overwrite: bool = False,
    make_progress: ProgressMaker | None = None,
) -> BuildSummary:
    """Builds `out/<category>/`, or takes up where an interrupted run stopped.

    Raises:
        BadImages: with every unusable training image, unless `skip_bad`.
        ConfigError: a level that the network does not have.
        DataError: fewer than two usable images.
        SetError: the folder holds a set of other options or images and `overwrite` is not given.
        OutputError: the folder cannot be written.
    """
    started = time.monotonic()
    folder = Path(out) / category.name
    _check_writable(folder)
    network = cached_network(config.network, None if weights is None else str(weights), device)
    levels = config.levels or tuple(network.levels)
    unknown = [level for level in levels if level not in network.levels]
    if unknown:
        raise ConfigError(
            f"--levels: {config.network} has no saliency level {unknown[0]}",
            expected=f"some of {', '.join(map(str, network.levels))}",
            hint="change --levels or --network",
        )
    recipe = config.recipe(levels=levels, network_digest=network.digest)
    recipe["format"], recipe["split_rule"] = category.format, category.split_rule

    scan = scan_samples(
        category.train,
        config.geometry,
        max_pixels=max_pixels,
        jobs=jobs,
        progress=make_progress and make_progress(f"scan {category.name}", "images"),
    )
    if scan.skipped and not skip_bad:
        raise BadImages(scan.skipped)
    if len(scan.images) < MIN_NORMALS:
        raise DataError(
            "too few usable training images",
            path=category.root,
            expected=f"at least {MIN_NORMALS}",
            got=len(scan.images),
            hint="add good images",
        )
    units = plan_units(scan.images, recipe, config.shard_images)

    if not overwrite and (folder / MANIFEST_NAME).exists():
        return _unchanged_or_refuse(folder, recipe, scan, started)
    done = _clear_and_resume(folder, units, overwrite=overwrite)
    entries = _build_missing(
        units, folder, config, done, weights, device, jobs, max_pixels, make_progress, category
    )
    manifest = _manifest(category, recipe, scan, entries, folder, config)
    set_digest = write_manifest(folder, manifest)
    seconds = time.monotonic() - started
    fresh = sum(len(unit.images) for unit in units if unit.name not in done)
    _log(folder, seconds=round(seconds, 2), fresh_images=fresh, jobs=jobs, digest=set_digest)
    return BuildSummary(
        folder=folder,
        set_digest=set_digest,
        manifest=manifest,
        resumed_shards=len(done),
        is_unchanged=False,
        seconds=seconds,
        fresh_images=fresh,
        disk_bytes=_disk_bytes(folder),
    )


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            path=folder,
            hint="choose another --out",
        ) from error


def _unchanged_or_refuse(folder: Path, recipe: dict, scan: Scan, started: float) -> BuildSummary:
    manifest, set_digest = read_manifest(folder)
    if manifest.recipe != recipe:
        old = manifest.recipe
        changed = sorted(key for key in {*recipe, *old} if recipe.get(key) != old.get(key))
        raise SetError(
            f"already holds a set of other options ({', '.join(changed)} differ)",
            path=folder,
            hint="pass --overwrite to replace it, or another --out",
        )
    if list(manifest.training_files) != list(scan.file_digests):
        raise SetError(
            "already holds a set of other images",
            path=folder,
            expected=f"{len(manifest.training_files)} files as recorded",
            got=f"{len(scan.file_digests)} files, not the same",
            hint="pass --overwrite to replace it, or another --out",
        )
    missing = [entry.name for entry in manifest.shards if not (folder / entry.name).is_file()]
    if missing:
        raise SetError(
            f"shard {missing[0]} is missing", path=folder, hint="pass --overwrite to build again"
        )
    return BuildSummary(
        folder=folder,
        set_digest=set_digest,
        manifest=manifest,
        resumed_shards=len(manifest.shards),
        is_unchanged=True,
        seconds=time.monotonic() - started,
        fresh_images=0,
        disk_bytes=_disk_bytes(folder),
    )


def _clear_and_resume(folder: Path, units: list[Unit], *, overwrite: bool) -> dict[str, ShardEntry]:
    """Removes leftovers and returns the finished shards of this very plan."""
    done: dict[str, ShardEntry] = {}
    by_name = {unit.name: unit for unit in units}
    try:
        # The manifest goes first: without it nobody takes a half-replaced folder for a set.
        for name in (MANIFEST_NAME, MANIFEST_DIGEST_NAME):
            (folder / name).unlink(missing_ok=True)
        for path in folder.glob(".shard-*.tmp-*"):
            path.unlink()
        for path in sorted(folder.glob("shard-*.h5")):
            unit = by_name.get(path.name)
            entry = None if unit is None else _finished(path, unit)
            if entry is not None:
                done[path.name] = entry
            elif overwrite or _is_damaged(path):
                path.unlink()
            else:
                raise SetError(
                    "belongs to an unfinished build with other options or images",
                    path=path,
                    hint="pass --overwrite to replace it, or another --out",
                )
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=folder) from error
    return done


def _finished(path: Path, unit: Unit) -> ShardEntry | None:
    try:
        with Shard(path) as shard:
            is_ours = shard.index.unit_digest == unit.digest
        return shard_entry(path) if is_ours else None
    except SetError:
        return None


def _is_damaged(path: Path) -> bool:
    try:
        with Shard(path) as shard:
            return not shard.index.unit_digest
    except SetError:
        return True


def _build_missing(
    units: list[Unit],
    folder: Path,
    config: BuildConfig,
    done: dict[str, ShardEntry],
    weights: Path | None,
    device: str,
    jobs: int,
    max_pixels: int,
    make_progress: ProgressMaker | None,
    category: Category,
) -> list[ShardEntry]:
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    todo = [unit for unit in units if unit.name not in done]
    entries = dict(done)
    total = sum(len(unit.images) for unit in units)
    count = total - sum(len(unit.images) for unit in todo)
    sizes = {unit.name: len(unit.images) for unit in units}
    progress = make_progress(f"build {category.name}", "images") if make_progress else None
    if progress is not None and todo:
        progress(count, total)
    options = {
        "weights": None if weights is None else str(weights),
        "device": device,
        "max_pixels": max_pixels,
    }
    workers = 1 if device != "cpu" else min(jobs, max(len(todo), 1))
    try:
        results = Parallel(
            n_jobs=workers,
            backend="loky" if workers > 1 else "sequential",
            return_as="generator_unordered" if workers > 1 else "generator",
        )(delayed(build_unit)(unit, folder, config, **options) for unit in todo)
        for entry in results:
            entries[entry.name] = entry
            count += sizes[entry.name]
            if progress is not None:
                progress(count, total)
    except BaseException:
        if workers > 1:
            get_reusable_executor().shutdown(wait=True, kill_workers=True)
        for path in folder.glob(".shard-*.tmp-*"):
            path.unlink(missing_ok=True)
        raise
    return [entries[unit.name] for unit in units]


def _manifest(
    category: Category,
    recipe: dict,
    scan: Scan,
    entries: list[ShardEntry],
    folder: Path,
    config: BuildConfig,
) -> Manifest:
    rows: list[tuple[str, int, int]] = []
    for entry in entries:
        with Shard(folder / entry.name) as shard:
            index = shard.index
            levels = map(int, index.level)
            rows += zip(index.policies, levels, map(int, index.fallback), strict=True)
    counts, fallbacks = tally(len(scan.images), rows)
    wanted = len(scan.images) * len(recipe["levels"]) * config.repeats
    counts["dropped"] = {
        policy: wanted - sum(counts["policies"].get(policy, {}).values())
        for policy in config.policies
    }
    return Manifest(
        schema_version=SCHEMA_VERSION,
        category=category.name,
        format=category.format,
        recipe=recipe,
        licence=category.licence,
        attribution=category.attribution,
        split_rule=category.split_rule,
        training_files=scan.file_digests,
        duplicates=len(scan.duplicates),
        skipped=tuple(
            # The path of this machine is not part of a set: only the reason is kept.
            {"source": source, "reason": error.what}
            for source, error in zip(scan.skipped_sources, scan.skipped, strict=True)
        ),
        counts=counts,
        fallbacks=fallbacks,
        shards=tuple(entries),
        content_digest=set_digest_of(entry.content_digest for entry in entries),
        saliency_digest=set_digest_of(entry.saliency_digest for entry in entries),
        versions=library_versions(),
    )


def _log(folder: Path, **fields: object) -> None:
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = json.dumps({"finished": stamp, **fields})
    with open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(line + os.linesep)


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
