"""An image that may be mixed into others, and which of several is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from generator.policies.colour_jitter import has_no_colour
from manifests.edits import Box


@dataclass(frozen=True, eq=False)
class Donor:
    """A donor image.

    Attributes:
        digest: its array digest, hex.
        image: (Hd, Wd, 3) uint8 RGB.
        valid_box: the part of it that shows something; the rest is padding and is never mixed in.
    """

    digest: str
    image: np.ndarray
    valid_box: Box

    @cached_property
    def is_grey(self) -> bool:
        """Whether R = G = B in all of the valid box."""
        return has_no_colour(self.image, self.valid_box)

    @cached_property
    def histogram(self) -> np.ndarray:
        """Pixels of the valid box per channel and value, (3, 256) int64."""
        y, x, h, w = self.valid_box
        shown = self.image[y : y + h, x : x + w]
        return np.stack([np.bincount(shown[..., c].reshape(-1), minlength=256) for c in range(3)])

    def laid(self, quarter_turns: int, flip_y: bool, flip_x: bool) -> tuple[int, int, Box]:
        """Height and width of the image after a turn and flips, and where its valid box is then.

        In the order in which `manifests.edits.DonorTransform` applies them.
        """
        height, width = self.image.shape[:2]
        y, x, h, w = self.valid_box
        for _ in range(quarter_turns % 4):  # counter-clockwise
            y, x, h, w = width - x - w, y, w, h
            height, width = width, height
        if flip_y:
            y = height - y - h
        if flip_x:
            x = width - x - w
        return height, width, (y, x, h, w)

    def holds(self, height: int, width: int, *, quarter_turns: int = 0) -> bool:
        """Whether a window of this size finds a place without padding, once the image is turned.

        Without padding on an axis the image wraps there, so that any window does.
        """
        if self.valid_box == (0, 0, *self.image.shape[:2]):
            return True
        full_height, full_width, (_, _, h, w) = self.laid(quarter_turns, False, False)
        return (height <= h or h == full_height) and (width <= w or w == full_width)


def choose_donor(
    rng: np.random.Generator,
    donors: Sequence[Donor],
    *,
    digest: str,
    is_grey: bool,
    height: int,
    width: int,
) -> Donor:
    """Draw the donor of an image, uniformly from the best that there are.

    Never the image itself where another one will do. For an image without colour these are others
    without colour, then itself, then coloured ones, so that grey stays grey wherever the image is
    one of the donors.

    Args:
        rng: of the draw; one number is taken.
        donors: at least one, sorted by digest.
        digest: of the image.
        is_grey: whether the image has no colour.
        height, width: of the window that the donor has to fill without padding, in px.

    Raises:
        ValueError: there are no donors, or none that fills the window.

    Source: ours; that a donor is a texture or another augmented image is NIGSF's (IEEE TCSVT 34(6),
        2024).
    """
    fitting = [donor for donor in donors if donor.holds(height, width)]
    others = [donor for donor in fitting if donor.digest != digest]
    own = [donor for donor in fitting if donor.digest == digest]
    ranks = [others, own]
    if is_grey:
        ranks = [[donor for donor in others if donor.is_grey], own, others]
    best = next((rank for rank in ranks if rank), None)
    if best is None:
        raise ValueError("this policy needs a donor and the context has none that fits")
    return best[int(rng.integers(len(best)))]
