"""The recipes that one recipe stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = "parts"
"""Key of a merged recipe that holds those of its parts, where they differ."""


def parts_of(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The recipes that a set's negatives were made by: its own, or those of its parts."""
    parts = recipe.get(PARTS)
    if isinstance(parts, list) and parts and all(isinstance(part, dict) for part in parts):
        return parts
    return [dict(recipe)]
