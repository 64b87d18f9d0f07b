"""A lower bound on distances from products in bf16, for processors that are fast at these."""

from __future__ import annotations

import torch

from detector.entry_groups import GROUP, EntryGroups, leave_out

# Entries of one product; their minima are read from the cache.
CHUNK = 512
# A product's sum is rounded to 8 bits of significand: by half of the last one at most, taken twice.
_KEPT = 1.0 - 2.0**-8


class RoundedBound:
    """Bounds half squared distances by products of features rounded to bf16.

    With x' the rounded x, the product of x and y is at most that of x' and y', plus the lengths of
    x - x' and y multiplied, plus those of x' and y - y'. These two terms, and half the squares of
    both lengths, are further columns of the same product. The bound falls short by about one
    per cent, so that few groups but the nearest one are left.

    Args:
        centred: (M, D) float32, the entries about their mean.
        groups: the same in groups.

    Source: ours; Cauchy-Schwarz.
    """

    def __init__(self, centred: torch.Tensor, groups: EntryGroups) -> None:
        rounded, lengths, errors = _rounded(centred[groups.rows])
        ones = torch.ones_like(rounded[:, :3])
        entries = torch.cat(
            [-rounded, -lengths[:, None], -errors[:, None], _in_three(groups.half), ones], dim=1
        )
        # Of padding only the length counts, and inf - inf would be none.
        entries[groups.count :, :-6] = 0.0
        self._chunks = [chunk.T.contiguous() for chunk in entries.split(CHUNK)]

    def least(
        self, centred: torch.Tensor, owners: torch.Tensor, exclude: int | torch.Tensor | None
    ) -> torch.Tensor:
        """The least bound of each group's entries, within the rounding of float32.

        Args:
            centred: (P, D) float32 patches about the entries' mean.
            owners: (N,) int32 of the sorted entries, where anything is excluded.
            exclude: entries of this owner do not count; one for all patches, or one per patch.

        Returns:
            (P, G) float32, at most half the squared distance to each entry of the group; inf where
            none counts.
        """
        rounded, lengths, errors = _rounded(centred)
        ones = torch.ones_like(rounded[:, :3])
        half = centred.square().sum(1) / 2
        # The length of a rounded vector is at most that of the vector and of what was rounded off.
        whole = _upwards(lengths.float() + errors.float())
        patches = torch.cat(
            [rounded, errors[:, None], whole[:, None], ones, _in_three(half)], dim=1
        )
        parts, first = [], 0
        for chunk in self._chunks:
            bounds = patches @ chunk
            if exclude is not None:
                leave_out(bounds, owners[first : first + chunk.shape[1]], exclude)
            # Numbers that are not negative are ordered as their bits are, and integers are compared
            # five times as fast; anything negative says no more than 0 does.
            bits = bounds.view(torch.int16).view(len(patches), -1, GROUP).amin(2)
            parts.append(bits.view(torch.bfloat16))
            first += chunk.shape[1]
        return torch.cat(parts, dim=1).float().clamp_(min=0.0).mul_(_KEPT)


def _rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """bf16: rows (n, D), their lengths before (n,) and the lengths of what was rounded off (n,)."""
    rounded = values.bfloat16()
    errors = (values - rounded.float()).norm(dim=1)
    return rounded, _upwards(values.norm(dim=1)), _upwards(errors)


def _upwards(values: torch.Tensor) -> torch.Tensor:
    """bf16 that are not below non-negative `values`."""
    return (values * (1.0 + 2.0**-7)).bfloat16()


def _in_three(values: torch.Tensor) -> torch.Tensor:
    """(n, 3) bf16 whose sums are `values` (n,) float32, but for one part in 2^24."""
    first = values.bfloat16()
    # Of infinite values the first part is all there is.
    rest = torch.where(torch.isinf(values), 0.0, values - first.float())
    second = rest.bfloat16()
    return torch.stack([first, second, (rest - second.float()).bfloat16()], dim=1)
