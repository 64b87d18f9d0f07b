"""How many negatives of each kind a set has, and how many left the plain path."""

from __future__ import annotations

import re
from collections.abc import Sequence

from manifests.errors import SetError
from manifests.shard_entry import FALLBACKS, is_count, require

# Of the tables in `counts`: policy, level.
_COUNTS_DEPTH = 2
_LEVEL = re.compile(r"-1|0|[1-9][0-9]{0,3}")


def tally(normals: int, rows: Sequence[tuple[str, int, int]]) -> tuple[dict, dict]:
    """The manifest's `counts` and `fallbacks`.

    Args:
        normals: number of normals in the set.
        rows: policy, level and fallback code of every negative.

    Returns:
        counts: `{"normals": n, "negatives": r, "policies": {policy: {level: count}}}`;
        fallbacks: `{policy: {level: {name of FALLBACKS: count}}}` (zeros left out). Levels are
        written as text because JSON knows no other keys.
    """
    policies: dict[str, dict[str, int]] = {}
    fallbacks: dict[str, dict[str, dict[str, int]]] = {}
    for policy, level, fallback in rows:
        by_level = policies.setdefault(policy, {})
        by_level[str(level)] = by_level.get(str(level), 0) + 1
        by_name = fallbacks.setdefault(policy, {}).setdefault(str(level), {})
        by_name[FALLBACKS[fallback]] = by_name.get(FALLBACKS[fallback], 0) + 1
    counts = {"normals": normals, "negatives": len(rows), "policies": policies}
    return counts, fallbacks


def check_tally(counts: object, fallbacks: object) -> None:
    """Refuse a manifest's `counts` and `fallbacks` that no reader could print or add up.

    Whether they are those of the shards is another question.

    Raises:
        SetError: not tables, or something in them that is no count.
    """
    if not isinstance(counts, dict):
        raise SetError("counts is not a table")
    require(_is_counted(counts, _COUNTS_DEPTH + 1), "counts has something that is no count")
    for name, depth in (("policies", 2), ("dropped", 1)):
        table = counts.get(name, {})
        require(_is_table(table, depth), f"counts: {name} is malformed")
    if not isinstance(fallbacks, dict):
        raise SetError("fallbacks is not a table")
    require(_is_table(fallbacks, 3), "fallbacks is malformed")
    for levels in fallbacks.values():
        require(
            all(map(_LEVEL.fullmatch, levels)) and all(map(bool, [levels, *levels.values()])),
            "fallbacks is malformed",
        )
        is_made = all(count > 0 for reasons in levels.values() for count in reasons.values())
        require(is_made, "fallbacks has a zero written out")


def _is_counted(value: object, depth: int) -> bool:
    """Whether a value is a count, or a table of such, at most so deep."""
    if isinstance(value, dict):
        return depth > 0 and all(_is_counted(item, depth - 1) for item in value.values())
    return is_count(value)


def _is_table(value: object, depth: int) -> bool:
    """Whether a value is a count at exactly that depth of tables."""
    if depth == 0:
        return is_count(value)
    return isinstance(value, dict) and all(_is_table(item, depth - 1) for item in value.values())
