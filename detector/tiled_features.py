"""Features of a large canvas, tile by tile: how the tiles' results become one without a seam."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from detector.joined_features import JoinedFeatures
from detector.tiles import check_tile, shared_px, tile_starts
from manifests.edits import Box


def axis_weights(starts: Sequence[int], length_px: int, tile_px: int, cell_px: int) -> np.ndarray:
    """How much each tile counts for each cell along an axis.

    Towards an edge that is not the canvas's, a tile's cells have seen zeros where the picture goes
    on. There the outermost quarter of what is shared counts for nothing and the half inside it
    rises evenly to 1, while the neighbour's falls: no seam, neither as a line nor as a step.

    Args:
        starts: as `tile_starts` gives them.
        length_px, tile_px: as there.
        cell_px: px per cell, a divisor of 32.

    Returns:
        (tiles, cells) float32; columns sum to 1.

    Source: ours.
    """
    side = min(tile_px, length_px)
    shared = shared_px(tile_px) // cell_px
    cells = side // cell_px
    weights = np.zeros((len(starts), length_px // cell_px))
    middle = np.arange(cells) + 0.5
    for row, start in zip(weights, starts, strict=True):
        weight = np.ones(cells)
        if start > 0:
            weight = np.minimum(weight, (middle - shared / 4) / (shared / 2))
        if start + side < length_px:
            weight = np.minimum(weight, (cells - middle - shared / 4) / (shared / 2))
        row[start // cell_px : start // cell_px + cells] = weight.clip(0.0, 1.0)
    shares: np.ndarray = weights / weights.sum(0)
    return shares.astype(np.float32)


class TiledFeatures:
    """Features of a large canvas from a network that only ever sees tiles of it.

    Memory of a pass through the network depends on the tiles, not on the canvas. Like
    `JoinedFeatures` otherwise, and but for what a tile's edge hides the same features.

    Args:
        whole: what gives the features of one tile.
        tile_px: side of a tile; see `check_tile`.
        batch: tiles of one pass.

    Source: ours.
    """

    def __init__(self, whole: JoinedFeatures, tile_px: int, *, batch: int) -> None:
        check_tile(tile_px)
        self.tile_px = tile_px
        self.dim = whole.dim
        self.extractors = whole.extractors
        self._whole = whole
        self._batch = batch

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the features of `height`×`width` images."""
        side_h, side_w = min(height, self.tile_px), min(width, self.tile_px)
        h, w = self._whole.grid(side_h, side_w)
        return h * height // side_h, w * width // side_w

    def __call__(
        self, images: np.ndarray, *, canvas_boxes: np.ndarray | Sequence[Box] | None = None
    ) -> torch.Tensor:
        """(B, h, w, D) float32 features of a batch; see `JoinedFeatures`.

        Raises:
            ModelError: features that are not finite.
        """
        height, width = images.shape[1:3]
        side_h, side_w = min(height, self.tile_px), min(width, self.tile_px)
        h, w = self.grid(height, width)
        cell_h, cell_w = height // h, width // w
        tops, lefts = tile_starts(height, self.tile_px), tile_starts(width, self.tile_px)
        down = axis_weights(tops, height, self.tile_px, cell_h)
        across = axis_weights(lefts, width, self.tile_px, cell_w)
        boxes = [(0, 0, height, width)] * len(images) if canvas_boxes is None else canvas_boxes
        places = [
            (image, i, j, shown)
            for image, box in enumerate(boxes)
            for i, top in enumerate(tops)
            for j, left in enumerate(lefts)
            if (shown := _shown(box, (top, left, side_h, side_w))) is not None
        ]
        out: torch.Tensor | None = None
        for start in range(0, len(places), self._batch):
            part = places[start : start + self._batch]
            tiles = np.stack(
                [
                    images[image, tops[i] : tops[i] + side_h, lefts[j] : lefts[j] + side_w]
                    for image, i, j, _ in part
                ]
            )
            found = self._whole(tiles, canvas_boxes=[shown for *_, shown in part])
            if out is None:
                out = found.new_zeros((len(images), h, w, self.dim))
            for one, (image, i, j, _) in zip(found, part, strict=True):
                y, x = tops[i] // cell_h, lefts[j] // cell_w
                rows, columns = slice(y, y + one.shape[0]), slice(x, x + one.shape[1])
                weight = torch.from_numpy(down[i, rows, None] * across[None, j, columns])
                out[image, rows, columns] += one * weight[..., None].to(one.device)
        assert out is not None  # every box shows something
        return out


def _shown(box: Sequence[int], tile: Box) -> Box | None:
    """What a tile shows of a canvas box, in the tile's pixels; None where that is nothing."""
    top, left = max(box[0], tile[0]), max(box[1], tile[1])
    bottom = min(box[0] + box[2], tile[0] + tile[2])
    right = min(box[1] + box[3], tile[1] + tile[3])
    if bottom <= top or right <= left:
        return None
    return int(top - tile[0]), int(left - tile[1]), int(bottom - top), int(right - left)
