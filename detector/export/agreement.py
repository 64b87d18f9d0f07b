"""Whether a file says the same as the model that it was made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from detector.export.canvas_graph import takes_box
from detector.model import Model
from manifests.errors import OutputError
from manifests.images import DEFAULT_MAX_PIXELS, fit_image, read_image
from manifests.roi import Roi

TOLERANCE = 1e-3
"""Of an image's score, and of a map's largest value."""

# Sides of the picture that stands for a photo: neither square nor the canvas's shape. With a region
# of interest, it has the shape that the region was drawn for.
_PICTURE = (150, 210)
_MOST_PIXELS = 4_000_000
_COARSE = 12

Run = Callable[[list[np.ndarray]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Agreement:
    """The largest differences between a file's answers and the model's.

    Attributes:
        images: how many were compared.
        score: of a score, as a part of it.
        map: of a map's values, as a part of its largest.
    """

    images: int
    score: float
    map: float

    def to_json(self) -> dict[str, float | int]:
        """The fields as JSON values."""
        return asdict(self)


def check_agreement(
    model: Model, run: Run, *, path: Path, batch: int, photos: Sequence[Path] = ()
) -> Agreement:
    """Compares a file's answers with the model's.

    Args:
        run: inputs of one batch -> scores and maps.
        path: the file, for errors.
        photos: images to compare on; none, a made-up picture, the same every time.

    Raises:
        OutputError: they differ by more than `TOLERANCE`.
        ImageError: a photo that cannot be read.
    """
    worst_score = worst_map = 0.0
    for photo in photos or (None,):
        picture = (
            _picture(model.geometry.roi)
            if photo is None
            else read_image(photo, max_pixels=DEFAULT_MAX_PIXELS)
        )
        canvas, placement = fit_image(picture, model.geometry)
        # Of a batch, all images but the first are others, so that none could answer for another.
        canvases = np.stack([np.roll(canvas, 8 * i, axis=1) for i in range(batch)])
        if model.geometry.roi is not None:
            canvases *= model.geometry.roi.mask[..., None]  # as every canvas is
        boxes = np.array([placement.canvas_box] * batch, dtype=np.int64)
        wanted = model.detector.score(canvases, boxes)
        score, maps = run([canvases, boxes] if takes_box(model.geometry) else [canvases])
        worst_score = max(worst_score, _difference(score, wanted.image, wanted.image))
        peaks = wanted.map.max(axis=(1, 2), keepdims=True)
        worst_map = max(worst_map, _difference(maps, wanted.map, peaks))
    if not (worst_score <= TOLERANCE and worst_map <= TOLERANCE):
        raise OutputError(
            "the exported graph does not say what the model says, and was not kept",
            path=path,
            expected=f"a difference of at most {TOLERANCE:g}",
            got=f"{worst_score:.3g} of a score, {worst_map:.3g} of a map's largest value",
            hint="report it, with the versions of cutswap and of the packages of cutswap[export]",
        )
    return Agreement(max(1, len(photos)) * batch, worst_score, worst_map)


def _difference(found: np.ndarray, wanted: np.ndarray, of: np.ndarray) -> float:
    """The largest difference as a part of `of`; infinite for what is no number or of another shape.

    Where `of` is 0 any difference counts as whole.
    """
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    away = np.abs(found.astype(np.float64) - wanted)
    return float((away / np.maximum(np.abs(of), np.finfo(np.float32).tiny)).max(initial=0.0))


def _picture(roi: Roi | None) -> np.ndarray:
    """(H, W, 3) uint8: blots of colour with some noise, so that no two cells are alike."""
    import cv2

    rng = np.random.default_rng(0)
    height, width = _PICTURE if roi is None else (roi.source_height, roi.source_width)
    shrink = min(1.0, math.sqrt(_MOST_PIXELS / (height * width)))
    height, width = round(height * shrink), round(width * shrink)
    blots = rng.integers(0, 256, (_COARSE, _COARSE, 3), dtype=np.uint8)
    smooth = cv2.resize(blots, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    noise = rng.integers(-12, 13, smooth.shape)
    picture: np.ndarray = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return picture
