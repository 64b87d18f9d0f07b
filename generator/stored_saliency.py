"""Saliency maps taken from another set's shards instead of from a network.

Only where a network would give the same maps: same weights, same pixels, in the same batches. The
set made from them then has the bytes and the digest of one built from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Protocol

import numpy as np

from generator.scan import ScannedImage
from manifests.errors import ConfigError, SetError
from manifests.negative_set import NegativeSet
from manifests.probe import familiarise
from manifests.schema import Manifest
from manifests.set_folders import find_sets
from manifests.shard import Shard
from manifests.weights import EMBEDDED

# What `load_network` gives for the embedded weights, which are pinned: for them a set can be
# compared with a build without loading torch and the network, which takes as long as making
# hundreds of negatives. Other networks are loaded.
EMBEDDED_DIGEST = "936ad3a2ef28a5b75e23e1bb604d11189ef9f4c5ad68034f1a5b09e1c827725e"
EMBEDDED_LEVELS = (0, 1, 2, 3, 4)

_WAY_OUT = "build without --reuse-saliency"

# Recipe fields that decide a map's bytes, and the option that sets each.
_SHAPING = {
    "precision": "--precision",
    "threads": "--threads",
    "batch": "--batch",
    "shard_images": "--shard-images",
}


class StoredMaps(Protocol):
    """The saliency maps of one shard's images, and what they were made with."""

    @property
    def environment(self) -> dict[str, str]: ...

    def maps(self, digests: Sequence[str], levels: Sequence[int]) -> dict[int, np.ndarray]: ...


@dataclass(frozen=True)
class StoredShard:
    """One shard with saliency maps, small enough to be sent to a worker process.

    Attributes:
        file_sha256: what the set's manifest says of the file; checked when it is opened.
        environment: of the saliency pass that made the maps.
    """

    path: Path
    file_sha256: str
    environment: dict[str, str]

    def maps(self, digests: Sequence[str], levels: Sequence[int]) -> dict[int, np.ndarray]:
        """Level -> (N, h_l, w_l) uint8, the maps of these very normals in this order.

        Raises:
            SetError: the file is missing, holds other normals, or lacks a level.
            DigestError: it is not the file that was recorded.
        """
        with Shard(self.path, expected_sha256=self.file_sha256) as shard:
            if shard.index.normal_digests != list(digests):
                raise SetError("holds other normals than a moment ago", path=self.path)
            return {
                level: np.stack([shard.saliency(row, level) for row in range(len(digests))])
                for level in levels
            }


@dataclass(frozen=True)
class CarriedMaps:
    """What `StoredShard.maps` gives, for a machine that does not see the set's folder.

    Attributes:
        kept: level -> (N, h_l, w_l) uint8, in the order of the shard's images.
        environment: of the saliency pass that made the maps.
    """

    kept: dict[int, np.ndarray]
    environment: dict[str, str]

    def maps(self, digests: Sequence[str], levels: Sequence[int]) -> dict[int, np.ndarray]:
        """The maps of these levels; they were taken for these very normals."""
        return {level: self.kept[level] for level in levels}


@dataclass(frozen=True)
class StoredSaliency:
    """The set that maps are taken from."""

    folder: Path
    set_digest: str
    manifest: Manifest

    @classmethod
    def open(cls, path: str | PathLike[str], category: str) -> StoredSaliency:
        """The set of a category: `path` itself, or the folder of that name in it.

        Raises:
            SetError: there is none, or it is incomplete.
            DigestError: its manifest is not the recorded one.
        """
        path = Path(path)
        folders = find_sets(path)
        if folders != [path]:
            named = {folder.name: folder for folder in folders}
            if category not in named:
                raise SetError(
                    f"no set of category {category} to take saliency from",
                    path=path,
                    expected=", ".join(sorted(named)),
                    hint="correct --reuse-saliency",
                )
            folders = [named[category]]
        with NegativeSet.open(folders[0]) as negative_set:
            return cls(negative_set.path, negative_set.digest, negative_set.manifest)

    @property
    def is_of_embedded_network(self) -> bool:
        """Whether the maps are those of the weights that are installed with cutswap."""
        return self.manifest.recipe.get("network") == {"name": EMBEDDED, "digest": EMBEDDED_DIGEST}

    def check_recipe(self, recipe: dict) -> None:
        """Make sure that a build of `recipe` would compute these maps.

        Raises:
            ConfigError: something that shapes the maps differs.
        """
        old, path = self.manifest.recipe, self.folder
        command = self.manifest.origin["command"]
        if command in ("merge", "subset"):
            raise ConfigError(
                f"--reuse-saliency: this set was made by {command}, and maps depend on the images "
                "that went through the network together",
                path=path,
                hint=f"give a set that was built, or {_WAY_OUT}",
            )
        stored = old.get("network")
        if not isinstance(stored, dict):
            raise ConfigError(
                "--reuse-saliency: this set holds no saliency, none of its policies needs any",
                path=path,
                hint=_WAY_OUT,
            )
        new = recipe["network"]
        if self.manifest.saliency == "absent":
            raise ConfigError(
                "--reuse-saliency: saliency: absent, this set does not hold the maps its negatives "
                "were drawn with",
                path=path,
                hint=f"pass the set it was made from, or {_WAY_OUT}",
            )
        if stored.get("name") != new["name"]:
            self._refuse("network", "--network", new["name"], stored.get("name"))
        if stored.get("digest") != new["digest"]:
            raise ConfigError(
                "--reuse-saliency: this set's saliency is of other weights",
                path=path,
                expected=new["digest"][:12],
                got=str(stored.get("digest"))[:12],
                hint=f"pass the --weights it was built with, or {_WAY_OUT}",
            )
        if old["geometry"] != recipe["geometry"]:
            sides = [
                f"{plain['height']}x{plain['width']} --fit {plain['fit']}"
                + (f" --roi of {len(plain['roi']['runs'])} runs" if "roi" in plain else "")
                for plain in (recipe["geometry"], old["geometry"])
            ]
            self._refuse("geometry", "--image-size", *sides)
        for name, option in _SHAPING.items():
            if old.get(name) != recipe[name]:
                self._refuse(name, option, recipe[name], old.get(name))
        levels = old.get("levels")
        levels = [n for n in levels if type(n) is int] if isinstance(levels, list) else []
        if not set(recipe["levels"]) <= set(levels):
            shown = [",".join(map(str, rows)) for rows in (recipe["levels"], levels)]
            self._refuse("choice of levels", "--levels", *shown)

    def shards_of(self, units: Sequence[Sequence[ScannedImage]]) -> list[StoredShard]:
        """The shard that holds the maps of each unit's images.

        The images must be all those of the set and no others: what shares a batch with an image,
        and how full the last batch is, takes part in the bytes of its map.

        Raises:
            SetError: the set is of other images, or one of its shards is damaged.
        """
        shards, held = [], []
        # What a process of its own refused is named below, and not parsed here.
        refused = familiarise(self.folder, [entry.name for entry in self.manifest.shards])
        for entry in self.manifest.shards:
            path = self.folder / entry.name
            # The file's digest is checked where its maps are read, once and in parallel.
            with Shard(path, refused=refused.get(path)) as shard:
                held.append(shard.index.normal_digests)
            shards.append(StoredShard(path, entry.file_sha256, entry.environment))
        wanted = [[image.digest for image in images] for images in units]
        if held == wanted:
            return shards
        hint = f"{_WAY_OUT}, or give the data it was built from"
        known = {digest for row in held for digest in row}
        scanned = [image for images in units for image in images]
        missing = [image.source for image in scanned if image.digest not in known]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            what = f"holds no saliency of {missing[0]}{more}"
        elif len(known) > len(scanned):
            what = "is of more images, so that its batches are others"
        else:
            what = "holds its images in another order"
        raise SetError(
            f"--reuse-saliency: this set {what}",
            path=self.folder,
            expected=f"{len(scanned)} images",
            got=len(known),
            hint=hint,
        )

    def _refuse(self, what: str, option: str, wanted: object, stored: object) -> None:
        shown = str(stored)[:80]
        raise ConfigError(
            f"--reuse-saliency: this set's saliency is of another {what}",
            path=self.folder,
            expected=wanted,
            got=shown,
            hint=f"pass {option} {shown}, or {_WAY_OUT}",
        )
