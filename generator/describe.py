"""Sets and builds put into words for the terminal, and into JSON."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.durations import duration
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
    rows = [
        ("digest", digest),
        ("content", manifest.content_digest),
        ("data set", f"{manifest.category} ({manifest.format}; {manifest.split_rule})"),
        ("licence", manifest.licence or "not stated"),
        ("images", f"{manifest.counts['normals']} good"),
        ("negatives", f"{manifest.counts['negatives']} ({', '.join(recipe['policies'])})"),
        ("levels", ", ".join(map(str, recipe["levels"]))),
        ("network", f"{recipe['network']['name']} {recipe['network']['digest'][:12]}"),
        ("geometry", f"{geometry['height']}x{geometry['width']} {geometry['fit']}"),
        ("recipe", f"seed {recipe['seed']}, {recipe['precision']}, store {recipe['store']}"),
        ("shards", f"{len(manifest.shards)}, {file_bytes / 1e6:.1f} MB"),
        ("made with", ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items()))),
    ]
    lines = [str(folder)] + [f"  {name:<10} {value}" for name, value in rows]
    return lines + fallback_lines(manifest)


def fallback_lines(manifest: Manifest) -> list[str]:
    """Per policy and level: how many negatives left the plain path, and why."""
    lines = []
    for policy, levels in sorted(manifest.fallbacks.items()):
        total: Counter[str] = Counter()
        for reasons in levels.values():
            total.update(reasons)
        made = sum(total.values())
        left = total["lower-cluster"] + total["anywhere"]
        lines.append(f"  {policy}: {made} made, {100 * left / made:.1f} % left the chosen cluster")
        for level, reasons in sorted(levels.items(), key=lambda item: int(item[0])):
            detail = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            lines.append(f"    level {level}: {detail}")
        dropped = manifest.counts.get("dropped", {}).get(policy, 0)
        if dropped:
            lines.append(f"    {dropped} dropped: no two patches of the image differ visibly")
    return lines


def build_json(summary: BuildSummary) -> dict:
    """What a build did, as plain JSON types."""
    return {
        "folder": str(summary.folder),
        "digest": summary.set_digest,
        "is_unchanged": summary.is_unchanged,
        "seconds": round(summary.seconds, 3),
        "fresh_images": summary.fresh_images,
        "disk_bytes": summary.disk_bytes,
        "counts": dict(summary.manifest.counts),
        "fallbacks": summary.manifest.fallbacks,
        "skipped": list(summary.manifest.skipped),
    }
