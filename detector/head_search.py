"""A cheap lower bound on distances, which rules out nearly all entries of a memory bank."""

from __future__ import annotations

import torch

# Entries whose minimum is taken together, and entries of one product.
GROUP = 64
CHUNK = 256

# Part of the bank's variance that the head is to hold: with less, too many entries stay in doubt.
_HEAD_VARIANCE = 0.9
_HEAD_STEP = 16
# Banks smaller than this are searched in no time.
_LEAST_ENTRIES = 1024
# Rows that the directions are estimated from; they need not be exact, only orthonormal.
_SAMPLE_ROWS = 8192


class Head:
    """Entries in a few directions that hold most of their variance, and what is left of them.

    With P the directions and r(x) the length of what P leaves of x, the vector (Px, r(x)) is as
    long as x, and two of these are never farther apart than x and y are: their distance is a lower
    bound, from a product of a third of the width.

    Args:
        centred: (M, D) float32 entries about their mean.
        directions: (D, k) float32, orthonormal columns.

    Attributes:
        farthest_half: half of the largest squared length of an entry.

    Source: ours; the bound is the triangle inequality in the directions left out.
    """

    def __init__(self, centred: torch.Tensor, directions: torch.Tensor) -> None:
        self.directions = directions
        half = centred.square().sum(1).mul_(0.5)
        self.farthest_half = float(half.max())
        # A column of ones in the patches adds the lengths, which saves a pass.
        entries = torch.cat([-self._of(centred), half[:, None]], dim=1)
        padding = entries.new_zeros((-len(entries) % CHUNK, entries.shape[1]))
        padding[:, -1] = torch.inf
        entries = torch.cat([entries, padding]).view(-1, CHUNK, entries.shape[1])
        self._entries = entries.transpose(1, 2).contiguous()  # (C, k + 2, CHUNK)

    def bounds(
        self, centred: torch.Tensor, is_excluded: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower bounds of half squared distances, less half the squares of the patches themselves.

        Args:
            centred: (P, D) float32 patches about the entries' mean.
            is_excluded: (M,) bool, entries to leave out for all patches, or (P, M) for each.

        Returns:
            bounds (C, P, CHUNK), inf where excluded, entry j at chunk j // CHUNK; and the least
            bound of every group of entries, (P, C * CHUNK / GROUP).
        """
        rows = len(centred)
        patches = torch.cat([self._of(centred), centred.new_ones((rows, 1))], dim=1)
        chunks = len(self._entries)
        bounds = centred.new_empty((chunks, rows, CHUNK))
        least = centred.new_empty((chunks, rows, CHUNK // GROUP))
        for chunk in range(chunks):
            # Small enough that the minima are read from the cache.
            torch.mm(patches, self._entries[chunk], out=bounds[chunk])
            if is_excluded is not None:
                part = is_excluded[..., chunk * CHUNK : (chunk + 1) * CHUNK]
                if part.any():
                    bounds[chunk, :, : part.shape[-1]].masked_fill_(part, torch.inf)
            torch.amin(bounds[chunk].view(rows, -1, GROUP), 2, out=least[chunk])
        return bounds, least.transpose(0, 1).reshape(rows, -1)

    def _of(self, centred: torch.Tensor) -> torch.Tensor:
        """(n, k + 1): vectors in the directions, and the lengths of what they leave."""
        head = centred @ self.directions
        rest = centred.square().sum(1) - head.square().sum(1)
        return torch.cat([head, rest.clamp_(min=0.0).sqrt_()[:, None]], dim=1)


def find_head(centred: torch.Tensor) -> Head | None:
    """The head of a bank; None where it would rule out too little.

    Args:
        centred: (M, D) float32 entries about their mean.
    """
    count, dim = centred.shape
    # Measured on processors only; a GPU multiplies faster than it picks out.
    if count < _LEAST_ENTRIES or centred.device.type != "cpu":
        return None
    step = -(-count // _SAMPLE_ROWS)
    sample = centred[::step].to("cpu", torch.float64)
    variance, directions = torch.linalg.eigh(sample.T @ sample)
    held = variance.flip(0).clamp(min=0.0).cumsum(0)
    if float(held[-1]) <= 0.0:
        return None
    wanted = int((held < _HEAD_VARIANCE * held[-1]).sum()) + 1
    # What is left takes a column, and so do the ones.
    width = -(-(wanted + 2) // _HEAD_STEP) * _HEAD_STEP
    if width > dim // 2:
        return None
    chosen = directions[:, -(width - 2) :].to(centred.device, torch.float32)
    return Head(centred, chosen.contiguous())
