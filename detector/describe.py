"""Fits and scores put into words for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from detector.calibration import HELD_OUT, OTHERS, TRAINING
from detector.score_record import VERDICTS, image_record
from manifests.durations import duration
from manifests.terminal import printable

if TYPE_CHECKING:
    from detector.model_record import ModelRecord
    from detector.pipeline import FitSummary
    from detector.recalibrate import Recalibrated
    from detector.score_record import RecordedModel
    from detector.scored_image import ScoredImage

_OF_SOURCE = {TRAINING: "", HELD_OUT: " that training left out", OTHERS: " seen after the fit"}


def describe_fit(summary: FitSummary) -> list[str]:
    """What a fit did, and the model digest below it."""
    digest = f"  model digest {summary.model_digest}"
    if summary.is_unchanged:
        return [f"{summary.folder}: already fitted with these options, nothing to do", digest]
    tuned = "untuned extractor"
    if summary.updates:
        last = f"last loss {summary.last_loss:.4f}"
        if summary.last_accuracy is not None:
            last = f"last accuracy {summary.last_accuracy:.3f}"
        tuned = f"{summary.updates} updates in {duration(summary.train_seconds)}, {last}"
    covered = ""
    if summary.covering_radius is not None:
        is_several = summary.blocks is not None and summary.blocks > 1
        blocks = f", chosen in {summary.blocks} blocks" if is_several else ""
        covered = (
            f"; training patches within {summary.covering_radius:.4g} of it, "
            f"{summary.covering_mean:.4g} on average{blocks}"
        )
    kept = _OF_SOURCE[summary.calibrated_on]
    line = (
        f"{summary.folder}: {tuned}; {summary.learned}{covered}; thresholds "
        f"{summary.image_threshold:.4g} (image), {summary.pixel_threshold:.4g} (pixel) from "
        f"{summary.threshold_images} images{kept}; {_false_alarms(summary.false_alarm_interval)}; "
        f"{duration(summary.seconds)}"
    )
    return [line, digest]


def describe_recalibration(done: Recalibrated) -> list[str]:
    """What a recalibration did."""
    seen = f", {done.seen} more were seen in the fit and do not count" if done.seen else ""
    return [
        f"{done.folder}: thresholds from {done.images} good images{seen}",
        f"  before  {done.before.value:.4g} (image), {done.pixel_before.value:.4g} (pixel); "
        f"{done.exceeding} of them exceeded it",
        f"  now     {done.after.value:.4g} (image), {done.pixel_after.value:.4g} (pixel); "
        f"{_false_alarms(done.after.rate_interval())}",
        f"  model digest {done.model_digest}",
    ]


def describe_model(folder: Path, record: ModelRecord, digest: str) -> list[str]:
    """What is in a model, line by line."""
    config, geometry = record.config, record.geometry
    tiled = "" if config.tile is None else f", seen in tiles of {config.tile} px"
    tuned = f"{config.train.updates} updates" if config.train.updates else "untuned"
    together = f" by {record.processes} processes" if record.processes > 1 else ""
    rows = [
        ("digest", digest),
        ("set", record.set_digest),
        ("category", record.category),
        ("licence", record.licence or "not stated"),
        ("pixels", "holds pixels of training images" if record.holds_pixels else "holds none"),
        ("detector", config.detector + _added(record)),
        ("network", f"{config.network}, {tuned}{together}"),
        ("canvas", geometry.in_words + tiled),
        ("thresholds", _thresholds(record)),
        ("files", ", ".join(sorted(record.files))),
    ]
    if record.attribution:
        rows.insert(4, ("attribution", record.attribution))
    return [str(folder), *(f"  {name:<12}{text}" for name, text in rows)]


def model_json(folder: Path, record: ModelRecord, digest: str) -> dict:
    """What is in a model, as plain JSON types."""
    return {
        "folder": str(folder),
        "digest": digest,
        "set_digest": record.set_digest,
        "category": record.category,
        "licence": record.licence,
        "attribution": record.attribution,
        "holds_pixels": record.holds_pixels,
        "config": record.config.to_json(),
        "geometry": record.geometry.to_json(),
        "calibrated_on": record.calibrated_on,
        "image_threshold": record.image_threshold.to_json(),
        "false_alarm_interval": list(record.image_threshold.rate_interval()),
        "pixel_threshold": record.pixel_threshold.to_json(),
        "files": record.files,
        "versions": record.versions,
        "model_version": record.version,
        "added_normals": record.added_normals,
        "score_bounds": record.score_bounds,
        "processes": record.processes,
    }


def _thresholds(record: ModelRecord) -> str:
    image, pixel = record.image_threshold, record.pixel_threshold
    kept = _OF_SOURCE[record.calibrated_on]
    alarms = _false_alarms(image.rate_interval())
    values = f"{image.value:.4g} (image), {pixel.value:.4g} (pixel)"
    bounds = f", {record.score_bounds} of them by upper bounds" if record.score_bounds else ""
    return f"{values} from {image.n} images{kept}{bounds}; {alarms}"


def _added(record: ModelRecord) -> str:
    return f", {record.added_normals} normals added to it" if record.added_normals else ""


def _false_alarms(interval: tuple[float, float]) -> str:
    low, high = (f"{100 * rate:.2g}" for rate in interval)
    return f"{low} to {high} % false alarms (95 %)"


def score_lines(
    rows: Sequence[ScoredImage], output: str, *, model: RecordedModel | None = None
) -> str:
    """Scores and verdicts as "table", "csv" or "json", with a newline at the end.

    Args:
        model: what judged; for "json" alone, which holds regions too.
    """
    if output == "json":
        judge = cast("RecordedModel", model)
        return json.dumps([image_record(row, judge) for row in rows], indent=1) + "\n"
    if output == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "score", "normalised", "p_value", "verdict"])
        for row in rows:
            verdict = VERDICTS[row.is_defect]
            writer.writerow([row.path, row.score, row.normalised, row.p_value, verdict])
        return text.getvalue()
    lines = [f"{'score':>10}  {'/threshold':>10}  {'p':>7}  {'verdict':<7}  image"]
    lines += [
        f"{row.score:>10.4f}  {row.normalised:>10.3f}  {row.p_value:>7.2g}  "
        f"{VERDICTS[row.is_defect]:<7}  {printable(str(row.path))}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
