"""Which model is for which category of data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manifests.categories import Category
from manifests.errors import ModelError


def pair_models(
    folders: Sequence[Path], found: Sequence[Category], models: Path
) -> list[tuple[Path, Category]]:
    """Model folders with the data category of the same name; one of each needs no same name.

    Args:
        folders: of models.
        found: categories of data.
        models: what the user named, for errors.

    Raises:
        ModelError: there is no data for a model.
    """
    named = {category.name: category for category in found}
    if len(folders) == 1 and len(found) == 1:
        return [(folders[0], found[0])]
    pairs = [(folder, named[folder.name]) for folder in folders if folder.name in named]
    missing = [folder.name for folder in folders if folder.name not in named]
    if missing:
        raise ModelError(
            f"no data for model {missing[0]}",
            path=models,
            expected=f"one of {', '.join(sorted(named))}",
            hint="give its data, or choose with --category",
        )
    return pairs
