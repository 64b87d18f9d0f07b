"""One unit of work: a fixed list of images becomes one shard, in any process, with equal bytes."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from generator.anchors import anchor_rng
from generator.clusters import cluster_map
from generator.config import BuildConfig
from generator.policies import CONFIGS, POLICIES
from generator.policies.base import ImageContext, Policy
from generator.saliency import saliency_maps, upsample
from generator.scan import ScannedImage
from manifests.allocator import keep_freed_memory
from manifests.digest import array_digest, bytes_digest
from manifests.edits import render
from manifests.errors import ImageError
from manifests.images import decode_image, fit_image, read_bytes
from manifests.schema import ShardEntry, shard_name
from manifests.shard import NegativeRecord, NormalRecord, negative_digest, write_shard
from manifests.weights import Network, load_network


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


def plan_units(images: Sequence[ScannedImage], recipe: dict, shard_images: int) -> list[Unit]:
    """Cuts the sorted images into shards."""
    recipe_bytes = json.dumps(recipe, sort_keys=True).encode()
    units = []
    for start in range(0, len(images), shard_images):
        part = tuple(images[start : start + shard_images])
        hasher = hashlib.sha256(recipe_bytes)
        for image in part:
            hasher.update(bytes.fromhex(image.digest) + bytes.fromhex(image.file_sha256))
            hasher.update(image.source.encode())
        name = shard_name(len(units))
        units.append(Unit(name=name, digest=hasher.hexdigest(), images=part))
    return units


def policy_of(name: str, config: BuildConfig) -> Policy:
    """A policy with the options of `config` that it has."""
    shared = {"cluster": config.cluster, "noop_tolerance": config.noop_tolerance}
    own = {
        "swap": {"area_frac": config.area_frac, "aspect": config.aspect},
        "scar": {
            "width_px": config.scar_width_px,
            "length_px": config.scar_length_px,
            "angle_deg": config.scar_angle_deg,
        },
    }
    return POLICIES[name](CONFIGS[name](**shared, **own[name]))


@functools.lru_cache(maxsize=1)
def cached_network(name: str, weights: str | None, device: str) -> Network:
    """`load_network`, once per process and not once per shard."""
    return load_network(name, weights=weights, device=device)


def build_unit(
    unit: Unit,
    folder: Path,
    config: BuildConfig,
    *,
    weights: str | None,
    device: str,
    max_pixels: int,
) -> ShardEntry:
    """Makes and writes one shard. Raises ImageError where a file changed since it was scanned."""
    import cv2
    import torch

    keep_freed_memory()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    # The workers are the parallelism; a second layer inside OpenCV only fights over the cores.
    cv2.setNumThreads(1)
    try:
        network = cached_network(config.network, weights, device)
        normals: list[NormalRecord] = []
        negatives: list[NegativeRecord] = []
        for start in range(0, len(unit.images), config.batch):
            batch = unit.images[start : start + config.batch]
            made = _negatives_of_batch(
                batch, network, config, device=device, max_pixels=max_pixels, first_row=start
            )
            normals += made[0]
            negatives += made[1]
    finally:
        torch.set_num_threads(threads_before)
    return write_shard(
        folder / unit.name,
        normals,
        negatives,
        store=config.store,
        unit_digest=unit.digest,
        environment=environment_of(device, config.threads),
        # Rendered from these very edits a moment ago; `cutswap-gen verify` compares them again.
        check_pixels=False,
    )


def environment_of(device: str, threads: int) -> dict[str, str]:
    """What decides the bytes of a saliency pass beside the recipe."""
    import torch

    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "threads": str(threads),
    }


def _negatives_of_batch(
    batch: Sequence[ScannedImage],
    network,
    config: BuildConfig,
    *,
    device: str,
    max_pixels: int,
    first_row: int,
) -> tuple[list[NormalRecord], list[NegativeRecord]]:
    canvases, boxes = [], []
    for image in batch:
        canvas, box = _load_again(image, config, max_pixels)
        canvases.append(canvas)
        boxes.append(box)
    levels = config.levels or tuple(network.levels)
    maps = saliency_maps(
        network, np.stack(canvases), levels=levels, precision=config.precision, device=device
    )  # level -> (B, h_l, w_l) uint8
    policies = {name: policy_of(name, config) for name in config.policies}
    normals, negatives = [], []
    for index, (image, canvas, box) in enumerate(zip(batch, canvases, boxes, strict=True)):
        centres: dict[int, np.ndarray] = {}
        for level in levels:
            full = upsample(maps[level][index], *canvas.shape[:2])
            labels, clusters = cluster_map(full, box, config.n_clusters)
            centres[level] = clusters.centroids.astype(np.float32)
            context = ImageContext(
                image=canvas,
                digest=image.digest,
                valid_box=box,
                level=level,
                labels=labels,
                n_clusters=clusters.count,
            )
            for name, policy in policies.items():
                for repeat in range(config.repeats):
                    rng = anchor_rng(config.seed, image.digest, name, level, repeat)
                    drawn = policy.draw(rng, context)
                    if drawn is None:
                        continue
                    pixels, mask = drawn.rendered or render(canvas, drawn.edits, {})
                    negatives.append(
                        NegativeRecord(
                            normal=first_row + index,
                            policy=name,
                            level=level,
                            repeat=repeat,
                            anchors=drawn.anchors,
                            edits=drawn.edits,
                            fallback=drawn.fallback,
                            rejections=drawn.rejections,
                            image=pixels,
                            mask=mask,
                            digest=negative_digest(pixels, mask),
                        )
                    )
        normals.append(
            NormalRecord(
                image=canvas,
                digest=image.digest,
                source=image.source,
                file_sha256=image.file_sha256,
                canvas_box=box,
                saliency={level: maps[level][index] for level in levels},
                centres=centres,
            )
        )
    return normals, negatives


def _load_again(image: ScannedImage, config: BuildConfig, max_pixels: int):
    data = read_bytes(image.path, max_pixels=max_pixels)
    if bytes_digest(data) != image.file_sha256:
        raise ImageError("changed while the set was built", path=image.path, hint="build again")
    decoded = decode_image(data, path=image.path, max_pixels=max_pixels)
    canvas, placement = fit_image(decoded, config.geometry)
    if array_digest(canvas) != image.digest:
        raise ImageError("decodes to other pixels than a moment ago", path=image.path)
    return canvas, placement.canvas_box
