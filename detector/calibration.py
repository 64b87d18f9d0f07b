"""Scores of good images: what a model's thresholds and p-values come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from detector.threshold import Threshold, fit_threshold
from manifests.errors import ModelError

if TYPE_CHECKING:
    import torch

IMAGE, MAP_MAXIMUM = "image", "map_maximum"
TRAINING, HELD_OUT, OTHERS = "training", "held-out", "others"
SOURCES = (TRAINING, HELD_OUT, OTHERS)
"""Which good images they are: those of the fit, those that its training left out, or others."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of good images, ascending.

    Attributes:
        image: (n,) float32, image scores.
        map_maximum: (n,) float32, the maxima of their score maps; in an order of their own.
        source: a name in `SOURCES`.
    """

    image: np.ndarray
    map_maximum: np.ndarray
    source: str

    @classmethod
    def of(cls, image: np.ndarray, map_maximum: np.ndarray, source: str) -> Self:
        """From scores in any order.

        Raises:
            ModelError: no scores, not equally many, or some that are not finite.
        """
        images, maxima = (
            np.sort(np.asarray(one, dtype=np.float32).reshape(-1)) for one in (image, map_maximum)
        )
        if not len(images) or len(images) != len(maxima):
            raise ModelError(
                "no calibration without scores of good images",
                got=f"{len(images)} image scores, {len(maxima)} maps",
            )
        if not all(np.isfinite(one).all() for one in (images, maxima)):
            raise ModelError("scores of good images are not finite")
        return cls(images, maxima, source)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.image)

    def thresholds(self, rate: float) -> tuple[Threshold, Threshold]:
        """Of image scores and of score maps; see `fit_threshold`."""
        return fit_threshold(self.image, rate), fit_threshold(self.map_maximum, rate)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """How rare such a score is among good images.

        p = (1 + number of these scores that are at least as high) / (1 + n): a good image has a p
        of at most t with probability t at most, if good images are exchangeable.

        Args:
            scores: (N,) image scores.

        Returns:
            (N,) float64, from 1 / (n + 1) to 1.

        Source: Vovk et al. 2005 (conformal p-values).
        """
        below = np.searchsorted(self.image, np.asarray(scores, dtype=np.float32), side="left")
        return (1.0 + len(self) - below) / (1.0 + len(self))

    def state(self) -> dict[str, torch.Tensor]:
        """Both by name, as `safetensors` takes them."""
        import torch

        return {
            IMAGE: torch.from_numpy(self.image.copy()),
            MAP_MAXIMUM: torch.from_numpy(self.map_maximum.copy()),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor], source: str) -> Self:
        """What `state` returned.

        Raises:
            ModelError: other tensors than those.
        """
        import torch

        image, maxima = state.get(IMAGE), state.get(MAP_MAXIMUM)
        if not (
            state.keys() == {IMAGE, MAP_MAXIMUM}
            and image is not None
            and maxima is not None
            and image.dtype == maxima.dtype == torch.float32
            and image.ndim == maxima.ndim == 1
            and len(image) == len(maxima) > 0
        ):
            raise ModelError("malformed calibration", expected=f"{IMAGE} and {MAP_MAXIMUM} (n,)")
        found = cls.of(image.numpy(), maxima.numpy(), source)
        if (found.image != image.numpy()).any() or (found.map_maximum != maxima.numpy()).any():
            raise ModelError("malformed calibration", expected="ascending scores")
        return found
