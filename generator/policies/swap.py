"""Swap: two patches of one image change places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generator.anchors import AnchorPair, check_cluster_choice, sample_pair
from generator.policies.base import (
    Draw,
    ImageContext,
    Proposal,
    check_noop_tolerance,
    first_visible,
    required_labels,
)
from generator.policies.shapes import (
    check_feather,
    check_patch_shape,
    check_smallest_area,
    patch_size,
    seam_width,
)
from manifests.edits import Copy


@dataclass(frozen=True)
class SwapConfig:
    """What shapes a swap.

    Attributes:
        area_frac: range of the patch area, as a fraction of the valid box's area, in (0, 1].
        aspect: range of height / width.
        cluster: the anchors' cluster: "max", "min" or "random".
        noop_tolerance: patches whose mean absolute grey difference is not above this are redrawn.
        smallest_area_frac: floor of the shrinking where patches of the drawn size overlap.
        feather_px: width of the seam in which a patch fades into what was there, 0 to 64, at
            256 px; it scales with the canvas's shorter side and leaves a patch's middle whole.

    Raises:
        ConfigError: a value is out of range.
    """

    area_frac: tuple[float, float] = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    cluster: str = "max"
    noop_tolerance: float = 1.0
    smallest_area_frac: float = 0.005
    feather_px: float = 0.0

    def __post_init__(self) -> None:
        check_patch_shape(self.area_frac, self.aspect)
        check_cluster_choice(self.cluster)
        check_noop_tolerance(self.noop_tolerance)
        check_smallest_area(self.smallest_area_frac)
        check_feather(self.feather_px)


class Swap:
    """Exchanges two disjoint patches that start in the chosen saliency cluster.

    Source: CutSwap (arXiv 2311.18332), the swap; sizes as in CutPaste (arXiv 2104.04015).
    Differs: CutSwap gives no patch size, no minimum difference and no rule for overlaps. The
        feathered seam is ours.
    """

    summary = "two patches of the most salient region change places"
    source = "CutSwap (arXiv 2311.18332)"
    needs = frozenset({"clusters"})
    view = "level"

    def __init__(self, config: SwapConfig | None = None) -> None:
        self.config = config or SwapConfig()

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a swap. None where the image is too flat or too small for a visible one.

        Raises:
            ValueError: the context has no clusters.
        """
        labels, config = required_labels(context), self.config

        def sample(height: int, width: int) -> AnchorPair | None:
            return sample_pair(
                rng,
                labels,
                context.n_clusters,
                context.valid_box,
                height,
                width,
                cluster=config.cluster,
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


def swapped_patches(
    rng: np.random.Generator,
    context: ImageContext,
    sample: Callable[[int, int], AnchorPair | None],
    *,
    area_frac: tuple[float, float],
    aspect: tuple[float, float],
    noop_tolerance: float,
    feather_px: float,
) -> Draw | None:
    """Draw a visible swap of two patches, wherever their anchors come from.

    Args:
        rng: of the draw.
        context: the normal.
        sample: makes a pair of boxes of a height and a width, or None where there is none.
        area_frac, aspect, noop_tolerance, feather_px: as in `SwapConfig`.
    """

    def propose() -> Proposal | None:
        height, width = patch_size(rng, context.valid_box, area_frac=area_frac, aspect=aspect)
        pair = sample(height, width)
        if pair is None:
            return None
        h, w = pair.first[2:]  # the size that fitted, which may be smaller than the one drawn
        canvas = context.image.shape[:2]
        seam = seam_width(feather_px, *canvas, box_height=h, box_width=w)
        edits = (
            Copy(pair.first, pair.second, feather_px=seam),
            Copy(pair.second, pair.first, feather_px=seam),
        )
        return Proposal(edits, (pair.first, pair.second), pair.fallback)

    return first_visible(propose, context.image, noop_tolerance=noop_tolerance)
