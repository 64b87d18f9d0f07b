"""One shard rendered from a recipe's rows and the recipient's own images, in any process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from manifests.allocator import keep_freed_memory
from manifests.digest import PrefixDigest, bytes_digest
from manifests.edits import Blend, Edit, decode, render
from manifests.errors import DigestError, ImageError
from manifests.geometry import Geometry
from manifests.images import decode_image, fit_image, read_bytes
from manifests.recipe import RecipeDonor, RecipeNegative, RecipeNormal
from manifests.schema import ShardEntry
from manifests.shard import NegativeRecord, NormalRecord, write_shard
from manifests.shard_records import edited_digest
from manifests.versions import decoder_in_words, decoder_versions


@dataclass(frozen=True)
class ReplayUnit:
    """What one shard is made of.

    Attributes:
        name: file name of the shard.
        digest: of all that decides what it should hold.
        normals, negatives: the recipe's rows.
        paths: file of every normal, and of every normal in `lenders`, by digest of the normal.
        lenders: normals of other shards that are donors here.
        donors: donors that came with the recipe.
    """

    name: str
    digest: str
    normals: tuple[RecipeNormal, ...]
    negatives: tuple[RecipeNegative, ...]
    paths: Mapping[str, Path]
    lenders: tuple[RecipeNormal, ...]
    donors: tuple[RecipeDonor, ...]

    @property
    def n_images(self) -> int:
        """How many normals it holds."""
        return len(self.normals)


@dataclass(frozen=True)
class ReplayConfig:
    """How units are rendered.

    Attributes:
        geometry, store: of the set.
        allow_drift: go on with pixels that are not the recorded ones.
        recorded_versions: library versions of the original set.
        max_pixels: of one source image.
    """

    geometry: Geometry
    store: str
    allow_drift: bool
    recorded_versions: Mapping[str, str]
    max_pixels: int


def replay_unit(unit: ReplayUnit, *, folder: Path, config: ReplayConfig) -> ShardEntry:
    """Renders and writes one shard.

    A shard has the bytes that every other replay gives it. One with drifted pixels also names the
    versions that decoded them.

    Raises:
        ImageError: a file changed since it was found, or has other pixels than the recorded ones
            and drift is not allowed.
        DigestError: a negative is not the recorded one although its images are.
        OutputError: the shard cannot be written.
    """
    import cv2

    keep_freed_memory()
    # The workers are the parallelism; a second layer inside OpenCV only fights over the cores.
    cv2.setNumThreads(1)
    rows = (*unit.normals, *unit.lenders)
    loaded = [load_normal(row, unit.paths[row.digest], config) for row in rows]
    records = [record for record, _ in loaded]
    new_digests = {row.digest: record.digest for row, record in zip(rows, records, strict=True)}
    images = {record.digest: record.image for record in records}
    images |= {donor.digest: donor.image() for donor in unit.donors}
    normals = records[: len(unit.normals)]
    negatives = [
        _rendered(row, *loaded[row.normal], images, new_digests, unit, config)
        for row in unit.negatives
    ]
    is_drifted = any(
        (record.digest, record.canvas_box) != (row.digest, row.canvas_box)
        for row, record in zip(rows, records, strict=True)
    )
    return write_shard(
        folder / unit.name,
        normals,
        negatives,
        donors=images,
        store=config.store,
        unit_digest=unit.digest,
        environment=decoder_versions() if is_drifted else {},
        # Each digest was taken from these very pixels a moment ago.
        check_pixels=False,
    )


def load_normal(
    row: RecipeNormal, path: Path, config: ReplayConfig
) -> tuple[NormalRecord, PrefixDigest]:
    """The normal as it is here, and its image's digest for all that is rendered from it.

    Raises:
        ImageError: the file cannot be used or has changed since it was found, or its pixels are
            others than the recorded ones and drift is not allowed.
    """
    data = read_bytes(path, max_pixels=config.max_pixels)
    decoded = decode_image(data, path=path, max_pixels=config.max_pixels, repeat_grey=False)
    canvas, placement = fit_image(decoded, config.geometry, path=path)
    digest, box = PrefixDigest(canvas), placement.canvas_box
    if (digest.digest, box) != (row.digest, row.canvas_box):
        # The file's digest is taken again only here: equal pixels say the same of it.
        if bytes_digest(data) != row.file_sha256:
            raise ImageError("changed while the set was replayed", path=path, hint="replay again")
        if not config.allow_drift:
            raise _drift(path, config)
    return NormalRecord(canvas, digest.digest, row.source, row.file_sha256, box), digest


def _drift(path: Path, config: ReplayConfig) -> ImageError:
    recorded = decoder_in_words(config.recorded_versions)
    here = decoder_in_words(decoder_versions())
    # Equal versions are built differently, or run on a processor that rounds otherwise.
    is_same = recorded == here
    way = "replay on a machine like that one" if is_same else "install the recorded versions"
    return ImageError(
        "is the recorded file, but decodes and resizes to other pixels here",
        path=path,
        expected=recorded,
        got="the same versions, built or run otherwise" if is_same else here,
        hint=f"{way}, or pass --allow-drift to make a set with a digest of its own",
    )


def _rendered(
    row: RecipeNegative,
    normal: NormalRecord,
    normal_digest: PrefixDigest,
    images: Mapping[str, np.ndarray],
    new_digests: Mapping[str, str],
    unit: ReplayUnit,
    config: ReplayConfig,
) -> NegativeRecord:
    edits = decode(row.edits_json, config.geometry.height, config.geometry.width)
    if any(new_digests.get(donor, donor) != donor for donor in row.donors):
        edits = tuple(_lent(edit, new_digests) for edit in edits)
    image, mask = render(normal.image, edits, images)
    digest = edited_digest(image, mask, normal_digest)
    if digest != row.digest:
        sources = {unit.normals[row.normal].digest, *row.donors}
        if all(new_digests.get(source, source) == source for source in sources):
            raise DigestError(
                f"{unit.name}: {row.policy}, level {row.level}, repeat {row.repeat} of "
                f"{unit.normals[row.normal].source} renders to another image than the recorded one",
                expected=row.digest,
                got=digest,
                hint="the recipe is not what was exported; fetch it again",
            )
    return NegativeRecord(
        normal=row.normal,
        policy=row.policy,
        level=row.level,
        repeat=row.repeat,
        anchors=np.array(row.anchors, dtype=np.int32),
        edits=edits,
        fallback=row.fallback,
        rejections=row.rejections,
        digest=digest,
        image=image,
        mask=mask,
    )


def _lent(edit: Edit, new_digests: Mapping[str, str]) -> Edit:
    """The edit with its donor as it is here."""
    if not isinstance(edit, Blend):
        return edit
    return replace(edit, donor=new_digests.get(edit.donor, edit.donor))
