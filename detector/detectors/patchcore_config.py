"""The options of PatchCore."""

from __future__ import annotations

from dataclasses import dataclass

from detector.coreset import PROJECTION_DIM, coreset_size
from detector.detectors.base import check_scoring_options
from detector.memory_budget import DEFAULT_BYTES, check_budget
from detector.score_map import SIGMA_PX
from detector.tiles import check_tile
from manifests.errors import ConfigError


@dataclass(frozen=True)
class PatchCoreConfig:
    """Every choice that shapes a PatchCore model.

    Attributes:
        stages: network stages whose features are compared, ascending.
        coreset_ratio: part of all patch features kept, in (0, 1].
        coreset_max: at most so many, or None.
        projection_dim: dimensions in which the coreset is chosen.
        sigma_px: blur of the score map, in px of a canvas of 256.
        reweight: lower image scores whose nearest bank entry has close company (equation 7).
        seed: of the coreset's projection and first pick.
        precision: "fp32" or "bf16", for the network.
        batch: images per forward pass when scoring.
        memory_budget: bytes that features may take while a bank is chosen.
        tile: side in px of the tiles that the network sees of a large canvas; None for all of it.

    Raises:
        ConfigError: a value out of range.
    """

    stages: tuple[int, ...] = (2, 3)
    coreset_ratio: float = 0.01
    coreset_max: int | None = None
    projection_dim: int = PROJECTION_DIM
    sigma_px: float = SIGMA_PX
    reweight: bool = False
    seed: int = 0
    precision: str = "fp32"
    batch: int = 8
    memory_budget: int = DEFAULT_BYTES
    tile: int | None = None

    def __post_init__(self) -> None:
        check_budget(self.memory_budget)
        check_tile(self.tile)
        coreset_size(1, self.coreset_ratio, self.coreset_max)
        check_scoring_options(sigma_px=self.sigma_px, seed=self.seed, batch=self.batch)
        if self.projection_dim < 1:
            raise ConfigError(
                "projection_dim out of range", expected="at least 1", got=self.projection_dim
            )
