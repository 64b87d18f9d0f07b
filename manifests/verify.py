"""Whether a negative set is whole and unchanged: all problems, not only the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from manifests.digest import bytes_digest
from manifests.errors import DigestError, SetError
from manifests.probe import familiarise
from manifests.schema import (
    MANIFEST_DIGEST_NAME,
    MANIFEST_NAME,
    Manifest,
    read_manifest_bytes,
    read_recorded_digests,
    tally,
)
from manifests.set_checks import entry_problems, size_problems
from manifests.shard import Shard
from manifests.shard_entry import is_shard_name


def verify_set(
    path: Path,
    *,
    quick: bool = False,
    expect: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[SetError]:
    """All problems of one category's set; an empty list means it is as it was made.

    Completeness comes first, then the digests. A damaged set never raises.

    Args:
        path: the set's folder.
        quick: leave out what reads all bytes: file digests, pixels, and rendering every negative
            again. Manifest, sizes, structure, counts and content digests are still checked.
        expect: the set digest it must have, as its maker published it.
        progress: called with the number of shards done and of all shards.

    Source: ours (the order and the typed list follow bagit's validation).
    """
    folder = Path(path)
    if not folder.is_dir():
        return [SetError("there is no such folder", path=folder)]
    problems, manifest = _manifest_problems(folder, expect)
    if manifest is None:
        return problems
    problems += size_problems(folder, manifest)
    named = {entry.name for entry in manifest.shards}
    problems += [
        SetError(
            "is not in the manifest",
            path=extra,
            hint="run the `build --add` that was interrupted again, or move it out of the folder",
        )
        for extra in sorted(folder.glob("shard-*.h5"))
        if extra.name not in named and is_shard_name(extra.name)
    ]
    try:
        refused = familiarise(folder, [entry.name for entry in manifest.shards])
    except SetError as error:  # no process to try them in, so they are not parsed at all
        return [*problems, error]
    summary = _Summary(manifest, folder)
    for number, entry in enumerate(manifest.shards):
        file = folder / entry.name
        if file.is_file() and not file.is_symlink():  # else it has been named as missing
            problems += _shard_problems(
                file, manifest, number, summary, quick=quick, refused=refused.get(file)
            )
        else:
            summary.is_complete = False
        if progress is not None:
            progress(number + 1, len(manifest.shards))
    problems += summary.problems()
    return problems


def _manifest_problems(folder: Path, expect: str | None) -> tuple[list[SetError], Manifest | None]:
    path = folder / MANIFEST_NAME
    problems: list[SetError] = []
    try:
        data = read_manifest_bytes(folder)
    except SetError as error:
        return [error], None
    digest = bytes_digest(data)
    try:
        recorded = read_recorded_digests(folder)
    except SetError as error:
        problems.append(error)
    else:
        if digest not in recorded:
            problems.append(
                DigestError(
                    f"is not the one {MANIFEST_DIGEST_NAME} names",
                    path=path,
                    expected=" or ".join(recorded),
                    got=digest,
                )
            )
    if expect is not None and expect.strip().lower() != digest:
        problems.append(
            DigestError("is another set than expected", path=path, expected=expect, got=digest)
        )
    try:
        manifest = Manifest.from_bytes(data, path=path)
    except SetError as error:
        return [*problems, error], None
    return problems + manifest.inconsistencies(path=path), manifest


def _shard_problems(
    path: Path,
    manifest: Manifest,
    number: int,
    summary: _Summary,
    *,
    quick: bool,
    refused: SetError | None,
) -> Iterator[SetError]:
    entry = manifest.shards[number]
    with Shard(path, refused=refused) as shard:
        try:
            if not quick:
                got = shard.file_sha256()
                if got != entry.file_sha256:
                    yield DigestError(
                        "is not the file that was recorded",
                        path=path,
                        expected=entry.file_sha256,
                        got=got,
                        hint="fetch or build it again",
                    )
            yield from entry_problems(shard, manifest, number)
            summary.add(shard)
            yield from shard.problems(pixels=not quick)
        except SetError as error:
            summary.is_complete = False
            yield error


class _Summary:
    """What the shards say together, to be compared with what the manifest says."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.manifest = manifest
        self.folder = folder
        self.path = folder / MANIFEST_NAME
        self.is_complete = True
        self.normals: dict[str, str] = {}
        self.rows: list[tuple[str, int, int]] = []
        self.found: list[SetError] = []
        self.training_files = frozenset(manifest.training_files)

    def add(self, shard: Shard) -> None:
        index = shard.index
        for digest, source, file_sha256 in zip(
            index.normal_digests, index.sources, index.file_digests, strict=True
        ):
            if digest in self.normals:
                self.found.append(
                    SetError(
                        "normal is there twice",
                        path=shard.path,
                        expected=self.normals[digest],
                        got=source,
                    )
                )
            self.normals[digest] = source
            if file_sha256 not in self.training_files:
                self.found.append(
                    SetError(
                        "normal is not one of the manifest's training files",
                        path=shard.path,
                        got=source,
                    )
                )
        self.rows += zip(index.policies, index.level.tolist(), index.fallback.tolist(), strict=True)

    def problems(self) -> list[SetError]:
        if not self.is_complete:  # counts of a part say nothing about the whole
            return self.found
        counts, fallbacks = tally(len(self.normals), self.rows)
        for name, expected, got in (
            ("counts of policies", counts["policies"], self.manifest.counts.get("policies")),
            ("fallbacks", fallbacks, self.manifest.fallbacks),
        ):
            if expected != got:
                self.found.append(
                    SetError(
                        f"{name} are not those of the shards",
                        path=self.path,
                        expected=str(expected)[:160],
                        got=str(got)[:160],
                    )
                )
        return self.found
