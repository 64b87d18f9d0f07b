"""Recipes put into words for the terminal, and into JSON."""

from __future__ import annotations

import json
from pathlib import Path

from manifests.recipe import Recipe, RecipeSummary
from manifests.terminal import counted


def describe_export(path: Path, summary: RecipeSummary) -> list[str]:
    """What was exported, line by line."""
    was_there = "; was there already, nothing to do" if summary.is_unchanged else ""
    return [
        f"{path}: {counted(summary.n_normals, 'image')}, "
        f"{counted(summary.n_negatives, 'negative')}, "
        f"{_sizes(summary.file_bytes, summary.n_normals)}{was_there}",
        f"  set digest {summary.set_digest}",
    ]


def export_json(path: Path, summary: RecipeSummary) -> dict:
    """What was exported, as plain JSON types."""
    return {
        "file": str(path),
        "bytes": summary.file_bytes,
        "text_bytes": summary.text_bytes,
        "images": summary.n_normals,
        "negatives": summary.n_negatives,
        "digest": summary.set_digest,
        "content_digest": summary.content_digest,
        "is_unchanged": summary.is_unchanged,
    }


def describe_recipe(path: Path, recipe: Recipe) -> list[str]:
    """What is in a recipe, line by line."""
    manifest, geometry = recipe.manifest, recipe.geometry
    policies = sorted({row.policy for shard in recipe.shards for row in shard.negatives})
    rows = [
        ("set digest", recipe.set_digest),
        ("content", manifest.content_digest),
        ("data set", f"{manifest.category} ({manifest.format}; {manifest.split_rule})"),
        ("licence", manifest.licence or "not stated"),
        ("images", f"{recipe.n_normals} good, not in the recipe"),
        ("negatives", f"{recipe.n_negatives} ({', '.join(policies)})"),
        ("donors", f"{_travelling(len(recipe.donors))} with the recipe" if recipe.donors else ""),
        ("geometry", geometry.in_words),
        ("recipe", _sizes(path.stat().st_size, recipe.n_normals)),
        ("made with", ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items()))),
    ]
    return [str(path)] + [f"  {name:<10} {value}" for name, value in rows if value]


def recipe_json(path: Path, recipe: Recipe) -> dict:
    """A recipe's manifest as plain JSON types, with where it is, its digest and its size."""
    plain: dict = json.loads(recipe.manifest.to_bytes())
    own = {"file": str(path), "digest": recipe.set_digest, "bytes": path.stat().st_size}
    return own | {"donors": sorted(recipe.donors)} | plain


def _travelling(n: int) -> str:
    return f"{counted(n, 'image')} {'travels' if n == 1 else 'travel'}"


def _sizes(file_bytes: int, n_normals: int) -> str:
    return f"{file_bytes / 1024:.1f} KB, {file_bytes / 1024 / max(n_normals, 1):.2f} KB per image"
