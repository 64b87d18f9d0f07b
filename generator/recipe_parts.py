"""The recipes that one recipe stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = "parts"
"""Key of a merged recipe that holds those of its parts, where they differ."""


def guiding_view(recipe: Mapping[str, Any]) -> str | None:
    """Map that guided saliency-perlin, as all parts say that have such negatives; None else."""
    tables = [part.get("perlin") for part in parts_of(recipe)]
    views = [table.get("saliency") for table in tables if isinstance(table, Mapping)]
    named = [view for view in views if view is not None]
    is_agreed = bool(named) and all(view == named[0] for view in named)
    return named[0] if is_agreed and isinstance(named[0], str) else None


def parts_of(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The recipes that a set's negatives were made by: its own, or those of its parts."""
    parts = recipe.get(PARTS)
    if isinstance(parts, list) and parts and all(isinstance(part, dict) for part in parts):
        return parts
    return [dict(recipe)]
