"""The most salient pixels by sorting, straight from the rule."""

from __future__ import annotations


def sure_and_tied(saliency, valid_box, count):
    """Pixels taken whatever the ties, pixels tied for the last places, and how many of these."""
    top, left, height, width = valid_box
    ranked = sorted(
        (
            (int(saliency[y, x]), (y, x))
            for y in range(top, top + height)
            for x in range(left, left + width)
        ),
        reverse=True,
    )
    taken = ranked[: max(count, 2)]
    limit = taken[-1][0]
    sure = {place for value, place in ranked if value > limit}
    tied = {place for value, place in ranked if value == limit}
    return sure, tied, len(taken) - len(sure)
