"""Gaussian density: an image is as anomalous as its embedding is far from the normal ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch

from detector.detectors.base import (
    Boxes,
    Coverage,
    NormalBatches,
    Progress,
    Scores,
    Tensors,
    check_scoring_options,
    checked_boxes,
    refuse_learned,
    score_in_batches,
)
from detector.distribution import MIN_IMAGES, Distribution, fit_distribution
from detector.embeddings import CellEmbeddings
from detector.features import valid_cells
from detector.memory_budget import DEFAULT_BYTES, check_budget
from detector.score_map import SIGMA_PX, score_map
from manifests.errors import ConfigError, ModelError
from manifests.images import Geometry
from manifests.weights import Network

FOLDS = 5


@dataclass(frozen=True)
class GaussianConfig:
    """Every choice that shapes a Gaussian model.

    Attributes:
        sigma_px: blur of the score map, in px of a canvas of 256.
        seed: of the folds in which training images are scored.
        precision: "fp32" or "bf16", for the network.
        batch: images per forward pass when scoring.
        memory_budget: bytes that the embeddings of all cells may take between fit and scores.

    Raises:
        ConfigError: a value out of range.
    """

    sigma_px: float = SIGMA_PX
    seed: int = 0
    precision: str = "fp32"
    batch: int = 8
    memory_budget: int = DEFAULT_BYTES

    def __post_init__(self) -> None:
        check_budget(self.memory_budget)
        check_scoring_options(sigma_px=self.sigma_px, seed=self.seed, batch=self.batch)


# Cells (B, h, w, D) float32, which of them are valid (B, h, w) bool, and boxes (B, 4) int64.
_Embedded = tuple[torch.Tensor, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Training:
    """The training images, kept from `fit` until they have been scored.

    pooled: (n, D) float64. kept: all batches, cells on the CPU; None where the budget does not hold
    them, and `batches` are embedded again.
    """

    pooled: np.ndarray
    kept: list[_Embedded] | None
    batches: NormalBatches


class GaussianDetector:
    """A normal distribution of an image's pooled embedding; see `Detector`.

    An embedding is the mean of the network's last feature map (`CellEmbeddings`) over the cells
    that show the source: padding is left out of the mean, though cells beside it still see some of
    it, as every convolution does. The image score is the Mahalanobis distance. The map shows what
    every cell adds to its square (`Distribution.distances`), in units of the squared distance:
    the mean of these parts over the valid cells is the squared image score. Negative parts, cells
    that make the image look more normal, are set to 0 before the map is drawn.

    Source: Li et al. 2021 (CutPaste, arXiv 2104.04015), section 2.4: its own scorer. Differs:
    Ledoit-Wolf shrinkage; the distance in place of the log density, which orders images alike; the
    map by exact attribution in place of GradCAM, or of a second model for patches; one pass over
    the whole image.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    holds_pixels: ClassVar[bool] = False
    is_bounded: ClassVar[bool] = False
    progress_unit: ClassVar[str] = "images"

    def __init__(
        self,
        network: Network,
        geometry: Geometry,
        config: GaussianConfig,
        *,
        untuned: Network | None = None,
        learned: Tensors | None = None,
        device: str = "cpu",
    ) -> None:
        refuse_learned(learned, "gaussian")
        if untuned is not None:
            raise ConfigError(
                "the detector gaussian looks with one network",
                hint="leave --with-untuned out, or take --detector patchcore",
            )
        self.network = network
        self.untuned: Network | None = None
        self.geometry = geometry
        self.config = config
        self.device = device
        self.embeddings = CellEmbeddings(network, precision=config.precision, device=device)
        self.coverage: Coverage | None = None
        self._distribution: Distribution | None = None
        self._training: _Training | None = None
        self._training_scores: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def distribution(self) -> Distribution:
        """What was fitted. Raises ModelError before `fit`."""
        if self._distribution is None:
            raise ModelError("the detector has no distribution yet", hint="fit it first")
        return self._distribution

    def fit(self, batches: NormalBatches, *, progress: Progress | None = None) -> None:
        """Fit the distribution to normal images; see `Detector.fit`.

        Where the budget holds the embeddings of all cells (4 bytes × D × cells: 320 KiB per image
        of 256 px with the embedded network), they stay in memory until `training_scores` has used
        them. The pooled ones of all images always do, 8 bytes × D each: 10 KiB.

        Args:
            progress: called once, with (images, images).

        Raises:
            ModelError: fewer than three images, too many that look alike to the network, or images
                that do not fit the geometry.
        """
        self._distribution = self._training = self._training_scores = None
        kept: list[_Embedded] | None = []
        taken = 0
        pooled: list[np.ndarray] = []
        for images, canvas_boxes in batches:
            cells, shown, boxes = self._embed(images, canvas_boxes)
            cells = cells.cpu()
            pooled.append(_pool(cells, shown))
            taken += cells.nbytes
            if taken > self.config.memory_budget:
                kept = None
            if kept is not None:
                kept.append((cells, shown, boxes))
        if not pooled:
            raise ModelError("no normal images to fit to")
        training = _Training(np.concatenate(pooled), kept, batches)
        self._distribution = fit_distribution(training.pooled).to(self.device)
        self._training = training
        if progress is not None:
            progress(len(training.pooled), len(training.pooled))

    def training_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the training images, each by a distribution fitted without its fold.

        Five folds, or as many as there are images; the embeddings kept by `fit` are released, or
        computed a second time where none were kept.

        Returns:
            image scores (n,) and maxima of the score maps (n,), float32, in the order of `fit`.

        Raises:
            ModelError: fewer than four images, too many that look alike, or no `fit` before.

        Source: ours.
        """
        if self._training_scores is not None:
            return self._training_scores
        training = self._training
        if training is None:
            raise ModelError("training scores exist only after fitting", hint="fit it first")
        n = len(training.pooled)
        if n <= MIN_IMAGES:
            raise ModelError(
                "training scores need other images to fit to",
                expected=f"at least {MIN_IMAGES + 1} images",
                got=n,
            )
        fold = folds(n, seed=self.config.seed)
        image = np.empty(n, dtype=np.float32)
        maxima = np.empty(n, dtype=np.float32)
        others = [
            fit_distribution(training.pooled[fold != k]).to(self.device)
            for k in range(fold.max() + 1)
        ]
        start = 0
        for cells, valid, boxes in self._embedded(training):
            own_folds = fold[start : start + len(cells)]
            for k in np.unique(own_folds):
                own = np.flatnonzero(own_folds == k)
                scores = self._score_cells(cells[own], valid[own], boxes[own], others[k])
                image[start + own], maxima[start + own] = scores.image, scores.map.max((1, 2))
            start += len(cells)
        self._training_scores = image, maxima
        self._training = None
        return self._training_scores

    def _embedded(self, training: _Training) -> Iterator[_Embedded]:
        if training.kept is not None:
            yield from training.kept
            return
        for images, canvas_boxes in training.batches:
            yield self._embed(images, canvas_boxes)

    def score(self, images: np.ndarray, canvas_boxes: Boxes | None = None) -> Scores:
        """Score images; see `Detector.score`.

        Raises:
            ModelError: not fitted, or images that do not fit the geometry.
        """
        distribution = self.distribution

        def score(batch: np.ndarray, boxes: np.ndarray) -> Scores:
            return self._score_cells(*self._embed(batch, boxes), distribution)

        return score_in_batches(
            score, images, canvas_boxes, geometry=self.geometry, batch=self.config.batch
        )

    def summary(self) -> str:
        """Dimensions and shrinkage in words."""
        distribution = self.distribution
        return (
            f"Gaussian of {len(distribution.mean)} dimensions, "
            f"shrinkage {distribution.shrinkage:.3g}"
        )

    def state(self) -> dict[str, torch.Tensor]:
        """`mean` (D,), `precision` (D, D) and `shrinkage` (), float64, on the CPU."""
        distribution = self.distribution
        return {
            "mean": distribution.mean.cpu().contiguous(),
            "precision": distribution.precision.cpu().contiguous(),
            "shrinkage": torch.tensor(distribution.shrinkage, dtype=torch.float64),
        }

    @classmethod
    def from_state(
        cls,
        network: Network,
        geometry: Geometry,
        config: GaussianConfig,
        state: Tensors,
        *,
        untuned: Network | None = None,
        device: str = "cpu",
    ) -> Self:
        """A fitted detector from what `state` returned.

        Raises:
            ModelError: other tensors than those, or of another network.
        """
        detector = cls(network, geometry, config, untuned=untuned, device=device)
        dim = detector.embeddings.dim
        shapes = {"mean": (dim,), "precision": (dim, dim), "shrinkage": ()}
        if set(state) != set(shapes):
            raise ModelError("malformed distribution", expected=sorted(shapes), got=sorted(state))
        for name, shape in shapes.items():
            if tuple(state[name].shape) != shape:
                raise ModelError(
                    f"the distribution's {name} is of another network",
                    expected=shape,
                    got=tuple(state[name].shape),
                )
            if state[name].dtype != torch.float64 or not torch.isfinite(state[name]).all():
                raise ModelError(
                    f"malformed distribution: {name}",
                    expected="finite float64",
                    got=str(state[name].dtype).removeprefix("torch."),
                )
        detector._distribution = Distribution(
            state["mean"], state["precision"], float(state["shrinkage"])
        ).to(device)
        return detector

    def _embed(
        self, images: np.ndarray, canvas_boxes: Boxes | None
    ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Cells (B, h, w, D), which of them are valid (B, h, w), and the boxes (B, 4)."""
        boxes = checked_boxes(images, canvas_boxes, self.geometry)
        cells = self.embeddings(images)
        grid = (cells.shape[1], cells.shape[2])
        return cells, np.stack([valid_cells(grid, self.geometry, box) for box in boxes]), boxes

    def _score_cells(
        self, cells: torch.Tensor, valid: np.ndarray, boxes: np.ndarray, to: Distribution
    ) -> Scores:
        shown = torch.from_numpy(valid).to(self.device)
        distances, parts = to.distances(cells.to(self.device), shown)
        maps = score_map(
            parts.clamp(min=0.0).float(),
            self.geometry.height,
            self.geometry.width,
            sigma_px=self.config.sigma_px,
            valid=valid,
            canvas_boxes=boxes,
            roi=self.geometry.roi_mask,
        )
        return Scores(distances.float().cpu().numpy(), maps.cpu().numpy())


def folds(n: int, *, seed: int) -> np.ndarray:
    """(n,) fold of every image, 0 to min(5, n) - 1, of sizes that differ by one at most.

    Source: ours.
    """
    return np.random.default_rng(seed).permutation(n) % min(FOLDS, n)


def _pool(cells: torch.Tensor, valid: np.ndarray) -> np.ndarray:
    """(B, D) float64 means of the valid cells of (B, h, w, D)."""
    weight = torch.from_numpy(valid).to(torch.float64)
    total = (cells.to(torch.float64) * weight[..., None]).sum((1, 2))
    return (total / weight.sum((1, 2))[:, None]).numpy()
