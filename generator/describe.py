"""Sets and builds put into words for the terminal, and into JSON."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.durations import duration
from manifests.errors import SetError
from manifests.schema import Manifest

if TYPE_CHECKING:
    from generator.pipeline import BuildSummary

FEW_NORMALS = 32


def describe_build(summary: BuildSummary) -> list[str]:
    """What a build did, line by line."""
    manifest = summary.manifest
    counts = manifest.counts
    if summary.is_unchanged:
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
    geometry = recipe["geometry"]
    precision = f"{recipe['precision']}, " if recipe["network"] else ""
    rows = [
        ("digest", digest),
        ("content", manifest.content_digest),
        ("data set", f"{manifest.category} ({manifest.format}; {manifest.split_rule})"),
        ("licence", manifest.licence or "not stated"),
        ("images", f"{manifest.counts['normals']} good"),
        ("negatives", f"{manifest.counts['negatives']} ({', '.join(recipe['policies'])})"),
        *_saliency_rows(recipe),
        ("geometry", f"{geometry['height']}x{geometry['width']} {geometry['fit']}"),
        ("recipe", f"seed {recipe['seed']}, {precision}store {recipe['store']}"),
        ("shards", f"{len(manifest.shards)}, {file_bytes / 1e6:.1f} MB"),
        ("made with", ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items()))),
    ]
    lines = [str(folder)] + [f"  {name:<10} {value}" for name, value in rows]
    return lines + fallback_lines(manifest)


def _saliency_rows(recipe: dict) -> list[tuple[str, str]]:
    if not recipe["network"]:
        return [("saliency", "none: no policy of this set needs any")]
    regions, clusters = recipe.get("regions"), recipe["clusters"]
    if regions and regions["kind"] == "most-salient":
        cut = f"{regions['most_salient']} most salient pixels at 256x256"
    else:
        cut = f"k-means, K={clusters['k']}"
    return [
        ("levels", ", ".join(map(str, recipe["levels"]))),
        ("regions", f"{cut}, {clusters['choice']}"),
        ("network", f"{recipe['network']['name']} {recipe['network']['digest'][:12]}"),
    ]


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
        "disk_bytes": summary.disk_bytes,
        "saliency_from": None if summary.saliency_from is None else str(summary.saliency_from),
        "counts": dict(summary.manifest.counts),
        "fallbacks": summary.manifest.fallbacks,
        "skipped": list(summary.manifest.skipped),
    }
