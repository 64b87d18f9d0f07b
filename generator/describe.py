"""Sets and builds put into words for the terminal, and into JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator.merged_manifest import PARTS, parts_of
from manifests.durations import duration
from manifests.errors import SetError
from manifests.schema import Manifest

if TYPE_CHECKING:
    from generator.merge import MergeSummary
    from generator.pipeline import BuildSummary
    from generator.subset import SubsetSummary

FEW_NORMALS = 32


def describe_build(summary: BuildSummary) -> list[str]:
    """What a build did, line by line."""
    manifest = summary.manifest
    counts = manifest.counts
    if summary.is_unchanged and summary.added_images is not None:
        lines = [f"{summary.folder}: holds all of these images already, nothing to add"]
    elif summary.is_unchanged:
        lines = [f"{summary.folder}: already complete with these options, nothing to do"]
    else:
        rate = summary.fresh_images / max(summary.seconds, 1e-9)
        resumed = ""
        if summary.resumed_shards:
            resumed = f", {summary.resumed_shards} shards taken over from an earlier run"
        lines = [
            f"{summary.folder}: {counts['normals']} images, {counts['negatives']} negatives, "
            f"{summary.disk_bytes / 1e6:.0f} MB in {duration(summary.seconds)} "
            f"({rate:.1f} images/s{resumed})"
        ]
    if summary.added_images:
        n = summary.added_images
        lines.append(f"  {n} image{'s' if n != 1 else ''} added to those that were there")
    if summary.saliency_from is not None:
        lines.append(f"  saliency maps taken from {summary.saliency_from}, no network was run")
    lines += fallback_lines(manifest)
    if manifest.duplicates:
        lines.append(f"  {manifest.duplicates} images left out as duplicates")
    lines += [f"  skipped {row['source']}: {row['reason']}" for row in manifest.skipped]
    if counts["normals"] < FEW_NORMALS:
        lines.append(f"  only {counts['normals']} images: training will repeat them")
    lines.append(f"  set digest {summary.set_digest}")
    return lines


def describe_set(folder: Path, manifest: Manifest, digest: str, file_bytes: int) -> list[str]:
    """What is in a set, line by line."""
    recipe = manifest.recipe
    geometry = recipe.get("geometry")
    geometry = geometry if isinstance(geometry, Mapping) else {}
    precision = f"{_said(recipe, 'precision')}, " if _any(recipe, "network") else ""
    rows = [
        ("digest", digest),
        ("content", manifest.content_digest),
        ("data set", f"{manifest.category} ({manifest.format}; {manifest.split_rule})"),
        ("licence", manifest.licence or "not stated"),
        ("images", f"{manifest.counts['normals']} good"),
        ("negatives", f"{manifest.counts['negatives']} ({_said(recipe, 'policies')})"),
        *_saliency_rows(manifest),
        ("geometry", "{}x{} {}".format(*(geometry.get(k) for k in ("height", "width", "fit")))),
        ("recipe", f"seed {_said(recipe, 'seed')}, {precision}store {_said(recipe, 'store')}"),
        *_origin_rows(manifest),
        ("shards", f"{len(manifest.shards)}, {file_bytes / 1e6:.1f} MB"),
        ("made with", ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items()))),
    ]
    lines = [str(folder)] + [f"  {name:<10} {value}" for name, value in rows]
    return lines + fallback_lines(manifest)


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
    if options:
        text += f" ({', '.join(f'{name} {_plain(options[name])}' for name in sorted(options))})"
    merged = manifest.counts.get("merged")
    found = merged.items() if isinstance(merged, Mapping) else ()
    text += "".join(f", {count} {name.replace('_', ' ')}" for name, count in found if count)
    return [("made by", text)]


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


def describe_merge(summary: MergeSummary) -> list[str]:
    """What a merge did, line by line."""
    manifest = summary.manifest
    if summary.is_unchanged:
        lines = [f"{summary.folder}: already complete, of these sets, nothing to do"]
    else:
        lines = [_made_line(summary, f"of {summary.n_sets} sets")]
    merged = manifest.counts["merged"]
    for name, words in (
        ("duplicate_images", "images in several sets under different names or files"),
        ("duplicate_negatives", "negatives in several sets, kept once"),
        ("renumbered_negatives", "negatives given another repeat"),
    ):
        if merged[name]:
            lines.append(f"  {merged[name]} {words}")
    if manifest.saliency == "absent":
        lines.append("  saliency: absent")
    return [*lines, f"  set digest {summary.set_digest}"]


def merge_json(summary: MergeSummary) -> dict:
    """What a merge did, as plain JSON types."""
    return _made_json(summary) | {"sets": summary.n_sets}


def describe_subset(summary: SubsetSummary) -> list[str]:
    """What a subset did, line by line."""
    if summary.is_unchanged:
        lines = [f"{summary.folder}: already complete, of this selection, nothing to do"]
    else:
        lines = [_made_line(summary, f"of {summary.n_normals} and {summary.n_negatives}")]
    return [*lines, f"  set digest {summary.set_digest}"]


def subset_json(summary: SubsetSummary) -> dict:
    """What a subset did, as plain JSON types."""
    whole = {"normals": summary.n_normals, "negatives": summary.n_negatives}
    return _made_json(summary) | {"of": whole}


def _made_line(summary: MergeSummary | SubsetSummary, of: str) -> str:
    counts = summary.manifest.counts
    resumed = ""
    if summary.resumed_shards:
        resumed = f", {summary.resumed_shards} shards taken over from an earlier run"
    return (
        f"{summary.folder}: {counts['normals']} images, {counts['negatives']} negatives ({of}), "
        f"{summary.disk_bytes / 1e6:.0f} MB in {duration(summary.seconds)}{resumed}"
    )


def _made_json(summary: MergeSummary | SubsetSummary) -> dict:
    return {
        "folder": str(summary.folder),
        "digest": summary.set_digest,
        "is_unchanged": summary.is_unchanged,
        "seconds": round(summary.seconds, 3),
        "disk_bytes": summary.disk_bytes,
        "counts": dict(summary.manifest.counts),
        "saliency": summary.manifest.saliency,
        "origin": summary.manifest.origin,
    }


def fallback_lines(manifest: Manifest) -> list[str]:
    """Per policy and level: how many negatives left the plain path, and why."""
    lines = []
    for policy, levels in sorted(manifest.fallbacks.items()):
        total: Counter[str] = Counter()
        for reasons in levels.values():
            total.update(reasons)
        made = sum(total.values())
        if set(levels) == {"-1"}:
            notes = [f", {n} {reason}" for reason, n in sorted(total.items()) if reason != "none"]
            lines.append(f"  {policy}: {made} made, anywhere in the image{''.join(notes)}")
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


def set_json(folder: Path, manifest: Manifest, digest: str, file_bytes: int) -> dict:
    """A set's manifest as plain JSON types, with where it is, its digest and its size."""
    plain = json.loads(manifest.to_bytes())
    return {"folder": str(folder), "digest": digest, "bytes": file_bytes} | plain


def problem_json(folder: Path, problem: SetError) -> dict:
    """One thing that is wrong with a set, as plain JSON types."""
    return {
        "folder": str(folder),
        "kind": type(problem).__name__,
        "what": problem.what,
        "path": problem.path,
        "expected": None if problem.expected is None else str(problem.expected),
        "got": None if problem.got is None else str(problem.got),
    }


def build_json(summary: BuildSummary) -> dict:
    """What a build did, as plain JSON types."""
    return {
        "folder": str(summary.folder),
        "digest": summary.set_digest,
        "is_unchanged": summary.is_unchanged,
        "seconds": round(summary.seconds, 3),
        "fresh_images": summary.fresh_images,
        "added_images": summary.added_images,
        "disk_bytes": summary.disk_bytes,
        "saliency_from": None if summary.saliency_from is None else str(summary.saliency_from),
        "counts": dict(summary.manifest.counts),
        "fallbacks": summary.manifest.fallbacks,
        "skipped": list(summary.manifest.skipped),
    }
