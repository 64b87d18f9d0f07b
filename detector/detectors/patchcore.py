"""PatchCore: an image is as anomalous as its patch farthest from all normal patches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch

from detector.coreset import PROJECTION_DIM, coreset_size, k_centre
from detector.detectors.base import (
    Batch,
    Boxes,
    Progress,
    Scores,
    checked_boxes,
    score_in_batches,
)
from detector.features import FeatureExtractor, valid_cells
from detector.joined_features import JoinedFeatures
from detector.memory_bank import MemoryBank
from detector.score_map import SIGMA_PX, score_map, worst_cells
from detector.training_features import TrainingFeatures, join_features
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


class PatchCore:
    """PatchCore on one network and one canvas; see `Detector`.

    Args:
        untuned: another network whose features are joined to those of `network`.

    Source: Roth et al. 2022. Differs: see `FeatureExtractor`, `k_centre` and `score_map`; bank
    entries remember their image, so that training images can be scored without themselves; joined
    features are ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    holds_pixels: ClassVar[bool] = False
    progress_unit: ClassVar[str] = "patches"

    def __init__(
        self,
        network: Network,
        geometry: Geometry,
        config: PatchCoreConfig,
        *,
        untuned: Network | None = None,
        device: str = "cpu",
    ) -> None:
        self.network = network
        self.untuned = untuned
        self.geometry = geometry
        self.config = config
        self.device = device
        networks = [network] if untuned is None else [network, untuned]
        self.extractor = JoinedFeatures(
            [
                FeatureExtractor(
                    one, stages=config.stages, precision=config.precision, device=device
                )
                for one in networks
            ]
        )
        self._bank: MemoryBank | None = None
        self._training: TrainingFeatures | None = None
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
        self.fit_features(self.collect(batches), progress=progress)

    def collect(self, batches: Iterable[Batch]) -> TrainingFeatures:
        """The features that `fit` chooses a bank from; they depend on stages and precision only.

        Raises:
            ModelError: no images, or images that do not fit the geometry.
        """
        return join_features(self.patches(images, boxes) for images, boxes in batches)

    def fit_features(self, training: TrainingFeatures, *, progress: Progress | None = None) -> None:
        """The second half of `fit`, from features computed before and left as they are.

        Args:
            training: what `collect` of a detector with the same networks, stages and precision
                returned; several detectors may share it.
            progress: called with (patches chosen, patches wanted).

        Raises:
            ModelError: features of other dimensions.
        """
        self._bank = self._training = self._training_scores = None
        self._check_dim(training.features.shape[1], "these features are")
        picks = self._choose(training.features, progress)
        owners = training.owners()[picks]
        self._bank = MemoryBank(training.features[picks].to(self.device), owners)
        self._training = training

    def adopt_bank(self, bank: MemoryBank) -> None:
        """Takes a bank that a detector of the same networks and stages has chosen.

        Raises:
            ModelError: features of other dimensions.
        """
        self._training = self._training_scores = None
        self._check_dim(bank.dim, "this bank is")
        self._bank = bank

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
        n = len(training)
        if n < 2:
            raise ModelError(
                "training scores need other images to compare with",
                expected="at least 2 images",
                got=n,
            )
        image = np.empty(n, dtype=np.float32)
        maxima = np.empty(n, dtype=np.float32)
        for i in range(n):
            scores = self.score_features(
                training.features[training.rows(i)].to(self.device),
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
        _ = self.bank  # Refuses before anything is computed.

        def score(batch: np.ndarray, boxes: np.ndarray) -> Scores:
            return self.score_features(*self.patches(batch, boxes))

        return score_in_batches(
            score, images, canvas_boxes, geometry=self.geometry, batch=self.config.batch
        )

    def summary(self) -> str:
        """The bank's size in words."""
        return f"bank of {len(self.bank)} patches"

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
        untuned: Network | None = None,
        device: str = "cpu",
    ) -> Self:
        """A fitted detector from what `state` returned.

        Raises:
            ModelError: other tensors than those, or a bank of other features than the network's.
        """
        names = {"features", "image_index"}
        if set(state) != names:
            raise ModelError("malformed memory bank", expected=sorted(names), got=sorted(state))
        detector = cls(network, geometry, config, untuned=untuned, device=device)
        detector.adopt_bank(MemoryBank(state["features"].to(device), state["image_index"]))
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

    def patches(
        self, images: np.ndarray, canvas_boxes: Boxes | None = None
    ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Features of a batch's valid cells, as `score_features` takes them.

        Returns:
            features (P, D) float32 on `device`, in row-major order of the cells; which cells those
            are, (B, h, w) bool; canvas boxes (B, 4) int64.

        Raises:
            ModelError: images that do not fit the geometry.
        """
        boxes = checked_boxes(images, canvas_boxes, self.geometry)
        features = self.extractor(images, canvas_boxes=boxes)
        grid = (features.shape[1], features.shape[2])
        valid = np.stack([valid_cells(grid, self.geometry, box) for box in boxes])
        return features[torch.from_numpy(valid).to(features.device)], valid, boxes

    def score_features(
        self,
        patches: torch.Tensor,
        valid: np.ndarray,
        boxes: np.ndarray,
        *,
        exclude_image: int | None = None,
    ) -> Scores:
        """Scores from features, so that several detectors can share them.

        Args:
            patches, valid, boxes: what `patches` of a detector with the same networks, stages and
                precision returned.
            exclude_image: training image whose bank entries are left out.

        Raises:
            ModelError: not fitted, or no bank entry left.
        """
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

    def _check_dim(self, got: int, what: str) -> None:
        if got != self.extractor.dim:
            raise ModelError(
                f"{what} of another network or other stages",
                expected=f"{self.extractor.dim} dimensions",
                got=got,
            )
