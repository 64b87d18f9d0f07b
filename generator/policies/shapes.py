"""Sides, shapes and seams of patches and scars: how they are drawn, and what is allowed."""

from __future__ import annotations

import math

import numpy as np

from generator.policies.base import check_range
from manifests.edit_types import FEATHER_LIMIT_PX
from manifests.edits import Box
from manifests.errors import ConfigError

REFERENCE_SIDE_PX = 256
MAX_FEATHER_PX = 64.0


def patch_size(
    rng: np.random.Generator,
    valid_box: Box,
    *,
    area_frac: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int]:
    """Draw a patch's (height, width) in px: a uniform area, and flat or tall equally often.

    Where the range of aspects holds 1, one of its two halves, below and above 1, is chosen by a
    coin and the aspect is uniform in it; otherwise it is uniform in the whole range.

    Args:
        rng: of the draw.
        valid_box: the part of the canvas that shows the image.
        area_frac: range of the patch area, as a fraction of the valid box's area.
        aspect: range of height / width.

    Source: CutPaste (arXiv 2104.04015), aspect from (0.3, 1) or (1, 3.3).
    """
    area = rng.uniform(*area_frac) * valid_box[2] * valid_box[3]
    low, high = aspect
    if low < 1 < high:
        low, high = (low, 1.0) if rng.random() < 0.5 else (1.0, high)
    ratio = rng.uniform(low, high)
    return max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))


def scar_size(
    rng: np.random.Generator,
    canvas_height: int,
    canvas_width: int,
    *,
    width_px: tuple[float, float],
    length_px: tuple[float, float],
) -> tuple[int, int]:
    """Draw a scar's (height, width) in whole px on this canvas, upright or lying equally often.

    The length is uniform, then the width is uniform up to half the length.

    Args:
        rng: of the draw.
        canvas_height, canvas_width: in px.
        width_px, length_px: ranges of the sides at 256 px, scaled with the canvas's shorter side.

    Source: CutPaste (arXiv 2104.04015), the scar.
    """
    scale = min(canvas_height, canvas_width) / REFERENCE_SIDE_PX
    narrow, wide = (max(1, round(side * scale)) for side in width_px)
    short, long = (max(2 * narrow, round(side * scale)) for side in length_px)
    length = int(rng.integers(short, long + 1))
    width = int(rng.integers(narrow, min(wide, length // 2) + 1))
    return (length, width) if rng.random() < 0.5 else (width, length)


def scar_angles(rng: np.random.Generator, count: int, *, angle_deg: float) -> list[int]:
    """Draw `count` angles, uniform in [-angle_deg, angle_deg], in hundredths of a degree."""
    limit_cdeg = round(angle_deg * 100)
    angles: list[int] = rng.integers(-limit_cdeg, limit_cdeg + 1, size=count).tolist()
    return angles


def seam_width(
    feather_px: float, canvas_height: int, canvas_width: int, *, box_height: int, box_width: int
) -> int:
    """The `feather_px` of a copy of a box on this canvas, in whole px.

    Args:
        feather_px: at 256 px; it scales with the canvas's shorter side.
        canvas_height, canvas_width: in px.
        box_height, box_width: of the copied box, in px. The seam is at most so wide that the
            box's middle stays whole.

    Source: ours.
    """
    scaled = round(feather_px * min(canvas_height, canvas_width) / REFERENCE_SIDE_PX)
    return min(scaled, (min(box_height, box_width) - 1) // 2, FEATHER_LIMIT_PX)


def check_patch_shape(area_frac: tuple[float, float], aspect: tuple[float, float]) -> None:
    """Raise ConfigError unless patches of these areas and aspects can be drawn."""
    check_range("area_frac", area_frac, lowest=1e-6, highest=1.0)
    check_range("aspect", aspect, lowest=1e-3, highest=1e3)


def check_smallest_area(smallest_area_frac: float) -> None:
    """Raise ConfigError unless the floor of the shrinking is in (0, 1]."""
    if not 0 < smallest_area_frac <= 1:
        raise ConfigError(
            "smallest_area_frac is out of range", expected="0 to 1", got=smallest_area_frac
        )


def check_scar_shape(
    width_px: tuple[float, float], length_px: tuple[float, float], angle_deg: float
) -> None:
    """Raise ConfigError unless scars of these sides and angles can be drawn."""
    check_range("width_px", width_px, lowest=1.0)
    check_range("length_px", length_px, lowest=2.0)
    if 2 * width_px[0] > length_px[1]:
        raise ConfigError(
            "no scar of these sides is twice as long as wide",
            expected=f"a length of {2 * width_px[0]:g} px or more",
            got=length_px,
        )
    if not 0 <= angle_deg <= 90:
        raise ConfigError("angle_deg is out of range", expected="0 to 90", got=angle_deg)


def check_feather(feather_px: float) -> None:
    """Raise ConfigError unless the seam's width at 256 px is in [0, 64]."""
    if not 0 <= feather_px <= MAX_FEATHER_PX:
        raise ConfigError(
            "feather_px is out of range", expected=f"0 to {MAX_FEATHER_PX:g}", got=feather_px
        )
