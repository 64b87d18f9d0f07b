"""Sets put into words for the terminal, and into JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from generator.recipe_parts import PARTS, guiding_view, parts_of
from manifests.schema import Manifest
from manifests.terminal import counted

_GUIDED = "saliency-perlin"
"""The policy that looks at saliency and starts from no cluster."""
_VIEWS = {
    "level": "each level's by itself",
    "mean": "the mean of all levels",
    "max": "the maximum of all levels",
}
_DONORS = {"set": "other normals of the shard", "procedural": "patterns drawn for each shard"}


def describe_set(folder: Path, manifest: Manifest, digest: str) -> list[str]:
    """What is in a set, line by line."""
    recipe = manifest.recipe
    precision = f"{_said(recipe, 'precision')}, " if _any(recipe, "network") else ""
    rows = [
        ("digest", digest),
        ("content", manifest.content_digest),
        ("data set", f"{manifest.category} ({manifest.format}; {manifest.split_rule})"),
        ("licence", manifest.licence or "not stated"),
        ("images", f"{manifest.counts['normals']} good"),
        ("negatives", f"{manifest.counts['negatives']} ({_said(recipe, 'policies')})"),
        *_saliency_rows(manifest),
        *_donor_rows(manifest),
        ("geometry", _geometry_words(recipe)),
        ("recipe", f"seed {_said(recipe, 'seed')}, {precision}store {_said(recipe, 'store')}"),
        *_origin_rows(manifest),
        ("shards", f"{len(manifest.shards)}, {_file_bytes(manifest) / 1e6:.1f} MB"),
        ("made with", ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items()))),
    ]
    lines = [str(folder)] + [f"  {name:<10} {value}" for name, value in rows]
    return lines + fallback_lines(manifest)


def _geometry_words(recipe: Mapping[str, Any]) -> str:
    """As `Geometry.in_words` has it, which brings numpy with it."""
    geometry = recipe.get("geometry")
    geometry = geometry if isinstance(geometry, Mapping) else {}
    words = "{}x{} {}".format(*(geometry.get(name) for name in ("height", "width", "fit")))
    if "roi" not in geometry:
        return words
    try:
        runs = geometry["roi"]["runs"]
        return f"{words}, {100 * sum(runs[1::2]) / sum(runs):.0f} % inspected"
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return f"{words}, malformed region of interest"


def _saliency_rows(manifest: Manifest) -> list[tuple[str, str]]:
    recipe = manifest.recipe
    if not _any(recipe, "network"):
        return [("saliency", "none: no policy of this set needs any")]
    rows = [
        ("levels", _said(recipe, "levels")),
        ("regions", _distinct_words(recipe, _regions_words)),
        ("network", _distinct_words(recipe, _network_words)),
    ]
    if manifest.saliency == "absent":
        rows.append(("saliency", "absent: negatives were drawn with maps that are not here"))
    return rows


def _donor_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """What was mixed in, where anything was."""
    recipe = manifest.recipe
    if not _any(recipe, "donors"):
        return []
    return [("donors", _distinct_words(recipe, _donor_words))]


def _donor_words(recipe: Mapping[str, Any]) -> str:
    donors = recipe.get("donors")
    if not isinstance(donors, Mapping):
        return "none"
    kind = donors.get("kind")
    if kind != "textures":
        return _DONORS.get(str(kind), str(kind))
    images, digest = donors.get("images"), str(donors.get("digest"))[:12]
    return f"{counted(images, 'texture')} {digest}" if type(images) is int else f"textures {digest}"


def _regions_words(recipe: Mapping[str, Any]) -> str:
    regions, clusters = recipe.get("regions"), recipe.get("clusters")
    if not isinstance(clusters, Mapping):
        return "none"
    if isinstance(regions, Mapping) and regions.get("kind") == "most-salient":
        cut = f"{regions.get('most_salient')} most salient pixels at 256x256"
    else:
        cut = f"k-means, K={clusters.get('k')}"
    return f"{cut}, {clusters.get('choice')}"


def _network_words(recipe: Mapping[str, Any]) -> str:
    network = recipe.get("network")
    if not isinstance(network, Mapping):
        return "none"
    return f"{network.get('name')} {str(network.get('digest'))[:12]}"


def _origin_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """How the set came about, where it was not simply built."""
    made_from = manifest.origin
    command, sets, options = made_from["command"], made_from["sets"], made_from["options"]
    if command == "build" and not options:
        return []
    text = command
    if sets:
        text += " of " + ", ".join(digest[:12] for digest in sets)
    words = _option_words(options)
    if words:
        text += f" ({', '.join(words)})"
    merged = manifest.counts.get("merged")
    found = merged.items() if isinstance(merged, Mapping) else ()
    nouns = {name: name.replace("_", " ").removesuffix("s") for name, _ in found}
    text += "".join(f", {counted(count, nouns[name])}" for name, count in found if count)
    return [("made by", text)]


def _option_words(options: Mapping[str, Any]) -> list[str]:
    """What somebody chose, without what was left as it is or stands in another line."""
    words = []
    for name in sorted(options):
        value = options[name]
        is_left = value is None or value is False or value == []
        if is_left or name in ("shard_images", "store"):
            continue
        if name == "drop_saliency":
            words.append("saliency maps left out")
        elif name == "renumber":
            words.append("later repeats renumbered")
        elif name == "added":
            words.append(f"images added {counted(value, 'time')}")
        elif name == "drifted_images":
            words.append(f"{counted(value, 'image')} with other pixels than recorded")
        else:
            words.append(f"{name} {_plain(value)}")
    return words


def _any(recipe: Mapping[str, Any], key: str) -> bool:
    """Whether the recipe, or that of any part of a merged set, has something for the key."""
    return any(part.get(key) for part in (recipe, *parts_of(recipe)))


def _said(recipe: Mapping[str, Any], key: str) -> str:
    """A recipe's value in words; where the parts of a merged set differ, all of theirs."""
    value = recipe.get(key)
    if value is not None or PARTS not in recipe:
        return _plain(value)
    return _distinct_words(recipe, lambda part: _plain(part.get(key)))


def _distinct_words(recipe: Mapping[str, Any], words_of: Callable[[Mapping], str]) -> str:
    return " | ".join(dict.fromkeys(words_of(part) for part in parts_of(recipe)))


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def fallback_lines(manifest: Manifest) -> list[str]:
    """Per policy and level: how many negatives left the plain path, and why."""
    lines = []
    for policy, levels in sorted(manifest.fallbacks.items()):
        total: Counter[str] = Counter()
        for reasons in levels.values():
            total.update(reasons)
        made = sum(total.values())
        notes = [f", {n} {reason}" for reason, n in sorted(total.items()) if reason != "none"]
        if policy == _GUIDED or set(levels) == {"-1"}:
            where = "anywhere in the image"
            if policy == _GUIDED:  # it starts from no cluster
                where = f"guided by saliency{_view_words(manifest.recipe)}"
            lines.append(f"  {policy}: {made} made, {where}{''.join(notes)}")
            continue
        left = total["lower-cluster"] + total["anywhere"]
        lines.append(f"  {policy}: {made} made, {100 * left / made:.1f} % left the chosen cluster")
        for level, reasons in sorted(levels.items(), key=lambda item: int(item[0])):
            detail = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            lines.append(f"    level {level}: {detail}")
    for policy, dropped in sorted(manifest.counts.get("dropped", {}).items()):
        if dropped:
            lines.append(f"  {policy}: {dropped} dropped, no visible change of the image was found")
    return lines


def _view_words(recipe: Mapping[str, Any]) -> str:
    """Which maps guided forged anomalies; nothing where several sets that differ were merged."""
    view = guiding_view(recipe)
    return f", {_VIEWS[view]}" if view in _VIEWS else ""


def set_json(folder: Path, manifest: Manifest, digest: str) -> dict:
    """A set's manifest as plain JSON types, with where it is, its digest and its size."""
    plain: dict = json.loads(manifest.to_bytes())
    own = {"folder": str(folder), "digest": digest, "bytes": _file_bytes(manifest)}
    return own | plain


def _file_bytes(manifest: Manifest) -> int:
    return sum(entry.file_bytes for entry in manifest.shards)
