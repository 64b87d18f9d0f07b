"""Greedy k-centre coreset: the few patch features that leave no other far away."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from detector.lazy_greedy import LazyGreedy
from manifests.errors import ConfigError, ModelError

# Features up to this width are searched as they are: projected from 152 to 128 dimensions, a bank
# covers its patches worse by a tenth (docs/benchmarks.md).
PROJECTION_DIM = 384

_PROJECT_ROWS = 65536


def coreset_size(n: int, ratio: float, maximum: int | None = None) -> int:
    """Number of features to keep of `n`: `ceil(ratio * n)`, at least 1, at most `n` and `maximum`.

    Args:
        n: number of features, at least 1.
        ratio: part to keep, in (0, 1].
        maximum: upper limit, or None.

    Raises:
        ConfigError: `n`, `ratio` or `maximum` out of range.

    Source: Roth et al. 2022, section 3.2. Differs: rounded up, so that it is never zero.
    """
    if n < 1:
        raise ConfigError("no features to choose from", expected="at least 1", got=n)
    if not 0.0 < ratio <= 1.0:
        raise ConfigError("coreset ratio out of range", expected="0 < ratio <= 1", got=ratio)
    if maximum is not None and maximum < 1:
        raise ConfigError("coreset maximum out of range", expected="at least 1", got=maximum)
    # 0.01 * 700 is 7.000000000000001 in binary: such noise must not add a feature.
    wanted = max(1, math.ceil(ratio * n * (1.0 - 1e-12)))
    return min(wanted, n) if maximum is None else min(wanted, n, maximum)


def project(features: torch.Tensor, dim: int, *, rng: np.random.Generator) -> torch.Tensor:
    """Random Gaussian projection to `dim` dimensions, which keeps distances in expectation.

    Args:
        features: (N, D) float32.
        dim: dimensions wanted; `features` itself is returned, and nothing drawn, where D <= dim.
        rng: the source of the (D, dim) matrix, entries N(0, 1/dim).

    Returns:
        (N, dim) float32.

    Source: Roth et al. 2022, section 3.2 (Johnson-Lindenstrauss).
    """
    return _projected(features, _matrix(features.shape[1], dim, rng))


def _matrix(width: int, dim: int, rng: np.random.Generator) -> torch.Tensor | None:
    """(width, dim) float32; None where nothing is projected."""
    if width <= dim:
        return None
    matrix = rng.standard_normal((width, dim)) / math.sqrt(dim)
    return torch.from_numpy(matrix.astype(np.float32))


def _projected(features: torch.Tensor, matrix: torch.Tensor | None) -> torch.Tensor:
    if matrix is None:
        return features
    weights = matrix.to(features.device)
    out = torch.empty((len(features), matrix.shape[1]), device=features.device)
    for start in range(0, len(features), _PROJECT_ROWS):
        rows = slice(start, start + _PROJECT_ROWS)
        torch.mm(features[rows], weights, out=out[rows])
    return out


def k_centre(
    features: torch.Tensor,
    picks: int,
    *,
    rng: np.random.Generator,
    projection_dim: int = PROJECTION_DIM,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Choose `picks` features greedily, each the farthest from all chosen before it.

    Equal distances go to the lowest index, and no feature is chosen twice. Distances are float32
    Euclidean distances of the projected features; the result does not depend on threads or
    blocking once those are given.

    Args:
        features: (N, D) float32, finite.
        picks: number to choose, 1..N.
        rng: draws the projection matrix (where D > `projection_dim`), then the first pick.
        projection_dim: dimensions in which distances are taken.
        progress: called with (chosen, picks) now and then, and at the end.

    Returns:
        (picks,) int64 indices in the order chosen.

    Raises:
        ConfigError: `picks` or `projection_dim` out of range.
        ModelError: features that are not finite.

    Source: Roth et al. 2022, algorithm 1; Gonzalez 1985 for the greedy bound; the lazy evaluation
    is ours. Differs: the first feature is drawn at random and counts as a pick.
    """
    _check(features, picks, projection_dim)
    with torch.inference_mode():
        points = _finite(project(features, projection_dim, rng=rng))
        search = LazyGreedy(points, picks, first=int(rng.integers(len(points))))
        return _run(search, picks, progress)


def more_centres(
    features: torch.Tensor,
    centres: torch.Tensor,
    picks: int,
    *,
    rng: np.random.Generator,
    projection_dim: int = PROJECTION_DIM,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Go on choosing greedily where centres have been chosen before, from other features.

    The first pick is the feature farthest from all centres, and so on, as if `k_centre` had made
    the centres its first picks.

    Args:
        features: (N, D) float32, finite; none of them a centre so far.
        centres: (M, D) float32, M >= 1, on the same device.
        picks: number to choose, 1..N.
        rng: as in `k_centre`; of the same seed it draws the same projection.
        projection_dim, progress: as in `k_centre`.

    Returns:
        (picks,) int64 indices of `features` in the order chosen.

    Raises:
        ConfigError, ModelError: as `k_centre`.

    Source: Gonzalez 1985; every pick is the greedy one, so that the radius is at most that of the
    centres before, and no more than twice the best that as many picks could do beside them.
    """
    _check(features, picks, projection_dim)
    with torch.inference_mode():
        matrix = _matrix(features.shape[1], projection_dim, rng)
        points, before = (_finite(_projected(one, matrix)) for one in (features, centres))
        search = LazyGreedy(points, picks, before=before)
        return _run(search, picks, progress)


def _check(features: torch.Tensor, picks: int, projection_dim: int) -> None:
    n = features.shape[0]
    if not 1 <= picks <= n:
        raise ConfigError("coreset size out of range", expected=f"1..{n}", got=picks)
    if projection_dim < 1:
        raise ConfigError("projection_dim out of range", expected="at least 1", got=projection_dim)


def _finite(points: torch.Tensor) -> torch.Tensor:
    # A sum is finite only where every term is, and needs no (N, D) mask.
    if not torch.isfinite(points.sum(1)).all():
        raise ModelError(
            "features are not finite",
            hint="the extractor has diverged: train it again with a lower learning rate",
        )
    return points


def _run(
    search: LazyGreedy, picks: int, progress: Callable[[int, int], None] | None
) -> torch.Tensor:
    while search.made < picks:
        search.advance()
        if progress is not None:
            progress(search.made, picks)
    return search.chosen.cpu()


def coreset_rows(
    features: torch.Tensor,
    size: int,
    *,
    rng: np.random.Generator,
    projection_dim: int = PROJECTION_DIM,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Rows of a coreset, ascending; all rows, and nothing drawn, where `size` leaves none out.

    Args and Raises: as `k_centre`, `size` for its `picks`.

    Returns:
        (min(size, N),) int64.
    """
    if size >= len(features):
        return torch.arange(len(features))
    picks = k_centre(features, size, rng=rng, projection_dim=projection_dim, progress=progress)
    return picks.sort().values
