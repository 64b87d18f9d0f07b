"""One image's verdict, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detector.min_area import MinArea
from detector.regions import NO_REGIONS, Regions, find_regions

if TYPE_CHECKING:
    from collections.abc import Callable

    from detector.model import Model


@dataclass(frozen=True)
class Verdict:
    """Whether a part is called defective.

    Attributes:
        is_defect: the image score is above its threshold and, with a minimal area, a region above
            the pixel threshold is at least as large.
        min_area_px: that area in this image; 0 for none.
        regions: those above the pixel threshold; None where they were not looked for.
    """

    is_defect: bool
    min_area_px: int
    regions: Regions | None


@dataclass(frozen=True)
class ScoredImage:
    """One image's verdict.

    Attributes:
        normalised: the score over the image threshold.
        p_value: how rare such a score is among good images, see `Calibration.p_values`.
        height, width: of the original, upright.
        file_sha256: of the file's bytes.
        min_area_px: the smallest region that makes it defective; 0 where none has to be there.
        regions: above the pixel threshold, in original pixels; None where nobody asked for them.
    """

    path: Path
    score: float
    normalised: float
    p_value: float
    is_defect: bool
    height: int
    width: int
    file_sha256: str
    min_area_px: int = 0
    regions: Regions | None = None


def judge(
    model: Model,
    score: float | np.floating,
    make_map: Callable[[], np.ndarray],
    *,
    height: int,
    width: int,
    min_area: MinArea,
    with_regions: bool = False,
) -> Verdict:
    """The verdict on one image.

    Args:
        score: the image score.
        make_map: gives the score map in original pixels, (height, width) float32; called only
            where the verdict or the regions need it.
        height, width: of the original.
        with_regions: look for regions whatever the verdict.
    """
    is_above = bool(score > model.image_threshold.value)
    # An area of 0 px asks for nothing, and nor does a percentage of 0.
    least_px = min_area.in_px(height, width)
    regions = None
    if with_regions or (is_above and least_px):
        regions = find_regions(make_map(), model.pixel_threshold.value)
    if not least_px or not is_above:
        return Verdict(is_above, least_px, regions)
    return Verdict((regions or NO_REGIONS).largest_px >= least_px, least_px, regions)
