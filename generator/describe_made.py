"""What commands did that made a set, put into words for the terminal, and into JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from generator.describe import fallback_lines
from manifests.durations import duration
from manifests.terminal import counted

if TYPE_CHECKING:
    from generator.merge import MergeSummary
    from generator.pipeline import BuildSummary
    from generator.replay import ReplaySummary
    from generator.set_summary import SetSummary
    from generator.subset import SubsetSummary

FEW_NORMALS = 32


def describe_build(summary: BuildSummary) -> list[str]:
    """What a build did, line by line."""
    manifest = summary.manifest
    if summary.is_unchanged and summary.added_images is not None:
        lines = [f"{summary.folder}: holds all of these images already, nothing to add"]
    elif summary.is_unchanged:
        lines = [f"{summary.folder}: already complete with these options, nothing to do"]
    else:
        lines = [_made_line(summary, fresh_images=summary.fresh_images)]
    if summary.added_images:
        lines.append(f"  {counted(summary.added_images, 'image')} added to those that were there")
    if summary.saliency_from is not None:
        lines.append(f"  saliency maps taken from {summary.saliency_from}, no network was run")
    if summary.textures is not None:
        taken = counted(summary.textures.n_files, "texture")
        lines.append(f"  {taken} of {summary.textures.folder} mixed in")
    lines += fallback_lines(manifest)
    if manifest.duplicates:
        as_what = "a duplicate" if manifest.duplicates == 1 else "duplicates"
        lines.append(f"  {counted(manifest.duplicates, 'image')} left out as {as_what}")
    lines += [f"  skipped {row['source']}: {row['reason']}" for row in manifest.skipped]
    if manifest.counts["normals"] < FEW_NORMALS:
        few = counted(manifest.counts["normals"], "image")
        lines.append(f"  only {few}: training will repeat them")
    lines.append(f"  set digest {summary.set_digest}")
    return lines


def build_json(summary: BuildSummary) -> dict:
    """What a build did, as plain JSON types."""
    return _made_json(summary) | {
        "fresh_images": summary.fresh_images,
        "added_images": summary.added_images,
        "saliency_from": None if summary.saliency_from is None else str(summary.saliency_from),
        "textures": _textures_json(summary),
        "fallbacks": summary.manifest.fallbacks,
        "skipped": list(summary.manifest.skipped),
    }


def _textures_json(summary: BuildSummary) -> dict | None:
    textures = summary.textures
    if textures is None:
        return None
    return {"folder": str(textures.folder), **textures.recipe()}


def describe_replay(summary: ReplaySummary) -> list[str]:
    """What a replay did, line by line."""
    if summary.is_unchanged:
        lines = [f"{summary.folder}: already replayed, nothing to do"]
    else:
        lines = [_made_line(summary, fresh_images=summary.fresh_images)]
    if summary.moved_images:
        lines.append(f"  {counted(summary.moved_images, 'image')} found elsewhere than recorded")
    if summary.drifted_images:
        have = "has" if summary.drifted_images == 1 else "have"
        lines.append(
            f"  {counted(summary.drifted_images, 'image')} {have} other pixels here than recorded: "
            "this is another set, with a content digest of its own"
        )
    else:
        lines.append(f"  content {summary.manifest.content_digest}, as in the original")
    lines += [f"  saliency: {summary.manifest.saliency}", f"  set digest {summary.set_digest}"]
    return lines


def replay_json(summary: ReplaySummary) -> dict:
    """What a replay did, as plain JSON types."""
    return _made_json(summary) | {
        "replay_of": summary.recipe_digest,
        "fresh_images": summary.fresh_images,
        "moved_images": summary.moved_images,
        "drifted_images": summary.drifted_images,
    }


def describe_merge(summary: MergeSummary) -> list[str]:
    """What a merge did, line by line."""
    manifest = summary.manifest
    if summary.is_unchanged:
        lines = [f"{summary.folder}: already complete, of these sets, nothing to do"]
    else:
        lines = [_made_line(summary, of=f"of {counted(summary.n_sets, 'set')}")]
    merged = manifest.counts["merged"]
    for name, words in (
        ("duplicate_images", ("image", "in several sets under different names or files")),
        ("duplicate_negatives", ("negative", "in several sets, kept once")),
        ("renumbered_negatives", ("negative", "given another repeat")),
    ):
        if merged[name]:
            noun, rest = words
            lines.append(f"  {counted(merged[name], noun)} {rest}")
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
        lines = [_made_line(summary, of=f"of {summary.n_normals} and {summary.n_negatives}")]
    return [*lines, f"  set digest {summary.set_digest}"]


def subset_json(summary: SubsetSummary) -> dict:
    """What a subset did, as plain JSON types."""
    whole = {"normals": summary.n_normals, "negatives": summary.n_negatives}
    return _made_json(summary) | {"of": whole}


def _made_line(summary: SetSummary, *, of: str = "", fresh_images: int | None = None) -> str:
    """What is there, how large, and how long it took.

    Args:
        of: what it was made of.
        fresh_images: made in this run, for a rate.
    """
    counts = summary.manifest.counts
    notes = []
    if fresh_images is not None:
        notes.append(f"{fresh_images / max(summary.seconds, 1e-9):.1f} images/s")
    if summary.resumed_shards:
        taken = counted(summary.resumed_shards, "shard")
        notes.append(f"{taken} taken over from an earlier run")
    made = f"{counted(counts['normals'], 'image')}, {counted(counts['negatives'], 'negative')}"
    line = f"{summary.folder}: {made}"
    line += f" ({of})" if of else ""
    line += f", {summary.disk_bytes / 1e6:.0f} MB in {duration(summary.seconds)}"
    return line + (f" ({', '.join(notes)})" if notes else "")


def _made_json(summary: SetSummary) -> dict:
    manifest = summary.manifest
    return {
        "folder": str(summary.folder),
        "digest": summary.set_digest,
        "content_digest": manifest.content_digest,
        "is_unchanged": summary.is_unchanged,
        "seconds": round(summary.seconds, 3),
        "resumed_shards": summary.resumed_shards,
        "disk_bytes": summary.disk_bytes,
        "counts": dict(manifest.counts),
        "saliency": manifest.saliency,
        "origin": manifest.origin,
    }
