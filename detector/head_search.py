"""Nearest neighbours in a large bank: a cheap bound rules out nearly all groups of entries."""

from __future__ import annotations

import torch

# Entries that are ruled out, or looked at, together: alike, as `_order` sorts them.
GROUP = 128
# Entries of one product of the bound; their minima are read from the cache.
CHUNK = 256

# Part of the bank's variance that the head is to hold: with less, too many groups stay in doubt.
_HEAD_VARIANCE = 0.85
_HEAD_STEP = 16
# Banks smaller than this are searched in no time.
_LEAST_ENTRIES = 1024
# Rows that the directions are estimated from; they need not be exact, only orthonormal.
_SAMPLE_ROWS = 8192
# Patches at a time, and the bounds of their groups (64 MiB).
_BLOCK_ROWS = 8192
_BLOCK_ELEMENTS = 16 * 1024 * 1024


class HeadSearch:
    """Finds nearest entries by their head: a few directions that hold most of their variance.

    With P the directions and r(x) the length of what P leaves of x, the vector (Px, r(x)) is as
    long as x, and two of these are never farther apart than x and y are: their distance is a lower
    bound, from a product of a third of the width. Entries are sorted into groups of alike ones; a
    patch is compared in full with the group of the least bound, and then with those whose least
    bound is not above what was found there.

    Args:
        centred: (M, D) float32 entries about their mean.
        directions: (D, k) float32, orthonormal columns.

    Source: ours; the bound is the triangle inequality in the directions left out, the groups are
    the leaves of a k-d tree over the heads (Bentley 1975).
    """

    def __init__(self, centred: torch.Tensor, directions: torch.Tensor) -> None:
        self.directions = directions
        heads = self._heads(centred)
        order = _order(heads, GROUP)
        half = centred.square().sum(1).mul_(0.5)
        self._farthest_half = float(half.max())
        self._count, self._dim = centred.shape
        padding = -len(order) % CHUNK
        # Row of `centred` that a sorted entry is; padding is a row beyond, infinitely far away.
        self._entry = torch.cat([order, torch.full((padding,), len(order))])
        rows = order.new_zeros(len(order) + padding)
        rows[: len(order)] = order
        half = half[rows]
        half[len(order) :] = torch.inf
        # A column of ones in the patches adds the lengths, which saves a pass.
        bounds = torch.cat([-heads[rows], half[:, None]], dim=1)
        # Of padding only the length counts, and inf - inf would be none.
        bounds[len(order) :, :-1] = 0.0
        self._bounds = bounds.view(-1, CHUNK, bounds.shape[1]).transpose(1, 2).contiguous()
        groups = centred[rows].view(-1, GROUP, self._dim)
        self._groups = groups.transpose(1, 2).contiguous()  # (G, D, GROUP)
        self._half = half.view(-1, GROUP)

    def nearest(
        self, centred: torch.Tensor, owners: torch.Tensor, exclude: int | torch.Tensor | None
    ) -> torch.Tensor:
        """Row of each patch's nearest entry, M where all entries are excluded.

        Entries are compared by matrix products, whose rounding can prefer one that is farther by
        about 1e-6 of the features' squared spread.

        Args:
            centred: (P, D) float32 patches about the entries' mean.
            owners: (M,) int32, what `exclude` speaks of.
            exclude: entries of this owner do not count; one for all patches, or one per patch, (P,)
                int32. None excludes nothing.

        Returns:
            (P,) int64.
        """
        found = torch.empty(len(centred), dtype=torch.int64)
        if exclude is not None:
            # Padding belongs to nobody: it is infinitely far away as it is.
            owners = torch.cat([owners, owners.new_full((1,), -1)])[self._entry].view(-1, GROUP)
        step = max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // len(self._groups)))
        for start in range(0, len(centred), step):
            rows = slice(start, start + step)
            own = exclude[rows] if isinstance(exclude, torch.Tensor) else exclude
            found[rows] = self._nearest(centred[rows], owners, own)
        return found

    def _nearest(
        self, centred: torch.Tensor, owners: torch.Tensor, exclude: int | torch.Tensor | None
    ) -> torch.Tensor:
        least = self.least_bounds(centred, owners, exclude)
        best = torch.full((len(centred),), torch.inf)
        found = torch.full((len(centred),), self._count)

        def look(is_open: torch.Tensor) -> None:
            group, row = is_open.T.nonzero(as_tuple=True)
            if len(row) == 0:
                return
            counts = torch.bincount(group, minlength=len(self._groups)).tolist()
            values, columns = [best], []
            for g, rows in enumerate(row.split(counts)):
                if len(rows) == 0:
                    continue
                half = torch.addmm(self._half[g], centred[rows], self._groups[g], alpha=-1.0)
                if exclude is not None:
                    one = exclude[rows] if isinstance(exclude, torch.Tensor) else exclude
                    _leave_out(half, owners[g], one)
                value, column = half.min(1)
                values.append(value)
                columns.append(column)
            value = torch.cat(values)
            entry = self._entry[group * GROUP + torch.cat(columns)]
            entry, row = torch.cat([found, entry]), torch.cat([everyone, row])
            best.scatter_reduce_(0, row, value, "amin")
            # The first of equals.
            is_best = value == best[row]
            found.fill_(self._count).scatter_reduce_(0, row[is_best], entry[is_best], "amin")

        everyone = torch.arange(len(centred))
        is_first = torch.zeros(least.shape, dtype=torch.bool)
        is_first.scatter_(1, least.argmin(1, keepdim=True), True)
        look(is_first)
        # Rounding of the products, of both lengths and of the directions, generously.
        x_half = centred.square().sum(1).mul_(0.5)
        slack = (self._dim + 8) * 2.0**-20 * (x_half + self._farthest_half)
        look((least <= (best + slack)[:, None]) & ~is_first)
        return found.masked_fill_(torch.isinf(best), self._count)

    def least_bounds(
        self, centred: torch.Tensor, owners: torch.Tensor, exclude: int | torch.Tensor | None
    ) -> torch.Tensor:
        """(P, G) least bounds on half squared distances, less half the patches' squares.

        Args:
            owners: (G, GROUP) int32 of the sorted entries, where anything is excluded.
        """
        patches = torch.cat([self._heads(centred), centred.new_ones((len(centred), 1))], dim=1)
        per_chunk = CHUNK // GROUP
        least = centred.new_empty((len(centred), len(self._groups)))
        bounds = centred.new_empty((len(centred), CHUNK))
        for c, entries in enumerate(self._bounds):
            torch.mm(patches, entries, out=bounds)
            groups = slice(c * per_chunk, (c + 1) * per_chunk)
            if exclude is not None:
                _leave_out(bounds, owners[groups].flatten(), exclude)
            least[:, groups] = bounds.view(len(centred), per_chunk, GROUP).amin(2)
        return least

    def _heads(self, centred: torch.Tensor) -> torch.Tensor:
        """(n, k + 1): vectors in the directions, and the lengths of what they leave."""
        head = centred @ self.directions
        rest = centred.square().sum(1) - head.square().sum(1)
        return torch.cat([head, rest.clamp_(min=0.0).sqrt_()[:, None]], dim=1)


def _leave_out(values: torch.Tensor, owners: torch.Tensor, exclude: int | torch.Tensor) -> None:
    """Makes those of `values` (n, m) inf whose column's owner is the row's `exclude`."""
    is_own = owners == (exclude[:, None] if isinstance(exclude, torch.Tensor) else exclude)
    if is_own.any():
        values.masked_fill_(is_own, torch.inf)


def find_head(centred: torch.Tensor) -> HeadSearch | None:
    """A search for a bank; None where its bound would rule out too little.

    Args:
        centred: (M, D) float32 entries about their mean.
    """
    count, dim = centred.shape
    # Measured on processors only; a GPU multiplies faster than it picks out.
    if count < _LEAST_ENTRIES or centred.device.type != "cpu":
        return None
    step = -(-count // _SAMPLE_ROWS)
    sample = centred[::step].to(torch.float64)
    variance, directions = torch.linalg.eigh(sample.T @ sample)
    held = variance.flip(0).clamp(min=0.0).cumsum(0)
    if float(held[-1]) <= 0.0:
        return None
    wanted = int((held < _HEAD_VARIANCE * held[-1]).sum()) + 1
    # What is left takes a column, and so do the ones.
    width = -(-(wanted + 2) // _HEAD_STEP) * _HEAD_STEP
    if width > dim // 2:
        return None
    chosen = directions[:, -(width - 2) :].to(torch.float32)
    return HeadSearch(centred, chosen.contiguous())


def _order(points: torch.Tensor, leaf: int) -> torch.Tensor:
    """(n,) int64: points sorted so that every `leaf` neighbours are alike, ascending among those.

    Halves are split at the median of their widest coordinate, at a whole number of leaves.
    """
    leaves, waiting = [], [torch.arange(len(points))]
    while waiting:
        rows = waiting.pop()
        if len(rows) <= leaf:
            leaves.append(rows.sort().values)
            continue
        own = points[rows]
        along = own[:, int(own.var(0).argmax())].argsort(stable=True)
        middle = -(-len(rows) // leaf) // 2 * leaf
        waiting += [rows[along[middle:]], rows[along[:middle]]]
    return torch.cat(leaves)
