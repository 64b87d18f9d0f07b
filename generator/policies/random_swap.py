"""Random swap: two patches of one image change places, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from generator.anchors import AnchorPair, sample_pair_anywhere
from generator.policies.base import Draw, ImageContext, check_noop_tolerance
from generator.policies.shapes import check_feather, check_patch_shape, check_smallest_area
from generator.policies.swap import swapped_patches


@dataclass(frozen=True)
class RandomSwapConfig:
    """What shapes a random swap: a `SwapConfig` without a cluster.

    Attributes:
        area_frac, aspect, noop_tolerance, smallest_area_frac, feather_px: as in `SwapConfig`.

    Raises:
        ConfigError: a value is out of range.
    """

    area_frac: tuple[float, float] = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    noop_tolerance: float = 1.0
    smallest_area_frac: float = 0.005
    feather_px: float = 0.0

    def __post_init__(self) -> None:
        check_patch_shape(self.area_frac, self.aspect)
        check_noop_tolerance(self.noop_tolerance)
        check_smallest_area(self.smallest_area_frac)
        check_feather(self.feather_px)


class RandomSwap:
    """Exchanges two disjoint patches, uniform over all pairs that lie in the valid box.

    Source: ours: CutSwap's swap (arXiv 2311.18332) without its saliency, to measure what the
        saliency adds.
    """

    summary = "two patches change places, wherever they lie"
    source = "ours, CutSwap without its saliency"
    needs: frozenset[str] = frozenset()
    view = "none"

    def __init__(self, config: RandomSwapConfig | None = None) -> None:
        self.config = config or RandomSwapConfig()

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a swap. None where the image is too flat or too small for a visible one."""
        config = self.config

        def sample(height: int, width: int) -> AnchorPair | None:
            return sample_pair_anywhere(
                rng,
                context.valid_box,
                height,
                width,
                smallest_area_frac=config.smallest_area_frac,
                roi=context.roi,
            )

        return swapped_patches(
            rng,
            context,
            sample,
            area_frac=config.area_frac,
            aspect=config.aspect,
            noop_tolerance=config.noop_tolerance,
            feather_px=config.feather_px,
        )
