"""What a merged set says of itself: what its parts agree on, and the rest side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from generator.recipe_parts import PARTS, parts_of
from generator.set_rows import NegativeRow, row_tally
from manifests.schema import SCHEMA_VERSION, Manifest, ShardEntry, shard_fields, tally
from manifests.versions import library_versions

_SEPARATOR = "; "
_NOT_STATED = "not stated"


def merged_recipe(
    recipes: Sequence[Mapping[str, Any]], *, shard_images: int, store: str
) -> dict[str, Any]:
    """The recipe of a merged set.

    Values that are the same in all stay, `policies` is the union in order, `draws` the most, what
    differs becomes null; where anything differs, `parts` holds the recipes, each once.

    Args:
        recipes: of the parts; one that is merged itself counts as its own parts.
        shard_images, store: how the merged set is written, which is no difference.
    """
    cut = {"shard_images": shard_images, "store": store}
    plain = [{**recipe, **cut} for recipe in recipes]
    for recipe in plain:
        recipe.pop(PARTS, None)
    keys = dict.fromkeys(key for recipe in plain for key in recipe)
    merged = {key: _agreed([recipe.get(key) for recipe in plain]) for key in keys}
    if any("policies" in recipe for recipe in plain):
        merged["policies"] = _united(recipe.get("policies") for recipe in plain)
    draws = [recipe["draws"] for recipe in plain if type(recipe.get("draws")) is int]
    if draws:
        merged["draws"] = max(draws)
    parts = _distinct(part for recipe in recipes for part in parts_of(recipe))
    if len(_distinct({**part, **cut} for part in parts)) > 1:
        merged[PARTS] = parts
    return merged


def merged_manifest(
    manifests: Sequence[Manifest],
    *,
    recipe: dict[str, Any],
    entries: Sequence[ShardEntry],
    rows: Sequence[NegativeRow],
    merged: Mapping[str, int],
    extra_duplicates: int,
    saliency: str,
    made_from: dict[str, Any],
) -> Manifest:
    """The manifest of a merged set.

    Args:
        manifests: of the parts, of one category.
        recipe: as `merged_recipe` gives it.
        entries: the shards.
        rows: all negatives.
        merged: what was found twice, for the counts.
        extra_duplicates: images of which two parts hold different files.
        saliency: "stored", "absent" or "unused".
        made_from: the origin.
    """
    n_normals = sum(entry.normals for entry in entries)
    counts, fallbacks = tally(n_normals, row_tally(rows))
    counts["merged"] = dict(merged)
    files: set[str] = set()
    duplicates = extra_duplicates
    for manifest in manifests:
        # What an earlier part has looked at has been counted there.
        if not files.issuperset(manifest.training_files):
            duplicates += manifest.duplicates
        files.update(manifest.training_files)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        category=manifests[0].category,
        format=joined_texts(one.format for one in manifests),
        recipe=recipe,
        licence=joined_texts((one.licence for one in manifests), empty=_NOT_STATED),
        attribution=joined_texts(one.attribution for one in manifests),
        split_rule=joined_texts(one.split_rule for one in manifests),
        training_files=tuple(sorted(files)),
        duplicates=duplicates,
        skipped=tuple(_distinct(dict(row) for one in manifests for row in one.skipped)),
        counts=counts,
        fallbacks=fallbacks,
        **shard_fields(entries),
        versions=library_versions(),
        saliency=saliency,
        origin=made_from,
    )


def joined_texts(texts: Iterable[str], *, empty: str = "") -> str:
    """Texts one after the other, each once; what one of them contains already is not repeated.

    Args:
        texts: what several sets say.
        empty: what an empty text counts as where others are not.
    """
    given = list(texts)
    if not any(given):
        return ""
    joined: list[str] = []
    for text in given:
        text = text or empty
        if text and f"{_SEPARATOR}{text}{_SEPARATOR}" not in _framed(joined):
            joined.append(text)
    return _SEPARATOR.join(joined)


def _framed(texts: Sequence[str]) -> str:
    return _SEPARATOR + _SEPARATOR.join(texts) + _SEPARATOR


def _agreed(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None


def _united(lists: Iterable[object]) -> list:
    return _distinct(item for row in lists if isinstance(row, list) for item in row)


def _distinct(items: Iterable[Any]) -> list:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
