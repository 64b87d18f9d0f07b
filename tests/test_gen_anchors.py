"""Anchor pairs against plain loops: which step of the search finds them, and how they spread."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from generator import anchors
from generator.anchors import MAX_TRIES, anchor_rng, sample_pair, sample_pair_anywhere
from generator.clusters import OUTSIDE
from manifests.errors import ConfigError
from manifests.schema import FALLBACKS
from reference.anchors import (
    are_disjoint,
    corners_of,
    disjoint_pairs,
    redraw_until_disjoint,
    search,
)

WHOLE = (0, 0, 8, 12)


def rng_of(seed=0):
    return np.random.default_rng(seed)


def labels_with(pixels, shape=(8, 12)):
    """Cluster 1 at the given pixels, cluster 0 elsewhere."""
    labels = np.zeros(shape, dtype=np.uint8)
    for pixel in pixels:
        labels[pixel] = 1
    return labels


def corner(box):
    return box[:2]


def test_hand_computed():
    # (7, 2) is in the top cluster, but a box of 3 x 4 does not fit below row 5.
    labels = labels_with([(1, 2), (4, 3), (7, 2)])
    seen = set()
    for seed in range(20):
        pair = sample_pair(rng_of(seed), labels, 2, WHOLE, 3, 4)
        assert pair.fallback == FALLBACKS.index("none")
        seen.add((pair.first, pair.second))
    one, other = (1, 2, 3, 4), (4, 3, 3, 4)
    assert seen == {(one, other), (other, one)}


def test_fallback_codes_are_positions_in_the_schema():
    codes = (
        anchors.NONE,
        anchors.SHRUNK,
        anchors.MOVED,
        anchors.LOWER_CLUSTER,
        anchors.ANYWHERE,
    )
    names = ["none", "shrunk", "moved", "lower-cluster", "anywhere"]
    assert [FALLBACKS[code] for code in codes] == names == list(FALLBACKS)


def test_shrinks_before_it_leaves_the_cluster():
    # Two rows apart: boxes of 3 rows overlap, at 0.8 * 0.8 of the area (3 x 3 -> 2 x 2) they fit.
    pair = sample_pair(rng_of(), labels_with([(1, 2), (3, 3)]), 2, WHOLE, 3, 3)
    assert pair.fallback == FALLBACKS.index("shrunk")
    assert {pair.first, pair.second} == {(1, 2, 2, 2), (3, 3, 2, 2)}


def test_moves_boxes_inside_before_it_leaves_the_cluster():
    # Row 7 is the last one: no box fits below it, whatever its height; rows 5 hold them moved.
    labels = labels_with([(7, 2), (7, 11)])
    pair = sample_pair(rng_of(), labels, 2, WHOLE, 3, 4, smallest_area_frac=6 / 96)
    assert pair.fallback == FALLBACKS.index("moved")
    assert {pair.first, pair.second} == {(5, 2, 3, 4), (5, 8, 3, 4)}


def test_next_lower_cluster_at_full_size():
    # The top cluster is one pixel, so that no shrinking helps.
    labels = labels_with([(5, 7), (2, 2)])
    labels[0, 0] = 2
    pair = sample_pair(rng_of(), labels, 3, WHOLE, 3, 3)
    assert pair.fallback == FALLBACKS.index("lower-cluster")
    assert {pair.first, pair.second} == {(5, 7, 3, 3), (2, 2, 3, 3)}


def test_anywhere_in_the_valid_box():
    # There is no cluster below the lowest: with one pixel of it, only anywhere is left, and two
    # boxes of 4 x 5 fill the valid box.
    labels = np.full((8, 12), OUTSIDE, dtype=np.uint8)
    labels[2:6, 1:11] = 1
    labels[3, 3] = 0
    pair = sample_pair(rng_of(), labels, 2, (2, 1, 4, 10), 4, 5, cluster="min")
    assert pair.fallback == FALLBACKS.index("anywhere")
    assert {pair.first, pair.second} == {(2, 1, 4, 5), (2, 6, 4, 5)}


def test_none_where_nothing_fits():
    labels = np.zeros((8, 12), dtype=np.uint8)
    assert sample_pair(rng_of(), labels, 1, (3, 3, 1, 1), 1, 1) is None
    # A floor of the whole area forbids shrinking.
    assert sample_pair(rng_of(), labels, 1, WHOLE, 8, 7, smallest_area_frac=1.0) is None
    assert sample_pair(rng_of(), labels, 1, WHOLE, 9, 2, smallest_area_frac=1.0) is None
    assert sample_pair(rng_of(), labels, 1, WHOLE, 8, 6, smallest_area_frac=1.0) is not None


def search_case(seed):
    """(rng, labels, valid_box, h, w, cluster, chosen): small maps, half with rare clusters."""
    rng = rng_of(seed)
    height, width = rng.integers(5, 11, size=2).tolist()
    top, left = rng.integers(0, 3, size=2).tolist()
    labels = rng.integers(0, 3, size=(height, width)).astype(np.uint8)
    labels[rng.random(labels.shape) < (0, 0.8, 0.97)[seed % 3]] = 0
    cluster, chosen = ("max", 2) if seed % 4 else ("min", 0)
    if cluster == "min":
        labels = 2 - labels  # the rare one is cluster 0
    h, w = rng.integers(1, 8, size=2).tolist()
    return rng, labels, (top, left, height - top, width - left), h, w, cluster, chosen


@pytest.mark.parametrize("seed", range(60))
def test_search_equals_plain_loops(seed):
    rng, labels, valid_box, h, w, cluster, chosen = search_case(seed)
    expected = search(labels, valid_box, h, w, chosen, 0.05)
    pair = sample_pair(rng, labels, 3, valid_box, h, w, cluster=cluster, smallest_area_frac=0.05)
    fallback, is_moved, found_in, *size = expected
    assert FALLBACKS[pair.fallback] == fallback
    assert list(pair.first[2:]) == list(pair.second[2:]) == size
    candidates = corners_of(labels, found_in, valid_box, *size, is_moved=is_moved)
    assert corner(pair.first) in candidates and corner(pair.second) in candidates
    assert are_disjoint(corner(pair.first), corner(pair.second), *size)


def test_the_cases_above_reach_every_fallback():
    # The comparison must not pass by never leaving the first step.
    seen = Counter()
    for seed in range(60):
        _, labels, valid_box, h, w, _, chosen = search_case(seed)
        seen[search(labels, valid_box, h, w, chosen, 0.05)[0]] += 1
    assert all(seen[name] >= 3 for name in FALLBACKS), seen


# A map whose corners mostly overlap (a blob and a few outliers), so that the counting is used, and
# weighting the first corner wrongly would show.
BLOB = labels_with([(y, x) for y in range(3) for x in range(4)] + [(3, 5), (5, 1), (5, 8)])
SIDES = (3, 4)


def spread(draw, count):
    pairs = disjoint_pairs(corners_of(BLOB, 1, WHOLE, *SIDES), *SIDES)
    seen = Counter(draw() for _ in range(count))
    assert set(seen) <= set(pairs)
    return np.array([seen[pair] for pair in pairs])


@pytest.mark.parametrize("batch_pairs", [1, 32])
def test_pairs_spread_evenly_over_all_disjoint_ones(batch_pairs, monkeypatch):
    # With batches of one pair, both ways of drawing take turns.
    monkeypatch.setattr(anchors, "_BATCH_PAIRS", batch_pairs)
    rng = rng_of(5)

    def draw():
        pair = sample_pair(rng, BLOB, 2, WHOLE, *SIDES)
        return corner(pair.first), corner(pair.second)

    counts = spread(draw, 6000)
    assert len(counts) > 50
    assert chisquare(counts).pvalue > 0.01
    reference_rng = rng_of(6)
    corners = corners_of(BLOB, 1, WHOLE, *SIDES)
    literal = spread(lambda: redraw_until_disjoint(reference_rng, corners, *SIDES), 6000)
    assert chi2_contingency([counts, literal]).pvalue > 0.01


def test_counted_pairs_alone_spread_evenly():
    columns = 12 - SIDES[1] + 1
    corners = (BLOB == 1)[: 8 - SIDES[0] + 1, :columns]
    pairs = anchors._counted_pairs(rng_of(7), corners, np.flatnonzero(corners), *SIDES)

    def draw():
        y1, x1, y2, x2 = next(pairs)
        return (y1, x1), (y2, x2)

    assert chisquare(spread(draw, 20_000)).pvalue > 0.01


def test_pairs_anywhere_spread_evenly_over_the_valid_box():
    valid_box, (h, w) = (1, 2, 5, 6), (2, 3)
    corners = corners_of(np.zeros((8, 12)), None, valid_box, h, w)
    pairs = disjoint_pairs(corners, h, w)
    rng = rng_of(9)
    seen = Counter()
    for _ in range(40 * len(pairs)):
        pair = sample_pair_anywhere(rng, valid_box, h, w)
        assert pair.fallback == FALLBACKS.index("none")
        assert pair.first[2:] == pair.second[2:] == (h, w)
        seen[corner(pair.first), corner(pair.second)] += 1
    assert set(seen) == set(pairs) and len(pairs) > 100
    assert chisquare(list(seen.values())).pvalue > 0.01


def test_pairs_anywhere_shrink_and_give_up():
    # 5 x 6 px hold neither two boxes of 4 x 5 nor, after one to three steps, of 4 x 4 or 3 x 4.
    valid_box = (1, 2, 5, 6)
    pair = sample_pair_anywhere(rng_of(), valid_box, 4, 5)
    assert pair.fallback == FALLBACKS.index("shrunk")
    # At 0.8^4 of the area two of 3 x 3 fit, side by side.
    assert {corner(pair.first)[1], corner(pair.second)[1]} == {2, 5}
    assert pair.first[2:] == (3, 3)
    assert sample_pair_anywhere(rng_of(), valid_box, 4, 5, smallest_area_frac=1.0) is None
    calls = []
    refused = sample_pair_anywhere(
        rng_of(), valid_box, 2, 2, smallest_area_frac=1.0, accept=lambda *pair: calls.append(pair)
    )
    assert refused is None and len(calls) == MAX_TRIES
    with pytest.raises(ValueError):
        sample_pair_anywhere(rng_of(), valid_box, 0, 2)


def test_one_disjoint_pair_among_thousands_is_found():
    labels = np.zeros((80, 120), dtype=np.uint8)
    labels[5:25, 5:25] = 1
    labels[5, 36] = 1  # 31 columns from (y, 5), at most 30 from all others
    pair = sample_pair(rng_of(), labels, 2, (0, 0, 80, 120), 31, 31)
    assert pair.fallback == FALLBACKS.index("none")
    columns = {corner(pair.first)[1], corner(pair.second)[1]}
    assert columns == {5, 36}


def test_choice_of_cluster():
    labels = np.repeat(np.arange(4, dtype=np.uint8), 5)[None, :].repeat(12, axis=0)
    chosen = {
        choice: Counter(
            int(labels[corner(pair.first)])
            for rng in [rng_of(1)]
            for pair in (
                sample_pair(rng, labels, 4, (0, 0, 12, 20), 2, 2, cluster=choice)
                for _ in range(400)
            )
        )
        for choice in ("max", "min", "random")
    }
    assert chosen["max"] == {3: 400}
    assert chosen["min"] == {0: 400}
    assert set(chosen["random"]) == {0, 1, 2, 3}
    assert chisquare(list(chosen["random"].values())).pvalue > 0.01


def test_a_further_condition():
    labels = np.zeros((8, 12), dtype=np.uint8)
    labels[:4] = 1
    calls = []

    def in_cluster_zero_only(first, second):
        calls.append((first, second))
        return labels[corner(first)] == labels[corner(second)] == 0

    pair = sample_pair(
        rng_of(), labels, 2, WHOLE, 2, 2, smallest_area_frac=1, accept=in_cluster_zero_only
    )
    assert pair.fallback == FALLBACKS.index("lower-cluster")
    assert (pair.first, pair.second) == calls[-1]
    assert len(calls) == 2 * MAX_TRIES + 1  # cluster 1 as drawn and moved inside
    calls.clear()
    refused = sample_pair(
        rng_of(), labels, 2, WHOLE, 2, 2, smallest_area_frac=1, accept=lambda *_: calls.append(0)
    )
    assert refused is None
    # Both clusters as drawn and moved inside, then anywhere.
    assert len(calls) == 5 * MAX_TRIES


def test_same_generator_same_pair_and_labels_stay():
    labels = rng_of(3).integers(0, 4, size=(40, 56)).astype(np.uint8)
    before = labels.copy()
    labels.setflags(write=False)
    one, other = (sample_pair(rng_of(8), labels, 4, (0, 0, 40, 56), 9, 7) for _ in range(2))
    assert one == other
    assert (labels == before).all()
    assert all(type(side) is int for side in (*one.first, *one.second, one.fallback))


def test_generator_of_a_draw():
    key = (3, "ab" * 32, "swap", 2, 0)
    # Frozen: another number here means that no recipe of an earlier version replays.
    assert anchor_rng(*key).bit_generator.random_raw() == 2635838667786568741
    others = [(4, *key[1:]), (3, "cd" * 32, *key[2:]), (*key[:2], "scar", 2, 0)]
    others += [(*key[:3], 1, 0), (*key[:4], 1), key]
    first = {anchor_rng(*other).bit_generator.random_raw() for other in others}
    assert len(first) == len(others)


def test_refused_arguments():
    labels = np.zeros((8, 12), dtype=np.uint8)
    with pytest.raises(ConfigError, match="max, min, random"):
        sample_pair(rng_of(), labels, 1, WHOLE, 2, 2, cluster="top")
    with pytest.raises(ValueError):
        sample_pair(rng_of(), labels, 1, WHOLE, 0, 2)
    with pytest.raises(ValueError):
        sample_pair(rng_of(), labels, 0, WHOLE, 2, 2)
