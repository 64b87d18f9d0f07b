"""Saliency-guided Perlin: another image is mixed in where noise is high and the image salient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from generator.policies.base import Draw, ImageContext, check_noop_tolerance, required_saliency
from generator.policies.forged import check_alpha, check_perlin_cells, forged_blend
from manifests.errors import ConfigError

LOWEST_THRESHOLD = 0.4
THRESHOLD_PER_SALIENCY = 0.2
SALIENCY_VIEWS = ("level", "mean", "max")


@dataclass(frozen=True)
class SaliencyPerlinConfig:
    """What shapes a saliency-guided forged anomaly.

    Attributes:
        perlin_cells, alpha, noop_tolerance: as in `PerlinConfig`.
        saliency: which map guides it: "level", that of each level in turn; "mean" or "max", all
            levels' maps together.

    Raises:
        ConfigError: a value is out of range.
    """

    perlin_cells: tuple[int, int] = (0, 5)
    alpha: tuple[float, float] = (0.1, 1.0)
    saliency: str = "mean"
    noop_tolerance: float = 1.0

    def __post_init__(self) -> None:
        check_perlin_cells(self.perlin_cells)
        check_alpha(self.alpha)
        if self.saliency not in SALIENCY_VIEWS:
            raise ConfigError(
                "unknown choice of saliency", expected=", ".join(SALIENCY_VIEWS), got=self.saliency
            )
        check_noop_tolerance(self.noop_tolerance)


class SaliencyPerlin:
    """SGSF's augmentation module: a donor where `G = S P` exceeds `mu = 0.4 + 0.2 mean(S)`.

    S is the image's saliency from 0 to 1 over the valid box, P Perlin noise; `G = P` where S is 0
    everywhere. The mean is that of the valid box.

    Source: SGSF (arXiv 2209.12440), of which the abstract alone was at hand: saliency guides where
        forged anomalies lie. G, mu and the blend as in NIGSF by the same authors (IEEE TCSVT 34(6),
        2024). Ours: which saliency, and how several maps become one.
    Differs: theirs is a supervised network for salient objects, ours are LayerCAM maps of a
        classification network, in 8 bits and stretched so that the most salient tenth of the image
        has S = 1 (see `generator.saliency_views.combined_saliency`, with what happens otherwise).
    """

    summary = "another image is mixed in where Perlin noise is high and the image is salient"
    source = "SGSF (arXiv 2209.12440)"
    needs = frozenset({"saliency", "donors"})

    def __init__(self, config: SaliencyPerlinConfig | None = None) -> None:
        self.config = config or SaliencyPerlinConfig()

    @property
    def view(self) -> str:
        """The map that the config asks for."""
        return self.config.saliency

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a blend. None where no visible one was found or the image is too small.

        Raises:
            ValueError: the context has no saliency map, or no donors.
        """
        y, x, h, w = context.valid_box
        saliency = required_saliency(context)[y : y + h, x : x + w] / np.float32(255)
        config = self.config
        return forged_blend(
            rng,
            context,
            saliency=saliency if saliency.any() else None,
            threshold=adaptive_threshold(saliency),
            perlin_cells=config.perlin_cells,
            alpha=config.alpha,
            noop_tolerance=config.noop_tolerance,
        )


def adaptive_threshold(saliency: np.ndarray) -> float:
    """`mu = 0.4 + 0.2 mean(S)` of a map S (h, w), 0 to 1: the more is salient, the higher.

    Source: NIGSF (IEEE TCSVT 34(6), 2024).
    """
    return LOWEST_THRESHOLD + THRESHOLD_PER_SALIENCY * float(saliency.mean(dtype=np.float64))
