"""All negatives of one normal image, drawn by every policy of the build."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from generator.anchors import anchor_rng
from generator.config import POLICY_FIELDS, BuildConfig
from generator.policies import CONFIGS, POLICIES
from generator.policies.base import ImageContext, Policy
from generator.policies.donor import Donor
from generator.regions import Regions
from generator.saliency_views import combined_saliency
from generator.scan import ScannedImage
from manifests.edits import Box, render
from manifests.images import valid_region
from manifests.shard import NegativeRecord, NormalRecord, negative_digest

NO_LEVEL = -1
"""The level of negatives whose policy sees no saliency, or all levels' maps as one."""


def policy_of(name: str, config: BuildConfig) -> Policy:
    """A policy with the options of `config` that it has."""
    chosen = {own: getattr(config, shared) for own, shared in POLICY_FIELDS[name].items()}
    make: Callable[..., Policy] = POLICIES[name]
    return make(CONFIGS[name](**chosen))


def negatives_of_image(
    image: ScannedImage,
    canvas: np.ndarray,
    canvas_box: Box,
    maps: dict[int, np.ndarray],
    config: BuildConfig,
    *,
    policies: Mapping[str, Policy],
    row: int,
    donors: tuple[Donor, ...] = (),
) -> tuple[NormalRecord, list[NegativeRecord]]:
    """Draw and render: level by level first, then what sees no level by itself.

    Args:
        image, canvas, canvas_box: the normal, (H, W, 3) uint8, and the part that shows it.
        maps: level -> (h, w) uint8 saliency; empty where no policy needs any.
        config: the build's options.
        policies: by name, in the build's order.
        row: of the normal in its shard.
        donors: of the shard, sorted by digest; empty where no policy needs any.

    Returns:
        The normal's record and those of its negatives. A draw that found nothing visible leaves
        no record.
    """
    by_level = {name: one for name, one in policies.items() if one.view == "level"}
    at_once = {name: one for name, one in policies.items() if name not in by_level}
    needs_map = any("saliency" in one.needs for one in by_level.values())
    regions = Regions.of_config(config)
    height, width = canvas.shape[:2]
    valid_box, roi = valid_region(canvas_box, config.geometry)
    bare = ImageContext(
        image=canvas,
        digest=image.digest,
        valid_box=valid_box,
        level=NO_LEVEL,
        labels=None,
        n_clusters=0,
        donors=donors,
        roi=roi,
    )
    centres: dict[int, np.ndarray] = {}
    negatives: list[NegativeRecord] = []
    for level, saliency in maps.items():
        labels, found = regions.cut(
            saliency, height, width, valid_box, digest=image.digest, level=level, roi=roi
        )
        centres[level] = found.centroids.astype(np.float32)
        context = replace(bare, level=level, labels=labels, n_clusters=found.count)
        if needs_map:
            full = combined_saliency([saliency], height, width, valid_box, view="level", roi=roi)
            context = replace(context, saliency=full)
        repeats = range(config.repeats)
        negatives += _drawn(context, by_level, repeats, seed=config.seed, row=row)
    contexts = {"none": bare}
    for view in {one.view for one in at_once.values()} - contexts.keys():
        full = combined_saliency(list(maps.values()), height, width, valid_box, view=view, roi=roi)
        contexts[view] = replace(bare, saliency=full)
    repeats = range(config.draws(tuple(maps)))
    for name, policy in at_once.items():
        context = contexts[policy.view]
        negatives += _drawn(context, {name: policy}, repeats, seed=config.seed, row=row)
    normal = NormalRecord(
        image=canvas,
        digest=image.digest,
        source=image.source,
        file_sha256=image.file_sha256,
        canvas_box=canvas_box,
        saliency=maps,
        centres=centres,
    )
    return normal, negatives


def _drawn(
    context: ImageContext,
    policies: Mapping[str, Policy],
    repeats: Sequence[int],
    *,
    seed: int,
    row: int,
) -> list[NegativeRecord]:
    records = []
    for name, policy in policies.items():
        for repeat in repeats:
            rng = anchor_rng(seed, context.digest, name, context.level, repeat)
            drawn = policy.draw(rng, context)
            if drawn is None:
                continue
            pixels, mask = drawn.rendered or render(
                context.image, drawn.edits, context.donor_images
            )
            record = NegativeRecord(
                normal=row,
                policy=name,
                level=context.level,
                repeat=repeat,
                anchors=drawn.anchors,
                edits=drawn.edits,
                fallback=drawn.fallback,
                rejections=drawn.rejections,
                image=pixels,
                mask=mask,
                digest=negative_digest(pixels, mask),
            )
            records.append(record)
    return records
