"""Units on their way to a worker, with what this process already has of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from generator.config import BuildConfig
from generator.scan import Canvas, ScannedImage
from generator.stored_saliency import StoredMaps
from generator.textures import Textures
from generator.unit import Unit, computed_maps, load_again

# Units whose images are read while the GPU works on another.
_AHEAD = 2
_READERS = 8


@dataclass(frozen=True)
class PreparedUnit:
    """A unit, and what need not be done again for it.

    Attributes:
        stored: its saliency maps, where the worker is not to compute them.
        canvases: its fitted images, where they are at hand.
        textures: (H, W, 3) uint8 each, its donors, where they come from a folder.
    """

    unit: Unit
    stored: StoredMaps | None = None
    canvases: tuple[Canvas, ...] | None = field(default=None, repr=False)
    textures: tuple[np.ndarray, ...] | None = field(default=None, repr=False)


def texture_pool(
    textures: Textures | None, unit: Unit, config: BuildConfig
) -> tuple[np.ndarray, ...] | None:
    """The donors of a unit, (H, W, 3) uint8 each; None where they come from no folder."""
    return None if textures is None else textures.pool(config.seed, unit.images[0].digest)


def with_canvases(
    units: Sequence[Unit],
    stored: Mapping[str, StoredMaps | None],
    kept: MutableMapping[str, Canvas],
    config: BuildConfig,
    *,
    textures: Textures | None = None,
) -> Iterator[PreparedUnit]:
    """Adds the canvases that the scan kept, and takes them out there; and donors of a folder.

    Args:
        units: in the order in which they are made.
        stored: saliency maps by the unit's name.
        kept: canvases by digest. Units of which it lacks one read their files again.
        config: the build's options.
        textures: what the units' donors are chosen from; None for donors that need no folder.
    """
    for unit in units:
        popped = [kept.pop(image.digest, None) for image in unit.images]
        found = tuple(canvas for canvas in popped if canvas is not None)
        whole = found if len(found) == len(popped) else None
        yield PreparedUnit(unit, stored[unit.name], whole, texture_pool(textures, unit, config))


def with_maps(
    units: Sequence[Unit],
    kept: MutableMapping[str, Canvas],
    config: BuildConfig,
    *,
    levels: tuple[int, ...],
    weights: str | None,
    device: str,
    max_pixels: int,
    textures: Textures | None = None,
) -> Iterator[PreparedUnit]:
    """Runs the network here, for workers that do the rest: a GPU serves one process best.

    Images are read by threads while the network works on those before; workers cluster, draw and
    write meanwhile. The maps are those that `build_unit` would have computed.

    Args:
        units, kept, textures: as in `with_canvases`.
        config, levels, weights, device, max_pixels: as in `build_unit`.

    Raises:
        ImageError: a file changed since it was scanned.
    """

    def canvas_of(image: ScannedImage) -> Canvas:
        return kept.pop(image.digest, None) or load_again(image, config, max_pixels=max_pixels)

    coming = iter(units)
    waiting: deque[tuple[Unit, list[Future[Canvas]]]] = deque()
    with ThreadPoolExecutor(_READERS) as readers:
        while True:
            for unit in islice(coming, 1 + _AHEAD - len(waiting)):
                waiting.append((unit, [readers.submit(canvas_of, one) for one in unit.images]))
            if not waiting:
                return
            unit, reading = waiting.popleft()
            canvases = tuple(future.result() for future in reading)
            maps = computed_maps(canvases, config, levels=levels, weights=weights, device=device)
            yield PreparedUnit(unit, maps, canvases, texture_pool(textures, unit, config))
