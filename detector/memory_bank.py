"""Memory bank: normal patch features, and how far a patch is from the nearest of them."""

from __future__ import annotations

import threading
from typing import Self

import torch

from detector.group_search import GroupSearch, find_search
from manifests.errors import ConfigError, ModelError

NEIGHBOURS = 9

# Upper limit of one block's product, in elements (16 MiB), and of its patches.
_BLOCK_ELEMENTS = 4 * 1024 * 1024
_BLOCK_ROWS = 8192
# Entries whose minimum is taken together.
_GROUP = 64


class MemoryBank:
    """Patch features of normal images, each remembering the image it comes from.

    Args:
        features: (M, D) float32, M >= 1, finite. Not modified.
        image_index: (M,) int32, the training image of each entry.
        cell: (M,) int32, its cell in row-major order of the image's grid; None where nobody knows,
            as in models of version 5.

    Raises:
        ModelError: shapes or dtypes that do not fit, an empty bank, features that are not finite.

    Source: Roth et al. 2022, sections 3.1 and 3.3; leaving an image's own entries out is ours.
    """

    def __init__(
        self,
        features: torch.Tensor,
        image_index: torch.Tensor,
        cell: torch.Tensor | None = None,
    ) -> None:
        if features.ndim != 2 or features.dtype != torch.float32 or 0 in features.shape:
            raise ModelError(
                "bank features are malformed",
                expected="(M, D) float32",
                got=f"{tuple(features.shape)} {features.dtype}",
            )
        for name, one in (("image_index", image_index), ("cell", cell)):
            if one is None:
                continue
            if one.shape != features.shape[:1] or one.dtype != torch.int32:
                raise ModelError(
                    f"bank {name} is malformed",
                    expected=f"({len(features)},) int32",
                    got=f"{tuple(one.shape)} {one.dtype}",
                )
        if not torch.isfinite(features).all():
            raise ModelError("bank features are not finite")
        self.features = features
        self.image_index = image_index.to(features.device)
        self.cell = None if cell is None else cell.to(features.device)
        # Distances do not change when everything moves, but the smaller the vectors, the less a
        # product cancels.
        self._mean = features.mean(0)
        # Products with aligned rows are a third faster, and minima are found group by group.
        padding = -len(features) % _GROUP
        self._centred = torch.nn.functional.pad(features - self._mean, (0, 0, 0, padding))
        self._half = self._centred.square().sum(1).mul_(0.5)
        self._half[len(features) :] = torch.inf
        self._search: GroupSearch | None = None
        self._has_sought = False
        self._seeking = threading.Lock()

    @classmethod
    def of(cls, features: torch.Tensor, origins: torch.Tensor) -> Self:
        """A bank of features (M, D) and their origins (M, 2) int32, image and cell of each.

        Raises:
            ModelError: as above.
        """
        return cls(features, origins[:, 0].contiguous(), origins[:, 1].contiguous())

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dim(self) -> int:
        """Dimensions D of a feature."""
        return self.features.shape[1]

    def nearest(
        self, patches: torch.Tensor, *, exclude_image: int | torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distance to, and index of, each patch's nearest bank entry.

        The entry is found by matrix products, in large banks only with the groups of entries that
        a lower bound leaves (`GroupSearch`). Their rounding can prefer another that is farther by
        about 1e-6 of the features' squared spread; its distance is then computed by differences,
        so a patch that equals its entry has distance 0 exactly.

        Args:
            patches: (P, D) float32 on the bank's device.
            exclude_image: entries of this training image are ignored; one for all patches, or one
                per patch, (P,) int32. None ignores nothing.

        Returns:
            distance (P,) float32 >= 0, index (P,) int64.

        Raises:
            ModelError: `patches` of another width, or nothing left to compare with.
        """
        if patches.ndim != 2 or patches.shape[1] != self.dim:
            raise ModelError(
                "patch features do not fit the bank",
                expected=f"(P, {self.dim})",
                got=tuple(patches.shape),
            )
        distance = torch.empty(len(patches), device=patches.device)
        index = torch.empty(len(patches), dtype=torch.int64, device=patches.device)
        search = self._find_search()
        step = _BLOCK_ROWS if search else max(1, _BLOCK_ELEMENTS // len(self._half))
        for start in range(0, len(patches), step):
            rows = slice(start, start + step)
            own = exclude_image[rows] if isinstance(exclude_image, torch.Tensor) else exclude_image
            if search:
                best = search.nearest(patches[rows] - self._mean, self.image_index, own)
            else:
                best = self._nearest_by_product(patches[rows], own)
            if bool((best == len(self)).any()):
                raise ModelError(
                    "every bank entry comes from the image to be left out",
                    hint="keep a larger coreset (--coreset) or train on more images",
                )
            index[rows] = best
            distance[rows] = (patches[rows] - self.features[best]).square_().sum(1).sqrt_()
        return distance, index

    def _nearest_by_product(
        self, patches: torch.Tensor, exclude_image: int | torch.Tensor | None
    ) -> torch.Tensor:
        """(P,) rows of the nearest entries, M where all are excluded."""
        half = self._half_distances(patches, exclude_image)
        best = _first_minimum(half)
        is_none = torch.isinf(half.gather(1, best[:, None])[:, 0])
        return best.masked_fill_(is_none, len(self))

    def _find_search(self) -> GroupSearch | None:
        """The bank's search, sought when it is first needed."""
        with self._seeking:  # Several threads may search at once.
            if not self._has_sought:
                self._has_sought = True
                self._search = find_search(self._centred[: len(self)])
        return self._search

    def neighbours(self, patch: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The entries nearest to one patch, the nearest first; of equals the first.

        Args:
            patch: (D,) float32 on the bank's device.
            count: how many, at least 1; all where there are no more.

        Returns:
            distance (count,) float32, index (count,) int64; distances by differences.
        """
        distance = torch.cdist(
            patch[None], self.features, compute_mode="donot_use_mm_for_euclid_dist"
        )[0]
        found = distance.sort(stable=True)
        return found.values[:count], found.indices[:count]

    def nearest_own(
        self, patches: torch.Tensor, distance: torch.Tensor, *, image: int
    ) -> torch.Tensor:
        """Distances to the nearest of all entries, from those that left an image's own out.

        Args:
            patches: (P, D) float32, of training image `image`.
            distance: (P,) float32, as `nearest` with `exclude_image=image` returns it.

        Returns:
            (P,) float32.
        """
        own = self.features[self.image_index == image]
        if len(own) == 0:
            return distance
        exact = torch.cdist(patches, own, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.minimum(distance, exact.amin(1))

    def reweight(
        self,
        patch: torch.Tensor,
        index: torch.Tensor,
        distance: torch.Tensor,
        *,
        b: int = NEIGHBOURS,
        exclude_image: int | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Lower a patch's distance where its nearest entry m* has close company in the bank.

        `s = (1 - exp(d*) / sum_{m in N_b(m*)} exp(|m_t - m|)) d*`, in which N_b(m*) are the b bank
        entries nearest to m*, m* among them. A bank of fewer uses all it has; one that leaves
        nothing besides m* leaves the distance as it is.

        Args:
            patch: (B, D) float32, the worst patch m_t of each image.
            index: (B,) int64, m* of each, as `nearest` returns it.
            distance: (B,) float32, d*.
            b: size of the neighbourhood, at least 1.
            exclude_image: as in `nearest`.

        Returns:
            (B,) float32 in [0, distance].

        Raises:
            ConfigError: `b` below 1.

        Source: Roth et al. 2022, equation 7. Differs: the quotient is shifted by the largest
        exponent, so that it cannot overflow; m* always counts as its own nearest neighbour, also
        where the bank holds copies of it.
        """
        if b < 1:
            raise ConfigError("neighbourhood out of range", expected="at least 1", got=b)
        others = min(b - 1, len(self) - 1)
        if others < 1:
            return distance.clone()
        half = self._half_distances(self.features[index], exclude_image)
        half.scatter_(1, index[:, None], torch.inf)
        closest = torch.topk(half, others, dim=1, largest=False)
        exponents = (patch[:, None] - self.features[closest.indices % len(self)]).square()
        exponents = exponents.sum(2).sqrt_()
        # Fewer entries may be left than asked for, once an image's own are out.
        exponents = exponents.masked_fill(torch.isinf(closest.values), -torch.inf)
        exponents = torch.cat([distance[:, None], exponents], dim=1)
        weight = 1.0 - torch.softmax(exponents.double(), dim=1)[:, 0]
        is_alone = torch.isinf(exponents[:, 1:]).all(1)
        return torch.where(is_alone, distance, weight.float() * distance)

    def _half_distances(
        self, patches: torch.Tensor, exclude_image: int | torch.Tensor | None
    ) -> torch.Tensor:
        """(P, M') half squared distances less a constant per row; inf for padding and excluded."""
        half = torch.addmm(self._half, patches - self._mean, self._centred.T, alpha=-1.0)
        is_excluded = self._is_excluded(exclude_image)
        if is_excluded is not None:
            half[:, : len(self)].masked_fill_(is_excluded, torch.inf)
        return half

    def _is_excluded(self, exclude_image: int | torch.Tensor | None) -> torch.Tensor | None:
        """(M,) bool, or (P, M) where every patch has an image of its own."""
        if exclude_image is None:
            return None
        if isinstance(exclude_image, torch.Tensor):
            exclude_image = exclude_image[:, None].to(self.image_index.device)
        return self.image_index == exclude_image


def _first_minimum(values: torch.Tensor) -> torch.Tensor:
    """(P,) column of each row's first minimum; (P, M') with M' a multiple of the group.

    Minima without positions are eight times as fast as minima with them, so the positions are
    sought only among the groups' minima and in the winning group.
    """
    grouped = values.view(len(values), -1, _GROUP)
    group = grouped.amin(2).argmin(1)
    rows = torch.arange(len(values), device=values.device)
    return group * _GROUP + grouped[rows, group].argmin(1)
