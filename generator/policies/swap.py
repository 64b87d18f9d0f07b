"""Swap: two patches of one image change places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from generator.anchors import check_cluster_choice, sample_pair
from generator.policies.base import (
    Draw,
    ImageContext,
    Proposal,
    check_noop_tolerance,
    check_range,
    first_visible,
    required_labels,
)
from manifests.edits import Box, Copy
from manifests.errors import ConfigError


@dataclass(frozen=True)
class SwapConfig:
    """What shapes a swap.

    Attributes:
        area_frac: range of the patch area, as a fraction of the valid box's area, in (0, 1].
        aspect: range of height / width.
        cluster: the anchors' cluster: "max", "min" or "random".
        noop_tolerance: patches whose mean absolute grey difference is not above this are redrawn.
        smallest_area_frac: floor of the shrinking where patches of the drawn size overlap.

    Raises:
        ConfigError: a value is out of range.
    """

    area_frac: tuple[float, float] = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    cluster: str = "max"
    noop_tolerance: float = 1.0
    smallest_area_frac: float = 0.005

    def __post_init__(self) -> None:
        check_range("area_frac", self.area_frac, lowest=1e-6, highest=1.0)
        check_range("aspect", self.aspect, lowest=1e-3, highest=1e3)
        check_cluster_choice(self.cluster)
        check_noop_tolerance(self.noop_tolerance)
        if not 0 < self.smallest_area_frac <= 1:
            raise ConfigError(
                "smallest_area_frac is out of range", expected="0 to 1", got=self.smallest_area_frac
            )


class Swap:
    """Exchanges two disjoint patches that start in the chosen saliency cluster.

    Source: CutSwap (arXiv 2311.18332), the swap; sizes as in CutPaste (arXiv 2104.04015).
    Differs: CutSwap gives no patch size, no minimum difference and no rule for overlaps.
    """

    needs = frozenset({"saliency"})

    def __init__(self, config: SwapConfig | None = None) -> None:
        self.config = config or SwapConfig()

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a swap. None where the image is too flat or too small for a visible one.

        Raises:
            ValueError: the context has no clusters.
        """
        labels = required_labels(context)

        def propose() -> Proposal | None:
            height, width = patch_size(rng, context.valid_box, config=self.config)
            pair = sample_pair(
                rng,
                labels,
                context.n_clusters,
                context.valid_box,
                height,
                width,
                cluster=self.config.cluster,
                smallest_area_frac=self.config.smallest_area_frac,
            )
            if pair is None:
                return None
            edits = Copy(pair.first, pair.second), Copy(pair.second, pair.first)
            return Proposal(edits, (pair.first, pair.second), pair.fallback)

        return first_visible(propose, context.image, noop_tolerance=self.config.noop_tolerance)


def patch_size(rng: np.random.Generator, valid_box: Box, *, config: SwapConfig) -> tuple[int, int]:
    """Draw a patch's (height, width) in px: a uniform area, and flat or tall equally often.

    Where the range of aspects holds 1, one of its two halves, below and above 1, is chosen by a
    coin and the aspect is uniform in it; otherwise it is uniform in the whole range.

    Source: CutPaste (arXiv 2104.04015), aspect from (0.3, 1) or (1, 3.3).
    """
    area = rng.uniform(*config.area_frac) * valid_box[2] * valid_box[3]
    low, high = config.aspect
    if low < 1 < high:
        low, high = (low, 1.0) if rng.random() < 0.5 else (1.0, high)
    aspect = rng.uniform(low, high)
    return max(1, round(math.sqrt(area * aspect))), max(1, round(math.sqrt(area / aspect)))
