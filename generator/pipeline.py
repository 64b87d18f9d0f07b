"""Orders the steps of `build`: scan, plan, shards in parallel, manifest."""

from __future__ import annotations

import datetime
import json
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from generator.addition import Addition
from generator.backends import Backend
from generator.built_manifest import built_manifest
from generator.config import BuildConfig
from generator.donors import needed_textures, warn_of_lonely_images
from generator.output import FolderOutput, Labour, Output
from generator.scan import KEPT_BYTES, Scan, scan_samples
from generator.set_summary import SetSummary
from generator.shard_task import Work
from generator.stored_saliency import (
    EMBEDDED_DIGEST,
    EMBEDDED_LEVELS,
    StoredSaliency,
    StoredShard,
)
from generator.textures import Textures
from generator.unit import cached_network, plan_units
from generator.url_output import UrlOutput
from manifests.confine import category_folder
from manifests.datasets import Category
from manifests.errors import BadImages, ConfigError, DataError, SetError
from manifests.images import DEFAULT_MAX_PIXELS
from manifests.location import Location
from manifests.manifest_json import check_room
from manifests.progress import ProgressMaker
from manifests.schema import Manifest
from manifests.url import is_url
from manifests.weights import EMBEDDED

LOG = "build.log"
MIN_NORMALS = 2
LOKY = Backend()
"""Worker processes of this machine."""


@dataclass(frozen=True, kw_only=True)
class BuildSummary(SetSummary):
    """What a build did.

    Attributes:
        fresh_images: images whose negatives were made in this run.
        saliency_from: folder of the set whose saliency maps were taken; None where a network
            computed them, where none are needed, and where nothing was made.
        added_images: images appended to a set that was there; None where none was, or without
            `add`.
        textures: that donors were taken from; None for other donors, and where nothing was made.
    """

    fresh_images: int
    saliency_from: Path | None = None
    added_images: int | None = None
    textures: Textures | None = None


def build_set(
    category: Category,
    config: BuildConfig,
    out: str | os.PathLike[str],
    *,
    weights: Path | None = None,
    device: str = "cpu",
    jobs: int | None = 1,
    backend: Backend = LOKY,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    overwrite: bool = False,
    add: bool = False,
    reuse_saliency: str | os.PathLike[str] | None = None,
    textures: Textures | None = None,
    make_progress: ProgressMaker | None = None,
) -> BuildSummary:
    """Builds `out/<category>/`, or takes up where an interrupted run stopped.

    Args:
        category, config, out: the data, the options, and where the set's folder is to lie; that
            may be a URL, where nothing is locked: a run that begins there ends one that goes on.
        weights, device: of the saliency network; not used where no policy needs saliency.
        jobs: shards made at once; None for as many as a cluster has room for.
        backend: what makes them: worker processes, threads, or a cluster.
        max_pixels: of one source image.
        skip_bad: go on without unusable images.
        overwrite: replace what the folder holds.
        add: append the images that the set in the folder does not hold, as further shards; those
            that are there stay as they are, byte for byte, and so does the set until the new
            manifest takes the place of the old one. Without a set in the folder, one is built.
        reuse_saliency: a set of the same images, or a root with one of the category's name, to
            take the saliency maps from instead of running the network. It is no part of the
            recipe: the set has the bytes and the digest of one built without it.
        textures: the donors, where the config says that they are textures; not used otherwise.
        make_progress: see `ProgressMaker`.

    Raises:
        BadImages: with every unusable training image, unless `skip_bad`.
        ConfigError: a level that the network does not have, `add` together with `overwrite` or with
            a URL, a URL that cannot be written, a `reuse_saliency` whose maps are not those that
            this build would compute, or donors that are to be textures without any.
        DataError: fewer than two usable images.
        SetError: the folder holds a set of other options or images and `overwrite` is not given,
            or, with `add`, one of other options or one that was not built; or `reuse_saliency` is
            no set, damaged, or of other images.
        OutputError: the folder cannot be written, or another run has taken a URL over.
        RemoteError: what lies behind a URL cannot be reached.
        WorkerError: a worker was ended, or a cluster's scheduler is gone for good.

    Warns:
        UserWarning: images that are to be mixed with others are alone in their shard, or workers
            have other libraries.
    """
    started = time.monotonic()
    if add and overwrite:
        raise ConfigError(
            "--add and --overwrite exclude each other",
            hint="--add keeps what is there, --overwrite replaces it: pass one of them",
        )
    textures = needed_textures(config, textures)
    output = output_of(out, category, add=add)
    with output.writing():
        stored = None
        if reuse_saliency is not None:
            stored = _stored_saliency(reuse_saliency, category, config, output.name)
        given = None if weights is None else str(weights)
        if given is not None and backend.is_cluster:
            given = os.path.abspath(given)
        recipe = _recipe(category, config, given, device, stored, textures)
        if stored is not None:
            stored.check_recipe(recipe)
        scan = scan_samples(
            category.train,
            config.geometry,
            max_pixels=max_pixels,
            jobs=jobs or os.cpu_count() or 1,
            # Other backends carry the images' files, or read them where they work.
            kept_bytes=KEPT_BYTES if backend.name == "loky" and not is_url(output.name) else 0,
            progress=make_progress and make_progress(f"scan {category.name}", "images"),
        )
        has_set = not overwrite and output.has_set()
        addition = None
        if add and has_set:
            addition = Addition.find(Path(output.name), recipe, scan)
        _need_usable(scan, category, skip_bad=skip_bad, least=1 if addition else MIN_NORMALS)
        if has_set and (addition is None or addition.is_empty):
            if addition is None:
                manifest, set_digest = output.same_set(recipe, scan)
            else:
                manifest, set_digest = addition.manifest, addition.set_digest
            _check_terms(manifest, category, output.name, add=add)
            output.settle()
            return BuildSummary(
                folder=output.name,
                set_digest=set_digest,
                manifest=manifest,
                resumed_shards=len(manifest.shards),
                is_unchanged=True,
                seconds=time.monotonic() - started,
                fresh_images=0,
                disk_bytes=output.stored_bytes(),
                added_images=None if addition is None else 0,
            )
        if addition is None:
            units = plan_units(scan.images, recipe, config.shard_images)
        else:
            _check_terms(addition.manifest, category, output.name, add=True)
            units = [
                replace(unit, name=addition.shard_name(number))
                for number, unit in enumerate(
                    plan_units(addition.images, recipe, config.shard_images)
                )
            ]
        warn_of_lonely_images(
            config, [unit.n_images for unit in units], is_added=addition is not None
        )
        n_shards = len(units) + (len(addition.manifest.shards) if addition else 0)
        check_room(len(scan.file_digests), n_shards, path=category.root)
        shards: Sequence[StoredShard | None] = [None] * len(units)
        if stored is not None and units:
            shards = stored.shards_of([unit.images for unit in units])
        # A network on a GPU serves one process; a folder's worker processes do all else meanwhile.
        is_alone = device != "cpu" and stored is None and bool(recipe["levels"])
        has_helpers = backend.name == "loky" and not is_url(output.name)
        if is_alone and not has_helpers and not backend.is_cluster:
            jobs = 1
        label = f"build {category.name}" + (", saliency reused" if stored is not None else "")
        made = output.make(
            units,
            Work(
                config=config,
                levels=tuple(recipe["levels"]),
                weights=given,
                network_digest=recipe["network"] and recipe["network"]["digest"],
                device=device,
                max_pixels=max_pixels,
            ),
            dict(zip((unit.name for unit in units), shards, strict=True)),
            Labour(backend=backend, jobs=jobs),
            overwrite=overwrite,
            kept=frozenset() if addition is None else addition.kept,
            canvases=scan.canvases,
            textures=textures,
            progress=make_progress(label, "images") if make_progress else None,
        )
        entries = made.entries if addition is None else addition.entries(made.entries)
        manifest = built_manifest(category, recipe, scan, entries, output, made)
        if addition is not None:
            manifest = addition.united(manifest)
        set_digest = output.publish(manifest)
        seconds = time.monotonic() - started
        _log(
            output,
            seconds=round(seconds, 2),
            fresh_images=made.fresh_images,
            jobs=jobs,
            backend=backend.name,
            digest=set_digest,
            saliency_from=None if stored is None else stored.set_digest,
        )
    return BuildSummary(
        folder=output.name,
        set_digest=set_digest,
        manifest=manifest,
        resumed_shards=made.n_resumed,
        is_unchanged=False,
        seconds=seconds,
        fresh_images=made.fresh_images,
        disk_bytes=output.stored_bytes(),
        saliency_from=None if stored is None else stored.folder,
        added_images=None if addition is None else len(addition.images),
        textures=textures,
    )


def output_of(out: str | os.PathLike[str], category: Category, *, add: bool = False) -> Output:
    """Where the set of a category goes: a folder below `out`, or one behind a URL.

    Raises:
        ConfigError: `out` is a URL that cannot be written, or one together with `add`.
        SetError: the category is no name for a folder.
    """
    if not is_url(out):
        return FolderOutput(category_folder(out, category.name, path=category.root))
    target = Location.of(str(out))
    if add:
        raise ConfigError(
            "--add needs a folder",
            path=target.name,
            hint="pull the set, add to it, and push it with --overwrite",
        )
    return UrlOutput(target.child(category.name))


def _check_terms(manifest: Manifest, category: Category, folder: Path | str, *, add: bool) -> None:
    """Refuses to leave a set alone that says something else about the rights to its images."""
    for name in ("licence", "attribution"):
        old, new = getattr(manifest, name), getattr(category, name)
        if old != new:
            raise SetError(
                f"already holds a set of another {name}",
                path=folder,
                expected=repr(new),
                got=repr(old),
                hint=f"pass --{name} as the set has it, or build apart and merge"
                if add
                else "pass --overwrite to record it anew (its shards are kept), or another --out",
            )


def _need_usable(scan: Scan, category: Category, *, skip_bad: bool, least: int) -> None:
    if scan.skipped and not skip_bad:
        raise BadImages(scan.skipped)
    if len(scan.images) < least:
        raise DataError(
            "too few usable training images",
            path=category.root,
            expected=f"at least {least}",
            got=len(scan.images),
            hint="add good images",
        )


def _stored_saliency(
    path: str | os.PathLike[str], category: Category, config: BuildConfig, folder: Path | str
) -> StoredSaliency:
    if not config.needs_saliency:
        raise ConfigError(
            "--reuse-saliency: no policy of this build needs saliency",
            got=", ".join(config.policies),
            hint="leave it out",
        )
    stored = StoredSaliency.open(path, category.name)
    if not is_url(folder) and stored.folder.resolve() == Path(folder).resolve():
        raise ConfigError(
            "--reuse-saliency: this is the set to be written", path=folder, hint="change --out"
        )
    return stored


def _recipe(
    category: Category,
    config: BuildConfig,
    weights: str | None,
    device: str,
    stored: StoredSaliency | None,
    textures: Textures | None,
) -> dict:
    """The manifest's recipe; loads the network where it is needed, if only for its digest."""
    levels: tuple[int, ...] = ()
    known: tuple[int, ...]
    digest = None
    if config.needs_saliency:
        is_embedded = config.network == EMBEDDED and weights is None
        if is_embedded and stored is not None and stored.is_of_embedded_network:
            known, digest = EMBEDDED_LEVELS, EMBEDDED_DIGEST
        else:
            network = cached_network(config.network, weights, device if stored is None else "cpu")
            known, digest = tuple(network.levels), network.digest
        levels = config.levels or known
        unknown = [level for level in levels if level not in known]
        if unknown:
            raise ConfigError(
                f"--levels: {config.network} has no saliency level {unknown[0]}",
                expected=f"some of {', '.join(map(str, known))}",
                hint="change --levels or --network",
            )
    recipe = config.recipe(
        levels=levels,
        network_digest=digest,
        textures=None if textures is None else textures.recipe(),
    )
    return recipe | {"format": category.format, "split_rule": category.split_rule}


def _log(output: Output, **fields: object) -> None:
    """Adds a line to the log beside a set; there is none behind a URL."""
    if is_url(output.name):
        return
    folder = Path(output.name)
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = json.dumps({"finished": stamp, **fields})
    try:
        with open(folder / LOG, "a", encoding="utf-8") as log:
            log.write(line + os.linesep)
    except OSError as error:
        # The set is whole by now, and the log belongs to nothing.
        warnings.warn(
            f"{folder / LOG}: cannot be written ({error.strerror}); the set is whole", stacklevel=2
        )
