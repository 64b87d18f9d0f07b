"""A forged anomaly: another image mixed in where Perlin noise exceeds a threshold."""

from __future__ import annotations

import math

import numpy as np

from generator.anchors import NONE
from generator.perlin_noise import MAX_EXPONENT, perlin_noise
from generator.policies.base import Draw, ImageContext, Proposal, check_range, first_visible
from generator.policies.colour_jitter import has_no_colour
from generator.policies.donor import choose_donor
from generator.policies.donor_augmentation import draw_transform
from manifests.edits import Blend, Box
from manifests.errors import ConfigError

MIN_MASK_FRAC = 1 / 2048
"""Masks below this part of the valid box's area are drawn again: 32 px of 256x256. Where a peak of
the noise just reaches the threshold, it leaves a speck that no feature map at an eighth shows."""
MIN_MASK_PX = 4
"""The same for the smallest images."""


def forged_blend(
    rng: np.random.Generator,
    context: ImageContext,
    *,
    saliency: np.ndarray | None,
    threshold: float,
    perlin_cells: tuple[int, int],
    alpha: tuple[float, float],
    noop_tolerance: float,
) -> Draw | None:
    """Draw a visible blend `I = A(1-M) + alpha B M + (1-alpha) A M` with `M = S P > mu`.

    A is the normal, B a donor after three augmentations, P Perlin noise over the valid box. All of
    it is drawn anew where the mask M is too small (`MIN_MASK_FRAC`) or next to nothing changes.
    Padding is neither changed nor read, neither that of the normal nor that of the donor.

    Args:
        rng: of the draw.
        context: the normal and its donors.
        saliency: S, (h, w) float32 of the valid box, 0 to 1; None for M = P > mu.
        threshold: mu.
        perlin_cells, alpha, noop_tolerance: as in `PerlinConfig`.

    Returns:
        One `Blend` with its mask and alpha in 1/255, at no anchors; None where the valid box is too
        small or no visible blend was found.

    Raises:
        ValueError: the context has no donors.

    Source: SGSF's augmentation (arXiv 2209.12440), of which the abstract alone was at hand; formula
        and ranges as its authors' NIGSF has them (IEEE TCSVT 34(6), 2024), where an empty mask is
        drawn again as well.
    Differs: alpha in 8 bits; the least mask and the least change are ours.
    """
    if not context.donors:
        raise ValueError("this policy needs donors and the context has none")
    top, left, height, width = context.valid_box
    least_px = max(MIN_MASK_PX, math.ceil(MIN_MASK_FRAC * height * width))
    if height * width < least_px:
        return None
    is_grey = has_no_colour(context.image, context.valid_box)
    low, high = alpha

    def propose() -> Proposal:
        noise = perlin_noise(rng, height, width, exponents=perlin_cells)
        if saliency is not None:
            noise *= saliency
        shown = noise > np.float32(threshold)
        if context.roi is not None:
            shown &= context.roi[top : top + height, left : left + width]
        if np.count_nonzero(shown) < least_px:
            return Proposal((), (), NONE)
        mask = np.zeros(context.image.shape[:2], dtype=bool)
        mask[top : top + height, left : left + width] = shown
        window = extent(mask)
        donor = choose_donor(
            rng,
            context.donors,
            digest=context.digest,
            is_grey=is_grey,
            height=window[2],
            width=window[3],
        )
        transform = draw_transform(rng, donor, window, keeps_grey=is_grey and donor.is_grey)
        weight = math.floor(255 * rng.uniform(low, high) + 0.5)
        return Proposal((Blend(donor.digest, transform, mask, weight),), (), NONE)

    return first_visible(
        propose, context.image, noop_tolerance=noop_tolerance, donors=context.donor_images
    )


def extent(mask: np.ndarray) -> Box:
    """The smallest box `(y, x, h, w)` around all set pixels of a mask (H, W) bool, not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left


def check_perlin_cells(exponents: tuple[int, int]) -> None:
    """Raise ConfigError unless these are exponents of numbers of cells, 0 to 8, ascending."""
    check_range("perlin_cells", exponents, lowest=0, highest=MAX_EXPONENT)
    if any(type(exponent) is not int for exponent in exponents):
        raise ConfigError("perlin_cells are not whole numbers", got=exponents)


def check_alpha(alpha: tuple[float, float]) -> None:
    """Raise ConfigError unless the weights of a donor are ascending, in [0.01, 1]."""
    check_range("alpha", alpha, lowest=0.01, highest=1.0)
