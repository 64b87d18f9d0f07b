"""Scar: two long, thin boxes of one image change places, each turned where it lands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generator.anchors import AnchorPair, check_cluster_choice, sample_pair
from generator.policies.base import (
    Draw,
    ImageContext,
    Proposal,
    check_noop_tolerance,
    first_visible,
    required_labels,
)
from generator.policies.shapes import (
    check_feather,
    check_scar_shape,
    scar_angles,
    scar_size,
    seam_width,
)
from manifests.edits import Box, Copy, footprint

Accept = Callable[[Box, Box], bool]


@dataclass(frozen=True)
class ScarConfig:
    """What shapes a scar.

    Attributes:
        width_px, length_px: ranges of the sides at 256 px; they scale with the canvas's shorter
            side. A scar is at least twice as long as wide.
        angle_deg: each box turns by U(-angle_deg, angle_deg), in whole hundredths of a degree.
        cluster: the anchors' cluster: "max", "min" or "random".
        noop_tolerance: scars whose mean absolute grey change is not above this are redrawn.
        feather_px: width of the seam in which a scar fades into what was there, 0 to 64, at
            256 px; it scales like the sides and leaves a scar's middle whole.

    Raises:
        ConfigError: a value is out of range, or no length is twice a width.
    """

    width_px: tuple[float, float] = (2.0, 16.0)
    length_px: tuple[float, float] = (10.0, 25.0)
    angle_deg: float = 45.0
    cluster: str = "max"
    noop_tolerance: float = 1.0
    feather_px: float = 0.0

    def __post_init__(self) -> None:
        check_scar_shape(self.width_px, self.length_px, self.angle_deg)
        check_cluster_choice(self.cluster)
        check_noop_tolerance(self.noop_tolerance)
        check_feather(self.feather_px)


class Scar:
    """Exchanges two thin boxes, upright or lying, each turned about the centre of its new place.

    The two footprints are disjoint and no footprint reaches into padding; the image's own edges
    clip them. Scars do not shrink: where none fits in the cluster, the next lower one is taken.

    Source: CutSwap (arXiv 2311.18332), the scar; sizes and angles as in CutPaste
        (arXiv 2104.04015).
    Differs: CutSwap gives no sizes, angles or rule for overlaps; CutPaste pastes one scar. The
        feathered seam is ours.
    """

    summary = "two long, thin boxes of the most salient region change places, each turned"
    source = "CutSwap (arXiv 2311.18332)"
    needs = frozenset({"clusters"})
    view = "level"

    def __init__(self, config: ScarConfig | None = None) -> None:
        self.config = config or ScarConfig()

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a scar. None where the image is too flat or too small for a visible one.

        Raises:
            ValueError: the context has no clusters.
        """
        labels, config = required_labels(context), self.config

        def sample(height: int, width: int, accept: Accept) -> AnchorPair | None:
            return sample_pair(
                rng,
                labels,
                context.n_clusters,
                context.valid_box,
                height,
                width,
                cluster=config.cluster,
                smallest_area_frac=1.0,
                accept=accept,
                roi=context.roi,
            )

        return swapped_scars(
            rng,
            context,
            sample,
            width_px=config.width_px,
            length_px=config.length_px,
            angle_deg=config.angle_deg,
            noop_tolerance=config.noop_tolerance,
            feather_px=config.feather_px,
        )


def swapped_scars(
    rng: np.random.Generator,
    context: ImageContext,
    sample: Callable[[int, int, Accept], AnchorPair | None],
    *,
    width_px: tuple[float, float],
    length_px: tuple[float, float],
    angle_deg: float,
    noop_tolerance: float,
    feather_px: float,
) -> Draw | None:
    """Draw a visible swap of two turned scars, wherever their anchors come from.

    Args:
        rng: of the draw.
        context: the normal.
        sample: makes a pair of boxes of a height and a width that a condition accepts, or None
            where there is none.
        width_px, length_px, angle_deg, noop_tolerance, feather_px: as in `ScarConfig`.
    """
    canvas_height, canvas_width = context.image.shape[:2]

    def propose() -> Proposal | None:
        height, width = scar_size(
            rng, canvas_height, canvas_width, width_px=width_px, length_px=length_px
        )
        first_cdeg, second_cdeg = scar_angles(rng, 2, angle_deg=angle_deg)
        seam = seam_width(
            feather_px, canvas_height, canvas_width, box_height=height, box_width=width
        )

        def edits_of(first: Box, second: Box) -> tuple[Copy, Copy]:
            return (
                Copy(first, second, angle_cdeg=second_cdeg, feather_px=seam),
                Copy(second, first, angle_cdeg=first_cdeg, feather_px=seam),
            )

        def accept(first: Box, second: Box) -> bool:
            return footprints_fit(
                edits_of(first, second),
                context.valid_box,
                canvas_height,
                canvas_width,
                roi=context.roi,
            )

        pair = sample(height, width, accept)
        if pair is None:
            return None
        edits = edits_of(pair.first, pair.second)
        return Proposal(edits, (pair.first, pair.second), pair.fallback)

    return first_visible(propose, context.image, noop_tolerance=noop_tolerance)


def footprints_fit(
    edits: tuple[Copy, Copy],
    valid_box: Box,
    canvas_height: int,
    canvas_width: int,
    *,
    roi: np.ndarray | None = None,
) -> bool:
    """Whether two turned boxes of equal size share no pixel and change none outside the valid box.

    Args:
        edits: the two copies.
        valid_box: the part of the canvas that shows the image.
        canvas_height, canvas_width: in px; the canvas clips footprints, the valid box does not.
        roi: (H, W) bool, the pixels of the valid box that may be changed; None for all.
    """
    first, second = (edit.dst for edit in edits)
    top, left, valid_height, valid_width = valid_box
    # No pixel of a turned box is further from its centre than this, so that most pairs need no
    # look at their pixels.
    reach = math.hypot(first[2], first[3]) / 2 + 1
    is_apart = math.hypot(first[0] - second[0], first[1] - second[1]) > 2 * reach
    is_inside = roi is None and (
        (valid_height, valid_width) == (canvas_height, canvas_width)
        or all(
            top + reach <= y + h / 2 <= top + valid_height - reach
            and left + reach <= x + w / 2 <= left + valid_width - reach
            for y, x, h, w in (first, second)
        )
    )
    if is_apart and is_inside:
        return True
    one, other = (footprint(edit, canvas_height, canvas_width) for edit in edits)
    if not is_apart and np.any(one & other):
        return False
    inside: tuple[slice, slice] | np.ndarray = np.s_[
        top : top + valid_height, left : left + valid_width
    ]
    if roi is not None:
        inside = roi
    return is_inside or all(
        np.count_nonzero(part) == np.count_nonzero(part[inside]) for part in (one, other)
    )
