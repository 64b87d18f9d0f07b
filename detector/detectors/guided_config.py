"""The options of guided segmentation."""

from __future__ import annotations

from dataclasses import dataclass

from detector.detectors.base import check_scoring_options
from detector.guided.pooled_score import WINDOW_PX
from detector.score_map import SIGMA_PX
from manifests.errors import ConfigError


@dataclass(frozen=True)
class GuidedConfig:
    """Every choice that shapes a model of guided segmentation, beside its training.

    Attributes:
        guidance: whether a similar normal image guides the segmentation.
        references: normal images that the model keeps to be guided by, at most; 2 or more, so that
            none has to guide itself.
        window_px: side of the window whose largest mean in the map is the image score, in px of a
            canvas of 256.
        width: channels of decoder and guidance at stride 2; None for `segmenter.WIDTH`.
        sigma_px: blur of the score map, in px of a canvas of 256.
        seed: of the first weights and of the first reference.
        precision: "fp32" or "bf16", for scoring.
        batch: images per forward pass when scoring.

    Raises:
        ConfigError: a value out of range.
    """

    guidance: bool = True
    references: int = 128
    window_px: int = WINDOW_PX
    width: int | None = None
    sigma_px: float = SIGMA_PX
    seed: int = 0
    precision: str = "fp32"
    batch: int = 8

    def __post_init__(self) -> None:
        check_scoring_options(sigma_px=self.sigma_px, seed=self.seed, batch=self.batch)
        if self.references < 2:
            raise ConfigError("references out of range", expected="at least 2", got=self.references)
        if self.window_px < 1:
            raise ConfigError("window out of range", expected="at least 1", got=self.window_px)
        if self.width is not None and self.width < 1:
            raise ConfigError("width out of range", expected="at least 1", got=self.width)
