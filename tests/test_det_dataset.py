"""Which images a training update sees, and the thread that reads them ahead."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from detector.dataset import Prefetch, TripletSampler
from manifests.errors import ConfigError, ModelError

SHAPE = (4, 6, 3)


class FakeSet:
    """Every image holds its own index, so that a batch tells what it is made of."""

    digest = "ab" * 32

    def __init__(self, n_normals: int, rows: list[tuple[int, str]]):
        self.n_normals = n_normals
        self.negative_normal = np.array([normal for normal, _ in rows], dtype=np.int32)
        self.negative_policy = np.array([policy for _, policy in rows], dtype=str)

    def normal(self, index: int):
        return SimpleNamespace(image=np.full(SHAPE, index, dtype=np.uint8))

    def negative_image(self, index: int) -> np.ndarray:
        return np.full(SHAPE, 100 + index, dtype=np.uint8)


def full_set(n_normals: int, levels: int = 3) -> FakeSet:
    rows = [
        (normal, policy)
        for policy in ("swap", "scar")
        for _ in range(levels)
        for normal in range(n_normals)
    ]
    return FakeSet(n_normals, rows)


def contents(images: np.ndarray) -> np.ndarray:
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].astype(int)


def test_a_batch_is_normals_then_their_swaps_then_their_scars():
    source = full_set(9)
    sampler = TripletSampler(source, batch=4, seed=1)
    for update in range(6):
        images, labels = sampler.batch(update)
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
        images, labels = backward.batch(update)
        np.testing.assert_array_equal(images, expected[update][0])
        np.testing.assert_array_equal(labels, expected[update][1])
    other = TripletSampler(source, batch=4, seed=8)
    assert any((other.batch(u)[0] != expected[u][0]).any() for u in range(8))


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
    sampler = TripletSampler(source, batch=2, seed=0)
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
    images, labels = sampler.batch(0)
    assert len(images) == len(labels) == 24
    drawn = [sampler.draw(update)[0].tolist() for update in range(4)]
    assert {n for batch in drawn for n in batch} == {0, 1, 2}
    assert drawn[0] != drawn[1]
    assert not TripletSampler(full_set(8), batch=8).is_with_replacement


def test_one_class_can_be_enough():
    sampler = TripletSampler(
        FakeSet(3, [(n, "swap") for n in range(3)]), batch=2, classes=("swap",)
    )
    images, labels = sampler.batch(0)
    assert labels.tolist() == [0, 0, 1, 1] and len(images) == 4
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
        TripletSampler(FakeSet(2, rows), batch=2)


def test_fewer_than_two_usable_normals_are_refused():
    with pytest.raises(ModelError, match="1 of 2"):
        TripletSampler(FakeSet(2, [(0, "swap"), (0, "scar"), (1, "swap")]), batch=2)


@pytest.mark.parametrize(
    "settings",
    [{"batch": 0}, {"seed": -1}, {"classes": ()}, {"classes": ("swap", "swap")}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        TripletSampler(full_set(4), **settings)


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
