"""What every detector offers, so that fitting, scoring and storing need not know which it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch

from manifests.errors import ConfigError, ModelError
from manifests.images import Geometry
from manifests.weights import Network

Box = tuple[int, int, int, int]
Boxes = Sequence[Box] | np.ndarray
Batch = tuple[np.ndarray, Boxes]
Progress = Callable[[int, int], None]
Tensors = Mapping[str, torch.Tensor]


class NormalBatches(Protocol):
    """Normal images, which can be read again and are then the same in the same batches."""

    def __len__(self) -> int:
        """The number of images."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Pairs of images (B, H, W, 3) uint8 RGB and their canvas boxes (B, 4)."""
        ...


@dataclass(frozen=True)
class Coverage:
    """How far training patches are from a bank that was chosen among them.

    Attributes:
        radius: the largest distance of a training patch to its nearest entry, unprojected.
        mean: the mean of these distances.
        blocks: in how many blocks the bank was chosen; 1 where all features were in memory.
        patches: how many training patches there are.
    """

    radius: float
    mean: float
    blocks: int
    patches: int


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

    A row in `DETECTORS`, one in `model_record.STATE_FILES` and one in the shared tests make it
    available.
    """

    needs: ClassVar[frozenset[str]]
    """What the negative set must hold beyond normal images: any of "mask", "saliency"."""
    progress_unit: ClassVar[str]
    """What `fit` counts, in the plural."""

    is_bounded: ClassVar[bool]
    """Whether scores and maps lie in 0 to 1, so that a half means the same for all models."""

    geometry: Geometry
    config: Any
    network: Network
    untuned: Network | None
    device: str
    coverage: Coverage | None
    """Of the training images, once `training_scores` has looked at them; None for a detector that
    keeps no patches."""

    @property
    def holds_pixels(self) -> bool:
        """Whether `state` holds pixels of training images, so that their licence binds the
        model."""
        ...

    def __init__(
        self,
        network: Network,
        geometry: Geometry,
        config: Any,
        *,
        untuned: Network | None = None,
        learned: Tensors | None = None,
        device: str = "cpu",
    ) -> None:
        """Args:
            network: what images are looked at with, in eval mode.
            geometry: canvas of all images.
            config: the method's options.
            untuned: the network before training, to be looked at with as well.
            learned: what training left beside the network; None for a detector whose training ends
                with the network.
            device: "cpu" or "cuda".

        Raises:
            ConfigError: a network that does not serve, `untuned` where one is enough, or `learned`
                where nothing of the kind is.
            ModelError: `learned` is of another network or other options.
        """
        ...

    def fit(self, batches: NormalBatches, *, progress: Progress | None = None) -> None:
        """Learn from normal images; they need not all be in memory.

        What does not fit in the config's memory budget is not kept: `training_scores` then reads
        the batches a second time.

        Args:
            batches: pairs of images (B, H, W, 3) uint8 RGB and their canvas boxes (B, 4), the
                `y, x, h, w` in px that are not padding.
            progress: called with (done, total), in `progress_unit`.

        Raises:
            ModelError: too few images, images that do not fit the geometry, or a memory budget
                too small for what is to be learned.
        """
        ...

    def training_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the images of `fit`, each as if it had not been among them.

        Returns:
            image scores (n,) and maxima of the score maps (n,), float32, in the order of `fit`.

        Raises:
            ModelError: too few images to leave one out, or no `fit` before.
        """
        ...

    def score(self, images: np.ndarray, canvas_boxes: Boxes | None = None) -> Scores:
        """Scores of (B, H, W, 3) uint8 RGB images; no boxes, no padding.

        Several threads may score at once.

        Raises:
            ModelError: not fitted, or images that do not fit the geometry.
        """
        ...

    def summary(self) -> str:
        """What was learned, in a few words. Raises ModelError where nothing was."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What training and `fit` learned beyond the network, as contiguous CPU tensors."""
        ...

    @classmethod
    def from_state(
        cls,
        network: Network,
        geometry: Geometry,
        config: Any,
        state: Tensors,
        *,
        untuned: Network | None = None,
        device: str = "cpu",
    ) -> Self:
        """A fitted detector from what `state` returned.

        Raises:
            ModelError: tensors that are not those, or of another network.
        """
        ...


def refuse_learned(learned: Tensors | None, detector: str) -> None:
    """Raises ConfigError where a detector is given what its training cannot have left."""
    if learned:
        raise ConfigError(f"the training of {detector} ends with its network", got=sorted(learned))


def check_scoring_options(*, sigma_px: float, seed: int, batch: int) -> None:
    """Refuses options that every detector has and that are out of range.

    Raises:
        ConfigError: naming the first of them.
    """
    if not 0.0 <= sigma_px < float("inf"):
        raise ConfigError("sigma_px out of range", expected="at least 0", got=sigma_px)
    if seed < 0:
        raise ConfigError("seed out of range", expected="at least 0", got=seed)
    if batch < 1:
        raise ConfigError("batch out of range", expected="at least 1", got=batch)


def checked_boxes(images: np.ndarray, canvas_boxes: Boxes | None, geometry: Geometry) -> np.ndarray:
    """(B, 4) int64 canvas boxes of a batch that fits the geometry; none given, no padding.

    Raises:
        ModelError: images of another shape or dtype, or not one box per image.
    """
    canvas = (geometry.height, geometry.width)
    if images.ndim != 4 or images.shape[1:] != (*canvas, 3) or images.dtype != np.uint8:
        raise ModelError(
            "images do not fit the model",
            expected=f"(B, {canvas[0]}, {canvas[1]}, 3) uint8",
            got=f"{images.shape} {images.dtype}",
        )
    if canvas_boxes is None:
        canvas_boxes = [(0, 0, *canvas)] * len(images)
    boxes = np.asarray(canvas_boxes, dtype=np.int64).reshape(-1, 4)
    if len(boxes) != len(images):
        raise ModelError("one canvas box per image", expected=len(images), got=len(boxes))
    return boxes


def score_in_batches(
    score: Callable[[np.ndarray, np.ndarray], Scores],
    images: np.ndarray,
    canvas_boxes: Boxes | None,
    *,
    geometry: Geometry,
    batch: int,
) -> Scores:
    """Scores any number of images, `batch` at a time, with `score(images, boxes)`.

    Raises:
        ModelError: images that do not fit the geometry.
    """
    boxes = checked_boxes(images, canvas_boxes, geometry)
    found = [
        score(images[start : start + batch], boxes[start : start + batch])
        for start in range(0, len(images), batch)
    ]
    if not found:
        shape = (0, geometry.height, geometry.width)
        return Scores(np.zeros(0, np.float32), np.zeros(shape, np.float32))
    return Scores(
        np.concatenate([scores.image for scores in found]),
        np.concatenate([scores.map for scores in found]),
    )
