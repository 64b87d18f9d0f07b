"""The HTML report without a browser: markup, curves, histograms, pictures, sets, the command."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO, invoke_det, invoke_gen
from PIL import Image

from detector.defect_results import defect_results, pixel_metrics_of_images
from detector.evaluate import Evaluation
from detector.figures import LINE_WIDTHS, SERIES, dashed, line_style
from detector.html_report.curve_plots import curve_picture
from detector.html_report.details import flattened
from detector.html_report.histogram_plots import area_counts
from detector.html_report.markup import Markup, element, escaped
from detector.html_report.page import page
from detector.html_report.palette import palette_css
from detector.html_report.pictures import MAX_PATH_CHARS, outline_path, picture_of
from detector.html_report.plot import Plot, tick_text, ticks
from detector.html_report.set_facts import (
    anchor_counts,
    grid_shape,
    mean_cover,
    read_set_facts,
    spread,
)
from detector.html_report.shown_image import verdict_of, worst_first
from detector.metrics import image_metrics, precision_recall_curve
from detector.results import EvalResult
from detector.score_bins import relative_scores, score_counts, score_edges
from detector.score_curves import precision_recall_of, roc_of
from manifests.annotate import BLUE, heat_layer, overlay
from manifests.canvas import fit_image, fit_mask
from manifests.categories import Sample
from manifests.geometry import Geometry
from manifests.negative_set import NegativeSet
from reference.report_pages import HOSTILE, category, hostile


class _Tags(html.parser.HTMLParser):
    """Every tag with its attributes, and the text outside of script and style."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.text.append(data)


# Markup


def test_text_and_values_are_escaped_and_markup_is_not():
    inner = element("b", {}, "<&>")
    assert inner == "<b>&lt;&amp;&gt;</b>" and isinstance(inner, Markup)
    made = element("p", {"title": "\"<'", "hidden": True, "id": None, "x": 0.125}, inner, "'")
    assert made == '<p title="&quot;&lt;&#x27;" hidden x="0.125"><b>&lt;&amp;&gt;</b>&#x27;</p>'
    assert element("img", {"alt": ""}) == '<img alt="">'
    assert escaped("a\u202eb\x00\udcff") == "a\ufffdb\ufffd\ufffd"


# Curves


def test_precision_and_recall_by_hand():
    scores, labels = np.array([5.0, 4.0, 3.0, 3.0, 1.0]), np.array([1, 0, 1, 0, 1])
    recall, precision, thresholds = precision_recall_curve(scores, labels)
    assert thresholds.tolist() == [5, 4, 3, 1]
    assert recall == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1])
    assert precision == pytest.approx([1, 1 / 2, 2 / 4, 3 / 5])
    curve = precision_recall_of("c", scores, labels, scores > 3.5)
    # Back from each point to the recall before it: 1/3 · 1 + 1/3 · 1/2 + 1/3 · 3/5.
    assert curve.area == pytest.approx((1 + 1 / 2 + 3 / 5) / 3)
    assert curve.limit == pytest.approx((1 / 3, 1 / 2))
    assert precision_recall_of("c", scores, labels, scores > 9).limit == (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_areas_under_the_drawn_lines_are_the_metrics(seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 3 == 0
    scores = np.round(rng.normal(size=40) + labels, 1)
    metrics = image_metrics(scores, labels)
    for curve, area in (
        (roc_of("c", scores, labels, scores > 0.5), metrics.auroc),
        (precision_recall_of("c", scores, labels, scores > 0.5), metrics.ap),
    ):
        x, y = np.array(curve.points).T
        assert (np.diff(x) >= 0).all()
        drawn = (np.diff(x) * (y[1:] + y[:-1]) / 2).sum()
        assert drawn == pytest.approx(area) and curve.area == pytest.approx(area)


def test_a_curve_lies_where_it_should_by_hand():
    # 420 px wide and high, 60 px left, 14 right, 14 above, 44 below: 346 by 362 px of data.
    plot = Plot(420, 420, (0, 1), (0, 1))
    assert plot.place(0, 0) == (60, 376) and plot.place(1, 1) == (406, 14)
    assert plot.path([(0, 0), (0.5, 0.25), (1, 1)]) == "M60.0 376.0L233.0 285.5L406.0 14.0"
    curve = roc_of("c", np.array([3.0, 2.0, 1.0]), np.array([1, 0, 1]), np.array([1, 0, 0], bool))
    assert curve.points == ((0, 0), (0, 0.5), (1, 0.5), (1, 1)) and curve.limit == (0, 0.5)
    picture = curve_picture([curve], title="ROC", x_label="x", y_label="y")
    assert 'd="M60.0 376.0L60.0 195.0L406.0 195.0L406.0 14.0"' in picture
    assert 'class="limit s0" cx="60.0" cy="195.0"' in picture


def test_ticks_are_round_and_inside():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(0.72, 1.68) == pytest.approx([0.8, 1.0, 1.2, 1.4, 1.6])
    assert ticks(-3, 1e12)[-1] == pytest.approx(1e12)
    assert [tick_text(value) for value in (0.30000000000000004, -0.0, 20, 1e12)] == [
        "0.3", "0", "20", "1e+12",
    ]  # fmt: skip


# Histograms


def test_no_bar_of_scores_holds_both_verdicts():
    rng = np.random.default_rng(3)
    for values in (rng.normal(1, 0.3, 80), np.full(3, 1.0), np.array([5.0, 9.0]), np.array([1e9])):
        edges = score_edges(values)
        assert (edges == 1.0).any() and len(edges) <= 50
        assert edges[0] <= values.min() and edges[-1] * (1 + 1e-9) >= values.max()
        counts = score_counts(values, edges)
        below = int(np.flatnonzero(edges == 1.0)[0])
        assert counts.sum() == len(values)
        assert counts[:below].sum() == (values <= 1).sum()


def test_bins_by_hand():
    edges = np.array([0.5, 1.0, 1.5])
    assert score_counts(np.array([0.5, 1.0, 1.0 + 1e-12, 1.5]), edges).tolist() == [2, 2]
    fractions = np.array([0, 0.0009, 0.001, 0.03, 0.5, 1.0])
    assert area_counts(fractions).tolist() == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]


# Verdicts and their order


def test_verdicts_do_not_depend_on_rounding():
    threshold = 0.1
    scores = np.array([np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1)), 0.05])
    scores = scores.astype(np.float32)
    relative = relative_scores(scores, threshold)
    assert ((relative > 1) == (scores > threshold)).all()
    assert relative[2] == pytest.approx(0.5)
    assert relative_scores(np.array([0.0, 1e-20]), 0.0).tolist() == [0.0, np.nextafter(1.0, 2.0)]
    names = [
        verdict_of(is_called=called, is_defective=bad)
        for called in (False, True)
        for bad in (True, False)
    ]
    assert names == ["missed", "passed", "found", "false-alarm"]


def test_the_worst_come_first_by_hand():
    relative = np.array([0.2, 1.4, 0.9, 0.7, 0.95, 1.1, 3.0])
    labels = np.array([0, 0, 0, 1, 1, 1, 1], dtype=bool)
    # Wrong: 1.4 good (by 0.4), 0.7 missed (0.3), 0.95 missed (0.05); right: 0.9 and 1.1 are
    # nearest, then 0.2, then 3.0.
    assert worst_first(relative, labels, relative > 1).tolist() == [1, 3, 4, 2, 5, 0, 6]


# Results per kind of defect


def _evaluation() -> Evaluation:
    kinds = ["good", "good", "dent", "dent", "crack"]
    maps = np.zeros((5, 2, 2), dtype=np.float32)
    masks = np.zeros((5, 2, 2), dtype=bool)
    masks[2, 0, 0] = masks[4, 0, 0] = True
    maps[2] = [[9, 1], [1, 1]]  # AUROC 1
    maps[4] = [[2, 3], [2, 1]]  # beaten by one, level with one, above one: AUROC 0.5
    return Evaluation(
        samples=tuple(
            Sample(Path(f"{i}.png"), f"{i}.png", int(kind != "good"), kind, None, "test")
            for i, kind in enumerate(kinds)
        ),
        scores=np.array([1, 3, 2, 4, 0.5], dtype=np.float32),
        labels=np.array([kind != "good" for kind in kinds]),
        maps=maps,
        masks=masks,
        valid=np.ones_like(masks),
        has_truth=np.array([True, True, True, False, True]),
        without_mask=("3.png",),
        excluded=(),
        skipped=(),
        cropped=(),
    )


def test_results_per_kind_of_defect_by_hand():
    evaluation = _evaluation()
    within = pixel_metrics_of_images(evaluation)
    assert [one if one is None else one[0] for one in within] == [None, None, 1.0, None, 0.5]
    crack, dent = defect_results(evaluation, evaluation.scores > 2.5, within)
    # The hardest first: 0.5 is below both good scores; 2 beats one of them, 4 both.
    assert (crack.defect, crack.images, crack.found, crack.missed) == ("crack", 1, 0, 1)
    assert (crack.auroc, crack.pixel_auroc, crack.masked) == (0.0, 0.5, 1)
    assert (dent.defect, dent.images, dent.found, dent.missed) == ("dent", 2, 1, 1)
    assert (dent.auroc, dent.pixel_auroc, dent.pixel_ap, dent.masked) == (0.75, 1.0, 1.0, 1)
    # Marked at 2, with a 3 above it and a 2 beside it: one right of three.
    assert crack.pixel_ap == pytest.approx(1 / 3)


# Pictures


def test_a_heat_layer_over_grey_is_the_overlay():
    rng = np.random.default_rng(1)
    image = np.repeat(rng.integers(0, 256, (7, 9, 1)), 3, axis=2).astype(np.uint8)
    heat = rng.random((7, 9)).astype(np.float32) * 2
    layer = heat_layer(heat, low=0.5, high=1.5).astype(np.float64)
    share = layer[..., 3:] / 255
    laid = layer[..., :3] * share + image * (1 - share)
    assert abs(laid - overlay(image, heat, low=0.5, high=1.5)).max() < 2


def _decoded(uri: str) -> Image.Image:
    kind, data = re.fullmatch(r"data:image/(\w+);base64,([A-Za-z0-9+/=]+)", uri).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    return image


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_heat_and_outline_lie_on_the_image_whatever_the_canvas(fit):
    image = np.full((100, 200, 3), 120, np.uint8)
    truth = np.zeros((100, 200), dtype=bool)
    truth[40:60, 90:120] = True
    _, placement = fit_image(image, Geometry(64, 64, fit))
    mask = fit_mask(truth, placement)
    heat = np.where(mask, 3.0, 0.0).astype(np.float32)
    picture = picture_of(image, tile_px=100, placement=placement, heat=heat, mask=mask)
    assert (picture.width, picture.height) == (100, 50)
    assert _decoded(picture.photo).size == (100, 50)
    layer = _decoded(picture.heat).convert("RGBA")
    covering = np.asarray(layer)[..., 3] > 80
    rows, columns = np.nonzero(covering)
    wide, high = layer.size
    assert (rows.min() / high, columns.min() / wide) == pytest.approx((0.40, 0.45), abs=0.04)
    assert (rows.max() / high, columns.max() / wide) == pytest.approx((0.60, 0.60), abs=0.04)
    x, y = _corners(picture.outline)
    # Tenths of a pixel of a picture of 100 by 50: y 20 to 30, x 45 to 60; a canvas pixel is 3 px.
    assert (min(x) / 10, max(x) / 10) == pytest.approx((45, 60), abs=2)
    assert (min(y) / 10, max(y) / 10) == pytest.approx((20, 30), abs=2)


def _corners(path: str) -> tuple[list[int], list[int]]:
    xs, ys = [], []
    for start in re.findall(r"M(-?\d+) (-?\d+)((?:l-?\d+ -?\d+)*)z", path):
        x, y = int(start[0]), int(start[1])
        xs.append(x), ys.append(y)
        for dx, dy in re.findall(r"l(-?\d+) (-?\d+)", start[2]):
            x, y = x + int(dx), y + int(dy)
            xs.append(x), ys.append(y)
    return xs, ys


def test_the_border_of_a_box_by_hand_and_holes_have_their_own():
    mask = np.zeros((10, 10), dtype=bool)
    mask[2:6, 3:9] = True
    x, y = _corners(outline_path(mask, None, width=10, height=10))
    # A sixth of a pixel inside of 3..9 and 2..6, in tenths.
    assert (min(x), max(x), min(y), max(y)) == (32, 88, 22, 58)
    mask[3:5, 5:7] = False
    assert outline_path(mask, None, width=10, height=10).count("M") == 2


def test_a_mask_of_specks_stays_small():
    specks = np.random.default_rng(0).random((256, 256)) < 0.3
    assert 10 < len(outline_path(specks, None, width=320, height=320)) <= MAX_PATH_CHARS
    flat = picture_of(np.zeros((9, 9, 3), np.uint8), tile_px=50, mask=np.zeros((9, 9), bool))
    assert flat.outline is None and (flat.width, flat.height) == (9, 9)


# Sets


def test_anchors_are_counted_as_a_literal_loop_does():
    rng = np.random.default_rng(0)
    height, width = 96, 80
    sizes = rng.integers(1, 30, (200, 2))
    anchors = np.array(
        [[rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w] for h, w in sizes]
    )
    rows, columns = grid_shape(height, width)
    assert (rows, columns) == (24, 20)
    expected = np.zeros((rows, columns), dtype=int)
    for y, x, h, w in anchors:
        for row in range(rows):
            for column in range(columns):
                top, bottom = row * height / rows, (row + 1) * height / rows
                left, right = column * width / columns, (column + 1) * width / columns
                if top <= y + h / 2 < bottom and left <= x + w / 2 < right:
                    expected[row, column] += 1
    assert expected.sum() == 200
    np.testing.assert_array_equal(anchor_counts(anchors, height, width), expected)
    assert anchor_counts(np.zeros((0, 4), int), 96, 80).sum() == 0


def test_cover_is_the_mean_over_pixels_and_masks():
    covered = np.zeros((48, 48), dtype=np.int64)
    covered[:2, :2] = 3  # the first cell, in three of four masks
    covered[2, 0] = 2
    cover = mean_cover(covered, 4)
    assert cover.shape == (24, 24)
    assert cover[0, 0] == 0.75 and cover[1, 0] == pytest.approx(2 / 4 / 4) and cover[5, 5] == 0


def test_shown_negatives_are_spread_over_levels():
    rows, levels = np.arange(100), np.arange(100) % 5
    chosen = spread(rows, levels, 10)
    assert len(chosen) == 10 and sorted(j % 5 for j in chosen) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert len({j // 5 for j in chosen}) >= 5  # as many normals as levels, at least
    assert spread(rows[:3], levels[:3], 10) == [0, 1, 2]
    assert spread(rows[:0], levels[:0], 10) == []


def test_facts_of_a_set_are_those_of_its_negatives(built, category_name):
    with NegativeSet.open(built / category_name) as negative_set:
        facts = read_set_facts(negative_set, tile_px=64)
        assert [one.policy for one in facts.policies] == ["scar", "swap"]
        for one in facts.policies:
            own = [negative for negative in negative_set if negative.policy == one.policy]
            boxes = sum(1 for each in own for box in each.anchors if box[2] > 0)
            assert (one.count, one.anchors, int(one.grid.sum())) == (len(own), boxes, boxes)
            areas = []
            for each in own:
                _, _, h, w = negative_set.normal(each.normal).canvas_box
                areas.append(each.mask.sum() / (h * w))
            np.testing.assert_allclose(one.areas, areas)
            assert all(0 < shown.area < 1 and shown.negative.outline for shown in one.shown)
        assert facts.measured == len(negative_set) and facts.left_out == 0


# The page


def test_hostile_names_stay_text(fitted, category_name):
    text = page([hostile(fitted / category_name)], title=HOSTILE[1])
    found = _Tags(text)
    names = [tag for tag, _ in found.tags]
    assert names.count("script") == names.count("style") == names.count("body") == 1
    assert names.count("link") == 1 and "base" not in names and "iframe" not in names
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#"))
    told = "".join(found.text)
    assert HOSTILE[0] in told and HOSTILE[3] in told and "\u202e" not in text
    assert text.encode("utf-8") and "\udcff" not in text


def test_the_page_asks_for_nothing_and_says_so(fitted, category_name):
    text = page([category(fitted / category_name)])
    policy = {
        attributes.get("http-equiv"): attributes.get("content")
        for tag, attributes in _Tags(text).tags
        if tag == "meta"
    }["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert "unsafe" not in policy and "http" not in policy
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert palette_css().startswith(":root{--blue:#0072b2;") and BLUE == (0, 114, 178)


def test_the_page_tells_metrics_counts_and_means(fitted, category_name):
    folder = fitted / category_name
    one, two = category(folder, "first"), category(folder, "second")
    two.result.metrics["image_auroc"] = 0.25
    found = _Tags(page([one, two], title="Line 3"))
    told = " ".join(part.strip() for part in found.text if part.strip())
    assert "Line 3" in told and "mean of 2 categories" in told
    assert re.search(r"Mean, total 0\.500 0\.500 0\.250 0\.125 — 1\.000", told)
    assert re.search(r"6 6 2 2 — —", told)  # good, defective, missed, false alarms; thresholds
    assert "--set SHARDS" in told and one.record.set_digest[:12] in told
    assert page([one, two], title="Line 3") == page([one, two], title="Line 3")


def test_one_class_has_no_curve_and_still_a_page(fitted, category_name):
    whole = category(fitted / category_name)
    good = ~whole.labels
    metrics = dict.fromkeys(whole.result.metrics)
    counts = {**whole.result.counts, "defective": 0, "misses": 0}
    alone = type(whole)(
        result=EvalResult("part", metrics, counts, ()),
        record=whole.record,
        digest=whole.digest,
        relative=whole.relative[good],
        labels=whole.labels[good],
        roc=None,
        precision_recall=None,
        defects=(),
        images=tuple(image for image in whole.images if not image.is_defective),
    )
    told = "".join(_Tags(page([alone])).text)
    assert "all of one class" in told and "of 0 defective images, —" in told


def test_nested_settings_become_dotted_rows():
    rows = dict(flattened({"a": {"b": [1, 2], "c": {}}, "d": "x" * 400, "e": None, "f": "\u202e"}))
    assert rows["a.b"] == "[1, 2]" and rows["a.c"] == "{}" and rows["e"] == "null"
    assert len(rows["d"]) == 301 and rows["d"].endswith("…")
    deep: dict = {}
    for _ in range(50):
        deep = {"k": deep}
    assert len(list(flattened(deep))) == 1


# The command


def test_report_tells_of_model_data_and_set(fitted, built, sample_data, category_name, tmp_path):
    out = tmp_path / "new" / "report.html"
    arguments = ("report", fitted, sample_data, "-o", out, "--set", built, "--quiet")
    result = invoke_det(*arguments, "--json", "--title", "Line <3>")
    (summary,) = json.loads(result.stdout)
    assert summary["images"] == summary["shown"] == 8 and summary["notes"] == []
    assert summary["bytes"] == out.stat().st_size
    text = out.read_text(encoding="utf-8")
    found = _Tags(text)
    items = [row for tag, row in found.tags if tag == "li" and row.get("class") == "item"]
    assert len(items) == 8
    told = "".join(found.text)
    assert "Line <3>" in told and "Fallbacks" in told and "not the set" not in told
    metrics = json.loads(
        invoke_det("eval", fitted, sample_data, "--out", tmp_path / "r", "--quiet", "--json").stdout
    )
    assert summary["results"] == metrics
    assert f"{metrics[0]['metrics']['aupro']:.3f}" in told
    assert str(tmp_path) not in text and str(fitted) not in text
    # Once more: the same bytes; and nothing is replaced by itself.
    before = out.read_bytes()
    refused = invoke_det(*arguments, exit_code=1)
    assert "--overwrite" in refused.output and len(refused.stderr.strip().splitlines()) == 1
    invoke_det(*arguments, "--overwrite", "--title", "Line <3>")
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_verdicts_ask_for_regions_as_those_of_eval_do(fitted, sample_data, tmp_path):
    out = tmp_path / "r.html"
    large = ("--min-area", "100%", "--quiet", "--json")
    (summary,) = json.loads(invoke_det("report", fitted, sample_data, "-o", out, *large).stdout)
    (record,) = json.loads(
        invoke_det("eval", fitted, sample_data, "--out", tmp_path / "r", *large).stdout
    )
    assert summary["results"] == [record] and record["counts"]["misses"] == 4
    found = _Tags(out.read_text(encoding="utf-8"))
    verdicts = [row["data-verdict"] for tag, row in found.tags if row.get("class") == "item"]
    assert sorted(verdicts) == ["missed"] * 4 + ["right"] * 4
    assert "region of at least" in "".join(found.text)


def test_fewer_pictures_keep_the_worst_and_say_so(fitted, sample_data, tmp_path):
    out = tmp_path / "r.html"
    small = ("--pictures", 3, "--picture-px", 48, "--quiet")
    result = invoke_det("report", fitted, sample_data, "-o", out, *small)
    assert "3 of 8 test images" in result.stdout and "AUPRO" in result.stdout
    found = _Tags(out.read_text(encoding="utf-8"))
    assert "3 of 8 test images are shown" in "".join(found.text)
    photos = [row for tag, row in found.tags if tag == "img" and row.get("class") == "photo"]
    assert len(photos) == 3 and all(max(int(p["width"]), int(p["height"])) == 48 for p in photos)
    none = invoke_det(
        "report", fitted, sample_data, "-o", out, "--pictures", 0, "--overwrite", "--quiet"
    )
    assert "0 of 8 test images" in none.stdout


def test_a_set_of_another_build_is_named(fitted, sample_data, category_name, tmp_path):
    invoke_gen(
        "build", sample_data, "--out", tmp_path / "s", "--image-size", 64, "--jobs", 1,
        "--policies", "cutpaste", "--store", "anchors", "--quiet",
    )  # fmt: skip
    out = tmp_path / "r.html"
    result = invoke_det(
        "report", fitted, sample_data, "-o", out, "--set", tmp_path / "s", "--quiet"
    )
    assert "is not the one that the model was fitted on" in result.stderr
    assert "This is not the set that the model was fitted on" in out.read_text(encoding="utf-8")


def test_outside_of_a_region_of_interest_no_heat_is_shown(sample_data, category_name, tmp_path):
    photo = next((sample_data / category_name / "test" / "good").iterdir())
    with Image.open(photo) as image:
        wide, high = image.size
    inspected = np.zeros((high, wide), np.uint8)
    inspected[:, : wide // 2] = 255
    Image.fromarray(inspected).save(tmp_path / "roi.png")
    invoke_gen(
        "build", sample_data, "--out", tmp_path / "s", "--image-size", 64, "--jobs", 1,
        "--policies", "cutpaste", "--roi", tmp_path / "roi.png", "--quiet",
    )  # fmt: skip
    models, out = tmp_path / "m", tmp_path / "r.html"
    invoke_det("fit", tmp_path / "s", "--out", models, "--updates", 0, "--quiet")
    invoke_det("report", models, sample_data, "-o", out, "--set", tmp_path / "s", "--quiet")
    found = _Tags(out.read_text(encoding="utf-8"))
    heats = [row["src"] for tag, row in found.tags if tag == "img" and row.get("class") == "heat"]
    assert len(heats) == 8 and "% inspected" in "".join(found.text)
    covering = [np.asarray(_decoded(uri).convert("RGBA"))[..., 3] for uri in heats]
    half = covering[0].shape[1] // 2
    assert max(one[:, half + 1 :].max() for one in covering) == 0
    assert max(one[:, :half].max() for one in covering) > 0


def test_an_image_that_changed_its_shape_is_named(fitted, sample_data, category_name, tmp_path):
    from detector.evaluate import evaluate
    from detector.html_report.category_report import category_report
    from detector.model import load_model
    from detector.model_record import read_record
    from detector.results import measure
    from manifests.datasets import open_data
    from manifests.errors import ImageError

    invoke_gen(
        "build", sample_data, "--out", tmp_path / "s", "--image-size", 64, "--jobs", 1,
        "--policies", "cutpaste", "--fit", "letterbox", "--quiet",
    )  # fmt: skip
    invoke_det("fit", tmp_path / "s", "--out", tmp_path / "m", "--updates", 0, "--quiet")
    shutil.copytree(sample_data / category_name, tmp_path / "d" / category_name)
    (data,) = open_data(tmp_path / "d")
    folder = tmp_path / "m" / category_name
    model = load_model(folder)
    evaluation = evaluate(model, data, max_pixels=10**7)
    changed = evaluation.samples[0].path
    Image.new("RGB", (40, 200)).save(changed)
    with pytest.raises(ImageError, match=changed.name):
        category_report(
            measure(category_name, model, evaluation), model, read_record(folder), evaluation,
            pictures=100, picture_px=64, max_pixels=10**7,
        )  # fmt: skip


def test_errors_are_one_line_and_leave_nothing(fitted, built, sample_data, tmp_path):
    cases = [
        (("report", fitted, sample_data, "-o", tmp_path), "is a folder"),
        (("report", tmp_path / "no", sample_data, "-o", tmp_path / "a.html"), "no such folder"),
        (("report", fitted, sample_data, "-o", tmp_path / "a.html", "--set", tmp_path / "no"),
         "no such folder"),
    ]  # fmt: skip
    (tmp_path / "file").write_bytes(b"")
    below = tmp_path / "file" / "a.html"
    cases.append((("report", fitted, sample_data, "-o", below), "cannot be written"))
    for arguments, words in cases:
        result = invoke_det(*arguments, "--quiet", exit_code=1)
        assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    other = tmp_path / "s" / "other"
    shutil.copytree(next(built.iterdir()), other)
    data = tmp_path / "d"
    for name in ("one", "two"):
        shutil.copytree(next(sample_data.iterdir()), data / name)
        shutil.copytree(next(fitted.iterdir()), tmp_path / "m" / name)
    result = invoke_det(
        "report", tmp_path / "m", data, "-o", tmp_path / "a.html", "--set", other, "--quiet",
        exit_code=2,
    )  # fmt: skip
    assert "no set of a model's category" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "file", "m", "s"]


def test_a_wheel_carries_the_style_and_the_script(tmp_path):
    pytest.importorskip("setuptools")
    pytest.importorskip("pip")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "cutswap.py"):
        shutil.copy(REPO / name, tmp_path)
    for name in ("detector", "generator", "manifests", "cutswap-stubs"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
         "--no-index", "--disable-pip-version-check", "--wheel-dir", tmp_path / "out", tmp_path],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in ("style.css", "page.js"):
            inside = archive.read(f"detector/html_report/{name}")
            assert inside == (REPO / "detector" / "html_report" / name).read_bytes()


def test_lines_of_the_page_are_those_of_the_png_files():
    css = palette_css()
    for number, series in enumerate(SERIES):
        (rule,) = re.findall(rf"^\.s{number}{{(.*)}}$", css, re.MULTILINE)
        assert f"--series:var(--{series.name})" in rule
        dashes = re.findall(r"stroke-dasharray:([\d. ]+)", rule)
        assert [float(one) for one in " ".join(dashes).split()] == list(series.dashes)
    for number in range(len(SERIES) * len(LINE_WIDTHS)):
        style = line_style(number)
        width = number // len(SERIES)
        assert f".d{width}{{stroke-width:{style['linewidth']:g}}}" in css
    # matplotlib multiplies dashes by the width, so that these are as long on both.
    assert dashed((8.0, 3.0), 2.0) == (0, [4.0, 1.5]) and dashed((), 2.0) == "-"
