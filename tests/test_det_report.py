"""The results table, plots, heat maps and case sheets of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.cases import CASE_TILE_PX, Case, case_sheet, choose_cases
from detector.curves import plot_histograms, plot_roc
from detector.report import heatmap_image, results_table, write_category_report
from detector.score_bins import relative_scores
from detector.score_curves import roc_of
from manifests.annotate import BLUE, SKY, VERMILION, fit_tile, overlay
from manifests.canvas import fit_image, fit_mask
from manifests.errors import ImageError, OutputError
from manifests.geometry import Geometry

METRICS = {
    "image_auroc": 0.95,
    "image_ap": 0.9,
    "image_f1_max": 1.0,
    "pixel_auroc": 0.8,
    "pixel_ap": None,
    "pixel_f1_max": 0.25,
    "aupro": 0.5,
}


def _image(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + x, 90 + y, 200 - x], axis=2).astype(np.uint8)


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def _count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


def test_results_table_is_aligned_and_averages_what_is_there():
    other = {**METRICS, "category": "metal_nut", "image_auroc": 0.85, "pixel_ap": 0.125}
    text = results_table([{**METRICS, "category": "mtd"}, other])
    assert text.split("\n") == [
        "              image                     pixel",
        "category      AUROC      AP  F1-max     AUROC      AP  F1-max   AUPRO",
        "─" * 69,
        "mtd           0.950   0.900   1.000     0.800       —   0.250   0.500",
        "metal_nut     0.850   0.900   1.000     0.800   0.125   0.250   0.500",
        "─" * 69,
        "mean          0.900   0.900   1.000     0.800   0.125   0.250   0.500",
    ]


def test_one_category_needs_no_mean_and_no_number_no_crash():
    row = {"category": "c", **dict.fromkeys(METRICS)}
    text = results_table([row])
    assert "mean" not in text and text.split("\n")[-1].split() == ["c", *["—"] * 7]
    assert results_table([row, row]).split("\n")[-1].split() == ["mean", *["—"] * 7]
    assert len(results_table([]).split("\n")) == 3


def test_plot_roc_draws_every_category(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2 == 1
    scores = rng.normal(size=60) + labels

    def curve(name, threshold=0.5):
        return roc_of(name, scores, labels, scores > threshold)

    plot_roc(tmp_path / "one.png", [curve("$odd_$name")])
    one = _read(tmp_path / "one.png")
    assert _count(one, BLUE) > 200 and _count(one, VERMILION) == 0
    plot_roc(tmp_path / "many.png", [curve(f"category_{i}") for i in range(23)])
    many = _read(tmp_path / "many.png")
    assert many.shape[1] > one.shape[1] and _count(many, VERMILION) > 20
    plot_roc(tmp_path / "again.png", [curve("$odd_$name")])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    # The ring is where the verdicts are.
    plot_roc(tmp_path / "other.png", [curve("$odd_$name", threshold=1.5)])
    other = _read(tmp_path / "other.png")
    assert (one != other).any(axis=2).sum() in range(50, 2000)


def test_plot_histograms_shows_classes_and_threshold(tmp_path):
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(1, 0.1, 50), rng.normal(2, 0.4, 30)])
    labels = np.arange(80) >= 50

    def picture(name, threshold, *, of=slice(None)):
        relative = relative_scores(scores[of], threshold)
        path = tmp_path / f"{name}.png"
        plot_histograms(path, relative, labels[of], relative > 1, title="mtd")
        return _read(path)

    both = picture("both", 1.3)
    assert (both != picture("moved", 1.6)).any()
    only = picture("good", 1.3, of=slice(50))
    assert _count(both, BLUE) > 100 and _count(both, VERMILION) > 100
    assert _count(only, VERMILION) < _count(both, VERMILION) / 2  # its legend is left
    flat = np.ones(6)
    plot_histograms(tmp_path / "flat.png", flat, np.arange(6) > 2, flat > 1)


def test_plots_leave_pyplot_alone(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from pathlib import Path; import detector.report as r;"
        "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules;"
        f"r.plot_histograms(Path(r'{tmp_path}') / 'a.png', *np.ones((3, 2), bool));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_heatmaps_share_one_scale():
    image = np.full((4, 6, 3), (90, 100, 110), np.uint8)
    first, second = np.full((4, 6), 2.0, np.float32), np.full((4, 6), 2.0, np.float32)
    second[0, 0] = 50  # a maximum elsewhere changes no other pixel's colour
    a, b = (heatmap_image(image, scores, threshold=2.0) for scores in (first, second))
    np.testing.assert_array_equal(a[1:], b[1:])
    assert (a[0, 0] != b[0, 0]).any()
    # Twice the scores with twice the threshold are the same picture; 1 is the middle of the scale.
    np.testing.assert_array_equal(heatmap_image(image, 2 * second, threshold=4.0), b)
    np.testing.assert_array_equal(a, overlay(image, np.full((4, 6), 0.5, np.float32)))


def test_heatmap_outlines_the_mask_and_survives_a_zero_threshold():
    image, scores = _image(), np.zeros((40, 60), np.float32)
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 20:30] = True
    scores[mask] = 3
    assert _count(heatmap_image(image, scores, threshold=2.0), SKY) == 0
    assert _count(heatmap_image(image, scores, threshold=2.0, mask=mask), SKY) > 80
    zero = heatmap_image(image, scores, threshold=0.0)
    np.testing.assert_array_equal(zero, overlay(image, mask.astype(np.float32)))


def test_choose_cases_by_hand():
    scores = np.array([0.5, 0.9, 0.1, 0.7, 0.8, 0.2, 0.95, 0.3])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert choose_cases(scores, labels, per_group=2) == {
        "highest_good": (1, 3),
        "calmest_good": (2, 0),
        "lowest_defective": (5, 7),
        "clearest_defective": (6, 4),
    }
    few = choose_cases(scores, labels, per_group=3)
    assert few["highest_good"] == (1, 3, 0) and few["calmest_good"] == (2,)
    none = choose_cases(scores[:4], labels[:4], per_group=9)
    assert none["lowest_defective"] == none["clearest_defective"] == none["calmest_good"] == ()


@pytest.mark.parametrize("per_group", [1, 2, 3, 5])
def test_choosing_among_the_chosen_changes_nothing(per_group):
    rng = np.random.default_rng(4)
    scores, labels = np.round(rng.random(17), 1), rng.random(17) < 0.5
    first = choose_cases(scores, labels, per_group=per_group)
    kept = [index for group in first.values() for index in group]
    assert len(kept) == len(set(kept))
    again = choose_cases(scores[kept], labels[kept], per_group=per_group)
    for key, group in first.items():
        np.testing.assert_array_equal(scores[list(group)], scores[kept][list(again[key])])


def _case(score: float, label: int, *, truth: bool | None = True) -> Case:
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:15, 5:25] = label == 1 and bool(truth)
    heat = np.where(mask, 1.4, 0.6).astype(np.float32)
    kind = "scratch" if label else "good"
    known = None if truth is None else mask
    return Case(_image(), heat, known, score, label, kind, f"part_{score:g}.png")


def test_case_sheet_shows_worst_and_best(tmp_path):
    cases = [_case(0.2, 0), _case(1.3, 0), _case(0.8, 1), _case(2.0, 1), _case(1.1, 1, truth=None)]
    case_sheet(tmp_path / "cases.png", cases, per_group=1, title="mtd")
    picture = _read(tmp_path / "cases.png")
    assert _count(picture, SKY) > 50  # ground truth on the heat maps
    case_sheet(tmp_path / "wide.png", cases, per_group=2, title="mtd")
    assert _read(tmp_path / "wide.png").shape[1] > picture.shape[1]
    case_sheet(tmp_path / "good.png", cases[:2], per_group=2)
    assert _read(tmp_path / "good.png").shape[0] < picture.shape[0]
    case_sheet(tmp_path / "none.png", [], per_group=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cases.png",
        "good.png",
        "none.png",
        "wide.png",
    ]


@dataclass(frozen=True)
class _Sample:
    path: Path
    defect: str


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """What `write_category_report` reads of an evaluation."""

    samples: tuple[_Sample, ...]
    scores: np.ndarray
    labels: np.ndarray
    maps: np.ndarray
    masks: np.ndarray
    has_truth: np.ndarray
    verdicts: np.ndarray | None = None


def _evaluation(folder: Path, geometry: Geometry, labels: list[int]) -> _Evaluation:
    folder.mkdir()
    samples, maps, masks = [], [], []
    for number, label in enumerate(labels):
        image = _image(50 + number, 90)
        image[20:30, 40:60] = (240, 10, 30)
        samples.append(_Sample(folder / f"{number}.png", "scratch" if label else "good"))
        Image.fromarray(image).save(samples[-1].path)
        truth = np.zeros(image.shape[:2], dtype=bool)
        truth[20:30, 40:60] = label == 1
        mask = fit_mask(truth, fit_image(image, geometry)[1])
        masks.append(mask)
        maps.append(np.where(mask, 6.0, 2.0).astype(np.float32))
    return _Evaluation(
        samples=tuple(samples),
        scores=np.array([2.0 + 2 * label + 0.1 * n for n, label in enumerate(labels)], np.float32),
        labels=np.array(labels, dtype=bool),
        maps=np.stack(maps),
        masks=np.stack(masks),
        has_truth=np.ones(len(labels), dtype=bool),
    )


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_category_report(tmp_path, fit):
    geometry = Geometry(64, 48, fit=fit)
    evaluation = _evaluation(tmp_path / "images", geometry, [0, 1, 0, 1])
    thresholds = {"image_threshold": 3.0, "pixel_threshold": 4.0}
    options = {**thresholds, "geometry": geometry, "cases": 2, "max_pixels": 10**6}
    write_category_report(tmp_path / "out" / "mtd", evaluation, **options)
    assert sorted(path.name for path in (tmp_path / "out" / "mtd").iterdir()) == [
        "cases.png",
        "histogram.png",
        "roc.png",
    ]
    picture = _read(tmp_path / "out" / "mtd" / "cases.png")
    # The defect is called where it is: in the original's geometry, whatever the canvas's.
    tile = fit_tile(np.asarray(Image.open(evaluation.samples[3].path)), CASE_TILE_PX)
    assert tile.shape == (78, 132, 3)
    found = [
        (y, x)
        for y, x in np.argwhere((picture == tile[0, 0]).all(axis=2))
        if (picture[y : y + 78, x : x + 132].shape == tile.shape)
        and (picture[y : y + 78, x : x + 132] == tile).all()
    ]
    assert len(found) == 1


def test_a_category_of_one_class_has_no_stale_roc(tmp_path):
    geometry = Geometry(48, 64)
    options = {"image_threshold": 3.0, "pixel_threshold": 4.0, "geometry": geometry}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "roc.png").write_bytes(b"old")
    evaluation = _evaluation(tmp_path / "images", geometry, [0, 0, 0])
    write_category_report(tmp_path / "out", evaluation, **options, cases=2, max_pixels=10**6)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["cases.png", "histogram.png"]


def test_report_errors_are_typed(tmp_path):
    geometry = Geometry(48, 64)
    evaluation = _evaluation(tmp_path / "images", geometry, [0, 1])
    options = {"image_threshold": 3.0, "pixel_threshold": 4.0, "geometry": geometry}
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        write_category_report(
            tmp_path / "file" / "x", evaluation, **options, cases=1, max_pixels=10**6
        )
    evaluation.samples[0].path.unlink()
    with pytest.raises(ImageError):
        write_category_report(tmp_path / "out", evaluation, **options, cases=1, max_pixels=10**6)
