"""What a policy gets, what it gives back, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

import cv2
import numpy as np

from generator.policies.donor import Donor
from manifests.edits import Box, Edit, render
from manifests.errors import ConfigError

MAX_REJECTIONS = 50
NEEDS = frozenset({"clusters", "saliency", "donors"})
VIEWS = ("none", "level", "mean", "max")

_NO_DONORS: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class ImageContext:
    """One normal image under one view of its saliency maps, as policies see it.

    Attributes:
        image: (H, W, 3) uint8 RGB, the resized normal.
        digest: its content digest, hex.
        valid_box: the part of the canvas that is inspected; the rest is padding or outside the
            region of interest, and no policy reads or changes it.
        level: id of the saliency level, -1 where all are seen together, or none.
        labels: (H, W) uint8, the cluster of each pixel, 0 for the least salient, or None where
            no policy of this view needs clusters.
        n_clusters: the number of clusters, 0 where there are none.
        saliency: (H, W) uint8, the map of this view, 0 to 255 within the valid box and 0 outside,
            as `generator.saliency_views.combined_saliency` gives it; None where no policy of this
            view needs it.
        donors: images that may be mixed in, sorted by digest, the normal itself perhaps among
            them; empty where no policy needs any.
        roi: (H, W) bool, the inspected pixels of the valid box; None where these are all of them.
    """

    image: np.ndarray
    digest: str
    valid_box: Box
    level: int
    labels: np.ndarray | None
    n_clusters: int
    saliency: np.ndarray | None = None
    donors: tuple[Donor, ...] = ()
    roi: np.ndarray | None = None

    @cached_property
    def donor_images(self) -> dict[str, np.ndarray]:
        """The donors' pixels by digest, for `manifests.edits.render`."""
        return {donor.digest: donor.image for donor in self.donors}


@dataclass(frozen=True, eq=False)
class Draw:
    """The parameters of one negative.

    Attributes:
        edits: what `manifests.edits.render` makes the negative from.
        anchors: (2, 4) int32, the boxes `(y, x, h, w)` the edits started from, -1 where unused.
        fallback: which path found the anchors, a position in `manifests.schema.FALLBACKS`.
        rejections: proposals dropped before this one because they changed next to nothing.
        rendered: what `render` made of the edits when it was looked whether they show: image
            (H, W, 3) uint8 and mask (H, W) bool, so that nobody renders them a second time.
            None where the policy did not look.
    """

    edits: tuple[Edit, ...]
    anchors: np.ndarray
    fallback: int
    rejections: int
    rendered: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Proposal:
    """One candidate of a draw, before anyone looked whether it is visible.

    Attributes:
        edits: as in `Draw`; none where nothing would be changed.
        boxes: at most two anchors.
        fallback: as in `Draw`.
    """

    edits: tuple[Edit, ...]
    boxes: tuple[Box, ...]
    fallback: int


class Policy(Protocol):
    """A way to make a negative from a normal: all of its randomness, none of its rendering."""

    summary: str
    """What it does, in one line."""
    source: str
    """Where it comes from, in a few words."""
    needs: frozenset[str]
    """What `draw` reads of the context: any of `NEEDS`. For clusters and for saliency a network is
    run."""

    @property
    def view(self) -> str:
        """Which saliency it sees, one of `VIEWS`. With "level" it is drawn once per level and
        repeat, with that level's map; else as often in all, at level -1, with the mean or the
        largest of all maps or with none."""
        ...

    def draw(self, rng: np.random.Generator, context: ImageContext) -> Draw | None:
        """Draw the edits of one negative, or None where no visible one was found.

        A draw depends on the generator's state and the context only, and changes neither the
        image nor the labels.
        """
        ...


def required_labels(context: ImageContext) -> np.ndarray:
    """The context's cluster labels. Raises ValueError where it has none."""
    if context.labels is None:
        raise ValueError("this policy needs saliency clusters and the context has none")
    return context.labels


def required_saliency(context: ImageContext) -> np.ndarray:
    """The context's saliency map. Raises ValueError where it has none."""
    if context.saliency is None:
        raise ValueError("this policy needs a saliency map and the context has none")
    return context.saliency


def first_visible(
    propose: Callable[[], Proposal | None],
    image: np.ndarray,
    *,
    noop_tolerance: float,
    donors: Mapping[str, np.ndarray] = _NO_DONORS,
) -> Draw | None:
    """The first proposal that changes its pixels by more than the tolerance.

    Args:
        propose: makes a fresh proposal, or None where there can be none.
        image: (H, W, 3) uint8, the normal.
        noop_tolerance: grey values 0..255; see `mean_change`. A proposal without edits changes
            nothing.
        donors: images (Hd, Wd, 3) uint8 by digest that the edits may mix in.

    Returns:
        The draw with the number of proposals rejected before it, or None where `propose` gave up
        or 51 proposals changed too little, as on a flat image.

    Source: ours.
    """
    for rejections in range(MAX_REJECTIONS + 1):
        proposal = propose()
        if proposal is None:
            return None
        if not proposal.edits:
            continue
        rendered = render(image, proposal.edits, donors)
        if mean_change(image, *rendered) > noop_tolerance:
            anchors = np.full((2, 4), -1, dtype=np.int32)
            for row, box in enumerate(proposal.boxes):
                anchors[row] = box
            return Draw(proposal.edits, anchors, proposal.fallback, rejections, rendered)
    return None


def mean_change(image: np.ndarray, edited: np.ndarray, mask: np.ndarray) -> float:
    """Mean absolute change of the edited pixels, over their channels, in grey values.

    For a swap this is the mean absolute difference of its two patches.

    Args:
        image: (H, W, 3) uint8, the normal.
        edited: (H, W, 3) uint8, the negative.
        mask: (H, W) bool, where it may differ.

    Source: ours.
    """
    # Pixels outside the mask did not change, so that they can stay in the sum.
    change: float = cv2.norm(edited, image, cv2.NORM_L1)
    n_values: int = image.shape[2] * int(np.count_nonzero(mask))
    return change / n_values


def check_range(
    name: str, bounds: tuple[float, float], *, lowest: float, highest: float = float("inf")
) -> None:
    """Raise ConfigError unless `bounds` is ascending and within [lowest, highest]."""
    if len(bounds) != 2 or not lowest <= bounds[0] <= bounds[1] <= highest:
        raise ConfigError(
            f"{name} is not a range that can be used",
            expected=f"{lowest:g} <= low <= high" + (f" <= {highest:g}" if highest < 1e9 else ""),
            got=bounds,
        )


def check_noop_tolerance(noop_tolerance: float) -> None:
    """Raise ConfigError unless the tolerance is in [0, 255)."""
    if not 0 <= noop_tolerance < 255:
        raise ConfigError("noop_tolerance is out of range", expected="0 to 255", got=noop_tolerance)
