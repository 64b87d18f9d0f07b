"""Where a build's shards go: what lies there, how they get there, and when they are a set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from generator.assembly import Progress, assemble_with, publish, writing
from generator.backends import Backend
from generator.leftovers import disk_bytes, same_set, settle
from generator.made_shard import Kind, MadeShard, shard_kinds
from generator.prepared import PreparedUnit, texture_pool, with_canvases, with_maps
from generator.scan import Canvas, Scan
from generator.shard_task import RunPlace, ShardTask, Work, make_shard
from generator.stored_saliency import StoredShard
from generator.textures import Textures
from generator.unit import Unit, build_unit
from generator.workers import in_workers
from manifests.run_folder import run_folder
from manifests.schema import MANIFEST_NAME, Manifest, ShardEntry

Stored = Mapping[str, StoredShard | None]
"""Where a shard's saliency maps come from, by the shard's name; None for a network."""


@dataclass(frozen=True, kw_only=True)
class Labour:
    """Who makes the shards.

    Attributes:
        backend: what they are made by.
        jobs: how many at once; None for as many as a cluster has room for.
    """

    backend: Backend
    jobs: int | None


@dataclass(frozen=True)
class Made:
    """All shards of a plan.

    Attributes:
        entries: in the plan's order.
        n_resumed: shards that an earlier, interrupted run had finished.
        fresh_images: of the shards made in this run.
        versions: libraries of the workers, as far as they told.
    """

    entries: tuple[ShardEntry, ...]
    n_resumed: int
    fresh_images: int
    versions: tuple[dict[str, str], ...] = ()


class Output(Protocol):
    """The place of one category's set.

    Attributes:
        name: as it may be shown.
    """

    @property
    def name(self) -> Path | str: ...

    def writing(self) -> AbstractContextManager[None]:
        """Keeps other runs out, where that can be done. Raises OutputError, ConfigError."""

    def has_set(self) -> bool:
        """Whether a finished set is there."""

    def same_set(self, recipe: dict, scan: Scan) -> tuple[Manifest, str]:
        """The set that is there, if it is the wanted one. Raises SetError."""

    def settle(self) -> None:
        """Removes what a killed run left beside a finished set."""

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
        """Makes every shard that an earlier run has not left finished.

        Args:
            units: in the order of their names.
            work, stored: how they are made.
            overwrite: replace shards of other plans.
            kept: shards of a set that stays whole while new ones are added.
            canvases: fitted images that are at hand, by digest; they may be taken out.
            textures: what donors are chosen from; None for donors that need no folder.
            progress: called with images done and images in all.

        Raises:
            SetError: shards of another plan are in the way.
        """

    def kinds(self, entries: Sequence[ShardEntry]) -> Iterable[Kind]:
        """Of all negatives of these shards."""

    def publish(self, manifest: Manifest) -> str:
        """Makes the shards a set, and returns its digest."""

    def stored_bytes(self) -> int:
        """Size of all that lies there."""


class FolderOutput:
    """A folder, this machine's own or one that all machines share.

    Args:
        folder: of the set.
    """

    def __init__(self, folder: Path) -> None:
        self.name = self.folder = folder
        self._made: dict[str, MadeShard] = {}

    def writing(self) -> AbstractContextManager[None]:
        """Makes the folder and holds it. Raises OutputError."""
        return writing(self.folder)

    def has_set(self) -> bool:
        """Whether there is a manifest."""
        return (self.folder / MANIFEST_NAME).exists()

    def same_set(self, recipe: dict, scan: Scan) -> tuple[Manifest, str]:
        """See `generator.leftovers.same_set`."""
        return same_set(self.folder, recipe, scan)

    def settle(self) -> None:
        """See `generator.leftovers.settle`."""
        settle(self.folder)

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
        """See `Output.make` and `generator.assembly.assemble`."""
        if labour.backend.name == "loky":
            run = partial(
                self._run_here,
                work=work,
                stored=stored,
                jobs=labour.jobs or 1,
                canvases=canvases,
                textures=textures,
            )
        else:
            run = partial(self._run, work=work, stored=stored, labour=labour, textures=textures)
        done = assemble_with(
            run, units, self.folder, overwrite=overwrite, kept=kept, progress=progress
        )
        versions = tuple(made.versions for made in self._made.values())
        return Made(done.entries, len(done.resumed), done.fresh_images, versions)

    def kinds(self, entries: Sequence[ShardEntry]) -> Iterator[Kind]:
        """As those say who made them in this run, or the shards."""
        for entry in entries:
            made = self._made.get(entry.name)
            yield from made.negative_kinds() if made else shard_kinds(self.folder / entry.name)

    def publish(self, manifest: Manifest) -> str:
        """See `generator.assembly.publish`."""
        return publish(self.folder, manifest)

    def stored_bytes(self) -> int:
        """See `generator.leftovers.disk_bytes`."""
        return disk_bytes(self.folder)

    @contextmanager
    def _run_here(
        self,
        todo: Sequence[Unit],
        *,
        work: Work,
        stored: Stored,
        jobs: int,
        canvases: MutableMapping[str, Canvas],
        textures: Textures | None,
    ) -> Iterator[Iterator[ShardEntry]]:
        """Makes shards in worker processes of this machine."""
        make = partial(_make, folder=self.folder, work=work)
        has_maps = False
        if work.is_for_gpu and not any(stored.values()):
            units = with_maps(
                todo,
                canvases,
                work.config,
                levels=work.levels,
                weights=work.weights,
                device=work.device,
                max_pixels=work.max_pixels,
                textures=textures,
            )
            has_maps = True
        else:
            units = with_canvases(todo, stored, canvases, work.config, textures=textures)
        workers = max(1, min(jobs, len(todo)))
        # This process has loaded libraries and network already, which takes a worker seconds; with
        # a GPU it is busy enough.
        with in_workers(make, units, workers=workers, take_part=not has_maps) as results:
            yield map(self._note, results)

    @contextmanager
    def _run(
        self,
        todo: Sequence[Unit],
        *,
        work: Work,
        stored: Stored,
        labour: Labour,
        textures: Textures | None,
    ) -> Iterator[Iterator[ShardEntry]]:
        """Makes shards by another backend than the default one."""

        # Of no meaning on another machine otherwise, or of another one.
        with run_folder(Path(os.path.abspath(self.folder))) as run:

            def task_of(unit: Unit) -> ShardTask:
                return ShardTask(
                    unit=_anywhere(unit),
                    work=work,
                    place=RunPlace(run),
                    stored=stored_anywhere(stored[unit.name]),
                    textures=texture_pool(textures, unit, work.config),
                )

            is_large = textures is not None
            with labour.backend.run(
                make_shard, todo, task_of, jobs=labour.jobs, is_large=is_large
            ) as results:
                yield map(self._note, results)

    def _note(self, made: MadeShard) -> ShardEntry:
        """Keeps what is known of a shard. Its entry alone is of use to `assemble_with`."""
        self._made[made.entry.name] = made
        return made.entry


def _make(prepared: PreparedUnit, *, folder: Path, work: Work) -> MadeShard:
    return build_unit(
        prepared.unit,
        folder,
        work.config,
        levels=work.levels,
        weights=work.weights,
        device=work.device,
        max_pixels=work.max_pixels,
        stored=prepared.stored,
        canvases=prepared.canvases,
        textures=prepared.textures,
    )


def _anywhere(unit: Unit) -> Unit:
    images = (replace(image, path=Path(os.path.abspath(image.path))) for image in unit.images)
    return replace(unit, images=tuple(images))


def stored_anywhere(stored: StoredShard | None) -> StoredShard | None:
    """The same shard under a path that does not depend on where a process runs."""
    return stored and replace(stored, path=Path(os.path.abspath(stored.path)))
