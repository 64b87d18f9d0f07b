"""A comparison of two sets put into words for the terminal, and into JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from generator.set_diff import Negative, NegativeDifference, SetDiff, Side, ValueDifference

LISTED = 5
_MAX_VALUE = 70


def describe_diff(diff: SetDiff) -> list[str]:
    """What differs, line by line: counts, and the first few of each kind."""
    lines = [f"A {_side(diff.a)}", f"B {_side(diff.b)}"]
    if diff.is_equal:
        lines.append("same contents" if diff.notes else "no difference")
    lines += _values("recipe", diff.recipe)
    lines += _values("manifest", diff.manifest)
    for what, images in (
        ("only in A", diff.images_only_a),
        ("only in B", diff.images_only_b),
        ("with other saliency", diff.saliency),
    ):
        lines += _listed("image", what, [image.source for image in images])
    paths = [dict.fromkeys((pair.a.source, pair.b.source)) for pair in diff.images]
    lines += _listed("image", "of another file, path or place", [" | ".join(row) for row in paths])
    for what, negatives in (
        ("only in A", diff.negatives_only_a),
        ("only in B", diff.negatives_only_b),
    ):
        lines += _listed("negative", what, [_draw(negative) for negative in negatives])
    by_what: dict[str, list[NegativeDifference]] = {}
    for pair in diff.negatives:
        by_what.setdefault(pair.what[0], []).append(pair)
    for what, pairs in by_what.items():
        how = "of the same edits with other pixels" if what == "pixels" else f"with other {what}"
        lines += _listed("negative", how, [_draw(pair.a) for pair in pairs])
    return lines + [f"note: {note}" for note in diff.notes]


def diff_json(diff: SetDiff) -> dict[str, Any]:
    """All that differs, as plain JSON types."""
    plain = {
        "a": _side_json(diff.a),
        "b": _side_json(diff.b),
        "is_equal": diff.is_equal,
        "counts": {
            "images_only_a": len(diff.images_only_a),
            "images_only_b": len(diff.images_only_b),
            "images": len(diff.images),
            "saliency": len(diff.saliency),
            "negatives_only_a": len(diff.negatives_only_a),
            "negatives_only_b": len(diff.negatives_only_b),
            "negatives": dict(Counter(what for pair in diff.negatives for what in pair.what)),
        },
        "recipe": [asdict(one) for one in diff.recipe],
        "manifest": [asdict(one) for one in diff.manifest],
        "images_only_a": [asdict(one) for one in diff.images_only_a],
        "images_only_b": [asdict(one) for one in diff.images_only_b],
        "images": [asdict(pair) for pair in diff.images],
        "saliency": [image.source for image in diff.saliency],
        "negatives_only_a": [asdict(one) for one in diff.negatives_only_a],
        "negatives_only_b": [asdict(one) for one in diff.negatives_only_b],
        "negatives": [asdict(pair) for pair in diff.negatives],
        "notes": list(diff.notes),
    }
    copied: dict[str, Any] = json.loads(json.dumps(plain))
    return copied


def _side(side: Side) -> str:
    return (
        f"{side.path}: {len(side.images)} images, {len(side.negatives)} negatives, "
        f"digest {side.set_digest[:12]}"
    )


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "path": str(side.path),
        "digest": side.set_digest,
        "content_digest": side.manifest.content_digest,
        "images": len(side.images),
        "negatives": len(side.negatives),
        "stores": sorted(side.stores),
    }


def _values(name: str, differences: Sequence[ValueDifference]) -> list[str]:
    if not differences:
        return []
    rows = [f"  {one.name}: {_short(one.a)} | {_short(one.b)}" for one in differences]
    count = f"{len(rows)} field differs" if len(rows) == 1 else f"{len(rows)} fields differ"
    return [f"{name}: {count}", *rows]


def _listed(noun: str, what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = [f"  ... and {len(names) - LISTED} more"] if len(names) > LISTED else []
    counted = f"{len(names)} {noun}{'s' if len(names) != 1 else ''} {what}"
    return [counted, *(f"  {name}" for name in names[:LISTED]), *more]


def _draw(negative: Negative) -> str:
    level = "" if negative.level < 0 else f", level {negative.level}"
    return f"{negative.source}: {negative.policy}{level}, repeat {negative.repeat}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."
