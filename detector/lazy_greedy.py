"""The greedy k-centre search, with distances that are computed only where they can matter.

The literal algorithm computes the distance of all N features to every new pick, which is bound by
memory. Here distances are brought up to date only where they can matter: a feature's distance to
the nearest pick never grows, so an old distance is an upper bound, and a feature whose old distance
lies below the next pick's cannot be that pick. The picks are the literal algorithm's, bit for bit,
because every distance that decides is computed by the same per-pair kernel.
"""

from __future__ import annotations

import torch

# Features held up to date at a time: few enough to stay in the processor's cache.
_ACTIVE = 4096
_BLOCK_ROWS = 1024
_BLOCK_PICKS = 4096
_GROUP = 64
_PROJECT_ROWS = 65536
_COMPACT_EVERY = 16


class LazyGreedy:
    """State of one search; `advance` makes picks until the active features are used up.

    Args:
        points: (N, D) float32, finite.
        picks: how many to make, 1..N.
        first: the first of them, where nothing was chosen before.
        before: (M, D) float32, centres that were chosen before, none of them among the points.

    Attributes:
        chosen: (picks,) int64, the picks in the order made.
    """

    def __init__(
        self,
        points: torch.Tensor,
        picks: int,
        *,
        first: int = 0,
        before: torch.Tensor | None = None,
    ) -> None:
        n, dim = points.shape
        self.points = points
        self.mean = points.mean(0, keepdim=True)
        self.chosen = torch.zeros(picks, dtype=torch.int64, device=points.device)
        self._given = 0 if before is None else len(before)
        self._wanted = self._given + picks
        self.centres = torch.zeros((self._wanted, dim), device=points.device)
        # Distance to the nearest of the first `seen` picks: exact for those, an upper bound for
        # all. -1 marks a feature already chosen.
        self.distance = torch.empty(n, device=points.device)
        self.seen = torch.ones(n, dtype=torch.int64, device=points.device)
        self.count = 0
        if before is not None:
            self.centres[: self._given] = before
            # Brought up to date as every other distance is: from farther than any.
            self.count = self._given
            self.seen.zero_()
            self.distance.fill_(torch.inf)
            for rows in torch.arange(n, device=points.device).split(_PROJECT_ROWS):
                self.distance[rows] = self._update(rows)
            self.seen.fill_(self._given)
            return
        self._choose(first, points[first])
        for start in range(0, n, _PROJECT_ROWS):
            rows = slice(start, start + _PROJECT_ROWS)
            self.distance[rows] = _to_one(points[rows], points[first])
        self.distance[first] = -1.0

    @property
    def made(self) -> int:
        """Picks made so far."""
        return self.count - self._given

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
        while self.count < self._wanted and len(indices):
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
        self.chosen[self.made] = index
        self.centres[self.count] = point
        self.count += 1

    def _choose_duplicates(self) -> None:
        """Every feature left equals a pick: take the lowest indices."""
        left = (self.distance >= 0).nonzero()[: self._wanted - self.count, 0]
        self.chosen[self.made : self.made + len(left)] = left
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
