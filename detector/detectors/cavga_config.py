"""The options of CAVGA."""

from __future__ import annotations

from dataclasses import dataclass

from detector.detectors.base import check_scoring_options
from detector.score_map import SIGMA_PX


@dataclass(frozen=True)
class CavgaConfig:
    """Every choice that shapes a CAVGA model, beside its training.

    Attributes:
        latent: "spatial" or "flat".
        latent_channels: of the latent.
        latent_stage: the network's stage whose feature map the latent and the attention are of.
        normaliser: of the attention, a name in `attention.NORMALISERS`.
        width: channels of decoder and discriminator at their finest; None for `decoder.WIDTH`.
        weak: whether some images were known to be anomalous in training.
        anomalous: digest of the files that were; None where the set's negatives stood for them, or
            nothing did.
        sigma_px: blur of the score map, in px of a canvas of 256.
        seed: of the first weights.
        precision: "fp32" or "bf16", for scoring.
        batch: images per forward pass when scoring.

    Raises:
        ConfigError: a value out of range.
    """

    latent: str = "spatial"
    latent_channels: int = 32
    latent_stage: int = 4
    normaliser: str = "ratio"
    width: int | None = None
    weak: bool = False
    anomalous: str | None = None
    sigma_px: float = SIGMA_PX
    seed: int = 0
    precision: str = "fp32"
    batch: int = 8

    def __post_init__(self) -> None:
        check_scoring_options(sigma_px=self.sigma_px, seed=self.seed, batch=self.batch)

    @property
    def is_weak(self) -> bool:
        """Whether there is a classifier."""
        return self.weak or self.anomalous is not None
