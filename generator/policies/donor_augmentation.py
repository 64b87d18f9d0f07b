"""How a donor is changed before it is mixed in: exact turns, shifts and look-up tables."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from generator.policies.donor import Donor
from manifests.edits import Box, DonorTransform

AUGMENTATIONS_PER_DONOR = 3
GAMMA = 2.0
GAIN = (0.6, 1.6)
OFFSET = 48.0
CHANNEL_GAIN = (0.6, 1.4)
SOLARISE_ABOVE = (32, 224)
POSTERISE_BITS = (1, 4)

Curve = Callable[[np.random.Generator, np.ndarray, bool], np.ndarray]
"""From a generator, the donor's histogram (3, 256) after all curves before this one, and whether
grey is to stay grey, to a (256,) or (3, 256) array of new values, not yet rounded."""


def draw_transform(
    rng: np.random.Generator, donor: Donor, window: Box, *, keeps_grey: bool
) -> DonorTransform:
    """Draw three different augmentations of a donor, as one exact transform.

    They come from `GEOMETRY` and `COLOUR`, each as likely as any other; colours are changed in the
    order drawn and composed into one table. A quarter turn that leaves no place without padding
    becomes a half turn, and the donor is shifted as little as keeps padding out of the window, or
    anywhere where a shift was drawn. On an axis without padding it wraps.

    Args:
        rng: of the draw.
        donor: one that `holds` the window.
        window: `(y, x, h, w)`, the part of the canvas that the donor will be seen in.
        keeps_grey: give all channels the same table.

    Raises:
        ValueError: the donor has no place for the window.

    Source: three random augmentations of colour and geometry, as in DRAEM (Zavrtanik et al., ICCV
        2021; read of its reference implementation) and of NIGSF (IEEE TCSVT 34(6), 2024).
    Differs: the list is ours, of what is exact in whole numbers: no sharpening, no hue, no turns
        but quarter ones.
    """
    names = (*GEOMETRY, *COLOUR)
    chosen = rng.choice(len(names), size=AUGMENTATIONS_PER_DONOR, replace=False).tolist()
    turns, flip_y, flip_x, is_shifted = 0, False, False, False
    table = None
    for name in (names[number] for number in chosen):
        if name == "quarter-turn":
            turns = int(rng.integers(1, 4))
        elif name == "flip":
            flip_y, flip_x = ((False, True), (True, False), (True, True))[int(rng.integers(3))]
        elif name == "shift":
            is_shifted = True
        else:
            before = identity_table() if table is None else table
            counts = _counts_after(donor.histogram, before)
            curve = _rounded(COLOUR[name](rng, counts, keeps_grey))
            table = np.take_along_axis(curve, before.astype(np.intp), axis=1)
    if turns % 2 and not donor.holds(window[2], window[3], quarter_turns=turns):
        turns = 2
    height, width, box = donor.laid(turns, flip_y, flip_x)
    shift = (
        _shift(rng, window[0], window[2], box[0], box[2], height, is_free=is_shifted),
        _shift(rng, window[1], window[3], box[1], box[3], width, is_free=is_shifted),
    )
    return DonorTransform(turns, flip_y, flip_x, shift, table)


def identity_table() -> np.ndarray:
    """The table that changes nothing, (3, 256) uint8."""
    return np.tile(np.arange(256, dtype=np.uint8), (3, 1))


def _shift(
    rng: np.random.Generator,
    start: int,
    length: int,
    box_start: int,
    box_length: int,
    side: int,
    *,
    is_free: bool,
) -> int:
    """The shift along one axis: the window's pixel `start` reads the donor's `start + shift`."""
    if box_length == side:  # no padding: it wraps
        return int(rng.integers(1, side)) if is_free and side > 1 else 0
    low, high = box_start - start, box_start + box_length - start - length
    if low > high:
        raise ValueError("the donor has no place for the window")
    return int(rng.integers(low, high + 1)) if is_free else min(max(0, low), high)


def _rounded(curve: np.ndarray) -> np.ndarray:
    """(256,) or (3, 256) float as (3, 256) uint8, halves rounded up."""
    values = np.floor(np.clip(curve, 0, 255) + 0.5).astype(np.uint8)
    return np.broadcast_to(values, (3, 256))


def _counts_after(histogram: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The histogram (3, 256) of an image once a table was applied to it."""
    return np.stack(
        [
            np.bincount(values, weights=counts, minlength=256)
            for values, counts in zip(table, histogram, strict=True)
        ]
    )


def _gamma(rng: np.random.Generator, _counts: np.ndarray, _keeps_grey: bool) -> np.ndarray:
    exponent = math.exp(rng.uniform(-math.log(GAMMA), math.log(GAMMA)))
    return 255 * (np.arange(256) / 255) ** exponent


def _brightness_contrast(
    rng: np.random.Generator, _counts: np.ndarray, _keeps_grey: bool
) -> np.ndarray:
    gain, offset = rng.uniform(*GAIN), rng.uniform(-OFFSET, OFFSET)
    return 127.5 + gain * (np.arange(256) - 127.5) + offset


def _solarise(rng: np.random.Generator, _counts: np.ndarray, _keeps_grey: bool) -> np.ndarray:
    """What is as bright as a threshold or brighter is inverted."""
    low, high = SOLARISE_ABOVE
    values = np.arange(256)
    return np.where(values < rng.integers(low, high + 1), values, 255 - values)


def _posterise(rng: np.random.Generator, _counts: np.ndarray, _keeps_grey: bool) -> np.ndarray:
    """Only the highest bits stay, spread over the whole range."""
    low, high = POSTERISE_BITS
    steps = 2 ** int(rng.integers(low, high + 1))
    table: np.ndarray = np.arange(256) * steps // 256 * (255 / (steps - 1))
    return table


def _invert(_rng: np.random.Generator, _counts: np.ndarray, _keeps_grey: bool) -> np.ndarray:
    return 255 - np.arange(256)


def _equalise(_rng: np.random.Generator, counts: np.ndarray, _keeps_grey: bool) -> np.ndarray:
    """Each channel's values by their rank: the darkest to 0, the brightest to 255."""
    up_to = np.cumsum(counts, axis=1)
    lowest = np.array([row[row > 0][0] for row in up_to])[:, None]
    spread = up_to[:, -1:] - lowest
    ranks = 255 * (up_to - lowest) / np.maximum(spread, 1)
    return np.where(spread > 0, ranks, np.arange(256))


def _channel_gain(rng: np.random.Generator, _counts: np.ndarray, keeps_grey: bool) -> np.ndarray:
    # Drawn always, so that the draws after this one are the same.
    gains = rng.uniform(*CHANNEL_GAIN, size=(3, 1))
    return np.arange(256) * (gains[:1] if keeps_grey else gains)


GEOMETRY = ("quarter-turn", "flip", "shift")
COLOUR: dict[str, Curve] = {
    "gamma": _gamma,
    "brightness-contrast": _brightness_contrast,
    "solarise": _solarise,
    "posterise": _posterise,
    "invert": _invert,
    "equalise": _equalise,
    "channel-gain": _channel_gain,
}
