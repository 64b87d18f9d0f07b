"""The images that a build, and one shard of it, may mix in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from generator.anchors import anchor_rng
from generator.config import BuildConfig
from generator.policies.colour_jitter import has_no_colour
from generator.policies.donor import Donor
from generator.procedural import draw_patterns
from generator.scan import Canvas
from generator.textures import POOL, Textures
from manifests.digest import array_digest
from manifests.errors import ConfigError
from manifests.images import valid_region
from manifests.terminal import counted

_GREY_WEIGHTS = np.array((299, 587, 114), dtype=np.uint32)  # ITU-R BT.601, in thousandths


def shard_donors(
    config: BuildConfig,
    digests: Sequence[str],
    canvases: Sequence[Canvas],
    *,
    textures: Sequence[np.ndarray] | None,
) -> tuple[Donor, ...]:
    """The donors of a shard, sorted by digest, as `config.donors` says.

    "set": its own normals, so that no donor is stored twice and a shard is made of its own images
    alone. "textures" and "procedural": those given, and 16 patterns drawn for this shard; grey
    where all of its normals are grey. Of a region of interest that is no rectangle, donors of the
    set may lend the black around it too.

    Args:
        config: the build's options.
        digests: of the shard's normals; the first one and the seed decide on the patterns.
        canvases: the same normals, and the parts of the canvas that show them.
        textures: (H, W, 3) uint8 each; for "textures" alone.

    Raises:
        ValueError: "textures" without any.

    Source: ours.
    """
    if config.donors == "set":
        rows = zip(digests, canvases, strict=True)
        return _sorted(
            [
                Donor(digest, image, valid_region(box, config.geometry)[0])
                for digest, (image, box) in rows
            ]
        )
    is_grey = all(has_no_colour(image, box) for image, box in canvases)
    if config.donors == "procedural":
        rng = anchor_rng(config.seed, digests[0], "procedural", -1, 0)
        height, width = config.geometry.height, config.geometry.width
        images = draw_patterns(rng, POOL, height, width, is_grey=is_grey)
    elif textures:
        images = [as_grey(image) for image in textures] if is_grey else list(textures)
    else:
        raise ValueError("a build with textures was given none")
    found = {array_digest(image): image for image in images}
    return _sorted(
        [Donor(digest, image, (0, 0, *image.shape[:2])) for digest, image in found.items()]
    )


def warn_of_lonely_images(
    config: BuildConfig, shards: Sequence[int], *, is_added: bool = False
) -> None:
    """Tells where images are to be mixed with others of their shard and it holds no other.

    Args:
        config: the build's options.
        shards: how many images each is to hold.
        is_added: whether they come to a set that is there, whose options are fixed.

    Warns:
        UserWarning: there are such images; mixed with themselves they change little.
    """
    count = list(shards).count(1)
    if not count or not config.needs_donors or config.donors != "set":
        return
    have, whom = ("has", "itself") if count == 1 else ("have", "themselves")
    way = "add several at once" if is_added else "pass --donors procedural or --textures"
    warnings.warn(
        f"{counted(count, 'image')} {have} no other donor than {whom}: {way}", stacklevel=3
    )


def needed_textures(config: BuildConfig, textures: Textures | None) -> Textures | None:
    """The textures where a build mixes them in, else None.

    Raises:
        ConfigError: there are to be some and there are none, or they are on another canvas.
    """
    if not config.needs_donors or config.donors != "textures":
        return None
    if textures is None:
        raise ConfigError("donors are to be textures and there are none", hint="pass --textures")
    wanted = replace(config.geometry, fit=textures.geometry.fit, roi=None)
    if textures.geometry != wanted:
        raise ConfigError(
            "the textures were opened for another canvas",
            expected=wanted.to_json(),
            got=textures.geometry.to_json(),
        )
    return textures


def as_grey(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) uint8 without its colour: `(299 R + 587 G + 114 B + 500) // 1000`.

    Source: ITU-R BT.601, in whole numbers.
    """
    grey = ((image @ _GREY_WEIGHTS + 500) // 1000).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _sorted(donors: list[Donor]) -> tuple[Donor, ...]:
    return tuple(sorted(donors, key=lambda donor: donor.digest))
