"""What `build --add` appends to the set that is there, and what its manifest says afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from generator.leftovers import check_recipe
from generator.merged_manifest import joined_texts
from generator.scan import Scan, ScannedImage
from manifests.errors import SetError
from manifests.negative_set import NegativeSet
from manifests.probe import familiarise
from manifests.schema import Manifest, ShardEntry, origin, shard_name
from manifests.set_checks import entry_problems
from manifests.shard import Shard

ADDED = "added"
"""Key of the origin's options: how often images were appended."""


@dataclass(frozen=True)
class Addition:
    """New images for a set.

    Attributes:
        manifest, set_digest: of the set that is there.
        images: those that it does not hold, sorted by digest.
        files: SHA-256 of the training files that it does not name; files whose pixels it holds
            already are among them, so that an evaluation leaves them out too.
    """

    manifest: Manifest
    set_digest: str
    images: tuple[ScannedImage, ...]
    files: frozenset[str]

    @classmethod
    def find(cls, folder: Path, recipe: dict, scan: Scan) -> Addition:
        """Compares a scan with the set in a folder.

        Raises:
            SetError: the set is of other options, was not made by `build`, or is damaged.
        """
        with NegativeSet.open(folder) as negative_set:
            manifest, set_digest = negative_set.manifest, negative_set.digest
            names = [entry.name for entry in manifest.shards]
            refused = next(iter(familiarise(negative_set.path, names).values()), None)
        if refused is not None:  # nothing that a process of its own refused is parsed here
            raise refused
        command = manifest.origin["command"]
        if command != "build":
            raise SetError(
                f"--add: this set was made by {command}, not by build",
                path=folder,
                hint="build the new images into another --out, then merge the two",
            )
        check_recipe(folder, manifest, recipe, hint=_way_out(manifest.recipe, recipe))
        held: set[str] = set()
        for number, entry in enumerate(manifest.shards):
            with Shard(folder / entry.name) as shard:
                problem = next(entry_problems(shard, manifest, number), None)
                if problem is not None:
                    raise problem
                held.update(shard.index.normal_digests)
        return cls(
            manifest=manifest,
            set_digest=set_digest,
            images=tuple(image for image in scan.images if image.digest not in held),
            files=frozenset(scan.file_digests) - frozenset(manifest.training_files),
        )

    @property
    def is_empty(self) -> bool:
        """Whether the set holds all of it."""
        return not self.images and not self.files

    @property
    def kept(self) -> frozenset[str]:
        """File names of the shards that stay as they are."""
        return frozenset(entry.name for entry in self.manifest.shards)

    def shard_name(self, number: int) -> str:
        """File name of the new shard number `number`, from 0."""
        return shard_name(len(self.manifest.shards) + number)

    def entries(self, made: Sequence[ShardEntry]) -> tuple[ShardEntry, ...]:
        """All shards, those that were made last."""
        return (*self.manifest.shards, *made)

    def united(self, built: Manifest) -> Manifest:
        """The manifest of the larger set.

        Args:
            built: as a build of `entries` gives it, all else from the scan of the new images.
        """
        old = self.manifest
        own = {image.file_sha256 for image in self.images}
        known = [dict(row) for row in old.skipped]
        added = old.origin["options"].get(ADDED)
        times = added if type(added) is int else 0
        return replace(
            built,
            training_files=tuple(sorted(self.files.union(old.training_files))),
            duplicates=old.duplicates + len(self.files - own),
            skipped=(*known, *(row for row in built.skipped if row not in known)),
            # Of both runs: the shards of the first are as its libraries made them.
            versions={
                name: joined_texts([old.versions.get(name, ""), version])
                for name, version in built.versions.items()
            },
            origin=origin("build", options={ADDED: times + 1}),
        )


def _way_out(old: dict, new: dict) -> str:
    """What to do where the recipes differ: `--overwrite`, which replaces, excludes `--add`."""
    what = "the options that it was built with"
    donors = [recipe.get("donors") for recipe in (old, new)]
    are_textures = all(isinstance(one, dict) and one.get("kind") == "textures" for one in donors)
    if are_textures and {**old, "donors": None} == {**new, "donors": None}:
        what = "the textures folder as it was"
    return f"give {what}, or build into another --out and merge"
