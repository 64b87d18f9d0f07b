"""Sets written shard by shard from records made by hand."""

import numpy as np

from manifests.digest import bytes_digest
from manifests.schema import Manifest, origin, set_digest_of, shard_name, tally, write_manifest
from manifests.shard import write_shard


class SetWriter:
    """A set in a new folder: `add` writes a shard, `finish` adds all of them up in a manifest."""

    def __init__(self, folder):
        folder.mkdir(parents=True)
        self.folder = folder
        self._entries, self._files, self._drawn = [], [], []

    def add(self, normals, negatives, donors, *, store, unit, environment=None):
        """`unit` is any text that tells what this shard was made of."""
        self._entries.append(
            write_shard(
                self.folder / shard_name(len(self._entries)),
                normals,
                negatives,
                donors=donors,
                store=store,
                unit_digest=bytes_digest(unit.encode()),
                environment=environment or {},
            )
        )
        self._files += [row.file_sha256 for row in normals]
        self._drawn += [(row.policy, row.level, row.fallback) for row in negatives]

    def finish(self, **fields):
        """Manifest and set digest; `fields` are those that differ from a plain folder's."""
        counts, fallbacks = tally(len(self._files), self._drawn)
        entries = self._entries
        plain = {
            "schema_version": 1,
            "category": "tiles",
            "format": "folder",
            "licence": "",
            "attribution": "",
            "split_rule": "all images",
            "training_files": tuple(sorted(self._files)),
            "duplicates": 0,
            "skipped": (),
            "counts": counts,
            "fallbacks": fallbacks,
            "shards": tuple(entries),
            "content_digest": set_digest_of(entry.content_digest for entry in entries),
            "saliency_digest": set_digest_of(entry.saliency_digest for entry in entries),
            "versions": {"numpy": np.__version__},
            "saliency": "stored",
            "origin": origin("build"),
        }
        manifest = Manifest(**{**plain, **fields})
        return manifest, write_manifest(self.folder, manifest)
