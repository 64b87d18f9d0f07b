"""PatchCore: an image is as anomalous as its patch farthest from all normal patches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch

from detector.coreset import PROJECTION_DIM, coreset_size, k_centre
from detector.detectors.base import Batch, Boxes, Progress, Scores
from detector.features import FeatureExtractor, valid_cells
from detector.memory_bank import MemoryBank
from detector.score_map import SIGMA_PX, score_map, worst_cells
from manifests.errors import ConfigError, ModelError
from manifests.images import Geometry
from manifests.weights import Network


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

    def __post_init__(self) -> None:
        coreset_size(1, self.coreset_ratio, self.coreset_max)
        for name in ("projection_dim", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} out of range", expected="at least 1", got=getattr(self, name)
                )
        if not 0.0 <= self.sigma_px < float("inf"):
            raise ConfigError("sigma_px out of range", expected="at least 0", got=self.sigma_px)
        if self.seed < 0:
            raise ConfigError("seed out of range", expected="at least 0", got=self.seed)


@dataclass(frozen=True, eq=False)
class _Training:
    """Features of the training images, kept from `fit` until they have been scored.

    features (N, D) float32 on the CPU; image i owns rows offsets[i] to offsets[i + 1]; valid
    (n, h, w) bool; boxes (n, 4) int64.
    """

    features: torch.Tensor
    offsets: np.ndarray
    valid: np.ndarray
    boxes: np.ndarray


class PatchCore:
    """PatchCore on one network and one canvas.

    Args:
        network: feature extractor, in eval mode.
        geometry: canvas of all images.
        config: the method's options.
        device: "cpu" or "cuda".

    Source: Roth et al. 2022. Differs: see `FeatureExtractor`, `k_centre` and `score_map`; bank
    entries remember their image, so that training images can be scored without themselves.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, network: Network, geometry: Geometry, config: PatchCoreConfig, *, device: str = "cpu"
    ) -> None:
        self.network = network
        self.geometry = geometry
        self.config = config
        self.device = device
        self.extractor = FeatureExtractor(
            network, stages=config.stages, precision=config.precision, device=device
        )
        self._bank: MemoryBank | None = None
        self._training: _Training | None = None
        self._training_scores: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def bank(self) -> MemoryBank:
        """The memory bank. Raises ModelError before `fit`."""
        if self._bank is None:
            raise ModelError("the detector has no memory bank yet", hint="fit it first")
        return self._bank

    def fit(self, batches: Iterable[Batch], *, progress: Progress | None = None) -> None:
        """Build the memory bank from normal images; see `Detector.fit`.

        The features of all images stay in memory (4 bytes × D × cells each: 608 KiB per image
        of 256 px with the embedded network) until `training_scores` has used them.

        Args:
            progress: called with (patches chosen, patches wanted) while the coreset is chosen.

        Raises:
            ModelError: no images, or images that do not fit the geometry.
        """
        self._bank = self._training = self._training_scores = None
        chunks: list[torch.Tensor] = []
        valid: list[np.ndarray] = []
        boxes: list[np.ndarray] = []
        for images, canvas_boxes in batches:
            patches, cells, checked = self._patches(images, canvas_boxes)
            chunks.append(patches.cpu())
            valid.append(cells)
            boxes.append(checked)
        if not chunks:
            raise ModelError("no normal images to fit to")
        features = _join(chunks)
        shown = np.concatenate(valid)
        counts = shown.sum((1, 2))
        training = _Training(
            features, np.concatenate([[0], np.cumsum(counts)]), shown, np.concatenate(boxes)
        )
        picks = self._choose(features, progress)
        owner = torch.repeat_interleave(
            torch.arange(len(counts), dtype=torch.int32), torch.from_numpy(counts)
        )
        self._bank = MemoryBank(features[picks].to(self.device), owner[picks])
        self._training = training

    def training_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the training images, each against the bank without its own patches.

        The features kept by `fit` are released; the scores are kept.

        Returns:
            image scores (n,) and maxima of the score maps (n,), float32, in the order of `fit`.

        Raises:
            ModelError: fewer than two images, a bank from one image alone, or no `fit` before.

        Source: ours. It stands for refitting without each image and costs one search; the bank is
        the one chosen with all images present, which the tests compare with true refits.
        """
        if self._training_scores is not None:
            return self._training_scores
        training = self._training
        if training is None:
            raise ModelError("training scores exist only after fitting", hint="fit it first")
        n = len(training.valid)
        if n < 2:
            raise ModelError(
                "training scores need other images to compare with",
                expected="at least 2 images",
                got=n,
            )
        image = np.empty(n, dtype=np.float32)
        maxima = np.empty(n, dtype=np.float32)
        for i in range(n):
            rows = slice(int(training.offsets[i]), int(training.offsets[i + 1]))
            scores = self._score_patches(
                training.features[rows].to(self.device),
                training.valid[i : i + 1],
                training.boxes[i : i + 1],
                exclude_image=i,
            )
            image[i], maxima[i] = scores.image[0], scores.map.max()
        self._training_scores = image, maxima
        self._training = None
        return self._training_scores

    def score(self, images: np.ndarray, canvas_boxes: Boxes | None = None) -> Scores:
        """Score images; see `Detector.score`.

        Raises:
            ModelError: not fitted, or images that do not fit the geometry.
        """
        bank = self.bank
        found = []
        for start in range(0, len(images), self.config.batch):
            rows = slice(start, start + self.config.batch)
            boxes = None if canvas_boxes is None else canvas_boxes[rows]
            patches, valid, checked = self._patches(images[rows], boxes)
            found.append(self._score_patches(patches.to(bank.features.device), valid, checked))
        if not found:
            shape = (0, self.geometry.height, self.geometry.width)
            return Scores(np.zeros(0, np.float32), np.zeros(shape, np.float32))
        return Scores(
            np.concatenate([scores.image for scores in found]),
            np.concatenate([scores.map for scores in found]),
        )

    def state(self) -> dict[str, torch.Tensor]:
        """`features` (M, D) float32 and `image_index` (M,) int32 of the bank, on the CPU."""
        return {
            "features": self.bank.features.cpu().contiguous(),
            "image_index": self.bank.image_index.cpu().contiguous(),
        }

    @classmethod
    def from_state(
        cls,
        network: Network,
        geometry: Geometry,
        config: PatchCoreConfig,
        state: Mapping[str, torch.Tensor],
        *,
        device: str = "cpu",
    ) -> Self:
        """A fitted detector from what `state` returned.

        Raises:
            ModelError: other tensors than those, or a bank of other features than the network's.
        """
        names = {"features", "image_index"}
        if set(state) != names:
            raise ModelError("malformed memory bank", expected=sorted(names), got=sorted(state))
        detector = cls(network, geometry, config, device=device)
        bank = MemoryBank(state["features"].to(device), state["image_index"])
        if bank.dim != detector.extractor.dim:
            raise ModelError(
                "the memory bank is of another network or other stages",
                expected=f"{detector.extractor.dim} dimensions",
                got=bank.dim,
            )
        detector._bank = bank
        return detector

    def _choose(self, features: torch.Tensor, progress: Progress | None) -> torch.Tensor:
        """Rows of the bank's features, ascending."""
        n = len(features)
        wanted = coreset_size(n, self.config.coreset_ratio, self.config.coreset_max)
        if wanted == n:
            return torch.arange(n)
        picks = k_centre(
            features,
            wanted,
            rng=np.random.default_rng(self.config.seed),
            projection_dim=self.config.projection_dim,
            progress=progress,
        )
        return picks.sort().values

    def _patches(
        self, images: np.ndarray, canvas_boxes: Boxes | None
    ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Features of the valid cells (P, D), which those are (B, h, w), and the boxes (B, 4)."""
        canvas = (self.geometry.height, self.geometry.width)
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
        features = self.extractor(images, canvas_boxes=boxes)
        grid = (features.shape[1], features.shape[2])
        valid = np.stack([valid_cells(grid, self.geometry, box) for box in boxes])
        return features[torch.from_numpy(valid).to(features.device)], valid, boxes

    def _score_patches(
        self,
        patches: torch.Tensor,
        valid: np.ndarray,
        boxes: np.ndarray,
        *,
        exclude_image: int | None = None,
    ) -> Scores:
        """Scores from the features (P, D) of the `valid` (B, h, w) cells, in row-major order."""
        distance, nearest = self.bank.nearest(patches, exclude_image=exclude_image)
        is_valid = torch.from_numpy(valid).to(distance.device)
        grid = torch.zeros(valid.shape, device=distance.device)
        grid[is_valid] = distance
        worst = worst_cells(grid, valid=valid)
        image = grid.flatten(1).gather(1, worst[:, None])[:, 0]
        if self.config.reweight:
            # Where each image's worst cell stands in the list of patches.
            row = is_valid.flatten().cumsum(0).view(len(valid), -1).gather(1, worst[:, None])
            row = row[:, 0] - 1
            image = self.bank.reweight(
                patches[row], nearest[row], distance[row], exclude_image=exclude_image
            )
        maps = score_map(
            grid,
            self.geometry.height,
            self.geometry.width,
            sigma_px=self.config.sigma_px,
            valid=valid,
            canvas_boxes=boxes,
        )
        return Scores(image.cpu().numpy(), maps.cpu().numpy())


def _join(chunks: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate along the first axis, releasing each chunk once copied; empties the list.

    The result's memory is touched only as it is filled, so the peak is one copy, not two.
    """
    total = sum(len(chunk) for chunk in chunks)
    out = torch.empty((total, chunks[0].shape[1]), dtype=chunks[0].dtype)
    end = total
    while chunks:
        chunk = chunks.pop()
        out[end - len(chunk) : end] = chunk
        end -= len(chunk)
    return out
