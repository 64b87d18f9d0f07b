"""One photo in memory, judged: what a program beside a camera calls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.min_area import ANY_AREA, MinArea
from detector.model import Model
from detector.regions import NO_REGIONS, Regions
from detector.scored_image import judge
from detector.threshold import relative_to
from manifests.errors import ImageError
from manifests.images import fit_image, restore_map


@dataclass(frozen=True, eq=False)
class InspectedImage:
    """What a model says of a photo.

    Attributes:
        score: the raw image score.
        normalised: the score over the image threshold; above 1 is called defective.
        p_value: how rare such a score is among good images, 1 / (n + 1) to 1.
        is_defect: the verdict.
        map: (H, W) float32 raw scores, in the photo's own pixels.
        regions: those above the pixel threshold, in the photo's own pixels.
    """

    score: float
    normalised: float
    p_value: float
    is_defect: bool
    map: np.ndarray
    regions: Regions


def inspect_image(
    model: Model, image: np.ndarray, *, min_area: MinArea = ANY_AREA
) -> InspectedImage:
    """Judges one photo as `score` and `watch` judge a file; several threads may at once.

    Args:
        model: as `load_model` gives it.
        image: (H, W, 3) uint8 RGB, or (H, W) uint8 grey. Cameras and OpenCV often have BGR:
            `image[..., ::-1]`.
        min_area: a defective part shows a region of this area.

    Raises:
        ImageError: another shape or dtype, or not the shape that a region of interest was drawn
            for.

    Source: ours.
    """
    is_image = image.dtype == np.uint8 and image.ndim in (2, 3) and image.shape[2:] in ((), (3,))
    if not is_image or min(image.shape[:2]) < 1:
        raise ImageError(
            "not an image that can be inspected",
            expected="(H, W, 3) or (H, W) uint8",
            got=f"{image.shape} {image.dtype}",
        )
    canvas, placement = fit_image(image, model.geometry)
    found = model.detector.score(canvas[None], [placement.canvas_box])
    score, full = found.image[0], restore_map(found.map[0], placement)
    verdict = judge(
        model,
        score,
        lambda: full,
        height=image.shape[0],
        width=image.shape[1],
        min_area=min_area,
        with_regions=True,
    )
    return InspectedImage(
        score=float(score),
        normalised=relative_to(model.image_threshold.value, score),
        p_value=float(model.calibration.p_values(score[None])[0]),
        is_defect=verdict.is_defect,
        map=full,
        regions=verdict.regions or NO_REGIONS,
    )
