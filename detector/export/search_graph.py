"""Nearest neighbours in a memory bank as a part of a graph: exact, in blocks of fixed size."""

from __future__ import annotations

import torch
from torch import nn

from detector.memory_bank import NEIGHBOURS, MemoryBank

# A block's product has at most so many rows and columns: 16 MiB, whatever the bank's size.
_BLOCK_PATCHES = 4096
_BLOCK_ENTRIES = 1024
# Entries whose least distance is taken together. They stand a stride apart, so that a minimum runs
# over rows of memory: two to three times as fast as positions of minima in all three runtimes.
_GROUP = 16


class SearchGraph(nn.Module):
    """`MemoryBank.nearest` and `MemoryBank.reweight` with products and minima alone.

    The group that holds the nearest entry is found by half squared distances about the bank's
    mean, `|m|²/2 - x·m`, whose rounding does not grow with the features' offset; the distances to
    the group's entries are then computed by differences. A patch that equals an entry has distance
    0, and none has less precision than float32 differences give.

    Source: ours.
    """

    mean: torch.Tensor
    entries: torch.Tensor
    halves: torch.Tensor

    def __init__(self, bank: MemoryBank) -> None:
        super().__init__()
        self.count = len(bank)
        features = bank.features.detach().cpu()
        self.width = min(_BLOCK_ENTRIES, -(-self.count // _GROUP) * _GROUP)
        # Copies of the last entry fill the last block: the nearest distance stays what it is.
        padding = -self.count % self.width
        entries = torch.cat([features, features[-1:].expand(padding, -1)])
        mean = features.mean(0)
        entries = (entries - mean).contiguous()
        self.register_buffer("mean", mean)
        self.register_buffer("entries", entries)
        self.register_buffer("halves", entries.square().sum(1) * 0.5)

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distance to, and row of, the nearest entry.

        Args:
            patches: (P, D) float32; P is fixed in a graph.

        Returns:
            (P,) float32 and (P,) int64.
        """
        centred = patches - self.mean
        parts = [self._nearest(part) for part in centred.split(_BLOCK_PATCHES)]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts])

    def reweight(
        self, patch: torch.Tensor, row: torch.Tensor, distance: torch.Tensor
    ) -> torch.Tensor:
        """(B,) lowered distances of (B, D) worst patches; see `MemoryBank.reweight`."""
        others = min(NEIGHBOURS - 1, self.count - 1)
        if others < 1:
            return distance
        entries, half = self.entries[: self.count], self.halves[: self.count]
        closeness = half - entries[row] @ entries.T
        own = torch.arange(self.count) == row[:, None]
        closeness = torch.where(own, torch.full_like(closeness, torch.inf), closeness)
        closest = torch.topk(closeness, others, dim=1, largest=False).indices
        away = ((patch - self.mean)[:, None] - entries[closest]).square().sum(2).sqrt()
        exponents = torch.cat([distance[:, None], away], dim=1)
        return (1.0 - torch.softmax(exponents, dim=1)[:, 0]) * distance

    def _nearest(self, centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stride = self.width // _GROUP
        least = []
        for start in range(0, len(self.entries), self.width):
            block = slice(start, start + self.width)
            half = self.halves[block] - centred @ self.entries[block].T
            least.append(half.view(-1, _GROUP, stride).amin(1))
        group = torch.cat(least, dim=1).argmin(1)
        first = group // stride * self.width + group % stride
        rows = first[:, None] + torch.arange(_GROUP) * stride  # (P, group)
        squared = (centred[:, None] - self.entries[rows]).square().sum(2)
        best = squared.argmin(1, keepdim=True)
        row = rows.gather(1, best)[:, 0].clamp(max=self.count - 1)
        return squared.gather(1, best)[:, 0].sqrt(), row
