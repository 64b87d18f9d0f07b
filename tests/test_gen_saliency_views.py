"""Several saliency maps seen as one: which values, over which part of the canvas."""

from __future__ import annotations

import numpy as np
import pytest

from generator.saliency import upsample
from generator.saliency_views import SALIENT_FRAC, combined_saliency

WHOLE = (0, 0, 10, 20)


def maps_of(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


def expected_view(maps, height, width, valid_box, combine):
    """One value at a time: S = 0 at the smallest, 1 at the value that a tenth of the box reach."""
    y, x, h, w = valid_box
    enlarged = [upsample(one, height, width).astype(int).tolist() for one in maps]
    values = {
        (row, column): combine([one[row][column] for one in enlarged])
        for row in range(y, y + h)
        for column in range(x, x + w)
    }
    low = min(values.values())
    reached = [
        value
        for value in values.values()
        if sum(other >= value for other in values.values()) >= SALIENT_FRAC * len(values)
    ]
    top = max(reached)
    full = np.zeros((height, width), int)
    for place, value in values.items():
        part = (value - low) / (top - low) if top > low else float(value > low)
        full[place] = int(min(part, 1.0) * 255 + 0.5)
    return full


@pytest.mark.parametrize("valid_box", [WHOLE, (2, 0, 5, 20), (0, 3, 10, 4)])
@pytest.mark.parametrize(("view", "combine"), [("mean", sum), ("max", max)])
def test_values_are_those_of_the_literal_reference(view, combine, valid_box):
    for seed in range(5):
        maps = maps_of(seed, (10, 20), (5, 5), (2, 3))
        found = combined_saliency(maps, 10, 20, valid_box, view=view)
        assert found.dtype == np.uint8
        assert (found == expected_view(maps, 10, 20, valid_box, combine)).all()
        one = combined_saliency(maps[:1], 10, 20, valid_box, view="level")
        assert (one == expected_view(maps[:1], 10, 20, valid_box, sum)).all()


def test_a_tenth_counts_as_fully_salient():
    ramp = np.arange(200, dtype=np.uint8).reshape(10, 20)
    full = combined_saliency([ramp], 10, 20, WHOLE, view="level")
    # The 20 largest of 200 are 180 and above.
    assert full[0, 0] == 0 and np.count_nonzero(full == 255) == 20
    assert full[4, 10] == round(255 * 90 / 180)


def test_constant_and_nearly_constant_maps():
    flat = np.full((5, 5), 77, np.uint8)
    assert not combined_saliency([flat, flat], 10, 20, WHOLE, view="mean").any()
    spot = np.zeros((10, 20), np.uint8)
    spot[4, 4:8] = (1, 9, 200, 255)
    # Less than a tenth differs from the rest: all of that is salient.
    assert (combined_saliency([spot], 10, 20, WHOLE, view="level") == 255 * (spot > 0)).all()
    # What lies in padding alone counts for nothing.
    assert not combined_saliency([spot], 10, 20, (5, 0, 5, 20), view="level").any()


def test_unknown_views_are_refused():
    one, other = maps_of(0, (3, 3), (3, 3))
    for maps, view in (([], "mean"), ([one, other], "level"), ([one], "none")):
        with pytest.raises(ValueError, match="view"):
            combined_saliency(maps, 10, 20, WHOLE, view=view)
