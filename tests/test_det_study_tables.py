"""Tables, sentences, CSV and plots of a comparison."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from detector.study import report
from detector.study.outcome import TableOutcome
from detector.study.plan import read_plan
from detector.study.plots import _curve, _tick_step, plot_curves, plot_differences
from detector.study.statistics import Difference, Estimate
from detector.study.tables import METRIC_NAMES, Row, csv_text, markdown_table, verdict_line
from detector.study.weighted_metrics import METRICS
from manifests.errors import ConfigError, OutputError
from manifests.images import read_image


def _difference(mean: float, half: float, *, n_seeds: int = 5) -> Difference:
    sd = None if n_seeds == 1 else 0.01
    return Difference(mean, mean - half, mean + half, sd, 0.002, n_seeds, 467)


def _rows() -> list[Row]:
    def estimate(mean):
        return Estimate(mean, 0.004, mean - 0.01, mean + 0.01, 5)

    return [
        Row("untuned", 5, {"image_auroc": estimate(0.95), "aupro": estimate(0.74)}),
        Row(
            "CutSwap",
            5,
            {"image_auroc": estimate(0.96), "aupro": estimate(0.76)},
            {"image_auroc": _difference(0.01, 0.02), "aupro": _difference(0.02, 0.015)},
            claim="better",
        ),
        Row(
            "CutPaste | 3-way",
            5,
            {"image_auroc": estimate(0.94), "aupro": None},
            {"image_auroc": _difference(-0.012, 0.0118)},
            claim="not-worse",
            margin=0.005,
        ),
    ]


def test_table_line_by_line():
    text = markdown_table(
        "Tiles", _rows(), ("image_auroc", "aupro"), baseline="untuned", note="Of 2 categories."
    )
    lines = text.splitlines()
    assert lines[:5] == [
        "### Tiles",
        "",
        "| arm | seeds | image AUROC | AUPRO |",
        "|---|---|---|---|",
        "| untuned | 5 | 0.950 ± 0.004 | 0.740 ± 0.004 |",
    ]
    # The best image AUROC is not bold: its interval holds 0. The best AUPRO is.
    assert lines[5] == (
        "| CutSwap | 5 | 0.960 ± 0.004<br>+0.010 (-0.010 to +0.030)<br>better: undecided "
        "| **0.760** ± 0.004<br>+0.020 (+0.005 to +0.035)<br>better: holds |"
    )
    # A fourth decimal, because the upper end would read -0.000.
    assert lines[6] == (
        r"| CutPaste \| 3-way | 5 | 0.940 ± 0.004<br>-0.0120 (-0.0238 to -0.0002)<br>"
        "not worse by 0.005: undecided | – |"
    )
    assert "makes 3 comparisons" in lines[8] and "not corrected" in lines[8]
    assert "data set, network and coreset" in lines[8] and "One seed" not in lines[8]
    assert lines[10:] == ["Of 2 categories."]


def test_best_is_bold_only_where_it_is_the_best():
    rows = _rows()
    rows[0] = Row("untuned", 5, {"aupro": Estimate(0.77, 0.004, 0.76, 0.78, 5)})
    assert "**" not in markdown_table("T", rows, ("aupro",), baseline="untuned")


def test_note_says_what_one_seed_leaves_out():
    own = {"aupro": Estimate(0.9, None, 0.88, 0.92, 1)}
    rows = [Row("a", 1, own), Row("b", 1, own, {"aupro": _difference(0.0, 0.01, n_seeds=1)})]
    text = markdown_table("T", rows, ("aupro",), baseline="a")
    assert "| b | 1 | 0.900<br>+0.000 (-0.010 to +0.010) |" in text
    assert "With one seed the interval leaves out the spread over seeds." in text
    assert "makes 1 comparison, not" in text
    assert "verdict" not in text  # no claims were made
    assert "comparison" not in markdown_table("T", rows[:1], ("aupro",), baseline="a")


def test_verdict_lines():
    options = {"data": "mtd", "network": "efficientnet_lite0", "coreset": 0.001}
    row = _rows()[1]
    row = Row(row.label, 5, row.estimates, {"image_auroc": _difference(0.004, 0.01)}, "better")
    assert verdict_line(row, "image_auroc", baseline="untuned", **options) == (
        "On mtd, efficientnet_lite0, coreset 0.001: CutSwap > untuned in image AUROC: undecided "
        "(+0.004, 95 % interval -0.006 to +0.014; 5 seeds, 467 images)"
    )
    row = Row("A", 1, {}, {"aupro": _difference(0.001, 0.003, n_seeds=1)}, "not-worse", 0.005)
    assert verdict_line(row, "aupro", baseline="B", **options) == (
        "On mtd, efficientnet_lite0, coreset 0.001: A not worse than B by more than 0.005 in "
        "AUPRO: holds (+0.001, 95 % interval -0.002 to +0.004; 1 seed, 467 images; the interval "
        "leaves out the spread over seeds)"
    )
    with pytest.raises(ValueError, match="'untuned' makes no claim on aupro"):
        verdict_line(_rows()[0], "aupro", baseline="B", **options)
    with pytest.raises(ValueError, match="makes no claim on pixel_ap"):
        verdict_line(_rows()[1], "pixel_ap", baseline="B", **options)


def test_rows_refuse_unknown_claims():
    with pytest.raises(ValueError, match="unknown claim 'best'"):
        Row("a", 1, {}, claim="best")


def test_csv_holds_every_number():
    text = csv_text(_rows(), ("image_auroc", "aupro"), baseline="untuned")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["arm"], line["metric"]) for line in lines] == [
        (arm, metric)
        for arm in ("untuned", "CutSwap", "CutPaste | 3-way")
        for metric in ("image_auroc", "aupro")
    ]
    assert lines[0]["mean"] == "0.95" and lines[0]["difference"] == lines[0]["verdict"] == ""
    assert lines[3] == {
        "arm": "CutSwap", "baseline": "untuned", "metric": "aupro", "n_seeds": "5",
        "mean": "0.76", "sd": "0.004", "low": "0.75", "high": "0.77",
        "difference": "0.02", "difference_low": "0.005", "difference_high": "0.035",
        "difference_seed_sd": "0.01", "difference_boot_sd": "0.002", "n_images": "467",
        "claim": "better", "margin": "", "verdict": "holds",
    }  # fmt: skip
    assert lines[4]["margin"] == "0.005" and lines[4]["verdict"] == "undecided"
    assert set(lines[5].values()) == {"CutPaste | 3-way", "untuned", "aupro", "5", ""}


def test_every_metric_has_a_name():
    assert set(METRIC_NAMES) == set(METRICS)


def _has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether something larger than the edges of letters has the colour."""
    return int((np.abs(picture.astype(int) - colour).max(axis=2) <= 2).sum()) > 200


BLUE, VERMILION, GREY = (0, 114, 178), (213, 94, 0), (125, 134, 145)


@pytest.mark.parametrize(
    ("difference", "colour"),
    [
        (_difference(0.02, 0.01), BLUE),
        (_difference(-0.02, 0.01), VERMILION),
        (_difference(0.005, 0.01), GREY),
    ],
)
def test_forest_plot_colours_only_what_is_decided(tmp_path, difference, colour):
    rows = [_rows()[0], Row("cost $5 to $6", 5, {}, {"aupro": difference})]
    path = tmp_path / "forest.png"
    plot_differences(path, rows, ("aupro",), title="Tiles", baseline="untuned")
    picture = read_image(path)
    assert picture.shape[1] == 1008
    assert [_has(picture, other) for other in (BLUE, VERMILION, GREY)] == [
        other == colour for other in (BLUE, VERMILION, GREY)
    ]


def test_forest_plot_of_all_metrics_and_none(tmp_path):
    path = tmp_path / "forest.png"
    plot_differences(path, _rows(), METRICS, title="Tiles", baseline="untuned")
    tall = read_image(path)
    plot_differences(path, _rows(), METRICS[:3], title="Tiles", baseline="untuned")
    assert read_image(path).shape[0] < tall.shape[0] and tall.shape[1] == 1008
    with pytest.raises(ValueError, match="no arm has a difference"):
        plot_differences(path, _rows()[:1], METRICS, title="Tiles", baseline="untuned")
    with pytest.raises(OutputError):
        plot_differences(
            tmp_path / "no" / "f.png", _rows(), METRICS, title="Tiles", baseline="untuned"
        )


def test_every_panel_has_two_to_five_ticks():
    rng = np.random.default_rng(0)
    assert _tick_step(-0.042, 0.042) == pytest.approx(0.02)
    for _ in range(500):
        low, high = np.sort(rng.normal(size=2)) * 10.0 ** rng.integers(-4, 1)
        step = _tick_step(low, high)
        ticks = np.floor(high / step) - np.ceil(low / step) + 1
        assert 2 <= ticks <= 5


def test_curves_with_names_numbers_and_gaps(tmp_path):
    points = [Estimate(0.9 + i / 100, 0.01, 0.88 + i / 100, 0.92 + i / 100, 5) for i in range(3)]
    options = {"title": "Levels", "x_label": "levels"}
    path = tmp_path / "curve.png"
    plot_curves(path, ["0", "all", "1, 2"], {"aupro": points}, **options)
    plain = read_image(path)
    assert plain.shape[1] == 1008 and _has(plain, BLUE) and not _has_band(plain)
    plot_curves(
        path,
        [0.001, 0.01, 0.1],
        {"aupro": points, "image_ap": [points[0], None, points[2]]},
        is_log=True,
        reference=("untuned", {"aupro": points[0]}),
        **options,
    )
    picture = read_image(path)
    halves = picture[:, :504], picture[:, 504:]
    assert all(_has(half, BLUE) for half in halves)
    assert [_has_band(half) for half in halves] == [True, False]


def _has_band(picture) -> bool:
    return (picture == (236, 239, 242)).all(axis=2).sum() > 2000  # more than the edges of letters


def test_a_curves_scale_is_what_it_says(tmp_path):
    """On a logarithmic axis 1, 10, 100 lie as far apart as 1, 2, 3 do on a plain one."""
    points = [Estimate(0.9, 0.01, 0.88, 0.92, 5)] * 3
    options = {"title": "T", "x_label": "x"}
    columns = []
    for name, xs, is_log in (
        ("plain", [1, 2, 3], False),
        ("log", [1, 10, 100], True),
        ("skewed", [1, 10, 100], False),
    ):
        path = tmp_path / f"{name}.png"
        plot_curves(path, xs, {"aupro": points}, is_log=is_log, **options)
        is_blue = np.abs(read_image(path).astype(int) - BLUE).max(axis=2) <= 2
        columns.append(np.flatnonzero(is_blue.sum(axis=0) > 60).tolist())  # interval bars
    assert columns[0] == columns[1] != columns[2]
    assert len(columns[0]) >= 3


def test_an_interval_is_drawn_as_far_as_a_metric_goes():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    wide = Estimate(0.9, 0.3, -0.7, 2.5, 2)
    _curve(axes, np.array([1.0, 2.0]), [wide, Estimate(0.8, 0.01, 0.7, 0.9, 5)], wide)
    low, high = axes.get_ylim()
    assert -0.1 < low <= 0 and 1 <= high < 1.1


def test_curves_refuse_what_cannot_be_drawn(tmp_path):
    point = Estimate(0.9, 0.01, 0.88, 0.92, 5)
    options = {"title": "T", "x_label": "x"}
    with pytest.raises(ValueError, match="positive numbers"):
        plot_curves(tmp_path / "c.png", ["a", "b"], {}, is_log=True, **options)
    with pytest.raises(ValueError, match="positive numbers"):
        plot_curves(tmp_path / "c.png", [0, 1], {}, is_log=True, **options)
    with pytest.raises(ValueError, match="'aupro' has 1 points for 2 values"):
        plot_curves(tmp_path / "c.png", [1, 2], {"aupro": [point]}, **options)


_CURVE = """
seeds = [0]
coresets = [0.1]
baseline = "untuned"
metrics = ["aupro"]
[data.part]
path = "."
[sets.k6]
clusters = 6
[sets.k2]
clusters = 2
[arms.untuned]
updates = 0
[arms.k6]
set = "k6"
updates = 9
[arms.k2]
set = "k2"
updates = 3
[[tables]]
name = "t"
curve = "%s"
"""


@pytest.mark.parametrize(
    ("curve", "xs", "has_reference"),
    [("clusters", [2, 6], True), ("updates", [0, 3, 9], False), ("", None, None)],
)
def test_a_tables_curve_is_over_the_option_it_names(
    tmp_path, monkeypatch, curve, xs, has_reference
):
    (tmp_path / "p.toml").write_text(_CURVE % curve)
    plan = read_plan(tmp_path / "p.toml")
    rows = {n: Row(n, 1, {"aupro": Estimate(0.5, None, 0.4, 0.6, 1)}) for n in plan.by_name}
    outcome = TableOutcome(
        plan.tables[0], "part", 0.1, tuple(rows), tuple(rows.values()), (), (), (), "net", 5, 5
    )
    drawn = []
    monkeypatch.setattr(report, "plot_curves", lambda *args, **more: drawn.append((args, more)))
    assert report.plot_curve(tmp_path / "c.png", plan, outcome, title="x") == bool(curve)
    if curve:
        (_, found, points), more = drawn[0]
        assert found == xs and len(points["aupro"]) == len(xs)
        assert (more["reference"] is not None) == has_reference


def test_a_curve_needs_two_arms_with_the_option(tmp_path):
    (tmp_path / "p.toml").write_text(_CURVE % "shape")
    with pytest.raises(ConfigError, match="no curve over 'shape'"):
        read_plan(tmp_path / "p.toml")
