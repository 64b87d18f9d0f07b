"""Nearest neighbours in a large bank: a cheap bound rules out nearly all groups of entries."""

from __future__ import annotations

from typing import Protocol

import torch

from detector.entry_groups import GROUP, EntryGroups, leave_out
from detector.head_bound import HeadBound
from detector.rounded_bound import RoundedBound
from manifests.devices import has_fast_bf16

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


class Bound(Protocol):
    """What no entry of a group is closer to a patch than."""

    def least(
        self, centred: torch.Tensor, owners: torch.Tensor, exclude: int | torch.Tensor | None
    ) -> torch.Tensor:
        """The least bound of each group; see `RoundedBound.least`."""
        ...


class GroupSearch:
    """Finds nearest entries: a patch is compared in full with the group of the least bound, and
    then with those whose least bound is not above what was found there.

    Args:
        groups: the entries, about their mean.
        bound: on half squared distances to them.

    Source: ours.
    """

    def __init__(self, groups: EntryGroups, bound: Bound) -> None:
        self.groups = groups
        self.bound = bound
        self._half = groups.half.view(-1, GROUP)
        self._farthest_half = float(groups.half[: groups.count].max())

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
            owners = self.groups.owners(owners)
        step = max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // len(self.groups)))
        for start in range(0, len(centred), step):
            rows = slice(start, start + step)
            own = exclude[rows] if isinstance(exclude, torch.Tensor) else exclude
            found[rows] = self._nearest(centred[rows], owners, own)
        return found

    def _nearest(
        self, centred: torch.Tensor, owners: torch.Tensor, exclude: int | torch.Tensor | None
    ) -> torch.Tensor:
        least = self.bound.least(centred, owners, exclude)
        x_half = centred.square().sum(1).mul_(0.5)
        if exclude is not None:
            by_group = owners.view(-1, GROUP)
        # Half the squared distance, less that of the patch itself.
        best = torch.full((len(centred),), torch.inf)
        found = torch.full((len(centred),), self.groups.count)

        def look(is_open: torch.Tensor) -> None:
            group, row = is_open.T.nonzero(as_tuple=True)
            if len(row) == 0:
                return
            counts = torch.bincount(group, minlength=len(self.groups)).tolist()
            values, columns = [best], []
            for g, rows in enumerate(row.split(counts)):
                if len(rows) == 0:
                    continue
                half = torch.addmm(
                    self._half[g], centred[rows], self.groups.features[g], alpha=-1.0
                )
                if exclude is not None:
                    one = exclude[rows] if isinstance(exclude, torch.Tensor) else exclude
                    leave_out(half, by_group[g], one)
                value, column = half.min(1)
                values.append(value)
                columns.append(column)
            value = torch.cat(values)
            entry = self.groups.entry[group * GROUP + torch.cat(columns)]
            entry, row = torch.cat([found, entry]), torch.cat([everyone, row])
            best.scatter_reduce_(0, row, value, "amin")
            # The first of equals.
            is_best = value == best[row]
            found.fill_(self.groups.count).scatter_reduce_(0, row[is_best], entry[is_best], "amin")

        everyone = torch.arange(len(centred))
        is_first = torch.zeros(least.shape, dtype=torch.bool)
        is_first.scatter_(1, least.argmin(1, keepdim=True), True)
        look(is_first)
        # Rounding of the products, of both lengths and of the directions, generously.
        slack = (centred.shape[1] + 8) * 2.0**-20 * (x_half + self._farthest_half)
        look((least <= (best + x_half + slack)[:, None]) & ~is_first)
        return found.masked_fill_(torch.isinf(best), self.groups.count)


def find_search(centred: torch.Tensor) -> GroupSearch | None:
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
    width = min(-(-(wanted + 2) // _HEAD_STEP) * _HEAD_STEP, dim)
    chosen = directions[:, -(width - 2) :].to(torch.float32).contiguous()
    groups = EntryGroups(centred, centred @ chosen)
    if has_fast_bf16("cpu"):
        return GroupSearch(groups, RoundedBound(centred, groups))
    if width > dim // 2:
        return None
    return GroupSearch(groups, HeadBound(centred, groups, chosen))
