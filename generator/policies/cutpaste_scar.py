"""CutPaste's scar: one long, thin box of the image, recoloured and turned, is pasted elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from generator.anchors import MAX_TRIES, NONE, sample_box
from generator.policies.base import (
    Draw,
    ImageContext,
    Proposal,
    check_noop_tolerance,
    first_visible,
)
from generator.policies.colour_jitter import check_colour_jitter, has_no_colour, jittered_colour
from generator.policies.shapes import (
    check_feather,
    check_scar_shape,
    scar_angles,
    scar_size,
    seam_width,
)
from manifests.edits import Box, Copy, footprint


@dataclass(frozen=True)
class CutPasteScarConfig:
    """What shapes a pasted scar.

    Attributes:
        width_px, length_px: ranges of the sides at 256 px, as in `ScarConfig`.
        angle_deg: the scar turns by U(-angle_deg, angle_deg), in whole hundredths of a degree.
        colour_jitter: as in `CutPasteConfig`.
        noop_tolerance: pastes whose mean absolute grey change is not above this are redrawn.
        feather_px: as in `ScarConfig`.

    Raises:
        ConfigError: a value is out of range, or no length is twice a width.
    """

    width_px: tuple[float, float] = (2.0, 16.0)
    length_px: tuple[float, float] = (10.0, 25.0)
    angle_deg: float = 45.0
    colour_jitter: float = 0.1
    noop_tolerance: float = 1.0
    feather_px: float = 0.0

    def __post_init__(self) -> None:
        check_scar_shape(self.width_px, self.length_px, self.angle_deg)
        check_colour_jitter(self.colour_jitter)
        check_noop_tolerance(self.noop_tolerance)
        check_feather(self.feather_px)


class CutPasteScar:
    """Pastes one recoloured, turned scar; where it is read and where it lands are independent.

    The box that is read is uniform over all in the valid box, the box where it lands over those
    of them whose turned footprint stays out of padding. The image's own edges clip it.

    Source: CutPaste (arXiv 2104.04015), the scar.
    Differs: as `CutPaste`.
    """

    summary = "one recoloured, turned, long and thin box is pasted somewhere else"
    source = "CutPaste (arXiv 2104.04015)"
    needs: frozenset[str] = frozenset()
    view = "none"

    def __init__(self, config: CutPasteScarConfig | None = None) -> None:
        self.config = config or CutPasteScarConfig()

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a paste. None where no visible one was found or no scar fits the valid box."""
        config, valid_box = self.config, context.valid_box
        canvas = context.image.shape[:2]
        is_grey = has_no_colour(context.image, valid_box)

        def place() -> tuple[Box, Box, int] | None:
            # A scar too large for a narrow valid box is drawn again, size and angle.
            for _ in range(MAX_TRIES):
                h, w = scar_size(rng, *canvas, width_px=config.width_px, length_px=config.length_px)
                (angle_cdeg,) = scar_angles(rng, 1, angle_deg=config.angle_deg)
                margins = margins_in_padding(h, w, angle_cdeg, valid_box, *canvas)
                src = sample_box(rng, valid_box, h, w, roi=context.roi)
                dst = sample_box(rng, valid_box, h, w, margins=margins, roi=context.roi)
                if src is None or dst is None:
                    continue
                if context.roi is None or _lies_in(context.roi, Copy(src, dst, angle_cdeg)):
                    return src, dst, angle_cdeg
            return None

        def propose() -> Proposal | None:
            placed = place()
            if placed is None:
                return None
            src, dst, angle_cdeg = placed
            colour = jittered_colour(
                rng, context.image, src, strength=config.colour_jitter, is_grey=is_grey
            )
            seam = seam_width(config.feather_px, *canvas, box_height=src[2], box_width=src[3])
            paste = Copy(src, dst, angle_cdeg, colour, seam)
            return Proposal((paste,), (src, dst), NONE)

        return first_visible(propose, context.image, noop_tolerance=config.noop_tolerance)


def _lies_in(roi: np.ndarray, paste: Copy) -> bool:
    return not np.any(footprint(paste, *roi.shape) & ~roi)


def margins_in_padding(
    height: int, width: int, angle_cdeg: int, valid_box: Box, canvas_height: int, canvas_width: int
) -> tuple[int, int, int, int]:
    """How much room a turned box needs so that its footprint stays out of padding.

    Args:
        height, width: sides of the box, in px.
        angle_cdeg: its turn.
        valid_box: the part of the canvas that shows the image.
        canvas_height, canvas_width: in px.

    Returns:
        How far the footprint reaches beyond the box above, below, before and behind, in px; 0
        where it does not, and on those sides where the valid box ends with the canvas.

    Source: ours.
    """
    top, left, valid_height, valid_width = valid_box
    bottom, right = top + valid_height, left + valid_width
    ends_in_padding = np.array([top > 0, bottom < canvas_height, left > 0, right < canvas_width])
    if not ends_in_padding.any():
        return 0, 0, 0, 0
    # A footprint depends on the distance from the box's centre only, so that any place tells.
    reach = height + width  # more than half the diagonal
    box = (reach, reach, height, width)
    mask = footprint(Copy(box, box, angle_cdeg), 2 * reach + height, 2 * reach + width)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    ends = [
        reach - rows[0],
        rows[-1] + 1 - reach - height,
        reach - columns[0],
        columns[-1] + 1 - reach - width,
    ]
    above, below, before, behind = (np.maximum(ends, 0) * ends_in_padding).tolist()
    return above, below, before, behind
