"""PatchCore: an image is as anomalous as its patch farthest from all normal patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np
import torch

from detector.coreset import coreset_rows, coreset_size
from detector.detectors.base import (
    Boxes,
    Coverage,
    NormalBatches,
    Progress,
    Scores,
    Tensors,
    checked_boxes,
    refuse_learned,
    score_in_batches,
)
from detector.detectors.patchcore_config import PatchCoreConfig as PatchCoreConfig
from detector.detectors.training_scores import leave_one_out
from detector.features import FeatureExtractor, cell_origins, valid_cells
from detector.joined_features import JoinedFeatures
from detector.memory_bank import MemoryBank
from detector.memory_budget import FeatureBudget
from detector.merge_reduce import CandidateTree, Reduction
from detector.score_map import score_map, worst_cells
from detector.streamed_bank import stream_bank, stream_candidates
from detector.tiled_features import TiledFeatures
from detector.tiles import check_tiled_canvas
from detector.training_features import TrainingFeatures, join_features
from manifests.errors import ModelError
from manifests.images import Geometry
from manifests.weights import Network


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
    is_bounded: ClassVar[bool] = False
    progress_unit: ClassVar[str] = "patches"

    def __init__(
        self,
        network: Network,
        geometry: Geometry,
        config: PatchCoreConfig,
        *,
        untuned: Network | None = None,
        learned: Tensors | None = None,
        device: str = "cpu",
    ) -> None:
        refuse_learned(learned, "patchcore")
        self.network = network
        self.untuned = untuned
        self.geometry = geometry
        self.config = config
        self.device = device
        networks = [network] if untuned is None else [network, untuned]
        whole = JoinedFeatures(
            [
                FeatureExtractor(
                    one, stages=config.stages, precision=config.precision, device=device
                )
                for one in networks
            ]
        )
        check_tiled_canvas(config.tile, geometry)
        self.extractor: JoinedFeatures | TiledFeatures = whole
        if config.tile is not None:
            self.extractor = TiledFeatures(whole, config.tile, batch=config.batch)
        self._forget()

    def _forget(self) -> None:
        self._bank: MemoryBank | None = None
        # What training scores come from: features, or images to compute them from again.
        self._source: TrainingFeatures | NormalBatches | None = None
        self._blocks = 1
        self._first_image = 0
        self._training_scores: tuple[np.ndarray, np.ndarray] | None = None
        self.coverage: Coverage | None = None

    @property
    def bank(self) -> MemoryBank:
        """The memory bank. Raises ModelError before `fit`."""
        if self._bank is None:
            raise ModelError("the detector has no memory bank yet", hint="fit it first")
        return self._bank

    def fit(self, batches: NormalBatches, *, progress: Progress | None = None) -> None:
        """Build the memory bank from normal images; see `Detector.fit`.

        Where the budget holds the features of all images (4 bytes × D × cells each: 608 KiB per
        image of 256 px with the embedded network), they stay in memory until `training_scores` has
        used them. Otherwise the bank is chosen by merge and reduce (`stream_bank`).

        Args:
            progress: called with (patches chosen, patches wanted) while the coreset is chosen.

        Raises:
            ModelError: no images, images that do not fit the geometry, or a bank that the budget
                does not hold.
        """
        self._forget()
        if self.fits(len(batches)):
            self.fit_features(self.collect(batches), progress=progress)
            return
        streamed = stream_bank(
            self._numbered_patches(batches),
            reduction=self.reduction(len(batches)),
            budget=self._budget(),
            size_of=self.bank_size,
            progress=progress,
        )
        self._bank = MemoryBank.of(streamed.features.to(self.device), streamed.origins)
        self._source, self._blocks = batches, streamed.blocks

    def candidates(self, batches: NormalBatches, *, all_images: int) -> tuple[CandidateTree, int]:
        """What of some images' features a bank may be chosen from, where they do not fit in memory.

        Args:
            batches: some of the normal images.
            all_images: how many there are in all.

        Returns:
            The candidates, and the number of blocks they come from.

        Raises:
            ModelError: as `fit`.
        """
        tree, _, blocks = stream_candidates(
            self._numbered_patches(batches),
            reduction=self.reduction(all_images),
            budget=self._budget(),
        )
        return tree, blocks

    def reduction(self, images: int) -> Reduction:
        """How a bank of so many images, all without padding, is chosen by merge and reduce."""
        rows = images * self.cells()
        return Reduction(
            bank_rows=self.bank_size(rows),
            total_rows=rows,
            capacity_rows=self._budget().candidate_rows,
            seed=self.config.seed,
            projection_dim=self.config.projection_dim,
        )

    def _numbered_patches(
        self, batches: NormalBatches
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Features (P, D) of each batch, and image and cell of each, (P, 2)."""
        done = 0
        for images, boxes in batches:
            features, valid, _ = self.patches(images, boxes)
            yield features, cell_origins(valid, first_image=done)
            done += len(valid)

    def fits(self, images: int) -> bool:
        """Whether the budget holds the features of so many images, all without padding."""
        return self._budget().fits(images * self.cells())

    def collect(self, batches: NormalBatches) -> TrainingFeatures:
        """The features that `fit` chooses a bank from; they depend on stages and precision only.

        Raises:
            ModelError: no images, or images that do not fit the geometry.
        """
        parts = (self.patches(images, boxes) for images, boxes in batches)
        return join_features(parts, images=len(batches))

    def fit_features(self, training: TrainingFeatures, *, progress: Progress | None = None) -> None:
        """The second half of `fit`, from features computed before and left as they are.

        Args:
            training: what `collect` of a detector with the same networks, stages and precision
                returned; several detectors may share it.
            progress: called with (patches chosen, patches wanted).

        Raises:
            ModelError: features of other dimensions.
        """
        self._forget()
        self._check_dim(training.features.shape[1], "these features are")
        picks = self.choose(
            training.features, self.bank_size(len(training.features)), progress=progress
        )
        features = training.features[picks].to(self.device)
        self._bank = MemoryBank.of(features, training.origins()[picks])
        self._source = training

    def adopt_bank(
        self,
        bank: MemoryBank,
        *,
        training: TrainingFeatures | NormalBatches | None = None,
        first_image: int = 0,
        blocks: int = 1,
    ) -> None:
        """Takes a bank that a detector of the same networks and stages has chosen.

        Args:
            bank: from now on this detector's.
            training: images that `training_scores` is to look at, or their features.
            first_image: number of the first of them among the bank's images.
            blocks: see `Coverage`.

        Raises:
            ModelError: features of other dimensions.
        """
        self._forget()
        self._check_dim(bank.dim, "this bank is")
        self._bank = bank
        self._source, self._first_image, self._blocks = training, first_image, blocks

    def training_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the training images, each against the bank as it would be without it.

        The features kept by `fit` are released, or computed a second time where none were kept; the
        scores are kept. `coverage` is known from then on.

        Returns:
            image scores (n,) and maxima of the score maps (n,), float32, in the order of `fit`.

        Raises:
            ModelError: fewer than two images, a bank from one image alone, or no `fit` before.

        Source: ours, see `leave_one_out`. It stands for refitting without each image and costs two
        searches; the tests compare it with true refits.
        """
        if self._training_scores is not None:
            return self._training_scores
        if self._source is None:
            raise ModelError("training scores exist only after fitting", hint="fit it first")
        image, maxima, self.coverage = leave_one_out(
            self, self._source, first_image=self._first_image, blocks=self._blocks
        )
        self._training_scores = image, maxima
        self._source = None
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
        """`features` (M, D) float32, `image_index` and `cell` (M,) int32 of the bank, on the CPU.

        A bank of a model of version 5 has no cells.
        """
        found = {
            "features": self.bank.features.cpu().contiguous(),
            "image_index": self.bank.image_index.cpu().contiguous(),
        }
        if self.bank.cell is not None:
            found["cell"] = self.bank.cell.cpu().contiguous()
        return found

    @classmethod
    def from_state(
        cls,
        network: Network,
        geometry: Geometry,
        config: PatchCoreConfig,
        state: Tensors,
        *,
        untuned: Network | None = None,
        device: str = "cpu",
    ) -> Self:
        """A fitted detector from what `state` returned.

        Raises:
            ModelError: other tensors than those, or a bank of other features than the network's.
        """
        names = {"features", "image_index"}
        if set(state) - {"cell"} != names:
            raise ModelError("malformed memory bank", expected=sorted(names), got=sorted(state))
        detector = cls(network, geometry, config, untuned=untuned, device=device)
        cell = state.get("cell")
        if cell is not None and not bool(((cell >= 0) & (cell < detector.cells())).all()):
            raise ModelError(
                "malformed memory bank: a cell lies outside the grid",
                expected=f"0 to {detector.cells() - 1}",
            )
        bank = MemoryBank(state["features"].to(device), state["image_index"], cell)
        detector.adopt_bank(bank)
        return detector

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
        found = self.bank.nearest(patches, exclude_image=exclude_image)
        return self.score_found(patches, found, valid, boxes, exclude_image=exclude_image)

    def score_found(
        self,
        patches: torch.Tensor,
        found: tuple[torch.Tensor, torch.Tensor],
        valid: np.ndarray,
        boxes: np.ndarray,
        *,
        exclude_image: int | None,
        bank: MemoryBank | None = None,
    ) -> Scores:
        """Scores from what `MemoryBank.nearest` of a bank, by default its own, found."""
        distance, nearest = found
        is_valid = torch.from_numpy(valid).to(distance.device)
        grid = torch.zeros(valid.shape, device=distance.device)
        grid[is_valid] = distance
        worst = worst_cells(grid, valid=valid)
        image = grid.flatten(1).gather(1, worst[:, None])[:, 0]
        if self.config.reweight:
            # Where each image's worst cell stands in the list of patches.
            row = is_valid.flatten().cumsum(0).view(len(valid), -1).gather(1, worst[:, None])
            row = row[:, 0] - 1
            image = (self.bank if bank is None else bank).reweight(
                patches[row], nearest[row], distance[row], exclude_image=exclude_image
            )
        maps = score_map(
            grid,
            self.geometry.height,
            self.geometry.width,
            sigma_px=self.config.sigma_px,
            valid=valid,
            canvas_boxes=boxes,
            roi=self.geometry.roi_mask,
        )
        return Scores(image.cpu().numpy(), maps.cpu().numpy())

    def choose(
        self, features: torch.Tensor, size: int, *, progress: Progress | None = None
    ) -> torch.Tensor:
        """Rows of features (N, D) that a bank of `size` entries holds, ascending."""
        return coreset_rows(
            features,
            size,
            rng=np.random.default_rng(self.config.seed),
            projection_dim=self.config.projection_dim,
            progress=progress,
        )

    def bank_size(self, rows: int) -> int:
        """Entries of a bank that is chosen from so many features."""
        return coreset_size(rows, self.config.coreset_ratio, self.config.coreset_max)

    def _budget(self) -> FeatureBudget:
        config = self.config
        return FeatureBudget(config.memory_budget, self.extractor.dim, config.projection_dim)

    def grid(self) -> tuple[int, int]:
        """(h, w) cells of an image without padding."""
        return self.extractor.grid(self.geometry.height, self.geometry.width)

    def cells(self) -> int:
        """How many cells that are."""
        h, w = self.grid()
        return h * w

    def _check_dim(self, got: int, what: str) -> None:
        if got != self.extractor.dim:
            raise ModelError(
                f"{what} of another network or other stages",
                expected=f"{self.extractor.dim} dimensions",
                got=got,
            )
