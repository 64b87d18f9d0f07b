"""Whether the shards of a set are the ones its manifest speaks of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from manifests.errors import SetError
from manifests.schema import Manifest
from manifests.shard import Shard
from manifests.terminal import printable


def size_problems(folder: Path, manifest: Manifest) -> Iterator[SetError]:
    """Shards of the manifest that are missing or not of their recorded size."""
    for entry in manifest.shards:
        path = folder / entry.name
        if path.is_symlink() or not path.is_file():
            yield SetError("shard is missing", path=path, hint="fetch or build it again")
            continue
        size = path.stat().st_size
        if size != entry.file_bytes:
            yield SetError(
                "shard is truncated" if size < entry.file_bytes else "shard is too long",
                path=path,
                expected=f"{entry.file_bytes} bytes",
                got=size,
                hint="fetch or build it again",
            )


def entry_problems(shard: Shard, manifest: Manifest, number: int) -> Iterator[SetError]:
    """Where a shard contradicts its entry in the manifest, or the recipe's geometry."""
    entry = manifest.shards[number]
    index = shard.index
    geometry = manifest.recipe.get("geometry")
    sides = geometry if isinstance(geometry, dict) else {}
    for name, expected, got in (
        ("number of normals", entry.normals, shard.n_normals),
        ("number of negatives", entry.negatives, shard.n_negatives),
        ("content digest", entry.content_digest, index.content_digest),
        ("saliency digest", entry.saliency_digest, index.saliency_digest),
        ("environment", entry.environment, index.environment),
        ("image height", sides.get("height"), index.height),
        ("image width", sides.get("width"), index.width),
        ("presence of saliency", manifest.saliency == "stored", bool(index.maps)),
    ):
        if expected != got:
            yield SetError(
                f"{name} is not the one in the manifest",
                path=shard.path,
                # From a stranger's manifest: it may hold what steers a terminal.
                expected=printable(str(expected)[:120]),
                got=printable(str(got)[:120]),
            )
