"""A lower bound on distances from a few directions that hold most of the variance."""

from __future__ import annotations

import torch

from detector.entry_groups import GROUP, EntryGroups, leave_out

# Entries of one product; their minima are read from the cache.
CHUNK = 256


class HeadBound:
    """Bounds half squared distances by products of a third of the width.

    With P the directions and r(x) the length of what P leaves of x, the vector (Px, r(x)) is as
    long as x, and two of these are never farther apart than x and y are.

    Args:
        centred: (M, D) float32, the entries about their mean.
        groups: the same in groups.
        directions: (D, k) float32, orthonormal columns.

    Source: ours; the bound is the triangle inequality in the directions left out.
    """

    def __init__(
        self, centred: torch.Tensor, groups: EntryGroups, directions: torch.Tensor
    ) -> None:
        self.directions = directions
        heads = self.heads(centred)[groups.rows]
        # A column of ones in the patches adds the lengths, which saves a pass.
        entries = torch.cat([-heads, groups.half[:, None]], dim=1)
        # Of padding only the length counts, and inf - inf would be none.
        entries[groups.count :, :-1] = 0.0
        self._chunks = [chunk.T.contiguous() for chunk in entries.split(CHUNK)]

    def least(
        self, centred: torch.Tensor, owners: torch.Tensor, exclude: int | torch.Tensor | None
    ) -> torch.Tensor:
        """The least bound of each group; see `RoundedBound.least`."""
        patches = torch.cat([self.heads(centred), centred.new_ones((len(centred), 1))], dim=1)
        parts, first = [], 0
        for chunk in self._chunks:
            bounds = patches @ chunk
            if exclude is not None:
                leave_out(bounds, owners[first : first + chunk.shape[1]], exclude)
            parts.append(bounds.view(len(patches), -1, GROUP).amin(2))
            first += chunk.shape[1]
        return torch.cat(parts, dim=1).add_(centred.square().sum(1, keepdim=True) / 2)

    def heads(self, centred: torch.Tensor) -> torch.Tensor:
        """(n, k + 1): vectors in the directions, and the lengths of what they leave."""
        head = centred @ self.directions
        rest = centred.square().sum(1) - head.square().sum(1)
        return torch.cat([head, rest.clamp_(min=0.0).sqrt_()[:, None]], dim=1)
