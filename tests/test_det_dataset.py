"""Which images a training update sees, and the thread that reads them ahead."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from detector.dataset import TripletSampler
from detector.prefetch import Prefetch
from manifests.errors import ConfigError, ModelError

SHAPE = (4, 6, 3)


class FakeSet:
    """Every image holds its own index, so that a batch tells what it is made of."""

    digest = "ab" * 32

    def __init__(self, n_normals: int, rows: list[tuple], *, recipe: dict | None = None):
        rows = [(*row, -1)[:3] for row in rows]
        self.n_normals = n_normals
        self.manifest = SimpleNamespace(recipe=recipe or {})
        self.negative_normal = np.array([normal for normal, _, _ in rows], dtype=np.int32)
        self.negative_policy = np.array([policy for _, policy, _ in rows], dtype=str)
        self.negative_level = np.array([level for _, _, level in rows], dtype=np.int64)

    def normal(self, index: int):
        return SimpleNamespace(image=np.full(SHAPE, index, dtype=np.uint8))

    def negative_image(self, index: int) -> np.ndarray:
        return np.full(SHAPE, 100 + index, dtype=np.uint8)

    def __getitem__(self, index: int):
        mask = np.zeros(SHAPE[:2], dtype=bool)
        mask.flat[: 1 + index % 20] = True
        return SimpleNamespace(image=self.negative_image(index), mask=mask)


def full_set(n_normals: int, levels: int = 3) -> FakeSet:
    rows = [
        (normal, policy, level)
        for policy in ("swap", "scar")
        for level in range(levels)
        for normal in range(n_normals)
    ]
    return FakeSet(n_normals, rows, recipe={"policies": ["swap", "scar"]})


def contents(images: np.ndarray) -> np.ndarray:
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].astype(int)


def test_a_batch_is_normals_then_their_swaps_then_their_scars():
    source = full_set(9)
    sampler = TripletSampler(source, batch=4, seed=1)
    for update in range(6):
        batch = sampler.batch(update)
        images, labels = batch.images, batch.labels
        assert batch.masks is None
        assert images.shape == (12, *SHAPE) and images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        found = contents(images)
        normals, swaps, scars = found[:4], found[4:8] - 100, found[8:] - 100
        assert source.negative_normal[swaps].tolist() == normals.tolist()
        assert source.negative_normal[scars].tolist() == normals.tolist()
        assert set(source.negative_policy[swaps]) == {"swap"}
        assert set(source.negative_policy[scars]) == {"scar"}
    assert sampler.labels == ("normal", "swap", "scar")
    assert sampler.set_digest == source.digest


def test_an_update_depends_on_seed_and_number_only():
    source = full_set(11)
    forward = TripletSampler(source, batch=4, seed=7)
    expected = {update: forward.batch(update) for update in range(8)}
    backward = TripletSampler(source, batch=4, seed=7)
    for update in reversed(range(8)):
        batch = backward.batch(update)
        np.testing.assert_array_equal(batch.images, expected[update].images)
        np.testing.assert_array_equal(batch.labels, expected[update].labels)
        np.testing.assert_array_equal(batch.rows, expected[update].rows)
    other = TripletSampler(source, batch=4, seed=8)
    assert any((other.batch(u).images != expected[u].images).any() for u in range(8))


def test_global_random_state_is_left_alone():
    np.random.seed(0)  # noqa: NPY002 (that nothing touches it is what is tested)
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    TripletSampler(full_set(5), batch=2).batch(3)
    assert np.random.random() == expected  # noqa: NPY002


def test_no_normal_comes_twice_in_an_epoch():
    sampler = TripletSampler(full_set(11), batch=3, seed=2)
    assert not sampler.is_with_replacement
    seen_in_any_epoch = set()
    for epoch in range(6):
        seen = [n for part in range(3) for n in sampler.draw(3 * epoch + part)[0].tolist()]
        assert len(seen) == len(set(seen)) == 9
        seen_in_any_epoch |= set(seen)
    assert seen_in_any_epoch == set(range(11))


def test_all_negatives_of_a_normal_are_drawn_about_equally_often():
    source = FakeSet(2, [(0, "swap")] * 4 + [(1, "swap")] + [(0, "scar"), (1, "scar")])
    sampler = TripletSampler(source, batch=2, seed=0, negatives=("swap", "scar"))
    counts = Counter()
    for update in range(400):
        normals, (swaps, scars) = sampler.draw(update)
        counts.update(swaps[normals == 0].tolist())
        assert swaps[normals == 1].tolist() == [4]
        assert scars.tolist() == (5 + normals).tolist()
    assert set(counts) == {0, 1, 2, 3}
    # Binomial(400, 1/4): mean 100, deviation 8.7; the seed is fixed.
    assert all(65 < count < 135 for count in counts.values())


def test_normals_without_a_negative_of_every_class_are_left_out():
    rows = [(n, "swap") for n in range(6) if n != 2] + [(n, "scar") for n in range(6) if n != 5]
    sampler = TripletSampler(FakeSet(7, rows), batch=4)  # normal 6 has none at all
    assert (sampler.n_usable, sampler.n_skipped) == (4, 3)
    assert {n for u in range(5) for n in sampler.draw(u)[0].tolist()} == {0, 1, 3, 4}


def test_few_normals_are_drawn_with_replacement_and_it_shows():
    sampler = TripletSampler(full_set(3), batch=8, seed=3)
    assert sampler.is_with_replacement
    batch = sampler.batch(0)
    assert len(batch.images) == len(batch.labels) == 24
    drawn = [sampler.draw(update)[0].tolist() for update in range(4)]
    assert {n for batch in drawn for n in batch} == {0, 1, 2}
    assert drawn[0] != drawn[1]
    assert not TripletSampler(full_set(8), batch=8).is_with_replacement


def test_one_class_can_be_enough():
    sampler = TripletSampler(FakeSet(3, [(n, "swap") for n in range(3)]), batch=2)
    batch = sampler.batch(0)
    assert batch.labels.tolist() == [0, 0, 1, 1] and len(batch.images) == 4
    assert sampler.labels == ("normal", "swap")


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([(0, "swap"), (1, "swap")], "no scar negatives"),
        ([(0, "cutpaste"), (1, "cutpaste")], "no swap and no scar negatives"),
        ([], "no negatives at all"),
    ],
)
def test_a_set_without_a_class_is_refused_by_name(rows, named):
    with pytest.raises(ModelError, match=named):
        TripletSampler(FakeSet(2, rows), batch=2, negatives=("swap", "scar"))


def test_fewer_than_two_usable_normals_are_refused():
    with pytest.raises(ModelError, match="1 of 2"):
        TripletSampler(FakeSet(2, [(0, "swap"), (0, "scar"), (1, "swap")]), batch=2)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch": 0},
        {"seed": -1},
        {"negatives": ("swap", "swap")},
        {"negatives": ("normal",)},
        {"shares": (1.0,)},
        {"shares": (1.0, 0.0)},
        {"levels": (0, 7)},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        TripletSampler(full_set(4), **settings)


# ---- kinds, shares and levels -------------------------------------------------------------------


def test_defaults_draw_what_the_first_release_drew():
    # Written down before there were shares and levels: models must come out the same.
    sampler = TripletSampler(full_set(9), batch=4, seed=1)
    normals, (swaps, scars) = sampler.draw(0)
    assert normals.tolist() == [7, 0, 1, 4]
    assert (swaps.tolist(), scars.tolist()) == ([16, 9, 19, 13], [34, 36, 28, 31])
    normals, (swaps, scars) = sampler.draw(5)
    assert normals.tolist() == [7, 2, 0, 6]
    assert (swaps.tolist(), scars.tolist()) == ([7, 11, 9, 24], [52, 29, 45, 42])
    normals, (swaps, scars) = TripletSampler(full_set(3), batch=5, seed=1).draw(2)
    assert normals.tolist() == [2, 1, 0, 0, 1]
    assert (swaps.tolist(), scars.tolist()) == ([8, 7, 6, 3, 1], [17, 10, 9, 9, 10])


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"policies": ["swap", "cutpaste", "perlin"]}, ("swap", "cutpaste", "scar")),
        ({"policies": ["scar", "swap", "scar"]}, ("scar", "swap", "cutpaste")),
        ({"policies": "swap"}, ("cutpaste", "scar", "swap")),
        ({}, ("cutpaste", "scar", "swap")),
    ],
)
def test_all_kinds_of_the_set_in_the_order_of_its_recipe(recipe, expected):
    rows = [(n, kind) for n in range(3) for kind in ("scar", "swap", "cutpaste")]
    source = FakeSet(3, rows, recipe=recipe)
    assert TripletSampler(source, batch=2).labels == ("normal", *expected)
    named = TripletSampler(source, batch=2, negatives=("swap", "cutpaste"))
    assert named.labels == ("normal", "swap", "cutpaste")
    del source.manifest
    assert TripletSampler(source, batch=2).labels == ("normal", "cutpaste", "scar", "swap")


def test_a_share_under_one_is_owned_by_the_first_normals():
    source = full_set(9)
    sampler = TripletSampler(source, batch=4, seed=1, shares=(0.5, 0.1))
    assert sampler.counts == (4, 2, 1)
    for update in range(5):
        normals, (swaps, scars) = sampler.draw(update)
        assert source.negative_normal[swaps].tolist() == normals[:2].tolist()
        assert source.negative_normal[scars].tolist() == normals[:1].tolist()
        batch = sampler.batch(update)
        assert batch.labels.tolist() == [0, 0, 0, 0, 1, 1, 2]
        assert contents(batch.images).tolist() == [*normals, *(100 + swaps), *(100 + scars)]
    # The normals are those of any other shares.
    assert normals.tolist() == TripletSampler(source, batch=4, seed=1).draw(4)[0].tolist()


def test_a_share_over_one_takes_the_normals_in_turn_with_fresh_draws():
    source = full_set(9, levels=50)
    sampler = TripletSampler(source, batch=4, seed=1, shares=(2.5, 1))
    assert sampler.counts == (4, 10, 4)
    normals, (swaps, scars) = sampler.draw(0)
    assert source.negative_normal[swaps].tolist() == [*normals, *normals, *normals[:2]]
    assert len(set(swaps.tolist())) == 10
    assert len(scars) == 4


def test_halves_round_to_even():
    assert TripletSampler(full_set(9), batch=5, shares=(0.5, 0.3)).counts == (5, 2, 2)


def test_only_levels_in_play_are_drawn():
    rows = [(n, "swap", level) for level in (2, 3, 4) for n in range(4)]
    rows += [(n, "cutpaste", -1) for n in range(4)]
    source = FakeSet(4, rows, recipe={"policies": ["swap", "cutpaste"]})
    sampler = TripletSampler(source, batch=4, levels=(4, 2))
    drawn = {int(j) for update in range(40) for j in sampler.draw(update)[1][0]}
    assert drawn == {0, 1, 2, 3, 8, 9, 10, 11}
    assert {int(j) for j in sampler.draw(0)[1][1]} == {12, 13, 14, 15}
    assert sampler.levels == (4, 2)
    assert sorted(sampler.rows) == [0, 1, 2, 3, *range(4, 8), *range(12, 16), *range(16, 20)]


def test_a_level_the_set_has_not_is_refused_with_those_it_has():
    with pytest.raises(ConfigError, match=r"no level 7 \(expected 0, 1, 2, got 1, 7\)"):
        TripletSampler(full_set(4), batch=2, levels=(1, 7))
    flat = FakeSet(3, [(n, "cutpaste") for n in range(3)])
    with pytest.raises(ConfigError, match="made without saliency"):
        TripletSampler(flat, batch=2, levels=(1,))


def test_a_kind_without_negatives_of_the_levels_is_refused():
    rows = [(n, "swap", 1) for n in range(3)] + [(n, "scar", 2) for n in range(3)]
    with pytest.raises(ModelError, match="no scar negatives of these levels"):
        TripletSampler(FakeSet(3, rows), batch=2, negatives=("swap", "scar"), levels=(1,))


def test_rows_number_the_images_of_the_set():
    source = full_set(5)
    sampler = TripletSampler(source, batch=3, seed=2)
    assert sorted(sampler.rows) == list(range(5 + 30))
    batch = sampler.batch(1)
    for row, image in zip(batch.rows, batch.images, strict=True):
        np.testing.assert_array_equal(sampler.image(int(row)), image)
    blind = sampler.batch(1, with_images=False)
    assert blind.images is None and blind.masks is None
    np.testing.assert_array_equal(blind.rows, batch.rows)


def test_rows_leave_out_what_cannot_be_drawn():
    rows = [(0, "swap"), (1, "swap"), (2, "swap"), (0, "scar"), (2, "scar")]
    sampler = TripletSampler(FakeSet(4, rows, recipe={"policies": ["swap", "scar"]}), batch=2)
    assert sampler.rows.tolist() == [0, 2, 4, 6, 7, 8]


def test_masks_come_when_asked_for():
    source = full_set(9)
    sampler = TripletSampler(source, batch=4, seed=1)
    batch = sampler.batch(2, with_masks=True)
    assert batch.masks.shape == (12, *SHAPE[:2]) and batch.masks.dtype == bool
    assert not batch.masks[:4].any()
    for row, mask in zip(batch.rows[4:], batch.masks[4:], strict=True):
        np.testing.assert_array_equal(mask, source[int(row) - 9].mask)
    np.testing.assert_array_equal(batch.images, sampler.batch(2).images)
    blind = sampler.batch(2, with_images=False, with_masks=True)
    assert blind.images is None
    np.testing.assert_array_equal(blind.masks, batch.masks)


# ---- reading ahead ------------------------------------------------------------------------------


def test_prefetch_keeps_the_order():
    with Prefetch(lambda key: key * 10, range(3, 40)) as items:
        assert list(items) == [key * 10 for key in range(3, 40)]
        assert list(items) == []


def test_prefetch_loads_ahead_but_not_further_than_its_depth():
    loaded = []
    with Prefetch(lambda key: loaded.append(key) or key, range(50), depth=2) as items:
        assert next(items) == 0
        deadline = time.monotonic() + 5
        while len(loaded) < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        # One taken, two ready, one in hand.
        assert loaded == [0, 1, 2, 3]


def test_prefetch_hands_over_errors_where_they_happen():
    def load(key: int) -> int:
        if key == 2:
            raise ModelError("broken", path="shard-00000.h5")
        return key

    with Prefetch(load, range(5)) as items:
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(ModelError, match="shard-00000"):
            next(items)
        assert list(items) == []


def test_leaving_prefetch_early_stops_its_thread():
    def threads() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "cutswap-prefetch"]

    with pytest.raises(RuntimeError, match="enough"), Prefetch(lambda key: key, range(99)) as items:
        next(items)
        assert threads()
        raise RuntimeError("enough")
    assert not threads()
