"""The record of an image: as docs/formats.md says, and by hand."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from conftest import REPO

from detector.regions import find_regions
from detector.score_record import RecordedModel, error_record, image_record
from detector.scored_image import ScoredImage
from manifests.errors import ImageError
from reference.regions import regions_of

FORMATS = (REPO / "docs" / "formats.md").read_text(encoding="utf-8")
MODEL = RecordedModel("ab" * 32, image_threshold=2.0, pixel_threshold=0.5)


def a_map():
    import numpy as np

    map = np.zeros((6, 9), np.float32)
    map[1, 2:5] = 1.0, 1.5, 1.0
    map[4:6, 7] = 0.75
    return map


def a_record(path: Path = Path("in/part.png"), map=None) -> dict:
    row = ScoredImage(
        path=path,
        score=3.0,
        normalised=1.5,
        p_value=0.01,
        is_defect=True,
        height=6,
        width=9,
        file_sha256="cd" * 32,
        min_area_px=2,
        regions=find_regions(a_map() if map is None else map, 0.5),
    )
    return image_record(row, MODEL)


def test_a_record_by_hand():
    assert a_record() == {
        "path": "in/part.png",
        "file_sha256": "cd" * 32,
        "height": 6,
        "width": 9,
        "score": 3.0,
        "normalised": 1.5,
        "p_value": 0.01,
        "verdict": "defect",
        "image_threshold": 2.0,
        "pixel_threshold": 0.5,
        "min_area_px": 2,
        "flagged_px": 5,
        "largest_region_px": 3,
        "regions": [
            {"box": [1, 2, 1, 3], "area_px": 3, "peak": 1.5, "peak_normalised": 3.0,
             "peak_at": [1, 3], "centroid": [1.0, 3.0]},
            {"box": [4, 7, 2, 1], "area_px": 2, "peak": 0.75, "peak_normalised": 1.5,
             "peak_at": [4, 7], "centroid": [4.5, 7.0]},
        ],
        "regions_left_out": 0,
        "model": "ab" * 32,
    }  # fmt: skip


def documented(heading: str, end: str) -> list[str]:
    """The fields of the table between two texts of docs/formats.md."""
    text = FORMATS.split(heading)[1].split(end)[0]
    return [name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
            for name in re.findall(r"`(\w+)`", row)]  # fmt: skip


def test_the_documented_fields_are_those_written():
    record = a_record(Path(os.fsdecode(b"in/\xff.png")))
    failed = error_record(Path("a.png"), ImageError("not an image", path="a.png"), MODEL)
    written = {"time", *record, *failed}  # `time` is watch's, and tested there
    fields = documented("## A verdict", "**Regions.**")
    assert len(fields) == len(set(fields)) and set(fields) == written
    assert documented("**Regions.**", "## Compat") == list(record["regions"][0])
    assert failed.keys() == {"path", "verdict", "error", "model"}
    assert failed["error"].keys() == {"kind", "what", "expected", "got"}
    assert failed["verdict"] == "error"


@pytest.mark.parametrize(
    ("name", "text"),
    [(b"\xff\xfe.png", "\ufffd\ufffd.png"), ("ü\u2028\n.png".encode(), "ü\u2028\n.png")],
)
def test_a_line_holds_any_name(name, text):
    record = a_record(Path(os.fsdecode(b"in/" + name)))
    line = json.dumps(record)
    assert line.isascii() and "\n" not in line and json.loads(line)["path"] == f"in/{text}"
    line.encode("utf-8")
    if "path_hex" in record:
        assert bytes.fromhex(record["path_hex"]) == b"in/" + name
    assert ("path_hex" in record) == (b"\xff" in name)


def test_at_most_a_hundred_regions_are_written():
    import numpy as np

    map = np.zeros((30, 60), np.float32)
    map[::2, ::2] = 1.0 + np.random.default_rng(0).random((15, 30), dtype=np.float32)
    record = a_record(map=map)
    assert len(record["regions"]) == 100 and record["regions_left_out"] == 350
    peaks = [one["peak"] for one in regions_of(map, 0.5)]
    assert [one["peak"] for one in record["regions"]] == peaks[:100]
    assert record["flagged_px"] == 450


def test_a_threshold_of_zero_gives_numbers_that_json_has():
    import numpy as np

    map = np.zeros((3, 3), np.float32)
    map[1, 1] = 2.0
    row = ScoredImage(Path("a"), 1.0, 1.0, 0.5, True, 3, 3, "", 0, find_regions(map, 0.0))
    record = image_record(row, RecordedModel("", 0.0, 0.0))
    json.dumps(record, allow_nan=False)
    assert record["regions"][0]["peak_normalised"] == pytest.approx(2e12)


def test_no_record_without_regions():
    row = ScoredImage(Path("a"), 1.0, 1.0, 0.5, True, 3, 3, "")
    with pytest.raises(ValueError, match="regions"):
        image_record(row, MODEL)
