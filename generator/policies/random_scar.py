"""Random scar: two long, thin boxes change places, wherever they lie, each turned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from generator.anchors import AnchorPair, sample_pair_anywhere
from generator.policies.base import Draw, ImageContext, check_noop_tolerance
from generator.policies.scar import Accept, swapped_scars
from generator.policies.shapes import check_feather, check_scar_shape


@dataclass(frozen=True)
class RandomScarConfig:
    """What shapes a random scar: a `ScarConfig` without a cluster.

    Attributes:
        width_px, length_px, angle_deg, noop_tolerance, feather_px: as in `ScarConfig`.

    Raises:
        ConfigError: a value is out of range, or no length is twice a width.
    """

    width_px: tuple[float, float] = (2.0, 16.0)
    length_px: tuple[float, float] = (10.0, 25.0)
    angle_deg: float = 45.0
    noop_tolerance: float = 1.0
    feather_px: float = 0.0

    def __post_init__(self) -> None:
        check_scar_shape(self.width_px, self.length_px, self.angle_deg)
        check_noop_tolerance(self.noop_tolerance)
        check_feather(self.feather_px)


class RandomScar:
    """Exchanges two thin, turned boxes, uniform over all pairs in the valid box that fit.

    The two footprints are disjoint and no footprint reaches into padding, as in `Scar`.

    Source: ours: CutSwap's scar (arXiv 2311.18332) without its saliency, to measure what the
        saliency adds.
    """

    summary = "two long, thin boxes change places, wherever they lie, each turned"
    source = "ours, CutSwap without its saliency"
    needs: frozenset[str] = frozenset()
    view = "none"

    def __init__(self, config: RandomScarConfig | None = None) -> None:
        self.config = config or RandomScarConfig()

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a scar. None where the image is too flat or too small for a visible one."""
        config = self.config

        def sample(height: int, width: int, accept: Accept) -> AnchorPair | None:
            return sample_pair_anywhere(
                rng,
                context.valid_box,
                height,
                width,
                smallest_area_frac=1.0,
                accept=accept,
                roi=context.roi,
            )

        return swapped_scars(
            rng,
            context,
            sample,
            width_px=config.width_px,
            length_px=config.length_px,
            angle_deg=config.angle_deg,
            noop_tolerance=config.noop_tolerance,
            feather_px=config.feather_px,
        )
