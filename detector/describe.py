"""Fits and scores put into words for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manifests.durations import duration

if TYPE_CHECKING:
    from detector.pipeline import FitSummary
    from detector.scoring import ScoredImage

VERDICTS = {True: "defect", False: "good"}


def describe_fit(summary: FitSummary) -> str:
    """What a fit did, in one line."""
    if summary.is_unchanged:
        return f"{summary.folder}: already fitted with these options, nothing to do"
    tuned = "untuned extractor"
    if summary.updates:
        tuned = (
            f"{summary.updates} updates in {duration(summary.train_seconds)}, "
            f"last accuracy {summary.last_accuracy:.3f}"
        )
    return (
        f"{summary.folder}: {tuned}; {summary.learned} from "
        f"{summary.normals} images; thresholds {summary.image_threshold:.4g} (image), "
        f"{summary.pixel_threshold:.4g} (pixel); {duration(summary.seconds)}"
    )


def score_lines(rows: Sequence[ScoredImage], output: str) -> str:
    """Scores and verdicts as "table", "csv" or "json", with a newline at the end."""
    records = [
        {
            "path": str(row.path),
            "score": row.score,
            "normalised": row.normalised,
            "verdict": VERDICTS[row.is_defect],
        }
        for row in rows
    ]
    if output == "json":
        return json.dumps(records, indent=1) + "\n"
    if output == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(
            text, fieldnames=["path", "score", "normalised", "verdict"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()
    lines = [f"{'score':>10}  {'/threshold':>10}  {'verdict':<7}  image"]
    lines += [
        f"{r['score']:>10.4f}  {r['normalised']:>10.3f}  {r['verdict']:<7}  {r['path']}"
        for r in records
    ]
    return "\n".join(lines) + "\n"
