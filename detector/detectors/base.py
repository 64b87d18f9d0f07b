"""What every detector offers, so that fitting, scoring and storing need not know which it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
import torch

from manifests.images import Geometry
from manifests.weights import Network

Box = tuple[int, int, int, int]
Boxes = Sequence[Box] | np.ndarray
Batch = tuple[np.ndarray, Boxes]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Scores:
    """How anomalous images and their pixels are; larger is more so, 0 the least.

    Attributes:
        image: (B,) float32.
        map: (B, H, W) float32 on the canvas, 0 in padding.
    """

    image: np.ndarray
    map: np.ndarray


class Detector(Protocol):
    """A method that learns what normal images look like and scores others.

    Built as `Detector(network, geometry, config, device=...)`; a row in `DETECTORS` and one in the
    shared tests make it available.
    """

    needs: ClassVar[frozenset[str]]
    """What the negative set must hold beyond normal images: any of "mask", "saliency"."""

    def fit(self, batches: Iterable[Batch], *, progress: Progress | None = None) -> None:
        """Learn from normal images, which need not all be in memory.

        Args:
            batches: pairs of images (B, H, W, 3) uint8 RGB and their canvas boxes (B, 4), the
                `y, x, h, w` in px that are not padding.
            progress: called with (done, total).
        """
        ...

    def training_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the images of `fit`, each as if it had not been among them.

        Returns:
            image scores (n,) and maxima of the score maps (n,), float32, in the order of `fit`.
        """
        ...

    def score(self, images: np.ndarray, canvas_boxes: Boxes | None = None) -> Scores:
        """Scores of (B, H, W, 3) uint8 RGB images; no boxes, no padding."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What `fit` learned beyond the network, as contiguous tensors on the CPU."""
        ...

    @classmethod
    def from_state(
        cls,
        network: Network,
        geometry: Geometry,
        config: object,
        state: Mapping[str, torch.Tensor],
        *,
        device: str = "cpu",
    ) -> Self:
        """A fitted detector from what `state` returned."""
        ...
