"""Verdicts as plain JSON types: the record that `score` and `watch` write per image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.threshold import relative_to

if TYPE_CHECKING:
    from detector.model import Model
    from detector.regions import Region
    from detector.scored_image import ScoredImage
    from manifests.errors import CutswapError

VERDICTS = {True: "defect", False: "good"}
NO_VERDICT = "error"


@dataclass(frozen=True)
class RecordedModel:
    """What a record says of the model that judged.

    Attributes:
        digest: the model digest.
        image_threshold, pixel_threshold: on raw scores.
    """

    digest: str
    image_threshold: float
    pixel_threshold: float

    @classmethod
    def of(cls, model: Model, digest: str) -> RecordedModel:
        """Of a model with its digest."""
        return cls(digest, model.image_threshold.value, model.pixel_threshold.value)


def image_record(row: ScoredImage, model: RecordedModel) -> dict[str, Any]:
    """One image's record; `docs/formats.md` says what each field means.

    Raises:
        ValueError: its regions were not looked for.
    """
    regions = row.regions
    if regions is None:
        raise ValueError("no record without regions")
    return {
        **plain_path(row.path),
        "file_sha256": row.file_sha256,
        "height": row.height,
        "width": row.width,
        "score": row.score,
        "normalised": row.normalised,
        "p_value": row.p_value,
        "verdict": VERDICTS[row.is_defect],
        "image_threshold": model.image_threshold,
        "pixel_threshold": model.pixel_threshold,
        "min_area_px": row.min_area_px,
        "flagged_px": regions.flagged_px,
        "largest_region_px": regions.largest_px,
        "regions": [_region(region, model.pixel_threshold) for region in regions.described],
        "regions_left_out": regions.left_out,
        "model": model.digest,
    }


def error_record(path: Path, error: CutswapError, model: RecordedModel) -> dict[str, Any]:
    """The record of an image that could not be judged."""
    fields = error.to_json()
    fields.pop("path")  # the record's own
    return {
        **plain_path(path),
        "verdict": NO_VERDICT,
        "error": {name: _clean(value) for name, value in fields.items()},
        "model": model.digest,
    }


def plain_path(path: Path) -> Mapping[str, str]:
    """A path for JSON: as text, and where it is not UTF-8 also its bytes.

    Most readers of JSON refuse what Python makes of such bytes, and a line that cannot be read is
    a part that nobody looks at.
    """
    text = str(path)
    if (clean := _clean(text)) == text:
        return {"path": text}
    return {"path": str(clean), "path_hex": os.fsencode(text).hex()}


def _clean(text: str | None) -> str | None:
    """Text with each half of a surrogate pair, which stands for a byte, replaced."""
    if text is None:
        return None
    return "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in text)


def _region(region: Region, threshold: float) -> dict[str, Any]:
    return {
        "box": list(region.box),
        "area_px": region.area_px,
        "peak": region.peak,
        "peak_normalised": relative_to(threshold, region.peak),
        "peak_at": list(region.peak_at),
        "centroid": [round(value, 2) for value in region.centroid],
    }
