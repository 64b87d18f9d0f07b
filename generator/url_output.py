"""A set built straight to a URL, for workers that share no folder with anybody."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from generator.assembly import Progress
from generator.leftovers import check_same
from generator.made_shard import Kind, MadeShard
from generator.output import Labour, Made, Stored
from generator.prepared import texture_pool
from generator.remote_run import begin_run, plan_digest, read_marker, read_note
from generator.scan import Canvas, Scan, ScannedImage
from generator.shard_task import ShardTask, Work, make_shard
from generator.stored_saliency import CarriedMaps, StoredMaps, StoredShard
from generator.textures import Textures
from generator.unit import Unit
from manifests.errors import ConfigError, SetError
from manifests.images import read_bytes
from manifests.location import Location, RemoteError
from manifests.pull import JOBS
from manifests.push import MARKER_NAME, clear_traces, note_name
from manifests.remote_manifest import present_digest, remote_manifest
from manifests.schema import (
    MANIFEST_DIGEST_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    write_manifest,
)
from manifests.shard_entry import is_shard_name
from manifests.transfer import Patience, put_bytes, run_all

_HINT = "pass --overwrite to replace it, or another --out"


class UrlOutput:
    """The folder of a set behind a URL.

    Nothing is locked there. A run that begins takes the place over; the workers of another one that
    still goes on are refused from then on, and so it ends.

    Args:
        target: of the set's folder.

    Raises:
        ConfigError: nothing can be written there.
    """

    def __init__(self, target: Location) -> None:
        if not target.is_writable:
            raise ConfigError(
                f"{target.scheme}:// cannot be written",
                path=target.name,
                hint="build to s3://, file:// and the like, and serve that over HTTP",
            )
        self.name = target.name
        self._target = target
        self._jobs = JOBS if target.has_threads else 1
        self._made: dict[str, MadeShard] = {}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """There is no lock to be had."""
        yield

    def has_set(self) -> bool:
        """Whether there is a manifest."""
        return present_digest(self._target, Patience()) is not None

    def same_set(self, recipe: dict, scan: Scan) -> tuple[Manifest, str]:
        """The set that is there, if it is the wanted one. Raises SetError."""
        manifest, set_digest = remote_manifest(self._target)
        check_same(self.name, manifest, recipe, scan)
        self._check_sizes(manifest.shards, hint="pass --overwrite to make it again")
        return manifest, set_digest

    def settle(self) -> None:
        """Removes what a killed run left beside a finished set."""
        clear_traces(self._target, Patience())

    def make(
        self,
        units: Sequence[Unit],
        work: Work,
        stored: Stored,
        labour: Labour,
        *,
        overwrite: bool,
        kept: frozenset[str],
        canvases: MutableMapping[str, Canvas],
        textures: Textures | None,
        progress: Progress | None,
    ) -> Made:
        """See `Output.make`. Nothing is `kept`: `--add` needs a folder."""
        if kept:
            raise ValueError("a set behind a URL is not added to")
        done = self._take_place(units, overwrite=overwrite)
        place = begin_run(self._target, units, Patience())
        self._clear(done)
        todo = [unit for unit in units if unit.name not in done]
        total, fresh = (sum(unit.n_images for unit in rows) for rows in (units, todo))
        sizes = {unit.name: unit.n_images for unit in units}
        count = total - fresh
        if progress is not None and todo:
            progress(count, total)
        is_carried = labour.backend.is_cluster

        def task_of(unit: Unit) -> ShardTask:
            # Who shares no folder for the shards may not see the images either.
            return ShardTask(
                unit=unit,
                work=work,
                place=place,
                files=_files(unit.images, work.max_pixels) if is_carried else None,
                stored=_maps(stored[unit.name], unit, work, is_carried=is_carried),
                textures=texture_pool(textures, unit, work.config),
            )

        with labour.backend.run(
            make_shard, todo, task_of, jobs=labour.jobs, is_large=is_carried
        ) as results:
            for made in results:
                done[made.entry.name] = made
                count += sizes[made.entry.name]
                if progress is not None:
                    progress(count, total)
        self._made = done
        return Made(
            entries=tuple(done[unit.name].entry for unit in units),
            n_resumed=len(units) - len(todo),
            fresh_images=fresh,
            versions=tuple(made.versions for made in done.values()),
        )

    def kinds(self, entries: Sequence[ShardEntry]) -> Iterator[Kind]:
        """As those said who made the shards."""
        for entry in entries:
            yield from self._made[entry.name].negative_kinds()

    def publish(self, manifest: Manifest) -> str:
        """Uploads the manifest, when nobody can put a shard there any more; it goes last.

        Raises:
            RemoteError: it fails for good, or a shard is not there.
        """
        target, patience = self._target, Patience()
        patience.persist(target.child(MARKER_NAME).remove)
        self._check_sizes(
            manifest.shards, hint="run again, it goes on; no other build may write there"
        )
        with tempfile.TemporaryDirectory(prefix="cutswap-") as folder:
            set_digest = write_manifest(Path(folder), manifest)
            for name in (MANIFEST_DIGEST_NAME, MANIFEST_NAME):
                put_bytes(target.child(name), Path(folder, name).read_bytes(), patience)
        clear_traces(target, patience)
        return set_digest

    def stored_bytes(self) -> int:
        """Size of all files in the folder."""
        return sum(self._target.sizes().values())

    def _take_place(self, units: Sequence[Unit], *, overwrite: bool) -> dict[str, MadeShard]:
        """The finished shards of this very plan, by name, once it is sure that the rest may go."""
        sizes = self._target.sizes()
        notes: dict[str, MadeShard] = {}

        def look(unit: Unit) -> None:
            made = read_note(self._target, unit.name, Patience())
            if made is None or made.unit_digest != unit.digest or made.entry.name != unit.name:
                return
            if sizes[unit.name] == made.entry.file_bytes:
                notes[unit.name] = made

        noted = [unit for unit in units if unit.name in sizes and note_name(unit.name) in sizes]
        run_all([partial(look, unit) for unit in noted], self._jobs, Patience())
        others = [name for name in sizes if is_shard_name(name) and name not in notes]
        marker = read_marker(self._target, Patience())
        is_ours = marker is not None and marker[1] == plan_digest(units)
        is_marked = MANIFEST_DIGEST_NAME in sizes or MANIFEST_NAME in sizes
        # The digest goes before the manifest, so that a build killed between the two left all of
        # its shards with their notes.
        is_whole = MANIFEST_NAME not in sizes and not others and len(notes) == len(units)
        if not overwrite and ((is_marked and not is_whole) or (others and not is_ours)):
            raise SetError(
                "holds part of another set, or of a build with other options or images",
                path=self.name,
                got=others[0] if others else MANIFEST_DIGEST_NAME,
                hint=_HINT,
            )
        return notes

    def _clear(self, done: dict[str, MadeShard]) -> None:
        """Removes all of a set that is not to stay; the manifest first, so that none is seen."""
        target, patience = self._target, Patience()
        for name in (MANIFEST_NAME, MANIFEST_DIGEST_NAME):
            patience.persist(target.child(name).remove)
        clear_traces(
            target, patience, kept=frozenset({MARKER_NAME, *(note_name(name) for name in done)})
        )
        old = [name for name in target.names() if is_shard_name(name) and name not in done]
        run_all(
            [partial(patience.persist, target.child(name).remove) for name in old],
            self._jobs,
            patience,
        )

    def _check_sizes(self, entries: Sequence[ShardEntry], *, hint: str) -> None:
        sizes = self._target.sizes()
        for entry in entries:
            if sizes.get(entry.name) != entry.file_bytes:
                raise RemoteError(
                    "is not as it was stored",
                    path=self._target.child(entry.name).name,
                    expected=f"{entry.file_bytes} bytes",
                    got=sizes.get(entry.name, "no file"),
                    hint=hint,
                )


def _files(images: Sequence[ScannedImage], max_pixels: int) -> tuple[bytes, ...]:
    return tuple(read_bytes(image.path, max_pixels=max_pixels) for image in images)


def _maps(
    stored: StoredShard | None, unit: Unit, work: Work, *, is_carried: bool
) -> StoredMaps | None:
    if stored is None or not is_carried:
        return stored
    maps = stored.maps([image.digest for image in unit.images], work.levels)
    return CarriedMaps(maps, stored.environment)
