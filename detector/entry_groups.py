"""The entries of a memory bank in groups of alike ones, ruled out or looked at together."""

from __future__ import annotations

import torch

GROUP = 128


class EntryGroups:
    """Entries sorted into groups of `GROUP`, with padding that is infinitely far away.

    Args:
        centred: (M, D) float32 entries about their mean.
        alike: (M, k) float32, points that lie close together for entries that do.

    Attributes:
        entry: (N,) int64, the row of `centred` that a sorted entry is; M for padding.
        rows: the same with any row for padding.
        half: (N,) float32, half the squared length of a sorted entry; inf for padding.
        features: (N / GROUP, D, GROUP) float32.

    Source: ours; the groups are the leaves of a k-d tree (Bentley 1975).
    """

    def __init__(self, centred: torch.Tensor, alike: torch.Tensor) -> None:
        self.count, dim = centred.shape
        order = leaves(alike, GROUP)
        self.entry = torch.nn.functional.pad(order, (0, -len(order) % GROUP), value=self.count)
        self.rows = self.entry % self.count
        self.half = (centred.square().sum(1) / 2)[self.rows]
        self.half[self.count :] = torch.inf
        self.features = centred[self.rows].view(-1, GROUP, dim).transpose(1, 2).contiguous()

    def __len__(self) -> int:
        """The number of groups."""
        return len(self.features)

    def owners(self, owners: torch.Tensor) -> torch.Tensor:
        """(N,): the owners of the sorted entries, from (M,) int32; padding belongs to nobody."""
        return torch.cat([owners, owners.new_full((1,), -1)])[self.entry]


def leaves(points: torch.Tensor, leaf: int) -> torch.Tensor:
    """(n,) int64: points sorted so that every `leaf` neighbours are alike, ascending among those.

    Halves are split at the median of their widest coordinate, at a whole number of leaves.
    """
    found, waiting = [], [torch.arange(len(points))]
    while waiting:
        rows = waiting.pop()
        if len(rows) <= leaf:
            found.append(rows.sort().values)
            continue
        own = points[rows]
        along = own[:, int(own.var(0).argmax())].argsort(stable=True)
        middle = -(-len(rows) // leaf) // 2 * leaf
        waiting += [rows[along[middle:]], rows[along[:middle]]]
    return torch.cat(found)


def leave_out(values: torch.Tensor, owners: torch.Tensor, exclude: int | torch.Tensor) -> None:
    """Makes those of `values` (n, m) inf whose column's owner is the row's `exclude`."""
    is_own = owners == (exclude[:, None] if isinstance(exclude, torch.Tensor) else exclude)
    if is_own.any():
        values.masked_fill_(is_own, torch.inf)
