"""The coreset: the literal greedy algorithm's picks, faster."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector import coreset, lazy_greedy
from detector.coreset import coreset_size, k_centre, more_centres, project
from manifests.errors import ConfigError, ModelError
from reference import coreset as literal


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def first_pick(n: int, seed: int) -> int:
    return int(rng(seed).integers(n))


@pytest.fixture
def small_blocks(monkeypatch):
    """Sizes at which a few hundred points need many stages, blocks and compactions."""
    monkeypatch.setattr(lazy_greedy, "_ACTIVE", 8)
    monkeypatch.setattr(lazy_greedy, "_BLOCK_ROWS", 3)
    monkeypatch.setattr(lazy_greedy, "_BLOCK_PICKS", 5)
    monkeypatch.setattr(lazy_greedy, "_COMPACT_EVERY", 2)
    monkeypatch.setattr(lazy_greedy, "_PROJECT_ROWS", 17)
    monkeypatch.setattr(coreset, "_PROJECT_ROWS", 17)


def test_hand_computed_line():
    # 0 1 2 10 on a line; from 1: farthest 10 (9), then 0 and 2 tie at 1 and the lower index wins.
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    seed = next(seed for seed in range(100) if first_pick(4, seed) == 1)
    assert k_centre(points, 4, rng=rng(seed)).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("seed", range(6))
def test_equals_literal_on_clusters(seed, small_blocks):
    source = rng(100 + seed)
    centres = source.normal(size=(7, 5)) * 10
    points = centres[source.integers(7, size=300)] + source.normal(size=(300, 5))
    points = points.astype(np.float32)
    picks = k_centre(torch.from_numpy(points), 90, rng=rng(seed))
    expected = literal.k_centre(points, 90, first=first_pick(300, seed))
    assert picks.dtype == torch.int64
    assert picks.tolist() == expected.tolist()


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_equals_literal_where_products_cancel(offset, small_blocks):
    # Far from the origin a matrix product alone loses all digits of these distances.
    points = (rng(5).normal(size=(250, 16)) + offset).astype(np.float32)
    picks = k_centre(torch.from_numpy(points), 100, rng=rng(1))
    assert picks.tolist() == literal.k_centre(points, 100, first=first_pick(250, 1)).tolist()


def test_products_only_preselect():
    # With no mean taken off, a product's rounding error here exceeds the squared distances.
    points = torch.from_numpy((rng(12).normal(size=(80, 16)) + 3000.0).astype(np.float32))
    centres = torch.from_numpy((rng(13).normal(size=(30, 16)) + 3000.0).astype(np.float32))
    exact = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    for bound in (torch.full((80,), torch.inf), exact + 0.1, exact, exact - 0.1):
        found = lazy_greedy._to_many(points, bound, centres, torch.zeros(1, 16))
        assert torch.equal(found, torch.minimum(bound, exact))


def test_equals_literal_at_default_blocks():
    points = rng(6).normal(size=(6000, 8)).astype(np.float32)
    picks = k_centre(torch.from_numpy(points), 60, rng=rng(2))
    assert picks.tolist() == literal.k_centre(points, 60, first=first_pick(6000, 2)).tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_literal_with_ties_and_duplicates(data):
    n = data.draw(st.integers(1, 40))
    values = st.lists(st.integers(-3, 3), min_size=2 * n, max_size=2 * n)
    points = np.array(data.draw(values), dtype=np.float32).reshape(n, 2)
    picks = data.draw(st.integers(1, n))
    seed = data.draw(st.integers(0, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_greedy, "_ACTIVE", data.draw(st.integers(1, 10)))
        patch.setattr(lazy_greedy, "_BLOCK_ROWS", 2)
        patch.setattr(lazy_greedy, "_COMPACT_EVERY", 1)
        chosen = k_centre(torch.from_numpy(points), picks, rng=rng(seed))
    expected = literal.k_centre(points, picks, first=first_pick(n, seed))
    assert chosen.tolist() == expected.tolist()


def test_identical_features_are_taken_once_each():
    points = torch.ones(20000, 3)
    picks = k_centre(points, 5000, rng=rng(3))
    assert len(set(picks.tolist())) == 5000


def test_covering_radius_is_within_twice_any_other_choice():
    points = rng(7).normal(size=(200, 4)).astype(np.float32)
    radius = literal.covering_radius(points, k_centre(torch.from_numpy(points), 20, rng=rng()))
    for seed in range(20):
        others = rng(seed).choice(200, 20, replace=False)
        assert radius <= 2 * literal.covering_radius(points, others)


def test_projection_is_drawn_first_and_used():
    features = torch.from_numpy(rng(8).normal(size=(150, 30)).astype(np.float32))
    source = rng(4)
    points = project(features, 6, rng=source)
    expected = literal.k_centre(points.numpy(), 40, first=int(source.integers(150)))
    picks = k_centre(features, 40, rng=rng(4), projection_dim=6)
    assert picks.tolist() == expected.tolist()
    unprojected = k_centre(features, 40, rng=rng(4), projection_dim=30)
    assert picks.tolist() != unprojected.tolist()


def test_projection_keeps_distances_on_average(small_blocks):
    features = torch.from_numpy(rng(9).normal(size=(400, 300)).astype(np.float32))
    points = project(features, 100, rng=rng(0))
    assert points.shape == (400, 100)
    ratio = torch.pdist(points).square() / torch.pdist(features).square()
    # The mean ratio is 1 and a single one deviates by sqrt(2 / 100).
    assert abs(float(ratio.mean()) - 1.0) < 0.05
    assert abs(float(ratio.std()) - math.sqrt(2 / 100)) < 0.04


def test_no_projection_below_its_width_and_inputs_untouched():
    features = torch.arange(12.0).reshape(4, 3)
    before = features.clone()
    source = rng(0)
    assert project(features, 3, rng=source) is features
    assert source.integers(10**9) == rng(0).integers(10**9)
    k_centre(features, 3, rng=rng(0))
    assert torch.equal(features, before)


def test_threads_do_not_change_the_picks():
    points = torch.from_numpy(rng(10).normal(size=(9000, 12)).astype(np.float32))
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(k_centre(points, 300, rng=rng(0)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_progress_ends_complete():
    calls = []
    points = torch.from_numpy(rng(11).normal(size=(50, 2)).astype(np.float32))
    k_centre(points, 30, rng=rng(0), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (30, 30)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value):
    points = torch.zeros(10, 2)
    points[7, 1] = value
    with pytest.raises(ModelError, match="not finite"):
        k_centre(points, 3, rng=rng())


@pytest.mark.parametrize("picks", [0, 11])
def test_impossible_counts_are_refused(picks):
    with pytest.raises(ConfigError, match=r"1\.\.10"):
        k_centre(torch.zeros(10, 2), picks, rng=rng())


@pytest.mark.parametrize(
    ("n", "ratio", "maximum", "expected"),
    [
        (779264, 0.01, None, 7793),
        (700, 0.01, None, 7),
        (1000, 0.001, None, 1),
        (50, 0.001, None, 1),
        (50, 1.0, None, 50),
        (1000, 0.5, 20, 20),
        (3, 0.5, 20, 2),
    ],
)
def test_coreset_size(n, ratio, maximum, expected):
    assert coreset_size(n, ratio, maximum) == expected


@pytest.mark.parametrize(
    ("n", "ratio", "maximum"), [(0, 0.1, None), (5, 0.0, None), (5, 1.1, None), (5, 0.1, 0)]
)
def test_coreset_size_refuses(n, ratio, maximum):
    with pytest.raises(ConfigError):
        coreset_size(n, ratio, maximum)


def test_more_centres_by_hand():
    # Centres 0 and 10 on a line; 5 is farthest (5), then 13 (3), then 2 and 8 tie at 2.
    points = torch.tensor([[8.0], [5.0], [2.0], [13.0], [0.0]])
    centres = torch.tensor([[0.0], [10.0]])
    assert more_centres(points, centres, 5, rng=rng()).tolist() == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("offset", [0.0, 3000.0])
@pytest.mark.parametrize("seed", range(3))
def test_more_centres_equal_literal(seed, offset, small_blocks):
    source = rng(200 + seed)
    points = (source.normal(size=(250, 6)) + offset).astype(np.float32)
    centres = (source.normal(size=(31, 6)) + offset).astype(np.float32)
    found = more_centres(torch.from_numpy(points), torch.from_numpy(centres), 80, rng=rng())
    assert found.tolist() == literal.more_centres(points, centres, 80).tolist()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_more_centres_equal_literal_with_ties_and_duplicates(data):
    n, m = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 8))
    values = st.lists(st.integers(-3, 3), min_size=2 * (n + m), max_size=2 * (n + m))
    both = np.array(data.draw(values), dtype=np.float32).reshape(n + m, 2)
    points, centres = both[:n], both[n:]
    picks = data.draw(st.integers(1, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_greedy, "_ACTIVE", data.draw(st.integers(1, 10)))
        patch.setattr(lazy_greedy, "_BLOCK_PICKS", 2)
        found = more_centres(torch.from_numpy(points), torch.from_numpy(centres), picks, rng=rng())
    assert found.tolist() == literal.more_centres(points, centres, picks).tolist()


def test_a_search_goes_on_where_another_stopped():
    points = torch.from_numpy(rng(9).normal(size=(400, 5)).astype(np.float32))
    whole = k_centre(points, 60, rng=rng(3))
    rest = torch.ones(400, dtype=torch.bool)
    rest[whole[:25]] = False
    left = rest.nonzero()[:, 0]
    more = more_centres(points[left], points[whole[:25]], 35, rng=rng(3))
    assert left[more].tolist() == whole[25:].tolist()


def test_more_centres_are_sought_in_the_projection_of_the_first_ones():
    points = torch.from_numpy(rng(10).normal(size=(120, 20)).astype(np.float32))
    whole = k_centre(points, 30, rng=rng(4), projection_dim=3)
    rest = torch.ones(120, dtype=torch.bool)
    rest[whole[:12]] = False
    left = rest.nonzero()[:, 0]
    more = more_centres(points[left], points[whole[:12]], 18, rng=rng(4), projection_dim=3)
    assert left[more].tolist() == whole[12:].tolist()


def test_more_centres_that_cannot_be_chosen_are_refused():
    points, centres = torch.zeros(5, 2), torch.zeros(2, 2)
    for picks in (0, 6):
        with pytest.raises(ConfigError, match="coreset size out of range"):
            more_centres(points, centres, picks, rng=rng())
    with pytest.raises(ModelError, match="not finite"):
        more_centres(points, centres * torch.nan, 1, rng=rng())
