"""Cell scores: histograms by hand, weighted metrics against repeated images, files that refuse."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from detector.study.cell_scores import CELL_VERSION, CellScores, cell_scores
from detector.study.weighted_metrics import METRICS, metrics, metrics_of
from manifests.errors import ModelError, OutputError
from reference.statistics import binned_ap, binned_aupro, binned_auroc, repeated_metrics


@dataclass(frozen=True)
class _Evaluated:
    """The fields of an Evaluation that cell scores read."""

    samples: tuple
    scores: np.ndarray
    labels: np.ndarray
    maps: np.ndarray
    masks: np.ndarray
    valid: np.ndarray
    has_truth: np.ndarray


def _samples(defects) -> tuple:
    return tuple(
        SimpleNamespace(source=f"{kind}/{i:03d}.png", defect=kind, label=int(kind != "good"))
        for i, kind in enumerate(defects)
    )


def _problem(seed: int, *, n: int = 14, height: int = 48, width: int = 61, levels=None):
    """Textured maps with blobs of defect, padding, two images without a mask."""
    rng = np.random.default_rng(seed)
    defects = ["good"] * (n // 2) + ["scratch"] * (n - n // 2 - 3) + ["hole"] * 3
    labels = np.array([kind != "good" for kind in defects])
    noise = ndimage.gaussian_filter(rng.normal(size=(n, height, width)), (0, 2, 2))
    masks = (noise > 1.5 * noise.std()) & labels[:, None, None]
    has_truth = np.ones(n, dtype=bool)
    has_truth[[n // 2, n - 1]] = False
    masks[~has_truth] = False
    maps = (rng.normal(size=masks.shape) + 1.6 * masks + 6 * noise).astype(np.float32)
    scores = (rng.normal(size=n) + labels).astype(np.float32)
    if levels is not None:
        maps = (np.round(maps * levels) / levels).astype(np.float32)
        scores = np.round(scores * 2).astype(np.float32)
    valid = np.ones_like(masks)
    valid[:, :3] = False
    valid[1, :, -5:] = False
    return _Evaluated(_samples(defects), scores, labels, maps, masks, valid, has_truth)


def _repeated(problem: _Evaluated, weights) -> dict:
    arrays = (problem.scores, problem.labels, problem.maps, problem.masks, problem.valid)
    return repeated_metrics(*arrays, problem.has_truth, weights)


def _hand() -> CellScores:
    """Three images, two bins wide apart: good, one component of 4 pixels, two components."""
    maps = np.array([[[1, 2, 2, 1]], [[2, 1, 2, 2]], [[2, 1, 1, 1]]], dtype=np.float32)
    masks = np.array([[[0, 0, 0, 0]], [[1, 1, 1, 1]], [[1, 0, 0, 1]]], dtype=bool)
    return cell_scores(
        _Evaluated(
            samples=_samples(["good", "hole", "hole"]),
            scores=np.array([1.0, 3.0, 1.0]),
            labels=np.array([False, True, True]),
            maps=maps,
            masks=masks,
            valid=np.ones_like(masks),
            has_truth=np.ones(3, dtype=bool),
        ),
        bins=8,
    )


def test_histograms_and_metrics_by_hand():
    cell = _hand()
    assert cell.edges[:2].tolist() == [1, 2]
    assert cell.edges[2] == np.nextafter(np.float32(2), np.float32(3))
    assert cell.good.tolist() == [[2, 2], [0, 0], [2, 0]]
    assert cell.bad.tolist() == [[0, 0], [1, 3], [1, 1]]
    # The second image's component of four lies 1/4 and 3/4; the third has one in each bin.
    assert cell.overlap.tolist() == [[0, 0], [0.25, 0.75], [1, 1]]
    assert cell.components.tolist() == [0, 1, 2]
    found = metrics(cell, np.array([1, 1, 1]))
    # Good pixels 4 low, 2 high; defective 2 low, 4 high. Pairs of 36: high over low 4*4, ties
    # 4*2/2 + 2*4/2.
    assert found["pixel_auroc"] == pytest.approx(24 / 36)
    # Image scores: 3 beats 1, 1 ties 1.
    assert found["image_auroc"] == pytest.approx(0.75)
    assert found["image_ap"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    # Mixed AP: the integral of (1/2 + u) / (1/2 + 3/2 u) over 0..4, then, with 4 of 6 above, of
    # (4.5 + u) / (6.5 + 3 u) over 0..2.
    high = 4 * 2 / 3 + (0.5 - 0.5 / 1.5) / 1.5 * np.log(1 + 6 / 0.5)
    low = 2 / 3 + (4.5 - 6.5 / 3) / 3 * np.log(1 + 6 / 6.5)
    assert found["pixel_ap"] == pytest.approx((high + low) / 6)
    # Overlap rises to 1.75/3 at a false-positive rate of 1/3; up to 0.3 it is a triangle.
    assert found["aupro"] == pytest.approx(1.75 / 3 * 0.9 / 2)
    # Twice the third image, the second left out: good 6 low, 2 high; defective 2 low, 2 high.
    again = metrics(cell, np.array([1, 0, 2]), ("pixel_auroc", "aupro"))
    assert again["pixel_auroc"] == pytest.approx((2 * 6 + 2 * 2 / 2 + 2 * 6 / 2) / 32)
    # Overlap 1/2 at a rate of 1/4, then on towards 1 at 1: 1/2 + 1/2 * 0.05 / 0.75 at 0.3.
    at_limit = 0.5 + 0.5 * 0.05 / 0.75
    area = 0.25 * 0.5 / 2 + 0.05 * (0.5 + at_limit) / 2
    assert again["aupro"] == pytest.approx(area / 0.3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bins_agree_with_exact_metrics_of_repeated_images(seed):
    problem = _problem(seed)
    cell = cell_scores(problem)
    assert 1800 < len(cell.edges) <= 2049
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(14, np.full(14, 1 / 14), size=4)
    weights[:, [0, 8]] += 1  # never one class only
    weights[0] = 1
    found = metrics_of(cell, weights)
    for row, one in enumerate(weights):
        for kind, expected in _repeated(problem, one).items():
            tolerance = 1e-12 if kind.startswith("image") else 2e-4
            assert found[kind][row] == pytest.approx(expected, abs=tolerance), kind


def test_exact_metrics_are_those_of_all_images():
    problem = _problem(5)
    cell = cell_scores(problem)
    expected = _repeated(problem, np.ones(14, dtype=int))
    assert {kind: cell.exact[kind] for kind in METRICS} == pytest.approx(expected, abs=1e-12)
    assert set(cell.exact) == {*METRICS, "image_f1_max", "pixel_f1_max"}


def test_where_every_score_has_its_bin_ties_are_exact():
    problem = _problem(3, levels=3)
    cell = cell_scores(problem)
    distinct = np.unique(problem.maps[problem.has_truth][problem.valid[problem.has_truth]])
    assert np.array_equal(cell.edges[:-1], distinct)
    weights = np.random.default_rng(0).integers(0, 3, size=14)
    weights[[0, 8]] = 1
    found, expected = metrics(cell, weights), _repeated(problem, weights)
    for kind in ("image_auroc", "image_ap", "pixel_auroc", "aupro"):
        assert found[kind] == pytest.approx(expected[kind], abs=1e-6), kind


def test_weighted_metrics_agree_with_counting_pixel_by_pixel():
    problem = _problem(4, n=9, height=16, width=19)
    cell = cell_scores(problem, bins=13)
    weights = np.array([1, 0, 2, 1, 1, 3, 1, 2, 1])
    rows = [i for i, weight in enumerate(weights) for _ in range(weight)]
    good, bad = cell.good[rows].sum(axis=0).tolist(), cell.bad[rows].sum(axis=0).tolist()
    found = metrics(cell, weights)
    assert found["pixel_auroc"] == pytest.approx(binned_auroc(bad, good), abs=1e-12)
    copies = np.array([weights[row] for row in rows for _ in range(cell.bad[row].sum())])
    assert copies.mean() > 1.5
    expected = binned_ap(bad, good, copies=copies.mean())
    assert found["pixel_ap"] == pytest.approx(expected, abs=1e-6)
    components = []
    for row in rows:
        marked = problem.masks[row] & problem.valid[row]
        numbered, count = ndimage.label(marked, structure=np.ones((3, 3)))
        components += [
            np.histogram(problem.maps[row][numbered == number], bins=cell.edges)[0]
            for number in range(1, count + 1)
        ]
    assert len(components) == cell.components[rows].sum() > 6
    assert found["aupro"] == pytest.approx(binned_aupro(components, np.array(good)), abs=1e-5)


def test_one_class_gives_no_number():
    cell = cell_scores(_problem(0))
    only_good = np.array([1] * 7 + [0] * 7)
    assert metrics(cell, only_good) == dict.fromkeys(METRICS)
    nothing = metrics_of(cell, np.zeros((2, 14), dtype=int))
    assert all(np.isnan(values).all() and values.shape == (2,) for values in nothing.values())
    # The images without a mask have a label, but no pixels.
    found = metrics(cell, np.array([1] + [0] * 12 + [1]))
    assert found["image_auroc"] is not None
    assert found["pixel_auroc"] is found["pixel_ap"] is found["aupro"] is None
    assert metrics_of(cell, np.zeros((0, 14), dtype=int))["aupro"].shape == (0,)


def test_defective_images_alone_have_pixel_metrics():
    problem = _problem(0)
    weights = np.array([0] * 7 + [1] * 7)
    found, expected = metrics(cell_scores(problem), weights), _repeated(problem, weights)
    assert found["image_auroc"] is found["image_ap"] is None
    for kind in ("pixel_auroc", "pixel_ap", "aupro"):
        assert found[kind] == pytest.approx(expected[kind], abs=2e-4)


def test_many_weightings_at_once_are_each_by_itself():
    cell = cell_scores(_problem(1), bins=64)
    weights = np.random.default_rng(0).integers(0, 3, size=(150, 14))
    together = metrics_of(cell, weights)
    for kind in METRICS:
        alone = [metrics_of(cell, one[None], (kind,))[kind][0] for one in weights]
        np.testing.assert_allclose(together[kind], alone, rtol=1e-12)


@pytest.mark.parametrize(
    "weights", [np.ones(13, dtype=int), np.ones(14), np.array([-1] + [1] * 13)]
)
def test_refuses_weights_that_are_none(weights):
    with pytest.raises(ValueError, match="weights must be"):
        metrics(cell_scores(_problem(0), bins=8), weights)


def test_refuses_unknown_kinds_and_bins():
    with pytest.raises(ValueError, match="unknown metrics \\['f1'\\]"):
        metrics(cell_scores(_problem(0), bins=8), np.ones(14, dtype=int), ("f1",))
    with pytest.raises(ValueError, match="bins must be at least 2"):
        cell_scores(_problem(0), bins=1)


def test_scores_that_are_not_finite_are_refused():
    problem = _problem(0)
    problem.maps[2, 20, 20] = np.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        cell_scores(problem)


def test_inputs_stay_as_they_are():
    problem = _problem(0)
    before = [problem.maps.copy(), problem.masks.copy(), problem.scores.copy()]
    cell_scores(problem)
    for array, copy in zip((problem.maps, problem.masks, problem.scores), before, strict=True):
        assert np.array_equal(array, copy)


def test_no_mask_at_all_leaves_image_metrics(tmp_path):
    problem = _problem(0)
    problem.has_truth[:] = ~problem.labels
    problem.masks[:] = False
    cell = cell_scores(problem)
    assert set(cell.exact) == {"image_auroc", "image_ap", "image_f1_max"}
    cell.save(tmp_path / "cell.npz")
    found = metrics(CellScores.load(tmp_path / "cell.npz"), np.ones(14, dtype=int))
    assert found["image_auroc"] == cell.exact["image_auroc"]
    assert found["pixel_auroc"] is None


def _same(one: CellScores, other: CellScores) -> bool:
    return one.exact == other.exact and all(
        np.array_equal(value, getattr(other, name)) and value.dtype == getattr(other, name).dtype
        for name, value in vars(one).items()
        if name != "exact"
    )


def test_file_holds_the_same_and_has_the_same_bytes(tmp_path):
    cell = cell_scores(_problem(0), bins=100)
    cell.save(tmp_path / "a.npz")
    cell.save(tmp_path / "b.npz")
    assert _same(CellScores.load(tmp_path / "a.npz"), cell)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    with pytest.raises(OutputError):
        cell.save(tmp_path / "none" / "a.npz")


def _arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"version": np.array(CELL_VERSION + 1)}, "another version"),
        ({"image": np.zeros(13, np.float32)}, "image is \\(13,\\), not \\(14,\\)"),
        ({"image": np.full(14, np.nan, np.float32)}, "NaN"),
        ({"image": np.zeros(14)}, "image is 1-dimensional float64"),
        ({"good": np.zeros((14, 7), np.uint32)}, "good is"),
        ({"edges": np.zeros(9, np.float32)}, "do not ascend"),
        ({"sources": np.array(["a"] * 14)}, "two sources of one name"),
        ({"components": np.zeros(14, np.int32)}, "components without"),
        ({"has_truth": np.zeros(14, bool)}, "without ground truth"),
        ({"exact_values": np.zeros(3)}, "cannot be read"),
        ({"sources": np.array([{}] * 14, dtype=object)}, "no plain array"),
        ({"more": np.zeros(1)}, "does not hold the arrays"),
        ({"good": None}, "does not hold the arrays"),
    ],
)
def test_loading_refuses_what_is_no_cell(tmp_path, change, what):
    path = tmp_path / "cell.npz"
    cell_scores(_problem(0), bins=8).save(path)
    arrays = {name: value for name, value in (_arrays(path) | change).items() if value is not None}
    np.savez(path, **arrays)
    with pytest.raises(ModelError, match=what) as caught:
        CellScores.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_loading_refuses_damage_and_false_sizes(tmp_path):
    path = tmp_path / "cell.npz"
    with pytest.raises(ModelError, match="No such file"):
        CellScores.load(path)
    cell_scores(_problem(0), bins=64).save(path)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", whole[:3000] + b"\xff\x00" + whole[3002:]):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="cannot be read"):
            CellScores.load(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    # A header that asks for far more memory than there are bytes.
    members["image.npy"] = members["image.npy"].replace(b"(14,), }     ", b"(10000000,), }")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ModelError, match="image is not as long as it says"):
        CellScores.load(path)
