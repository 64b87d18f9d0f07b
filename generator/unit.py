"""One unit of work: a fixed list of images becomes one shard, in any process, with equal bytes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from generator.config import BuildConfig
from generator.donors import shard_donors
from generator.made_shard import MadeShard
from generator.negatives import negatives_of_image, policy_of
from generator.policies.donor import Donor
from generator.scan import Canvas, ScannedImage
from generator.stored_saliency import CarriedMaps, StoredMaps
from generator.thread_count import torch_threads
from manifests.allocator import keep_freed_memory
from manifests.digest import array_digest, bytes_digest
from manifests.errors import ImageError
from manifests.folding import folded_network
from manifests.images import decode_image, fit_image, read_bytes
from manifests.schema import shard_name
from manifests.shard import NegativeRecord, NormalRecord, write_shard
from manifests.weights import Network, load_network

BatchMaps = Callable[[int, np.ndarray], dict[int, np.ndarray]]
"""From a batch's first row and its canvases (B, H, W, 3) to level -> (B, h_l, w_l) uint8."""


@dataclass(frozen=True)
class Unit:
    """What one shard is made of.

    Attributes:
        name: file name of the shard.
        digest: of the recipe and the images, stored in the shard: a later run takes up only
            shards of its own.
    """

    name: str
    digest: str
    images: tuple[ScannedImage, ...]

    @property
    def n_images(self) -> int:
        """How many images it holds."""
        return len(self.images)


def plan_units(images: Sequence[ScannedImage], recipe: dict, shard_images: int) -> list[Unit]:
    """Cuts the sorted images into shards."""
    recipe_bytes = json.dumps(recipe, sort_keys=True).encode()
    units: list[Unit] = []
    for start in range(0, len(images), shard_images):
        part = tuple(images[start : start + shard_images])
        hasher = hashlib.sha256(recipe_bytes)
        for image in part:
            hasher.update(bytes.fromhex(image.digest) + bytes.fromhex(image.file_sha256))
            hasher.update(image.source.encode())
        name = shard_name(len(units))
        units.append(Unit(name=name, digest=hasher.hexdigest(), images=part))
    return units


_own = threading.local()
_loading = threading.Lock()


def cached_network(name: str, weights: str | None, device: str) -> Network:
    """`load_network`, folded, once per thread and not once per shard.

    A saliency pass hangs hooks into the network, so that threads cannot share one.
    """
    key = (name, weights, device)
    if getattr(_own, "key", None) != key:
        _own.key = _own.network = None
        with _loading:  # building one borrows the global random state
            _own.network = folded_network(load_network(name, weights=weights, device=device))
        _own.key = key
    network: Network = _own.network
    return network


def build_unit(
    unit: Unit,
    folder: Path,
    config: BuildConfig,
    *,
    levels: tuple[int, ...],
    weights: str | None,
    device: str,
    max_pixels: int,
    stored: StoredMaps | None = None,
    files: Sequence[bytes] | None = None,
    canvases: Sequence[Canvas] | None = None,
    textures: Sequence[np.ndarray] | None = None,
) -> MadeShard:
    """Makes and writes one shard.

    Args:
        unit, folder, config: what to make, where, how.
        levels: saliency levels; empty where no policy needs saliency.
        weights, device: of the network, which runs only where there are levels and no `stored`.
        max_pixels: of one source image.
        stored: the shard to take the saliency maps from.
        files: what is in the images' files, where they cannot be read from here.
        canvases: the fitted images, where they are at hand; the files are then left alone.
        textures: (H, W, 3) uint8 each, where these are to be the donors.

    Raises:
        ImageError: a file changed since it was scanned.
        SetError: `stored` changed since it was looked at.
        OutputError: the shard cannot be written.
    """
    import cv2

    keep_freed_memory()
    # The workers are the parallelism; a second layer inside OpenCV only fights over the cores.
    cv2.setNumThreads(1)
    maps_of, environment = _saliency_source(unit, config, levels, weights, device, stored)
    policies = {name: policy_of(name, config) for name in config.policies}
    # All of them, as any may be a donor of any other. The shard is written from memory anyway.
    loaded = canvases or [
        load_again(image, config, data=None if files is None else files[row], max_pixels=max_pixels)
        for row, image in enumerate(unit.images)
    ]
    donors: tuple[Donor, ...] = ()
    if config.needs_donors:
        digests = [image.digest for image in unit.images]
        donors = shard_donors(config, digests, loaded, textures=textures)
    normals: list[NormalRecord] = []
    negatives: list[NegativeRecord] = []
    for start in range(0, len(unit.images), config.batch):
        part = slice(start, start + config.batch)
        batch = list(zip(unit.images[part], loaded[part], strict=True))
        maps = maps_of(start, np.stack([canvas for _, (canvas, _) in batch]))
        for index, (image, (canvas, box)) in enumerate(batch):
            own = {level: maps[level][index] for level in levels}
            normal, drawn = negatives_of_image(
                image,
                canvas,
                box,
                own,
                config,
                policies=policies,
                row=start + index,
                donors=donors,
            )
            normals.append(normal)
            negatives += drawn
    entry = write_shard(
        folder / unit.name,
        normals,
        negatives,
        donors={donor.digest: donor.image for donor in donors},
        store=config.store,
        unit_digest=unit.digest,
        environment=environment,
        # Rendered from these very edits a moment ago; `cutswap-gen verify` compares them again.
        check_pixels=False,
    )
    return MadeShard.of(entry, unit.digest, negatives)


def environment_of(device: str, threads: int) -> dict[str, str]:
    """What decides the bytes of a saliency pass beside the recipe."""
    import torch

    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "threads": str(threads),
        "batch_norm": "folded",
    }


def _saliency_source(
    unit: Unit,
    config: BuildConfig,
    levels: tuple[int, ...],
    weights: str | None,
    device: str,
    stored: StoredMaps | None,
) -> tuple[BatchMaps, dict[str, str]]:
    """Where the maps of a batch come from, and what they were made with."""
    if not levels:
        return lambda _start, _canvases: {}, {}
    if stored is not None:
        kept = stored.maps([image.digest for image in unit.images], levels)

        def take(start: int, canvases: np.ndarray) -> dict[int, np.ndarray]:
            return {level: rows[start : start + len(canvases)] for level, rows in kept.items()}

        return take, stored.environment

    def compute(_start: int, canvases: np.ndarray) -> dict[int, np.ndarray]:
        return _computed(canvases, config, levels=levels, weights=weights, device=device)

    return compute, environment_of(device, config.threads)


def _computed(
    canvases: np.ndarray,
    config: BuildConfig,
    *,
    levels: tuple[int, ...],
    weights: str | None,
    device: str,
) -> dict[int, np.ndarray]:
    """Maps of one batch (B, H, W, 3): level -> (B, h_l, w_l) uint8."""
    # Imported here, as torch takes seconds, which a build without a pass need not wait for.
    from generator.saliency import saliency_maps

    network = cached_network(config.network, weights, device)
    with torch_threads(config.threads):
        return saliency_maps(
            network, canvases, levels=levels, precision=config.precision, device=device
        )


def computed_maps(
    canvases: Sequence[Canvas],
    config: BuildConfig,
    *,
    levels: tuple[int, ...],
    weights: str | None,
    device: str,
) -> CarriedMaps:
    """The saliency maps of one unit, as `build_unit` would compute them."""
    parts = []
    for start in range(0, len(canvases), config.batch):
        images = np.stack([canvas for canvas, _ in canvases[start : start + config.batch]])
        parts.append(_computed(images, config, levels=levels, weights=weights, device=device))
    kept = {level: np.concatenate([part[level] for part in parts]) for level in levels}
    return CarriedMaps(kept, environment_of(device, config.threads))


def load_again(
    image: ScannedImage, config: BuildConfig, *, max_pixels: int, data: bytes | None = None
) -> Canvas:
    """The canvas of an image that was scanned.

    Args:
        image, config, max_pixels: what is read, and how.
        data: what is in its file, where that cannot be read from here.

    Raises:
        ImageError: the file changed since then.
    """
    if data is None:
        data = read_bytes(image.path, max_pixels=max_pixels)
    if bytes_digest(data) != image.file_sha256:
        raise ImageError("changed while the set was built", path=image.path, hint="build again")
    decoded = decode_image(data, path=image.path, max_pixels=max_pixels, repeat_grey=False)
    canvas, placement = fit_image(decoded, config.geometry, path=image.path)
    if array_digest(canvas) != image.digest:
        raise ImageError("decodes to other pixels than a moment ago", path=image.path)
    return canvas, placement.canvas_box
