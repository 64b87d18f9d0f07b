"""The smallest region that counts: as an option, in a verdict, in `score` and `eval`."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import invoke_det

from detector.min_area import ANY_AREA, MinArea
from detector.model import load_model, save_model
from detector.scored_image import judge
from manifests.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "px"),
    [("0", 0), ("25", 25), ("25px", 25), ("25 px", 25), (" 7 ", 7), ("0%", 0), ("100%", 12800),
     ("0.1%", 13), ("0.5%", 64), ("0.501%", 65), ("0.0000001%", 1)],
)  # fmt: skip
def test_in_pixels_of_an_image(text, px):
    # 80 × 160 px: a tenth of a percent is 12.8 px, a half exactly 64.
    assert MinArea.parse(text).in_px(80, 160) == px
    assert bool(MinArea.parse(text)) == (px > 0)
    assert MinArea.parse(str(MinArea.parse(text))) == MinArea.parse(text)


@pytest.mark.parametrize(
    "text", ["", "-1", "2.5", "2.5px", "101%", "nan", "inf", "1e3", "5 m", "%", "٣", "9" * 16]
)
def test_other_areas_are_refused(text):
    with pytest.raises(ConfigError, match="--min-area cannot be used"):
        MinArea.parse(text)
    with pytest.raises(ConfigError):
        MinArea(Decimal("0.5"))


def test_the_command_line_refuses_them_too():
    result = invoke_det("score", "model", "photos", "--min-area", "2.5", exit_code=2)
    assert "--min-area" in result.output and "0.1%" in result.output


def model_of(image_threshold: float, pixel_threshold: float) -> SimpleNamespace:
    return SimpleNamespace(
        image_threshold=SimpleNamespace(value=image_threshold),
        pixel_threshold=SimpleNamespace(value=pixel_threshold),
    )


def map_of_areas(*areas: int) -> np.ndarray:
    map = np.zeros((20, 2 * len(areas) + 2), np.float32)
    for place, area in enumerate(areas):
        map[:area, 2 * place] = 2.0
    return map


@pytest.mark.parametrize(
    ("score", "areas", "min_area", "is_defect"),
    [
        (1.5, (9, 5), "0", True),
        (1.5, (), "0", True),  # as without the option: the image score alone
        (1.5, (), "0%", True),
        (1.5, (), "1", False),
        (1.5, (1,), "1", True),
        (1.5, (9, 5), "9", True),
        (1.5, (9, 5), "10", False),  # fourteen pixels, but no region of ten
        (1.0, (9, 5), "0", False),  # at the threshold is not above it
        (0.5, (20,), "1", False),  # a region alone makes no defect
        (1.5, (6,), "7.5%", True),  # of 20 × 4 = 80 px
        (1.5, (6,), "7.6%", False),
    ],
)
def test_a_verdict_by_hand(score, areas, min_area, is_defect):
    map = map_of_areas(*areas)
    verdict = judge(
        model_of(1.0, 1.0),
        np.float32(score),
        lambda: map,
        height=map.shape[0],
        width=map.shape[1],
        min_area=MinArea.parse(min_area),
    )
    assert verdict.is_defect is is_defect


def test_no_map_is_made_where_nothing_depends_on_it():
    def fail():
        raise AssertionError("made")

    options = {"height": 9, "width": 9}
    model = model_of(1.0, 1.0)
    assert judge(model, np.float32(2), fail, min_area=ANY_AREA, **options).is_defect
    assert not judge(model, np.float32(1), fail, min_area=MinArea(Decimal(5)), **options).is_defect
    with pytest.raises(AssertionError):
        judge(model, np.float32(1), fail, min_area=ANY_AREA, with_regions=True, **options)


def records_of(model, folder, *options) -> dict[str, dict]:
    result = invoke_det("score", model, folder, "--output", "json", "--quiet", *options)
    return {record["path"]: record for record in json.loads(result.stdout)}


def with_low_thresholds(folder, tmp_path):
    """The same model for a rate at which most images are above its thresholds."""
    model = load_model(folder)
    image_threshold, pixel_threshold = model.calibration.thresholds(0.9)
    changed = replace(
        model,
        config=replace(model.config, false_alarm_rate=0.9),
        image_threshold=image_threshold,
        pixel_threshold=pixel_threshold,
    )
    save_model(tmp_path / "model", changed)
    return tmp_path / "model"


def test_score_and_eval_agree_and_verdicts_only_fall(fitted, category_name, sample_data, tmp_path):
    model, data = with_low_thresholds(fitted / category_name, tmp_path), sample_data / category_name
    plain = records_of(model, data / "test")
    threshold = load_model(model).image_threshold.value
    assert any(record["verdict"] == "defect" for record in plain.values())
    for record in plain.values():
        assert (record["verdict"] == "defect") == (record["score"] > threshold)
        assert record["min_area_px"] == 0
    areas = sorted(r["largest_region_px"] for r in plain.values() if r["verdict"] == "defect")
    least = areas[0] + 1  # some verdicts fall, and not all
    assert least <= areas[-1]
    kept = records_of(model, data / "test", "--min-area", least)
    for path, record in kept.items():
        assert record["regions"] == plain[path]["regions"]
        assert record["p_value"] == plain[path]["p_value"]
        is_defect = plain[path]["verdict"] == "defect" and record["largest_region_px"] >= least
        assert record["verdict"] == ("defect" if is_defect else "good")
    results = {}
    for name, min_area in (("plain", "0"), ("kept", str(least)), ("none", "100%")):
        result = invoke_det(
            "eval", model, sample_data, "--out", tmp_path / name, "--min-area", min_area,
            "--json", "--quiet", "--cases", 1,
        )  # fmt: skip
        (results[name],) = json.loads(result.stdout)
        with open(tmp_path / name / category_name / "scores.csv") as file:
            rows = {row["source"]: row["verdict"] for row in csv.DictReader(file)}
        expected = {"plain": plain, "kept": kept}.get(name)
        for source, verdict in rows.items():
            if expected is None:
                assert verdict == "good"
            else:
                (path,) = [one for one in expected if one.endswith(source)]
                assert verdict == expected[path]["verdict"], source
        assert any("region" in note for note in results[name]["notes"]) == (name != "plain")
    assert results["plain"]["metrics"] == results["kept"]["metrics"]
    counts = {name: result["counts"] for name, result in results.items()}
    called = {
        name: one["false_alarms"] + one["defective"] - one["misses"] for name, one in counts.items()
    }
    assert called["plain"] > called["kept"] > called["none"] == 0
    assert counts["kept"]["false_alarms"] <= counts["plain"]["false_alarms"]
