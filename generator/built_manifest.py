"""The manifest of a set that `build` has made."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from generator.merged_manifest import joined_texts
from generator.output import Made, Output
from generator.scan import Scan
from manifests.datasets import Category
from manifests.schema import SCHEMA_VERSION, Manifest, ShardEntry, origin, shard_fields, tally
from manifests.versions import library_versions


def built_manifest(
    category: Category,
    recipe: dict,
    scan: Scan,
    entries: Sequence[ShardEntry],
    output: Output,
    made: Made,
) -> Manifest:
    """What a finished build says about itself.

    Args:
        category, recipe, scan: what it was made of.
        entries: of all shards of the set.
        output: where they lie; knows what negatives they hold.
        made: the shards of this run, whose workers may have had other libraries.

    Warns:
        UserWarning: they had.
    """
    n_normals = sum(entry.normals for entry in entries)
    counts, fallbacks = tally(n_normals, list(output.kinds(entries)))
    wanted = n_normals * recipe["draws"]
    counts["dropped"] = {
        policy: wanted - sum(counts["policies"].get(policy, {}).values())
        for policy in recipe["policies"]
    }
    return Manifest(
        schema_version=SCHEMA_VERSION,
        category=category.name,
        format=category.format,
        recipe=recipe,
        licence=category.licence,
        attribution=category.attribution,
        split_rule=category.split_rule,
        training_files=scan.file_digests,
        duplicates=len(scan.duplicates),
        skipped=tuple(
            # The path of this machine is not part of a set: only the reason is kept.
            {"source": source, "reason": error.what}
            for source, error in zip(scan.skipped_sources, scan.skipped, strict=True)
        ),
        counts=counts,
        fallbacks=fallbacks,
        **shard_fields(entries),
        versions=_versions(made),
        saliency="stored" if recipe["levels"] else "unused",
        origin=origin("build"),
    )


def _versions(made: Made) -> dict[str, str]:
    """Of the libraries here, and of those of workers that have others."""
    own = library_versions()
    joined = {
        name: joined_texts([version, *(row.get(name, "") for row in made.versions)])
        for name, version in own.items()
    }
    others = sorted(name for name in own if joined[name] != own[name])
    if others:
        warnings.warn(
            f"workers have other versions of {', '.join(others)}: elsewhere this set may not come "
            "out with the same bytes",
            stacklevel=2,
        )
    return joined
