"""A set of image files, its images and its recipe, for replays of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from manifests.digest import file_digest
from manifests.negative_set import NegativeSet
from manifests.recipe import write_recipe
from reference.recipe import photo_set, photos

N_IMAGES, PER_SHARD = 7, 3


@dataclasses.dataclass(frozen=True)
class Original:
    """A set, its images and its recipe."""

    folder: Path
    data: Path
    recipe: Path
    manifest: object
    digest: str


def original(root: Path, **options) -> Original:
    """Seven images in three shards; each shard's blends need a normal of another shard."""
    data = root / "data" / "parts"
    sources = photos(data, N_IMAGES, suffix=options.pop("suffix", ".png"))
    folder, recipe = root / "parts", root / "parts.recipe"
    manifest, digest = photo_set(folder, data, sources, per_shard=PER_SHARD, **options)
    with NegativeSet.open(folder) as negative_set:
        write_recipe(recipe, negative_set, with_donors=True)
    return Original(folder, data, recipe, manifest, digest)


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in folder.iterdir()}
