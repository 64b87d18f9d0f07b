"""Perlin: another image is mixed in where Perlin noise is high, wherever that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from generator.policies.base import Draw, ImageContext, check_noop_tolerance
from generator.policies.forged import check_alpha, check_perlin_cells, forged_blend

THRESHOLD = 0.5
"""Of the plain noise, as DRAEM has it."""


@dataclass(frozen=True)
class PerlinConfig:
    """What shapes a forged anomaly.

    Attributes:
        perlin_cells: range of i in 2^i cells of noise along a side, whole numbers 0 to 8; each side
            draws its own.
        alpha: range of the donor's weight, 0.01 to 1.
        noop_tolerance: blends whose mean absolute grey change is not above this are redrawn.

    Raises:
        ConfigError: a value is out of range.
    """

    perlin_cells: tuple[int, int] = (0, 5)
    alpha: tuple[float, float] = (0.1, 1.0)
    noop_tolerance: float = 1.0

    def __post_init__(self) -> None:
        check_perlin_cells(self.perlin_cells)
        check_alpha(self.alpha)
        check_noop_tolerance(self.noop_tolerance)


class Perlin:
    """Mixes a donor in where Perlin noise exceeds 0.5, without a look at saliency.

    The threshold is DRAEM's: this is the plain noise that saliency is to be compared with, and
    others' figures for it are at 0.5. Saliency-guided masks have thresholds from 0.4, where nothing
    is salient, to 0.6, where everything is, so that 0.5 is also the middle of theirs.

    Source: DRAEM's masks (Zavrtanik et al., ICCV 2021; read of its reference implementation) with
        SGSF's blend (arXiv 2209.12440); see `forged_blend`.
    Differs: DRAEM's weight of the donor is from U(0.2, 1) (it draws that of the normal, up to 0.8);
        here both kinds share one range, so that masks are all they differ in.
    """

    summary = "another image is mixed in where Perlin noise is high"
    source = "SGSF without its saliency, noise as in DRAEM (ICCV 2021)"
    needs = frozenset({"donors"})
    view = "none"

    def __init__(self, config: PerlinConfig | None = None) -> None:
        self.config = config or PerlinConfig()

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a blend. None where no visible one was found or the image is too small.

        Raises:
            ValueError: the context has no donors.
        """
        config = self.config
        return forged_blend(
            rng,
            context,
            saliency=None,
            threshold=THRESHOLD,
            perlin_cells=config.perlin_cells,
            alpha=config.alpha,
            noop_tolerance=config.noop_tolerance,
        )
