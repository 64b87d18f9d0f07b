"""What differs between two sets: recipe, images, edits, pixels; not how they lie on disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from generator.set_rows import SetRows
from manifests.digest import bytes_digest
from manifests.edit_codec import canonical
from manifests.edits import Box
from manifests.schema import Manifest
from manifests.shard import NegativeRecord, Shard

if TYPE_CHECKING:
    from manifests.recipe import RecipeNegative

# How a set is written, not what it holds.
_OF_WRITING = ("shard_images", "store")
_FIELDS = ("category", "format", "licence", "attribution", "split_rule", "duplicates")

_Draw = tuple[str, str, int, int]
"""Digest of the normal, policy, level, repeat."""
_Key = tuple[str, str, int, int, int]
"""A draw, and which of several such."""


@dataclass(frozen=True)
class Image:
    """A normal image of a set, as far as a comparison looks at it."""

    digest: str
    source: str
    file_sha256: str
    canvas_box: Box


@dataclass(frozen=True)
class Negative:
    """A negative of a set, as far as a comparison looks at it.

    Attributes:
        source: path of its image.
        edits: digest of its canonical edits.
        anchors: two boxes.
        digest: of its pixels.
    """

    source: str
    policy: str
    level: int
    repeat: int
    edits: str
    anchors: tuple[Box, ...]
    fallback: int
    rejections: int
    digest: str


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        stores: how the negatives are stored: "pixels", "anchors" or "recipe".
        images, negatives: in its order.
        saliency_digests: from digests of normals to digests of their maps; None for a recipe.
    """

    path: Path
    set_digest: str
    manifest: Manifest
    stores: frozenset[str]
    images: Mapping[str, Image] = field(repr=False)
    negatives: Mapping[_Key, Negative] = field(repr=False)
    saliency_digests: Callable[[list[str]], dict[str, str]] | None = field(repr=False)


@dataclass(frozen=True)
class ValueDifference:
    """A field of the recipe or of the manifest that the two sets fill differently."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ImageDifference:
    """The same pixels from another file, under another path or on another part of the canvas."""

    a: Image
    b: Image


@dataclass(frozen=True)
class NegativeDifference:
    """Negatives of one image, policy, level and repeat that are not the same.

    Attributes:
        what: of "edits", "pixels", "anchors", "fallback", "rejections". Where edits differ, pixels
            are not named: they follow from them.
    """

    a: Negative
    b: Negative
    what: tuple[str, ...]


@dataclass(frozen=True)
class SetDiff:
    """All differences of two sets, in the order of A, then of B.

    Attributes:
        saliency: images whose stored maps or cluster centres differ.
        notes: what is no difference of contents: how the sets are cut, stored and made.
    """

    a: Side
    b: Side
    recipe: tuple[ValueDifference, ...]
    manifest: tuple[ValueDifference, ...]
    images_only_a: tuple[Image, ...]
    images_only_b: tuple[Image, ...]
    images: tuple[ImageDifference, ...]
    negatives_only_a: tuple[Negative, ...]
    negatives_only_b: tuple[Negative, ...]
    negatives: tuple[NegativeDifference, ...]
    saliency: tuple[Image, ...]
    notes: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether both hold the same, however it is cut and stored."""
        return not any(
            (
                self.recipe,
                self.manifest,
                self.images_only_a,
                self.images_only_b,
                self.images,
                self.negatives_only_a,
                self.negatives_only_b,
                self.negatives,
                self.saliency,
            )
        )


def diff_sets(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> SetDiff:
    """Compares two sets, by what they record; whether pixels are as recorded, `verify` says.

    Args:
        a, b: folders of one category's set each, or recipe files.

    Raises:
        SetError: one is no set, incomplete or malformed.
        DigestError: a manifest or a recipe is not the recorded one.

    Source: ours.
    """
    one, other = _opened(a), _opened(b)
    shared_images = [digest for digest in one.images if digest in other.images]
    shared = [key for key in one.negatives if key in other.negatives]
    images = (ImageDifference(one.images[digest], other.images[digest]) for digest in shared_images)
    negatives = (
        _compared(one.negatives[key], other.negatives[key])
        for key in shared
        if one.negatives[key] != other.negatives[key]
    )
    return SetDiff(
        a=one,
        b=other,
        recipe=_recipe_differences(one.manifest.recipe, other.manifest.recipe),
        manifest=_manifest_differences(one.manifest, other.manifest),
        images_only_a=_only(one.images, other.images),
        images_only_b=_only(other.images, one.images),
        images=tuple(pair for pair in images if pair.a != pair.b),
        negatives_only_a=_only(one.negatives, other.negatives),
        negatives_only_b=_only(other.negatives, one.negatives),
        negatives=tuple(pair for pair in negatives if pair.what),
        saliency=_saliency_differences(one, other, shared_images),
        notes=tuple(_notes(one, other)),
    )


def _opened(path: str | os.PathLike[str]) -> Side:
    return _of_recipe(Path(path)) if Path(path).is_file() else _of_folder(Path(path))


def _of_folder(path: Path) -> Side:
    rows = SetRows.open(path)
    images = {
        row.digest: Image(row.digest, row.source, row.file_sha256, row.canvas_box)
        for row in rows.normals
    }
    negatives: dict[_Key, Negative] = {}
    drawn: Counter[_Draw] = Counter()
    for source in rows.shards:
        with Shard(source.path) as shard:
            digests = shard.index.normal_digests
            records = (shard.record(j) for j in range(shard.n_negatives))
            for record in records:
                _add(negatives, drawn, images[digests[record.normal]], record)
    return Side(
        path=rows.folder,
        set_digest=rows.set_digest,
        manifest=rows.manifest,
        stores=frozenset(shard.store for shard in rows.shards),
        images=images,
        negatives=negatives,
        saliency_digests=lambda wanted: rows.saliency_digests(frozenset(wanted)),
    )


def _of_recipe(path: Path) -> Side:
    from manifests.recipe import read_recipe

    recipe = read_recipe(path)
    images = {
        row.digest: Image(row.digest, row.source, row.file_sha256, row.canvas_box)
        for shard in recipe.shards
        for row in shard.normals
    }
    negatives: dict[_Key, Negative] = {}
    drawn: Counter[_Draw] = Counter()
    for shard in recipe.shards:
        for row in shard.negatives:
            _add(negatives, drawn, images[shard.normals[row.normal].digest], row)
    return Side(
        path=path,
        set_digest=recipe.set_digest,
        manifest=recipe.manifest,
        stores=frozenset({"recipe"}),
        images=images,
        negatives=negatives,
        saliency_digests=None,
    )


def _add(
    negatives: dict[_Key, Negative],
    drawn: Counter[_Draw],
    image: Image,
    record: NegativeRecord | RecipeNegative,
) -> None:
    draw = (image.digest, record.policy, record.level, record.repeat)
    number = drawn[draw]
    drawn[draw] += 1
    if isinstance(record, NegativeRecord):
        edits = bytes_digest(canonical(record.edits))
    else:
        edits = record.edits_digest
    negatives[(*draw, number)] = Negative(
        source=image.source,
        policy=record.policy,
        level=record.level,
        repeat=record.repeat,
        edits=edits,
        anchors=tuple(tuple(box) for box in np.asarray(record.anchors).tolist()),
        fallback=record.fallback,
        rejections=record.rejections,
        digest=record.digest,
    )


def _only(own: Mapping, other: Mapping) -> tuple:
    return tuple(value for key, value in own.items() if key not in other)


def _compared(a: Negative, b: Negative) -> NegativeDifference:
    what = ["edits"] if a.edits != b.edits else ["pixels"] if a.digest != b.digest else []
    what += [
        name
        for name in ("anchors", "fallback", "rejections")
        if getattr(a, name) != getattr(b, name)
    ]
    return NegativeDifference(a, b, tuple(what))


def _recipe_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[ValueDifference, ...]:
    keys = [key for key in dict.fromkeys([*a, *b]) if key not in _OF_WRITING]
    return tuple(
        ValueDifference(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)
    )


def _manifest_differences(a: Manifest, b: Manifest) -> tuple[ValueDifference, ...]:
    found = [
        ValueDifference(name, getattr(a, name), getattr(b, name))
        for name in _FIELDS
        if getattr(a, name) != getattr(b, name)
    ]
    files = (set(a.training_files), set(b.training_files))
    if files[0] != files[1]:
        shown = [
            f"{len(own)} files, {len(own - other)} of them not in the other"
            for own, other in (files, files[::-1])
        ]
        found.append(ValueDifference("training_files", *shown))
    if a.skipped != b.skipped:
        found.append(ValueDifference("skipped", list(a.skipped), list(b.skipped)))
    return tuple(found)


def _saliency_differences(a: Side, b: Side, shared: list[str]) -> tuple[Image, ...]:
    if not a.manifest.saliency == b.manifest.saliency == "stored":
        return ()
    if a.manifest.saliency_digest == b.manifest.saliency_digest:
        return ()
    if a.saliency_digests is None or b.saliency_digests is None:
        return ()  # a recipe has no maps to look at; the notes say so
    own, other = a.saliency_digests(shared), b.saliency_digests(shared)
    return tuple(a.images[digest] for digest in shared if own[digest] != other[digest])


def _notes(a: Side, b: Side) -> Iterator[str]:
    if a.stores != b.stores:
        shown = [" and ".join(sorted(side.stores)) for side in (a, b)]
        yield f"stored as {shown[0]} in A, as {shown[1]} in B"
    entries = [[(one.normals, one.negatives) for one in side.manifest.shards] for side in (a, b)]
    if entries[0] != entries[1]:
        yield f"cut into {len(entries[0])} shards in A, {len(entries[1])} in B, of other sizes"
    elif list(a.images) != list(b.images) or list(a.negatives) != list(b.negatives):
        yield "in another order"
    for name, own, other in (
        ("saliency", a.manifest.saliency, b.manifest.saliency),
        ("made by", a.manifest.origin["command"], b.manifest.origin["command"]),
    ):
        if own != other:
            yield f"{name} {own} in A, {other} in B"
    is_unknown = a.saliency_digests is None or b.saliency_digests is None
    if is_unknown and a.manifest.saliency_digest != b.manifest.saliency_digest:
        yield "saliency not compared: a recipe holds none"
    if a.manifest.versions != b.manifest.versions:
        yield "made with other versions of the libraries"
