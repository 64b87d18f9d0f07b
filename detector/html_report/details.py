"""Settings and digests of models and sets, and how to read the page; all collapsible."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from detector.calibration import HELD_OUT, OTHERS, TRAINING
from detector.html_report.markup import Markup, element, joined
from detector.html_report.tables import fact_table
from detector.html_report.words import counted_thousands
from detector.model_record import ModelRecord
from manifests.schema import Manifest

MAX_VALUE_CHARS = 300
_MAX_DEPTH = 6
_SOURCES = {
    TRAINING: "good training images, each scored without itself",
    HELD_OUT: "good images that training left out",
    OTHERS: "good images seen after the fit",
}
_READING = (
    ("Image AUROC", "the chance that a defective image scores higher than a good one; 0.5 is "
     "guessing, 1 is perfect"),
    ("AP", "average precision: the area under the precision-recall curve"),
    ("F1-max", "the best balance of precision and recall over all thresholds; chosen knowing the "
     "answers, so an upper bound"),
    ("Pixel AUROC, AP, F1-max", "the same over all pixels of the images with a ground truth"),
    ("Pixel AUROC and AP, mean", "of each image by itself, then the mean over its kind of defect: "
     "every image counts the same"),
    ("AUPRO", "mean part of each defect that is marked, over false-positive rates up to 0.3"),
    ("IoU", "mean overlap of the map cut at one half with the ground truth"),
    ("Mean, total", "the mean of the categories' metrics, the sum of their images"),
    ("Threshold", "comes from good images alone, never from test images; an image whose score is "
     "above it is called defective, unless --min-area asks for more"),
    ("Missed", "a defective image that is not called so"),
    ("False alarm", "a good image that is called defective"),
    ("p", "the share of good images, of those the thresholds come from, that score as high"),
    ("Heat map", "the score of each place over the pixel threshold: dark below 0.5, pale from 1.5 "
     "on, the same for all images"),
)  # fmt: skip


def model_details(record: ModelRecord, digest: str) -> Markup:
    """A model's facts, and under them all of its settings.

    Args:
        record: of the model; its folder's name is not told.
        digest: of the model.
    """
    geometry, image, pixel = record.geometry, record.image_threshold, record.pixel_threshold
    low, high = (f"{100 * rate:.2g}" for rate in image.rate_interval())
    updates = record.config.train.updates
    rows = [
        ("Model digest", _code(digest)),
        ("Set digest", _code(record.set_digest)),
        ("Detector", record.config.detector),
        ("Network", record.config.network),
        ("Training", counted_thousands(updates, "update") if updates else "untuned"),
        ("Canvas", geometry.in_words),
        ("Image threshold", f"{image.value:.6g}"),
        ("Pixel threshold", f"{pixel.value:.6g}"),
        ("Thresholds from", f"{image.n} {_SOURCES[record.calibrated_on]}"),
        ("False alarms to expect", f"{low} to {high} % of good images (95 %), wanted "
         f"{100 * image.target_rate:.3g} %"),
        ("Licence of the images", record.licence or "not stated"),
        ("Attribution", record.attribution or "not stated"),
        ("Network digest", _code(record.network_digest)),
        ("Initial weights", _code(record.initial_digest)),
    ]  # fmt: skip
    settings = flattened(record.config.to_json())
    return joined(
        fact_table(rows),
        _more("All settings", fact_table(settings)),
        _more("Versions", fact_table(flattened(record.versions))),
    )


def set_details(manifest: Manifest, digest: str) -> Markup:
    """A set's facts, and under them its recipe."""
    rows = [
        ("Set digest", _code(digest)),
        ("Content digest", _code(manifest.content_digest)),
        ("Data set", f"{manifest.category} ({manifest.format})"),
        ("Split", manifest.split_rule),
        ("Licence", manifest.licence or "not stated"),
        ("Attribution", manifest.attribution or "not stated"),
        ("Training images", str(len(manifest.training_files))),
        ("Made by", str(manifest.origin["command"])),
    ]
    return joined(
        fact_table(rows),
        _more("Recipe", fact_table(flattened(manifest.recipe))),
        _more("Versions", fact_table(flattened(manifest.versions))),
    )


def reading_help() -> Markup:
    """What the page's words mean."""
    pairs = []
    for name, meaning in _READING:
        pairs += [element("dt", {}, name), element("dd", {}, meaning)]
    return element("dl", {"class": "reading"}, *pairs)


def folded(summary: str, inside: Markup) -> Markup:
    """Something that opens when asked."""
    return element("details", {"class": "fold"}, element("summary", {}, summary), inside)


def flattened(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Nested tables as rows of dotted names and short values.

    Args:
        value: plain JSON types.
        name: what comes before the names.
        depth: of the tables around it; what lies deeper than six is shown as JSON.
    """
    if isinstance(value, dict) and value and depth < _MAX_DEPTH:
        for key, inside in sorted(value.items()):
            yield from flattened(inside, f"{name}.{key}" if name else str(key), depth + 1)
        return
    if isinstance(value, str):
        text = value
    elif isinstance(value, Path):
        text = value.name
    else:
        text = json.dumps(value)
    is_long = len(text) > MAX_VALUE_CHARS
    yield name[:MAX_VALUE_CHARS], text[:MAX_VALUE_CHARS] + ("…" if is_long else "")


def _more(summary: str, inside: Markup) -> Markup:
    return element("details", {"class": "inner"}, element("summary", {}, summary), inside)


def _code(digest: str) -> Markup:
    return element("code", {}, digest)
