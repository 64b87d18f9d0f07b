"""Scar: two long, thin boxes of one image change places, each turned where it lands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from generator.anchors import check_cluster_choice, sample_pair
from generator.policies.base import (
    Draw,
    ImageContext,
    Proposal,
    check_noop_tolerance,
    check_range,
    first_visible,
    required_labels,
)
from manifests.edits import Box, Copy, footprint
from manifests.errors import ConfigError

REFERENCE_SIDE_PX = 256


@dataclass(frozen=True)
class ScarConfig:
    """What shapes a scar.

    Attributes:
        width_px, length_px: ranges of the sides at 256 px; they scale with the canvas's shorter
            side. A scar is at least twice as long as wide.
        angle_deg: each box turns by U(-angle_deg, angle_deg), in whole hundredths of a degree.
        cluster: the anchors' cluster: "max", "min" or "random".
        noop_tolerance: scars whose mean absolute grey change is not above this are redrawn.

    Raises:
        ConfigError: a value is out of range, or no length is twice a width.
    """

    width_px: tuple[float, float] = (2.0, 16.0)
    length_px: tuple[float, float] = (10.0, 25.0)
    angle_deg: float = 45.0
    cluster: str = "max"
    noop_tolerance: float = 1.0

    def __post_init__(self) -> None:
        check_range("width_px", self.width_px, lowest=1.0)
        check_range("length_px", self.length_px, lowest=2.0)
        if 2 * self.width_px[0] > self.length_px[1]:
            raise ConfigError(
                "no scar of these sides is twice as long as wide",
                expected=f"a length of {2 * self.width_px[0]:g} px or more",
                got=self.length_px,
            )
        if not 0 <= self.angle_deg <= 90:
            raise ConfigError("angle_deg is out of range", expected="0 to 90", got=self.angle_deg)
        check_cluster_choice(self.cluster)
        check_noop_tolerance(self.noop_tolerance)


class Scar:
    """Exchanges two thin boxes, upright or lying, each turned about the centre of its new place.

    The two footprints are disjoint and no footprint reaches into padding; the image's own edges
    clip them. Scars do not shrink: where none fits in the cluster, the next lower one is taken.

    Source: CutSwap (arXiv 2311.18332), the scar; sizes and angles as in CutPaste
        (arXiv 2104.04015).
    Differs: CutSwap gives no sizes, angles or rule for overlaps; CutPaste pastes one scar.
    """

    needs = frozenset({"saliency"})

    def __init__(self, config: ScarConfig | None = None) -> None:
        self.config = config or ScarConfig()

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw a scar. None where the image is too flat or too small for a visible one.

        Raises:
            ValueError: the context has no clusters.
        """
        labels = required_labels(context)
        canvas_height, canvas_width = context.image.shape[:2]
        limit_cdeg = round(self.config.angle_deg * 100)

        def propose() -> Proposal | None:
            height, width = scar_size(rng, canvas_height, canvas_width, config=self.config)
            first_cdeg, second_cdeg = rng.integers(-limit_cdeg, limit_cdeg + 1, size=2).tolist()

            def edits_of(first: Box, second: Box) -> tuple[Copy, Copy]:
                return (
                    Copy(first, second, angle_cdeg=second_cdeg),
                    Copy(second, first, angle_cdeg=first_cdeg),
                )

            def accept(first: Box, second: Box) -> bool:
                return footprints_fit(
                    edits_of(first, second), context.valid_box, canvas_height, canvas_width
                )

            pair = sample_pair(
                rng,
                labels,
                context.n_clusters,
                context.valid_box,
                height,
                width,
                cluster=self.config.cluster,
                smallest_area_frac=1.0,
                accept=accept,
            )
            if pair is None:
                return None
            edits = edits_of(pair.first, pair.second)
            return Proposal(edits, (pair.first, pair.second), pair.fallback)

        return first_visible(propose, context.image, noop_tolerance=self.config.noop_tolerance)


def scar_size(
    rng: np.random.Generator, canvas_height: int, canvas_width: int, *, config: ScarConfig
) -> tuple[int, int]:
    """Draw a scar's (height, width) in whole px on this canvas, upright or lying equally often.

    The length is uniform, then the width is uniform up to half the length.
    """
    scale = min(canvas_height, canvas_width) / REFERENCE_SIDE_PX
    narrow, wide = (max(1, round(side * scale)) for side in config.width_px)
    short, long = (max(2 * narrow, round(side * scale)) for side in config.length_px)
    length = int(rng.integers(short, long + 1))
    width = int(rng.integers(narrow, min(wide, length // 2) + 1))
    return (length, width) if rng.random() < 0.5 else (width, length)


def footprints_fit(
    edits: tuple[Copy, Copy], valid_box: Box, canvas_height: int, canvas_width: int
) -> bool:
    """Whether two turned boxes of equal size share no pixel and change none outside the valid box.

    Args:
        edits: the two copies.
        valid_box: the part of the canvas that shows the image.
        canvas_height, canvas_width: in px; the canvas clips footprints, the valid box does not.
    """
    first, second = (edit.dst for edit in edits)
    top, left, valid_height, valid_width = valid_box
    # No pixel of a turned box is further from its centre than this, so that most pairs need no
    # look at their pixels.
    reach = math.hypot(first[2], first[3]) / 2 + 1
    is_apart = math.hypot(first[0] - second[0], first[1] - second[1]) > 2 * reach
    is_inside = (valid_height, valid_width) == (canvas_height, canvas_width) or all(
        top + reach <= y + h / 2 <= top + valid_height - reach
        and left + reach <= x + w / 2 <= left + valid_width - reach
        for y, x, h, w in (first, second)
    )
    if is_apart and is_inside:
        return True
    one, other = (footprint(edit, canvas_height, canvas_width) for edit in edits)
    if not is_apart and np.any(one & other):
        return False
    inside = np.s_[top : top + valid_height, left : left + valid_width]
    return is_inside or all(
        np.count_nonzero(part) == np.count_nonzero(part[inside]) for part in (one, other)
    )
