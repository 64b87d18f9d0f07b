"""Estimates and paired differences of arms, with intervals over training seeds and test images.

Two things make a figure uncertain: another seed would have trained another detector, and another
day would have brought other parts. The first is seen in the spread over seeds on the same images
(Student's t), the second by drawing the parts anew for the same detectors (bootstrap); images of
one part go together, for they say much the same. Their half-widths add as squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.study.cell_scores import CellScores
from detector.study.weighted_metrics import METRICS, PIXEL_METRICS, metrics_of
from manifests.errors import ModelError

CLAIMS = ("better", "not-worse")
VERDICTS = ("holds", "does not hold", "undecided")
_LEVEL = 0.95
_NORMAL_QUANTILE = 1.96  # of `_LEVEL`, two-sided


@dataclass(frozen=True)
class Estimate:
    """One arm's metric.

    Attributes:
        mean: over seeds.
        sd: over seeds, n-1 in the denominator; None with one seed.
        low, high: ends of the 95 % interval; with one seed that of the test images alone.
        n: seeds.
    """

    mean: float
    sd: float | None
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """An arm's metric less the baseline's, paired by seed and test image.

    Attributes:
        mean: over seeds.
        low, high: ends of the 95 % interval; with one seed that of the test images alone.
        seed_sd: of the difference over seeds, n-1 in the denominator; None with one seed.
        boot_sd: of the mean difference over draws of the test images.
        n_seeds: of the arm, or of the baseline where the arm has one.
        n_images: test images that the metric read.
    """

    mean: float
    low: float
    high: float
    seed_sd: float | None
    boot_sd: float
    n_seeds: int
    n_images: int


@dataclass(frozen=True, eq=False)
class Resampled:
    """One arm's metrics per seed, on the test images as they are and on r draws of them.

    Two of them can be compared when test images, subset, `replicates` and `seed` are the same:
    then the draws are the same, too.

    Attributes:
        images: (source, defect, part) of each image of the subset, in order.
        known: of each image, whether pixel metrics read it.
        draw: (replicates, seed) of the draws.
        values: metric -> (s,) float64, NaN where undefined.
        replicates: metric -> (r, s) float64.
        n_images: metric -> number of test images that it read.
        n_parts: number of parts that draws are made of.
    """

    images: tuple[tuple[str, str, str], ...]
    known: tuple[bool, ...]
    draw: tuple[int, int]
    values: dict[str, np.ndarray]
    replicates: dict[str, np.ndarray]
    n_images: dict[str, int]
    n_parts: int


def image_draws(
    defects: np.ndarray,
    subset: np.ndarray,
    *,
    parts: np.ndarray | None = None,
    replicates: int,
    seed: int,
) -> np.ndarray:
    """How often each test image is drawn: parts, with replacement, within each defect type.

    Strata keep their number of parts, so every draw has as many parts of each kind as the test set.

    Args:
        defects: (n,) str.
        subset: (n,) bool, images to draw from.
        parts: (n,) str, what each image shows; those of one part and defect type are drawn
            together. Empty, or without `parts`: a part by itself.
        replicates: number of draws r.
        seed: 0 or more.

    Returns:
        (r, n) int64, 0 outside the subset.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 8 (several
        samples, each drawn from by itself); Davison and Hinkley, "Bootstrap Methods and their
        Application", 1997, section 3.8 (clusters drawn whole).
    """
    rng = np.random.default_rng(seed)
    draws = np.zeros((replicates, len(defects)), dtype=np.int64)
    for defect in sorted(set(defects[subset].tolist())):
        members = np.flatnonzero(subset & (defects == defect))
        names = np.arange(len(members)) if parts is None else _part_of(members, parts)
        count = names.max() + 1
        chances = np.full(count, 1 / count)
        draws[:, members] = rng.multinomial(count, chances, size=replicates)[:, names]
    return draws


def _part_of(members: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(m,) int64: the number of each member's part, in order of first appearance."""
    keys = [part or index for part, index in zip(parts[members].tolist(), members, strict=True)]
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def resample(
    cells: Sequence[CellScores],
    *,
    metrics: Sequence[str] = METRICS,
    subset: np.ndarray,
    parts: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Resampled:
    """One arm's metrics per seed, on the test images and on draws of them.

    Args:
        cells: of one arm, one per seed, in an order that all arms share.
        metrics: of `METRICS`.
        subset: (n,) bool, test images that count; the validation part is False.
        parts: (n,) str, see `image_draws`.
        truth: (n,) bool, images that pixel metrics may read, where that are fewer than those with
            ground truth: on a small canvas a small defect can vanish, and arms on different
            canvases are compared on the images that all of them have ground truth of.
        replicates: draws, at least 4; fewer than some hundred make the interval itself shaky.
        seed: of the draws, not of the training.

    Raises:
        ModelError: the cells are not of the same test images.
        ValueError: no cells, no images, too few replicates, an unknown metric.

    Source: ours.
    """
    if not cells:
        raise ValueError("no cells")
    if replicates < 4:
        raise ValueError(f"replicates must be at least 4, not {replicates}")
    first = cells[0]
    for cell in cells[1:]:
        _check_same(first, cell)
    subset = np.asarray(subset)
    if subset.dtype != bool or subset.shape != first.labels.shape or not subset.any():
        raise ValueError(f"subset must be {first.labels.shape} bool with at least one image")
    draws = image_draws(first.defects, subset, parts=parts, replicates=replicates, seed=seed)
    weights = np.concatenate([subset[None].astype(np.int64), draws])
    known = first.has_truth if truth is None else first.has_truth & truth
    image_kinds = [name for name in metrics if name not in PIXEL_METRICS]
    pixel_kinds = [name for name in metrics if name in PIXEL_METRICS]
    found = [
        metrics_of(cell, weights, image_kinds) | metrics_of(cell, weights * known, pixel_kinds)
        for cell in cells
    ]
    both = {name: np.stack([values[name] for values in found], axis=1) for name in metrics}
    n_known = int((subset & known).sum())
    shown = np.full(len(subset), "") if parts is None else np.asarray(parts)
    columns = (first.sources, first.defects, shown)
    images = tuple(zip(*(column[subset].tolist() for column in columns), strict=True))
    return Resampled(
        images=images,
        known=tuple(known[subset].tolist()),
        draw=(replicates, seed),
        values={name: values[0] for name, values in both.items()},
        replicates={name: values[1:] for name, values in both.items()},
        n_images={
            name: n_known if name in PIXEL_METRICS else int(subset.sum()) for name in metrics
        },
        n_parts=len({(defect, part or source) for source, defect, part in images}),
    )


def estimate_of(arm: Resampled, metric: str) -> Estimate | None:
    """One arm's metric with its interval; None where the metric is undefined on these images.

    Source: ours, see `difference_of`.
    """
    values = arm.values[metric]
    found = _interval(values, arm.replicates[metric])
    if found is None:
        return None
    mean, half, sd, _ = found
    return Estimate(mean=mean, sd=sd, low=mean - half, high=mean + half, n=len(values))


def difference_of(arm: Resampled, baseline: Resampled, metric: str) -> Difference | None:
    """An arm's metric less the baseline's, paired by seed and by test image.

    With d_s the difference of seed s, n seeds and b the difference averaged over seeds on one draw,
    the half-width is sqrt((t_{0.975, n-1} * sd(d) / sqrt(n))^2 + (1.96 * sd(b))^2). With one seed
    the first term is unknown and left out: the interval then speaks of other test images only.

    Args:
        arm, baseline: of the same seeds in the same order. An arm or baseline with one cell stands
            against every seed of the other: right only where it does not depend on the seed.
        metric: in both.

    Returns:
        None where the metric is undefined on these images.

    Raises:
        ModelError: other test images, draws or numbers of seeds.

    Source: ours. Draws on which the metric is undefined are left out of sd(b); where they are more
        than half, so is the difference.
    """
    is_pixel = metric in PIXEL_METRICS
    if (
        arm.images != baseline.images
        or arm.draw != baseline.draw
        or (is_pixel and arm.known != baseline.known)
    ):
        raise ModelError(
            "arms scored on other test images or draws cannot be compared",
            expected=f"{len(baseline.images)} images, draws {baseline.draw}",
            got=f"{len(arm.images)} images, draws {arm.draw}",
            hint="run both arms on the same data",
        )
    values, base_values = arm.values[metric], baseline.values[metric]
    if len(values) != len(base_values) and 1 not in (len(values), len(base_values)):
        raise ModelError(
            "arms of different numbers of seeds cannot be paired",
            expected=f"{len(base_values)} seeds",
            got=len(values),
            hint="run the missing seeds",
        )
    differences = values - base_values
    found = _interval(differences, arm.replicates[metric] - baseline.replicates[metric])
    if found is None:
        return None
    mean, half, seed_sd, boot_sd = found
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        seed_sd=seed_sd,
        boot_sd=boot_sd,
        n_seeds=len(differences),
        n_images=arm.n_images[metric],
    )


def estimate(
    arm: Sequence[CellScores],
    *,
    metric: str,
    subset: np.ndarray,
    replicates: int = 1000,
    seed: int = 0,
) -> Estimate | None:
    """`resample` and `estimate_of` in one, for a single metric."""
    drawn = resample(arm, metrics=(metric,), subset=subset, replicates=replicates, seed=seed)
    return estimate_of(drawn, metric)


def paired_difference(
    arm: Sequence[CellScores],
    baseline: Sequence[CellScores],
    *,
    metric: str,
    subset: np.ndarray,
    replicates: int = 1000,
    seed: int = 0,
) -> Difference | None:
    """`resample` of both and `difference_of` in one, for a single metric."""
    truth = None
    if arm and baseline:
        _check_same(baseline[0], arm[0], ("sources", "defects", "labels"))
        truth = arm[0].has_truth & baseline[0].has_truth
    drawn = [
        resample(
            cells,
            metrics=(metric,),
            subset=subset,
            truth=truth,
            replicates=replicates,
            seed=seed,
        )
        for cells in (arm, baseline)
    ]
    return difference_of(drawn[0], drawn[1], metric)


def verdict(difference: Difference, *, claim: str, margin: float = 0.0) -> str:
    """What an interval says about a claim, on this data set, network and coreset only.

    - "better": holds if the interval lies above 0, does not hold if it lies below 0.
    - "not-worse": holds if it lies above -margin, does not hold if it lies below -margin.

    An interval that contains the limit leaves the claim undecided: neither shown nor refuted.

    Args:
        claim: of `CLAIMS`.
        margin: largest loss that still counts as none, 0 or more; "better" does not read it.

    Raises:
        ValueError: an unknown claim, or a margin below 0.

    Source: ours.
    """
    if claim not in CLAIMS:
        raise ValueError(f"unknown claim {claim!r}, expected of {CLAIMS}")
    if not margin >= 0:
        raise ValueError(f"margin must be 0 or more, not {margin}")
    limit = -margin if claim == "not-worse" else 0.0
    if difference.low > limit:
        return "holds"
    return "does not hold" if difference.high < limit else "undecided"


def _interval(
    values: np.ndarray, replicates: np.ndarray
) -> tuple[float, float, float | None, float] | None:
    """Mean, half-width, sd over seeds and sd over draws of (s,) values and (r, s) replicates.

    None where a value is undefined, or so many draws that the rest says nothing of other images.
    """
    means = replicates.mean(axis=1)
    means = means[~np.isnan(means)]
    if np.isnan(values).any() or len(means) < len(replicates) / 2:
        return None
    boot_sd = float(means.std(ddof=1))
    n = len(values)
    if n == 1:
        return float(values[0]), _NORMAL_QUANTILE * boot_sd, None, boot_sd
    # Imported late: scipy.stats takes a while, and loading cells must not wait for it.
    from scipy.stats import t

    seed_sd = float(values.std(ddof=1))
    seed_half = float(t.ppf((1 + _LEVEL) / 2, n - 1)) * seed_sd / math.sqrt(n)
    half = math.hypot(seed_half, _NORMAL_QUANTILE * boot_sd)
    return float(values.mean()), half, seed_sd, boot_sd


def _check_same(
    one: CellScores,
    other: CellScores,
    names: Sequence[str] = ("sources", "defects", "labels", "has_truth"),
) -> None:
    for name in names:
        expected, got = getattr(one, name), getattr(other, name)
        if not np.array_equal(expected, got):
            raise ModelError(
                f"cells of different test images cannot be compared: their {name} differ",
                expected=f"{len(expected)} images",
                got=f"{len(got)} images",
                hint="run the cells again on the same data",
            )
