"""Colour jitter of a pasted patch, as a shift on whole numbers."""

from __future__ import annotations

import numpy as np

from manifests.edits import Box, ColourShift
from manifests.errors import ConfigError

# Up to here no offset can leave the range of a ColourShift: j * (1 + j)^2 < 1.
MAX_COLOUR_JITTER = 0.4
_GREY_WEIGHTS = (299, 587, 114)  # ITU-R BT.601, in thousandths


def jittered_colour(
    rng: np.random.Generator, image: np.ndarray, box: Box, *, strength: float, is_grey: bool
) -> ColourShift | None:
    """Draw the colour shift of one patch: brightness, then contrast, then a gain per channel.

    Each is a factor from U(1 - strength, 1 + strength). Contrast spreads or narrows the patch's
    values about its mean grey value. The gains are drawn always and left out where the image is
    grey, so that grey stays grey and the draws after this one are the same.

    Args:
        rng: of the draw; five numbers are taken.
        image: (H, W, 3) uint8 RGB.
        box: the patch, inside the image.
        strength: 0 to 0.4.
        is_grey: whether the image has no colour (see `has_no_colour`).

    Returns:
        The shift, or None where it changes nothing.

    Source: CutPaste (arXiv 2104.04015), colour jitter 0.1 of the patch.
    Differs: integers, clipped once at the end, in one order, where the usual jitter clips after
        each step and shuffles them; a gain per channel instead of saturation and hue, neither of
        which does anything on grey images.
    """
    brightness, contrast, *gains = rng.uniform(1 - strength, 1 + strength, size=5).tolist()
    if is_grey:
        gains = [1.0, 1.0, 1.0]
    lift = (1 - contrast) * brightness * _mean_grey(image, box)
    gain_q8 = tuple(round(256 * gain * contrast * brightness) for gain in gains)
    offset = tuple(round(gain * lift) for gain in gains)
    if gain_q8 == (256, 256, 256) and offset == (0, 0, 0):
        return None
    return ColourShift(gain_q8, offset)


def has_no_colour(image: np.ndarray, valid_box: Box) -> bool:
    """Whether R = G = B everywhere in the valid box of an image (H, W, 3) uint8."""
    y, x, h, w = valid_box
    shown = image[y : y + h, x : x + w]
    red = shown[..., 0]
    return np.array_equal(red, shown[..., 1]) and np.array_equal(red, shown[..., 2])


def check_colour_jitter(strength: float) -> None:
    """Raise ConfigError unless the strength is in [0, 0.4]."""
    if not 0 <= strength <= MAX_COLOUR_JITTER:
        raise ConfigError(
            "colour_jitter is out of range", expected=f"0 to {MAX_COLOUR_JITTER:g}", got=strength
        )


def _mean_grey(image: np.ndarray, box: Box) -> float:
    """Mean grey value of a box, from an exact sum."""
    y, x, h, w = box
    sums: list[int] = image[y : y + h, x : x + w].sum(axis=(0, 1), dtype=np.int64).tolist()
    weighted = sum(weight * total for weight, total in zip(_GREY_WEIGHTS, sums, strict=True))
    return weighted / (1000 * h * w)
