"""Why an image has its score: the normals that its worst patch was compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from detector.detectors import GuidedSegmentation, PatchCore
from detector.model import Model
from detector.normal_list import FittedNormal
from detector.normal_pixels import NormalPixels
from detector.patch_boxes import Box, patch_box, source_box
from detector.score_map import worst_cells
from detector.score_record import plain_path
from manifests.canvas import repeated_grey
from manifests.digest import array_digest, bytes_digest
from manifests.errors import ConfigError, ModelError
from manifests.images import (
    DEFAULT_MAX_PIXELS,
    decode_image,
    fit_image,
    read_bytes,
    restore_map,
)
from manifests.negative_set import NegativeSet

NEIGHBOURS = 5

_REFUSED = {
    "gaussian": "compares whole images with one distribution and keeps no normals to show",
    "cavga": "keeps no normals to show: it looks at what its autoencoder makes of the image",
}


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A normal that an image was compared with.

    Attributes:
        image_index: its number among the normals of the fit; None where nobody knows.
        normal: its name; None where the model does not say.
        distance: between the two patches' features; between whole images 1 - cosine similarity.
        cell: (row, column) of the patch; None for a whole image, or where nobody knows.
        canvas_box: what it shows on the canvas, `y, x, h, w` in px; None without a cell.
        canvas: (H, W, 3) uint8, the normal's pixels, where they can be had.
    """

    image_index: int | None
    normal: FittedNormal | None
    distance: float
    cell: tuple[int, int] | None = None
    canvas_box: Box | None = None
    canvas: np.ndarray | None = field(default=None, repr=False)

    def to_json(self) -> dict:
        """Plain JSON types, without pixels."""
        normal = self.normal
        return {
            "image": None if normal is None else normal.source,
            "file_sha256": None if normal is None else normal.file_sha256,
            "image_index": self.image_index,
            "cell": None if self.cell is None else list(self.cell),
            "canvas_box": None if self.canvas_box is None else list(self.canvas_box),
            "distance": self.distance,
        }


@dataclass(frozen=True, eq=False)
class Explanation:
    """An image's score and where it comes from.

    Attributes:
        normalised: the score over the image threshold.
        p_value: see `Calibration.p_values`.
        is_known: whether the model was fitted to this very image.
        grid: (h, w) cells of the canvas; None for a detector that compares whole images.
        cell: (row, column) of the worst patch, `canvas_box` what it shows on the canvas and
            `source_box` in the image, `y, x, h, w` in px; None with `grid`.
        distance: of the worst patch to its nearest neighbour, or of the image to its own.
        neighbours: the nearest first.
        canvas: (H, W, 3) uint8, the image as the network saw it. original: in its own pixels.
        heat: score map over the pixel threshold in the original's pixels, (H0, W0) float32.
    """

    path: Path
    category: str
    detector: str
    score: float
    normalised: float
    p_value: float
    is_defect: bool
    is_known: bool
    grid: tuple[int, int] | None
    cell: tuple[int, int] | None
    canvas_box: Box | None
    source_box: Box | None
    distance: float
    neighbours: tuple[Neighbour, ...]
    canvas: np.ndarray = field(repr=False)
    original: np.ndarray = field(repr=False)
    heat: np.ndarray = field(repr=False)

    def to_json(self) -> dict:
        """Plain JSON types, without pixels."""
        names = (
            "category", "detector", "score", "normalised", "p_value", "is_defect", "is_known",
            "grid", "cell", "canvas_box", "source_box", "distance",
        )  # fmt: skip
        plain = {name: getattr(self, name) for name in names}
        return {
            **plain_path(self.path),
            **{name: list(one) if isinstance(one, tuple) else one for name, one in plain.items()},
            "neighbours": [one.to_json() for one in self.neighbours],
        }


def names_of(model: Model, negative_set: NegativeSet | None) -> tuple[FittedNormal, ...] | None:
    """The normals that a model was fitted to; None where neither the model nor the set says.

    A model of version 5 does not say; the set that it was fitted on does.
    """
    if model.normals is not None or negative_set is None:
        return model.normals
    if negative_set.digest != model.set_digest:
        raise ModelError(
            "is not the set that the model was fitted on",
            path=negative_set.path,
            expected=model.set_digest,
            got=negative_set.digest,
            hint="models of version 5 name no normals, and only that set does",
        )
    return tuple(FittedNormal(*row) for row in negative_set.normal_names())


def explain_image(
    model: Model,
    path: str | PathLike[str],
    *,
    pixels: NormalPixels,
    normals: tuple[FittedNormal, ...] | None = None,
    count: int = NEIGHBOURS,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Explanation:
    """The bank entries nearest to an image's worst patch, and the normals that they come from.

    Of a segmentation with guidance: the reference that it was given, and those that come next.

    Args:
        path: an image file.
        pixels: where the normals' pixels are, if anywhere.
        normals: see `names_of`.
        count: how many neighbours, at least 1.

    Raises:
        ConfigError: a count below 1.
        ModelError: a detector that keeps no normals, or another image in a normal's place.
        ImageError: the image, or a normal's file, cannot be read.

    Source: ours; Roth et al. 2022 for the worst patch and its nearest entries.
    """
    if count < 1:
        raise ConfigError("too few neighbours", expected="at least 1", got=count)
    detector = model.detector
    if not isinstance(detector, PatchCore | GuidedSegmentation):
        raise ModelError(
            f"the detector {model.config.detector} {_REFUSED[model.config.detector]}",
            hint="cutswap-det score --heatmaps shows where it sees a defect",
        )
    path = Path(path)
    data = read_bytes(path, max_pixels=max_pixels)
    decoded = decode_image(data, path=path, max_pixels=max_pixels, repeat_grey=False)
    canvas, placement = fit_image(decoded, model.geometry, path=path)
    boxes = [placement.canvas_box]
    scores = detector.score(canvas[None], boxes)
    score = float(scores.image[0])
    known = {one.file_sha256 for one in normals or ()} | {one.pixel_digest for one in normals or ()}
    grid = cell = box = in_source = None
    if isinstance(detector, PatchCore):
        grid = detector.grid()
        worst, distance, entries = _worst_patch(detector, canvas, boxes, count)
        cell = divmod(worst, grid[1])
        box = patch_box(cell, grid, model.geometry, placement.canvas_box)
        in_source = source_box(box, placement)
        neighbours = tuple(_entry(model, row, far, normals, pixels) for far, row in entries)
    else:
        neighbours = _references(detector, canvas, boxes, count, normals)
        distance = neighbours[0].distance
    limit = np.float32(max(model.pixel_threshold.value, 1e-12))
    return Explanation(
        path=path,
        category=model.category,
        detector=model.config.detector,
        score=score,
        normalised=float(scores.image[0] / max(model.image_threshold.value, 1e-12)),
        p_value=float(model.calibration.p_values(scores.image)[0]),
        is_defect=bool(score > model.image_threshold.value),
        is_known=bytes_digest(data) in known or array_digest(canvas) in known,
        grid=grid,
        cell=cell,
        canvas_box=box,
        source_box=in_source,
        distance=distance,
        neighbours=neighbours,
        canvas=canvas,
        original=repeated_grey(decoded) if decoded.ndim == 2 else decoded,
        heat=restore_map(scores.map[0], placement) / limit,
    )


def _worst_patch(
    detector: PatchCore, canvas: np.ndarray, boxes: list[Box], count: int
) -> tuple[int, float, list[tuple[float, int]]]:
    """The worst patch's cell, its distance, and (distance, row) of the entries nearest to it."""
    patches, valid, _ = detector.patches(canvas[None], boxes)
    distance, _ = detector.bank.nearest(patches)
    is_valid = torch.from_numpy(valid).to(distance.device)
    grid = torch.zeros(valid.shape, device=distance.device)
    grid[is_valid] = distance
    worst = int(worst_cells(grid, valid=valid)[0])
    row = int(is_valid.flatten()[: worst + 1].sum()) - 1
    far, rows = detector.bank.neighbours(patches[row], count)
    return worst, float(distance[row]), list(zip(far.tolist(), rows.tolist(), strict=True))


def _entry(
    model: Model,
    row: int,
    distance: float,
    normals: tuple[FittedNormal, ...] | None,
    pixels: NormalPixels,
) -> Neighbour:
    """The bank entry of a row with all that is known of it."""
    detector = model.detector
    assert isinstance(detector, PatchCore)
    bank, grid = detector.bank, detector.grid()
    image = int(bank.image_index[row])
    if normals is None or not 0 <= image < len(normals):
        return Neighbour(image, None, distance)
    normal = normals[image]
    canvas = None if pixels.is_empty else pixels.canvas(normal)
    if bank.cell is not None:
        number = int(bank.cell[row])
    elif canvas is not None:
        feature = bank.features[row : row + 1]
        number = int(find_cells(detector, feature, canvas, normal.canvas_box)[0])
    else:
        return Neighbour(image, normal, distance)
    cell = divmod(number, grid[1])
    box = patch_box(cell, grid, model.geometry, normal.canvas_box)
    return Neighbour(image, normal, distance, cell, box, canvas)


def find_cells(
    detector: PatchCore, features: torch.Tensor, canvas: np.ndarray, canvas_box: Box
) -> torch.Tensor:
    """Which cells of a normal bank entries are: those whose features are nearest to them.

    Args:
        features: (n, D) float32, entries of this normal.
        canvas: (H, W, 3) uint8 of the normal.

    Returns:
        (n,) int64 in row-major order of the grid.

    Source: ours, for models of version 5, whose banks do not say.
    """
    patches, valid, _ = detector.patches(canvas[None], [canvas_box])
    far = torch.cdist(features, patches, compute_mode="donot_use_mm_for_euclid_dist")
    cells = torch.from_numpy(valid.flatten().nonzero()[0]).to(far.device)
    return cells[far.argmin(1)]


def _references(
    detector: GuidedSegmentation,
    canvas: np.ndarray,
    boxes: list[Box],
    count: int,
    normals: tuple[FittedNormal, ...] | None,
) -> tuple[Neighbour, ...]:
    """The references most like an image, the one that guided its segmentation first."""
    named = {one.pixel_digest: number for number, one in enumerate(normals or ())}
    found = []
    for image, similarity in detector.most_similar(canvas, boxes[0], count=count):
        number = named.get(array_digest(image))
        normal = None if number is None else (normals or ())[number]
        found.append(Neighbour(number, normal, 1.0 - similarity, canvas=image))
    return tuple(found)
