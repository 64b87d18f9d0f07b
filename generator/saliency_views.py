"""Several saliency maps of one image seen as one, over the part of the canvas that shows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manifests.edits import Box

SALIENT_FRAC = 0.1
"""The part of the image that counts as fully salient."""


def combined_saliency(
    maps: Sequence[np.ndarray],
    height: int,
    width: int,
    valid_box: Box,
    *,
    view: str,
    roi: np.ndarray | None = None,
) -> np.ndarray:
    """Enlarge maps to the canvas, combine them, and stretch what the valid box shows of them.

    Args:
        maps: (h_l, w_l) uint8, at least one, each at its own grid.
        height, width: of the canvas, in px.
        valid_box: the part of the canvas that shows the image.
        view: "level", the one map there is; "mean" or "max" of all, pixel by pixel.
        roi: (height, width) bool, the pixels of the box that count; None for all.

    Returns:
        (height, width) uint8, S of SGSF times 255: 0 at the smallest value in the valid box, 255 in
        its most salient tenth (`SALIENT_FRAC`), linear between, halves rounded up; 0 all over where
        all values are the same, and outside the box and the region.

    Raises:
        ValueError: no map, several for "level", or an unknown view.

    Source: ours. Whole numbers throughout, so that all machines agree. SGSF's saliency is that of a
        network for salient objects, about 1 all over the object. LayerCAM maps have narrow peaks:
        stretched from the smallest to the largest value, the mean of five levels left 78 % of 180
        masks on magnetic tiles empty, and those that were not covered 0.1 % of the image.
    """
    # Not at the top: this module loads torch, which a set without saliency has no use for.
    from generator.saliency import upsample

    if not maps or (view == "level" and len(maps) > 1) or view not in ("level", "mean", "max"):
        raise ValueError(f"no view {view!r} of {len(maps)} maps")
    y, x, h, w = valid_box
    shown: tuple[slice | np.ndarray, ...] = np.s_[y : y + h, x : x + w]
    if roi is not None:
        shown = np.nonzero(roi)
    enlarged = [upsample(one, height, width)[shown] for one in maps]
    if view == "max":
        values = np.maximum.reduce(enlarged).astype(np.int64)
    else:
        # A sum does as well as the mean, as it is stretched anyway.
        values = np.add.reduce(enlarged, dtype=np.int64)
    low = int(values.min())
    values -= low
    counts = np.bincount(values.reshape(-1))
    # The largest value that a tenth of the pixels reach.
    reaching = np.cumsum(counts[::-1])[::-1]
    top = int(np.flatnonzero(reaching >= SALIENT_FRAC * values.size)[-1])
    full = np.zeros((height, width), np.uint8)
    if top > 0:
        full[shown] = np.minimum((510 * values + top) // (2 * top), 255)
    else:  # less than a tenth differ from the rest at all
        full[shown] = np.where(values > 0, 255, 0)
    return full
