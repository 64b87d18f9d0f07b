"""Greedy k-centre coreset: the few patch features that leave no other far away.

The literal algorithm computes the distance of all N features to every new pick, which is bound by
memory. Here distances are brought up to date only where they can matter: a feature's distance to
the nearest pick never grows, so an old distance is an upper bound, and a feature whose old distance
lies below the next pick's cannot be that pick. The picks are the literal algorithm's, bit for bit,
because every distance that decides is computed by the same per-pair kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from manifests.errors import ConfigError, ModelError

# Features up to this width are searched as they are: projected from 152 to 128 dimensions, a bank
# covers its patches worse by a tenth (docs/benchmarks.md).
PROJECTION_DIM = 384

# Features held up to date at a time: few enough to stay in the processor's cache.
_ACTIVE = 4096
_BLOCK_ROWS = 1024
_BLOCK_PICKS = 4096
_GROUP = 64
_PROJECT_ROWS = 65536
_COMPACT_EVERY = 16


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
    n, width = features.shape
    if width <= dim:
        return features
    matrix = rng.standard_normal((width, dim)) / math.sqrt(dim)
    weights = torch.from_numpy(matrix.astype(np.float32)).to(features.device)
    out = torch.empty((n, dim), dtype=torch.float32, device=features.device)
    for start in range(0, n, _PROJECT_ROWS):
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
    n = features.shape[0]
    if not 1 <= picks <= n:
        raise ConfigError("coreset size out of range", expected=f"1..{n}", got=picks)
    if projection_dim < 1:
        raise ConfigError("projection_dim out of range", expected="at least 1", got=projection_dim)
    with torch.inference_mode():
        points = project(features, projection_dim, rng=rng)
        # A sum is finite only where every term is, and needs no (N, D) mask.
        if not torch.isfinite(points.sum(1)).all():
            raise ModelError(
                "features are not finite",
                hint="the extractor has diverged: train it again with a lower learning rate",
            )
        search = _LazyGreedy(points, picks, first=int(rng.integers(n)))
        while search.count < picks:
            search.advance()
            if progress is not None:
                progress(search.count, picks)
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


class _LazyGreedy:
    """State of one search; `advance` makes picks until the active features are used up."""

    def __init__(self, points: torch.Tensor, picks: int, *, first: int) -> None:
        n, dim = points.shape
        self.points = points
        self.picks = picks
        self.mean = points.mean(0, keepdim=True)
        self.chosen = torch.zeros(picks, dtype=torch.int64, device=points.device)
        self.centres = torch.zeros((picks, dim), device=points.device)
        # Distance to the nearest of the first `seen` picks: exact for those, an upper bound for
        # all. -1 marks a feature already chosen.
        self.distance = torch.empty(n, device=points.device)
        self.seen = torch.ones(n, dtype=torch.int64, device=points.device)
        self.count = 0
        self._choose(first, points[first])
        for start in range(0, n, _PROJECT_ROWS):
            rows = slice(start, start + _PROJECT_ROWS)
            self.distance[rows] = _to_one(points[rows], points[first])
        self.distance[first] = -1.0

    def advance(self) -> None:
        """Bring the features with the largest bounds up to date and pick among them."""
        top = torch.topk(self.distance, min(_ACTIVE, len(self.distance)), sorted=False).values
        if float(top.max()) <= 0.0:
            self._choose_duplicates()
            return
        # At the floor itself all features are taken, so that ties still go to the lowest index.
        # Chosen features (-1) and copies of chosen ones (0) stay out.
        floor = max(float(top.min()), torch.finfo(torch.float32).tiny)
        active = (self.distance >= floor).nonzero()[:, 0]
        distance = self._update(active)
        kept = distance >= floor
        self._store(active[~kept], distance[~kept])
        self._pick_among(active[kept], distance[kept], floor)

    def _pick_among(self, indices: torch.Tensor, values: torch.Tensor, floor: float) -> None:
        """Plain greedy on the active features while the best of them beats all the others."""
        points = self.points[indices]
        while self.count < self.picks and len(indices):
            best = int(values.argmax())
            if float(values[best]) < floor:
                break
            self._choose(int(indices[best]), points[best])
            torch.minimum(values, _to_one(points, points[best]), out=values)
            values[best] = -1.0
            if self.count % _COMPACT_EVERY == 0:
                kept = values >= floor
                self._store(indices[~kept], values[~kept])
                indices, values, points = indices[kept], values[kept], points[kept]
        self._store(indices, values)

    def _store(self, indices: torch.Tensor, values: torch.Tensor) -> None:
        self.distance[indices] = values
        self.seen[indices] = self.count

    def _choose(self, index: int, point: torch.Tensor) -> None:
        self.chosen[self.count] = index
        self.centres[self.count] = point
        self.count += 1

    def _choose_duplicates(self) -> None:
        """Every feature left equals a pick: take the lowest indices."""
        left = (self.distance >= 0).nonzero()[: self.picks - self.count, 0]
        self.chosen[self.count : self.count + len(left)] = left
        self.count += len(left)

    def _update(self, active: torch.Tensor) -> torch.Tensor:
        """Distances of the active features to the nearest of all picks made so far."""
        distance = self.distance[active]
        seen = self.seen[active]
        order = torch.argsort(seen)
        for rows in torch.split(order, _BLOCK_ROWS):
            # Sorted, so a block's features lack nearly the same picks; some are met twice, which
            # a minimum does not mind.
            start = int(seen[rows[0]])
            if start == self.count:
                break
            points = self.points[active[rows]]
            nearest = distance[rows]
            for first in range(start, self.count, _BLOCK_PICKS):
                centres = self.centres[first : min(first + _BLOCK_PICKS, self.count)]
                nearest = _to_many(points, nearest, centres, self.mean)
            distance[rows] = nearest
        return distance


def _to_one(points: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """(n,) distances of (n, D) points to one (D,) centre, by differences."""
    return torch.cdist(points, centre[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]


def _to_many(
    points: torch.Tensor, nearest: torch.Tensor, centres: torch.Tensor, mean: torch.Tensor
) -> torch.Tensor:
    """The smaller of `nearest` (n,) and the exact distances of (n, D) points to (k, D) centres.

    A matrix product is twenty times as fast as differences but cancels, so it only decides which
    pairs could give the minimum; those few are computed by differences like everything else.
    """
    n, k = len(points), len(centres)
    x = points - mean
    # Padded to whole groups with centres infinitely far away.
    c = torch.nn.functional.pad(centres - mean, (0, 0, 0, -k % _GROUP))
    x_half = x.square().sum(1, keepdim=True).mul_(0.5)
    c_half = c.square().sum(1).mul_(0.5)
    farthest = c_half.max()
    c_half[k:] = torch.inf
    # (n, k): half the squared distance less x_half, subject to rounding only.
    product = torch.addmm(c_half, x, c.T, alpha=-1.0)
    # Bound on the rounding of a D-term dot product in any order, of both norms, and of the
    # distances by differences, with a factor of two to spare.
    slack = (points.shape[1] + 8) * 2.0**-21 * (x_half + farthest)
    improves = nearest[:, None].square().mul_(0.5) - x_half + slack
    # Minima of groups are far cheaper than comparisons, and rule out nearly all pairs.
    grouped = product.view(n, -1, _GROUP)
    least = grouped.amin(2)
    limit = torch.minimum(least.amin(1, keepdim=True) + 2.0 * slack, improves)
    row, group = (least <= limit).nonzero(as_tuple=True)
    which, column = (grouped[row, group] <= limit[row]).nonzero(as_tuple=True)
    row, column = row[which], group[which] * _GROUP + column
    exact = torch.cdist(
        points[row][:, None], centres[column][:, None], compute_mode="donot_use_mm_for_euclid_dist"
    )[:, 0, 0]
    return nearest.scatter_reduce(0, row, exact, "amin")
