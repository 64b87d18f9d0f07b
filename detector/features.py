"""Patch features: what a network's middle stages say about every cell of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from detector.stage_reader import StageReader
from manifests.errors import ConfigError, ModelError
from manifests.folding import folded_network
from manifests.images import Geometry
from manifests.weights import Network, autocast

Box = tuple[int, int, int, int]


class FeatureExtractor:
    """Locally averaged features of some stages of a network, on the grid of the finest one.

    Every stage's activation is averaged over 3×3 cells, of which those outside the image and those
    of padding count as zeros, upsampled bilinearly to the finest grid, and concatenated.

    Args:
        network: weights, preprocessing and the names of the stages.
        stages: stages in ascending order; stage s has stride 2^(s+1).
        precision: "fp32" or "bf16", for the forward pass; the features are float32 either way.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: `stages` empty, repeated, not ascending, or not in the network.
        ModelError: the network is in training mode.

    Source: Roth et al. 2022, section 3.1, equations 1-3 (patch size 3); zeros outside as in the
    authors' implementation: means of the cells that exist, fewer along the border, made a border
    cell the worst of nine normal magnetic tiles in ten (docs/results.md). Differs: the stages are
    joined by concatenation alone, without that implementation's adaptive pooling to a preset number
    of dimensions.
    """

    def __init__(
        self,
        network: Network,
        *,
        stages: Sequence[int] = (2, 3),
        precision: str = "fp32",
        device: str = "cpu",
    ) -> None:
        self.network = network
        self.stages = tuple(stages)
        self.precision = precision
        self.device = device
        if not self.stages or list(self.stages) != sorted(set(self.stages)):
            raise ConfigError(
                "stages must be ascending and distinct", got=list(self.stages), hint="try 2,3"
            )
        unknown = [stage for stage in self.stages if stage not in network.stages]
        if unknown:
            raise ConfigError(
                f"{network.name} has no stage {unknown[0]}", expected=sorted(network.stages)
            )
        if network.module.training:
            raise ModelError(
                "the network is in training mode", hint="call .eval(): its features would drift"
            )
        # The same features, but for rounding, in four fifths of the time.
        self._read = StageReader(
            folded_network(network).module, [network.stages[stage] for stage in self.stages]
        )
        # Asked of the network itself, so that a description can never disagree with the weights.
        probe = self._activations(np.zeros((1, 64, 64, 3), np.uint8))
        self.dim = sum(activation.shape[1] for activation in probe)
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the features of `height`×`width` images: the finest stage's cells."""
        key = (height, width)
        if key not in self._grids:
            probe = self._activations(np.zeros((1, height, width, 3), np.uint8))
            self._grids[key] = (probe[0].shape[2], probe[0].shape[3])
        return self._grids[key]

    def __call__(
        self, images: np.ndarray, *, canvas_boxes: np.ndarray | Sequence[Box] | None = None
    ) -> torch.Tensor:
        """Features of a batch.

        Args:
            images: (B, H, W, 3) uint8 RGB.
            canvas_boxes: (B, 4) `y, x, h, w` of the part of each canvas that shows the source, in
                px; None where there is no padding.

        Returns:
            (B, h, w, D) float32 on `device`, finite.

        Raises:
            ModelError: features that are not finite.
        """
        height, width = images.shape[1:3]
        activations = self._activations(images)
        finest = tuple(activations[0].shape[2:])
        levels = []
        for activation in activations:
            cells = _cells(activation, canvas_boxes, height=height, width=width)
            level = local_mean(activation, cells)
            levels.append(upsample(level, cells, finest))
        features = torch.cat(levels, dim=1).permute(0, 2, 3, 1).contiguous()
        if not torch.isfinite(features.sum()):
            raise ModelError(
                "features are not finite",
                hint="the extractor has diverged: train it again with a lower learning rate",
            )
        return features

    @torch.inference_mode()
    def _activations(self, images: np.ndarray) -> list[torch.Tensor]:
        """The stages' activations, (B, C, h, w) float32 each, without running deeper layers."""
        pixels = self.network.preprocess(torch.tensor(np.ascontiguousarray(images)).to(self.device))
        with autocast(self.device, self.precision):
            return [activation.float() for activation in self._read(pixels)]


def valid_cells(
    grid: tuple[int, int], geometry: Geometry, canvas_box: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Which feature cells show the source image rather than padding.

    A cell counts where its centre lies in the box. A box too thin to hold a centre keeps the cells
    nearest to its middle, so that every image has at least one. Of these, cells without a pixel of
    the region of interest do not count; a pixel beyond the outermost cells belongs to them.

    Args:
        grid: (h, w) cells.
        geometry: the canvas, `height`×`width` px.
        canvas_box: `y, x, h, w` in px.

    Returns:
        (h, w) bool, a filled rectangle where there is no region of interest.

    Source: ours.
    """
    y, x, h, w = (int(value) for value in canvas_box)
    rows = _axis_cells(grid[0], geometry.height, y, h)
    columns = _axis_cells(grid[1], geometry.width, x, w)
    inside: np.ndarray = rows[:, None] & columns[None, :]
    if geometry.roi is None:
        return inside
    inside = np.zeros(grid, dtype=bool)
    ys, xs = np.nonzero(geometry.roi.mask[y : y + h, x : x + w])
    inside[
        _cell_of(ys + y, rows, geometry.height, grid[0]),
        _cell_of(xs + x, columns, geometry.width, grid[1]),
    ] = True
    return inside


def _cell_of(pixels: np.ndarray, shown: np.ndarray, side_px: int, cells: int) -> np.ndarray:
    """The cell along one axis that each pixel lies in, of those that are shown."""
    known = np.flatnonzero(shown)
    found: np.ndarray = pixels * cells // side_px
    return found.clip(known[0], known[-1])


def cell_origins(valid: np.ndarray, *, first_image: int = 0) -> torch.Tensor:
    """Where the features of valid cells come from: image and cell of each.

    Args:
        valid: (B, h, w) bool.
        first_image: number of the first of these images.

    Returns:
        (P, 2) int32, sorted: the image's number, and the cell's in row-major order of its grid.
    """
    image, cell = valid.reshape(len(valid), -1).nonzero()
    return torch.from_numpy(np.stack([image + first_image, cell], axis=1).astype(np.int32))


def _axis_cells(cells: int, pixels: int, start: int, length: int) -> np.ndarray:
    """(cells,) bool; of centres equally far from the middle of a thin box the first counts."""
    # In units of half a cell by a pixel everything is a whole number, and no tie is left to
    # rounding, here or in an exported graph.
    centres = (2 * np.arange(cells) + 1) * pixels
    inside: np.ndarray = (centres >= 2 * cells * start) & (centres < 2 * cells * (start + length))
    if not inside.any():
        inside[np.abs(centres - (2 * start + length) * cells).argmin()] = True
    return inside


def _cells(
    activation: torch.Tensor,
    canvas_boxes: np.ndarray | Sequence[Box] | None,
    *,
    height: int,
    width: int,
) -> torch.Tensor | None:
    """(B, 1, h, w) float32, 1 where a stage's cell shows the source; None where all do."""
    if canvas_boxes is None or all(tuple(box) == (0, 0, height, width) for box in canvas_boxes):
        return None
    h, w = activation.shape[2:]
    masks = []
    for y, x, box_h, box_w in canvas_boxes:
        rows = _axis_cells(h, height, int(y), int(box_h))
        columns = _axis_cells(w, width, int(x), int(box_w))
        masks.append(rows[:, None] & columns[None, :])
    return torch.from_numpy(np.stack(masks)[:, None]).to(activation.device, torch.float32)


def local_mean(activation: torch.Tensor, cells: torch.Tensor | None) -> torch.Tensor:
    """3×3 mean; cells of padding and outside count as zeros."""
    shown = activation if cells is None else activation * cells
    return F.avg_pool2d(shown, 3, stride=1, padding=1)


def upsample(
    level: torch.Tensor, cells: torch.Tensor | None, finest: tuple[int, ...]
) -> torch.Tensor:
    """Bilinear upsampling in which padded cells carry no weight."""
    if tuple(level.shape[2:]) == finest:
        return level
    if cells is None:
        return F.interpolate(level, finest, mode="bilinear", align_corners=False)
    total = F.interpolate(level * cells, finest, mode="bilinear", align_corners=False)
    weight = F.interpolate(cells, finest, mode="bilinear", align_corners=False)
    # Fine cells between padded coarse ones only (a box thinner than a cell) take the nearest.
    nearest = F.interpolate(level, finest, mode="nearest")
    return torch.where(weight > 0, total / weight.clamp(min=1e-6), nearest)
