"""What a command that made a set has to tell about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manifests.schema import Manifest


@dataclass(frozen=True, kw_only=True)
class SetSummary:
    """A set that is there now, and how it came to be.

    Attributes:
        folder, set_digest, manifest: the set; a URL as it may be shown in place of a folder.
        resumed_shards: shards an earlier, interrupted run had finished.
        is_unchanged: the set was already there, whole, and the one that was wanted.
        seconds: wall time of this run.
        disk_bytes: all files in the folder.
    """

    folder: Path | str
    set_digest: str
    manifest: Manifest
    resumed_shards: int
    is_unchanged: bool
    seconds: float
    disk_bytes: int
