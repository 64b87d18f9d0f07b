"""One shard as a task for a process that shares nothing with the one that asks for it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from generator.config import BuildConfig
from generator.made_shard import MadeShard
from generator.stored_saliency import StoredMaps
from generator.unit import Unit, build_unit, cached_network
from manifests.errors import CutswapError, WeightsError, WorkerError
from manifests.run_folder import write_through

_NAMED_IMAGES = 3


class Place(Protocol):
    """Where a finished shard goes."""

    def store(self, name: str, make: Callable[[Path], MadeShard]) -> MadeShard:
        """Has `make` write the shard at a path of its choice, and puts it where it belongs."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all shards of a build have in common: with a unit, all that decides its bytes.

    Attributes:
        levels: saliency levels; empty where no policy needs saliency.
        weights: file with the network's weights; None for its own.
        network_digest: of the weights; None where no network is run.
        device: that the network runs on.
        max_pixels: of one source image.
    """

    config: BuildConfig
    levels: tuple[int, ...]
    weights: str | None
    network_digest: str | None
    device: str
    max_pixels: int

    @property
    def is_for_gpu(self) -> bool:
        """Whether a network is run, and not on the CPU."""
        return bool(self.levels) and self.device != "cpu"


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to be made, anywhere.

    Attributes:
        files: what is in the images' files, for a machine that does not see them.
        stored: where the saliency maps come from instead of a network.
        textures: (H, W, 3) uint8 each, the donors, where they are to come from a folder that nobody
            else need see.
    """

    unit: Unit
    work: Work
    place: Place
    files: tuple[bytes, ...] | None = field(default=None, repr=False)
    stored: StoredMaps | None = field(default=None, repr=False)
    textures: tuple[np.ndarray, ...] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return images_in_words(self.unit)


@dataclass(frozen=True)
class RunPlace:
    """A folder that is the same on all machines, by way of the run's own (`manifests.run_folder`).

    Attributes:
        run: the run's folder.
    """

    run: Path

    def store(self, name: str, make: Callable[[Path], MadeShard]) -> MadeShard:
        """See `write_through`."""
        return write_through(self.run, name, make)


def make_shard(task: ShardTask) -> MadeShard:
    """Makes one shard and puts it in its place.

    Raises:
        WorkerError: something failed that is no fault of the data, such as memory.
        WeightsError: this machine's network has other weights than the recipe's.
        Whatever `generator.unit.build_unit` raises; all of it names worker and images.
    """
    with _named(task.unit):
        _check_network(task)
        return task.place.store(task.unit.name, lambda path: _write(task, path))


def worker_name() -> str:
    """Who is at work here: a Dask worker's address, else host and process."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            return str(distributed.get_worker().address)
        except ValueError:  # this is none of its threads
            pass
    return f"{socket.gethostname()}:{os.getpid()}"


def images_in_words(unit: Unit) -> str:
    """The images of a unit, the first ones by name."""
    names = [image.source for image in unit.images]
    more = f" and {len(names) - _NAMED_IMAGES} more" if len(names) > _NAMED_IMAGES else ""
    return f"{unit.name} with {', '.join(names[:_NAMED_IMAGES])}{more}"


def _write(task: ShardTask, path: Path) -> MadeShard:
    work = task.work
    return build_unit(
        task.unit,
        path.parent,
        work.config,
        levels=work.levels,
        weights=work.weights,
        device=work.device,
        max_pixels=work.max_pixels,
        stored=task.stored,
        files=task.files,
        textures=task.textures,
    )


def _check_network(task: ShardTask) -> None:
    """Raises WeightsError where the network of this machine would give other maps."""
    work = task.work
    if task.stored is not None or work.network_digest is None:
        return
    network = cached_network(work.config.network, work.weights, work.device)
    if network.digest != work.network_digest:
        raise WeightsError(
            f"the weights of {network.name} are not the recipe's",
            path=work.weights,
            expected=work.network_digest,
            got=network.digest,
            hint="use the same cutswap and the same weights on all machines",
        )


@contextmanager
def _named(unit: Unit) -> Iterator[None]:
    """Adds to what goes wrong where it did, and with which images."""
    try:
        yield
    except CutswapError as error:
        sources = {str(image.path) for image in unit.images}
        images = "" if error.path in sources else f", making {images_in_words(unit)}"
        error.what = f"{error.what}, on worker {worker_name()}{images}"
        raise
    except Exception as error:
        raise WorkerError(
            f"failed on worker {worker_name()}: {type(error).__name__}: {error}",
            path=images_in_words(unit),
            hint="run again, it goes on where this run stopped",
        ) from error
