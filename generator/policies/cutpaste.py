"""CutPaste: one patch of the image, recoloured, is pasted at another place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from generator.anchors import MAX_TRIES, NONE, SHRINK_AREA, SHRUNK, sample_box
from generator.policies.base import (
    Draw,
    ImageContext,
    Proposal,
    check_noop_tolerance,
    first_visible,
)
from generator.policies.colour_jitter import check_colour_jitter, has_no_colour, jittered_colour
from generator.policies.shapes import check_feather, check_patch_shape, patch_size, seam_width
from manifests.edits import Box, Copy


@dataclass(frozen=True)
class CutPasteConfig:
    """What shapes a pasted patch.

    Attributes:
        area_frac: range of the patch area, as a fraction of the valid box's area, in (0, 1].
        aspect: range of height / width.
        colour_jitter: brightness, contrast and, on colour images, each channel change by a factor
            of U(1 - j, 1 + j); 0 to 0.4.
        noop_tolerance: pastes whose mean absolute grey change is not above this are redrawn.
        feather_px: as in `SwapConfig`.

    Raises:
        ConfigError: a value is out of range.
    """

    area_frac: tuple[float, float] = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    colour_jitter: float = 0.1
    noop_tolerance: float = 1.0
    feather_px: float = 0.0

    def __post_init__(self) -> None:
        check_patch_shape(self.area_frac, self.aspect)
        check_colour_jitter(self.colour_jitter)
        check_noop_tolerance(self.noop_tolerance)
        check_feather(self.feather_px)


class CutPaste:
    """Pastes one recoloured patch; where it is read and where it lands are independent.

    Both boxes are uniform over all that lie in the valid box, and may overlap. A side longer than
    the valid box's is cut to it.

    Source: CutPaste (arXiv 2104.04015), the patch; the baseline that CutSwap is compared with.
    Differs: pastes that change next to nothing are redrawn; see `jittered_colour` for the colour.
    """

    summary = "one recoloured patch is pasted somewhere else"
    source = "CutPaste (arXiv 2104.04015)"
    needs: frozenset[str] = frozenset()
    view = "none"

    def __init__(self, config: CutPasteConfig | None = None) -> None:
        self.config = config or CutPasteConfig()

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a paste. None where no visible one was found, as on a black image."""
        config, valid_box = self.config, context.valid_box
        is_grey = has_no_colour(context.image, valid_box)

        def place() -> tuple[Box, Box, int] | None:
            # In a region of another shape than a box a size may fit nowhere: it is drawn again,
            # smaller every time.
            for step in range(1 if context.roi is None else MAX_TRIES):
                drawn = patch_size(rng, valid_box, area_frac=config.area_frac, aspect=config.aspect)
                side = SHRINK_AREA ** (step / 4)
                h, w = (
                    max(1, min(round(one * side) if step else one, most))
                    for one, most in zip(drawn, valid_box[2:], strict=True)
                )
                src, dst = (sample_box(rng, valid_box, h, w, roi=context.roi) for _ in range(2))
                if src is not None and dst is not None:
                    return src, dst, SHRUNK if step else NONE
            return None

        def propose() -> Proposal | None:
            placed = place()
            if placed is None:
                return None
            src, dst, fallback = placed
            h, w = src[2:]
            colour = jittered_colour(
                rng, context.image, src, strength=config.colour_jitter, is_grey=is_grey
            )
            canvas = context.image.shape[:2]
            seam = seam_width(config.feather_px, *canvas, box_height=h, box_width=w)
            paste = Copy(src, dst, colour=colour, feather_px=seam)
            return Proposal((paste,), (src, dst), fallback)

        return first_visible(propose, context.image, noop_tolerance=config.noop_tolerance)
