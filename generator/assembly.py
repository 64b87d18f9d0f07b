"""Shards made one by one or in parallel, into one folder, by a run that may be a second try.

What `build`, `replay`, `merge` and `subset` share: they differ in what a shard is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from generator.leftover_shards import IsWanted
from generator.leftovers import check_writable, clear_and_resume, clear_unfinished
from generator.workers import in_workers
from manifests.familiar import remember
from manifests.lock import folder_lock
from manifests.schema import Manifest, ShardEntry, write_manifest

Progress = Callable[[int, int], None]


class Unit(Protocol):
    """One shard to be made.

    Attributes:
        name: file name of the shard.
        digest: of all that decides its bytes, stored in the shard: a later run takes up only
            shards of its own.
        n_images: how much of the whole it is, for progress.
    """

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def n_images(self) -> int: ...


AnyUnit = TypeVar("AnyUnit", bound=Unit)


@dataclass(frozen=True)
class Assembled:
    """All shards of a plan.

    Attributes:
        entries: in the plan's order.
        resumed: names of those that an earlier, interrupted run had finished.
        fresh_images: of the shards made in this run.
    """

    entries: tuple[ShardEntry, ...]
    resumed: frozenset[str]
    fresh_images: int


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes a folder, sees that it can be written, and keeps other runs out of it.

    Raises:
        OutputError: it cannot be written, or another run is writing there.
    """
    check_writable(folder)
    with folder_lock(folder):
        yield


def assemble(
    units: Sequence[AnyUnit],
    make: Callable[[AnyUnit], ShardEntry],
    folder: Path,
    *,
    jobs: int = 1,
    take_part: bool = False,
    overwrite: bool = False,
    kept: frozenset[str] = frozenset(),
    is_wanted: IsWanted[AnyUnit] | None = None,
    check: Callable[[Sequence[AnyUnit]], None] | None = None,
    progress: Progress | None = None,
) -> Assembled:
    """`assemble_with` worker processes of this machine.

    Args:
        units, folder, overwrite, kept, is_wanted, check, progress: as there.
        make: writes one shard into the folder and returns its entry; with several jobs it runs
            in other processes and must survive pickling.
        jobs: worker processes.
        take_part: this process is one of them, which shards that are quickly made profit from.

    Raises:
        SetError, OutputError: as there.
        Whatever `check` and `make` raise; unfinished files are removed.
    """

    def run(todo: Sequence[AnyUnit]) -> AbstractContextManager[Iterator[ShardEntry]]:
        workers = min(jobs, max(len(todo), 1))
        return in_workers(make, todo, workers=workers, take_part=take_part)

    return assemble_with(
        run,
        units,
        folder,
        overwrite=overwrite,
        kept=kept,
        is_wanted=is_wanted,
        check=check,
        progress=progress,
    )


def assemble_with(
    run: Callable[[Sequence[AnyUnit]], AbstractContextManager[Iterator[ShardEntry]]],
    units: Sequence[AnyUnit],
    folder: Path,
    *,
    overwrite: bool = False,
    kept: frozenset[str] = frozenset(),
    is_wanted: IsWanted[AnyUnit] | None = None,
    check: Callable[[Sequence[AnyUnit]], None] | None = None,
    progress: Progress | None = None,
) -> Assembled:
    """Makes every shard of a plan that an earlier run has not left finished. Call it in `writing`.

    Args:
        run: makes shards in the folder, in whatever way, and gives their entries as they come.
        units: in the order of their names.
        folder: where the shards go; a manifest that is there is removed first, unless shards are
            `kept`, so that nobody takes a half-replaced folder for a set.
        overwrite: replace shards of other plans.
        kept: shards of a set that is there and stays whole while new ones are added.
        is_wanted: what a finished shard must be to be taken up, beside of its unit.
        check: called with the units that are to be made, before anything is removed, where a whole
            set is about to be replaced; raises what would otherwise end the run halfway.
        progress: called with images done and images in all.

    Raises:
        SetError: a shard of another plan, or somebody's file named like one, is in the way and
            `overwrite` is not given.
        OutputError: the folder cannot be written.
        Whatever `check` and `run` raise; unfinished files are removed.
    """
    entries = clear_and_resume(
        folder, units, overwrite=overwrite, kept=kept, is_wanted=is_wanted, check=check
    )
    resumed = frozenset(entries)
    todo = [unit for unit in units if unit.name not in entries]
    sizes = {unit.name: unit.n_images for unit in units}
    total, fresh = sum(sizes.values()), sum(unit.n_images for unit in todo)
    count = total - fresh
    if progress is not None and todo:
        progress(count, total)
    try:
        with run(todo) as results:
            for entry in results:
                entries[entry.name] = entry
                # So that a run that takes this one up need not try it in a process of its own.
                remember([folder / entry.name])
                count += sizes[entry.name]
                if progress is not None:
                    progress(count, total)
    except BaseException:
        clear_unfinished(folder)
        raise
    # What a killed run's worker left after this run had looked for it.
    clear_unfinished(folder)
    return Assembled(
        entries=tuple(entries[unit.name] for unit in units), resumed=resumed, fresh_images=fresh
    )


def publish(folder: Path, manifest: Manifest) -> str:
    """Makes the shards of a folder a set, and returns its digest. Call it in `writing`.

    Raises:
        OutputError: the manifest cannot be written.
    """
    set_digest = write_manifest(folder, manifest)
    # Written by this program, or tried in a process of its own when the run began.
    remember([folder / entry.name for entry in manifest.shards])
    return set_digest
