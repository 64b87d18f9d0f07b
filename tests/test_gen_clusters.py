"""Exact k-means: hand-computed, against every partition in fractions, against scikit-learn."""

from itertools import pairwise

import numpy as np
import pytest

from generator.clusters import MAX_CLUSTERS, OUTSIDE, cluster_map, kmeans_1d
from manifests.errors import ConfigError
from reference.clusters import best_partition, scatter


def histogram_of(pairs):
    histogram = np.zeros(256, dtype=np.int64)
    for value, count in pairs:
        histogram[value] = count
    return histogram


def smooth_map(seed, height=60, width=84, sigma_px=6.0):
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).random((height, width)), sigma_px)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return np.round(noise**2 * 255).astype(np.uint8)


def test_hand_computed():
    clusters = kmeans_1d(histogram_of([(0, 1), (2, 3), (10, 1), (16, 1)]), 2)
    # {0, 2, 2, 2} about 1.5: 2.25 + 3 * 0.25 = 3; {10, 16} about 13: 18.
    assert clusters.centroids.tolist() == [1.5, 13.0]
    assert clusters.inertia == 21.0
    assert clusters.count == 2
    # 7.25 is the midpoint of the centroids.
    assert clusters.labels.tolist() == [0] * 8 + [1] * 248


def test_ties_give_the_highest_cluster_the_most_values():
    # {0},{1,2} and {0,1},{2} both cost 0.5.
    clusters = kmeans_1d(histogram_of([(0, 1), (1, 1), (2, 1)]), 2)
    assert clusters.labels[:3].tolist() == [0, 1, 1]
    # 10 is as near to 0 as to 20: absent values at a midpoint go down, as in {0}, {20}.
    assert kmeans_1d(histogram_of([(0, 1), (20, 1)]), 2).labels[[9, 10, 11]].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "pairs",
    [
        [(24, 161), (67, 371), (81, 259), (165, 259), (179, 371), (222, 161)],
        [
            (7, 182),
            (61, 266),
            (75, 147),
            (102, 329),
            (106, 329),
            (133, 147),
            (147, 266),
            (201, 182),
        ],
    ],
)
def test_ties_that_rounding_would_break(pairs):
    # Mirror images of each other cost the same, but not to the last bit in float64.
    _, runs = best_partition(pairs, 3)
    labels = kmeans_1d(histogram_of(pairs), 3).labels[[value for value, _ in pairs]]
    assert labels.tolist() == [i for i, run in enumerate(runs) for _ in run]


@pytest.mark.parametrize("k", range(1, 8))
def test_equals_every_partition_tried(k):
    rng = np.random.default_rng(k)
    for case in range(30):
        n = int(rng.integers(1, 10))
        # Few values and counts of one make ties common.
        values = np.sort(rng.choice(12 if case % 2 else 256, size=n, replace=False)).tolist()
        counts = [1] * n if case % 3 else rng.integers(1, 5000, size=n).tolist()
        pairs = list(zip(values, counts, strict=True))
        inertia, runs = best_partition(pairs, k)
        clusters = kmeans_1d(histogram_of(pairs), k)
        assert clusters.count == len(runs) == min(k, n)
        assert clusters.labels[values].tolist() == [i for i, run in enumerate(runs) for _ in run]
        assert clusters.inertia == pytest.approx(float(inertia), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("k", range(1, 7))
def test_never_above_the_best_of_ten_seeded_runs(k):
    from sklearn.cluster import KMeans

    for seed in range(4):
        saliency = smooth_map(seed)
        labels, clusters = cluster_map(saliency, (0, 0, *saliency.shape), k)
        pixels = saliency.reshape(-1, 1).astype(np.float64)
        values, counts = np.unique(pixels, return_counts=True)
        other = KMeans(k, n_init=10, random_state=seed).fit(values[:, None], sample_weight=counts)
        assert clusters.inertia <= other.inertia_ * (1 + 1e-9)
        # What is reported is what the labels cost.
        cost = ((pixels[:, 0] - clusters.centroids[labels.reshape(-1)]) ** 2).sum()
        assert clusters.inertia == pytest.approx(cost, rel=1e-9)


def test_full_histogram_of_a_large_canvas_stays_exact():
    # 4096 x 4096 pixels over all 256 values, far from zero: the largest sums there are.
    counts = np.random.default_rng(0).multinomial(4096**2, np.arange(1, 257) / 32896)
    clusters = kmeans_1d(counts, 5)
    pairs = list(enumerate(counts.tolist()))
    edges = [*np.searchsorted(clusters.labels, range(5)).tolist(), 256]
    runs = [pairs[a:b] for a, b in pairwise(edges)]
    assert clusters.inertia == pytest.approx(float(sum(map(scatter, runs))), rel=1e-12)
    # No single boundary can be moved to gain anything.
    for boundary in range(1, 5):
        for move in (-1, 1):
            moved = list(edges)
            moved[boundary] += move
            other = [pairs[a:b] for a, b in pairwise(moved)]
            assert sum(map(scatter, other)) >= sum(map(scatter, runs))


def test_fewer_distinct_values_than_clusters():
    clusters = kmeans_1d(histogram_of([(7, 5), (200, 2)]), 4)
    assert (clusters.count, clusters.inertia) == (2, 0.0)
    assert clusters.centroids.tolist() == [7.0, 200.0]
    assert clusters.labels[[0, 7, 103, 104, 200, 255]].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("value", [0, 93, 255])
def test_constant_map(value):
    saliency = np.full((6, 9), value, dtype=np.uint8)
    labels, clusters = cluster_map(saliency, (0, 0, 6, 9), 4)
    assert clusters.centroids.tolist() == [value]
    assert clusters.inertia == 0.0
    assert not labels.any()


def test_labels_ascend_and_follow_the_nearest_centroid():
    clusters = kmeans_1d(np.bincount(smooth_map(9).reshape(-1), minlength=256), 5)
    assert (np.diff(clusters.centroids) > 0).all()
    assert (np.diff(clusters.labels.astype(int)) >= 0).all()
    distance = np.abs(np.arange(256)[:, None] - clusters.centroids)
    chosen = distance[np.arange(256), clusters.labels]
    np.testing.assert_allclose(chosen, distance.min(axis=1), atol=1e-9)


def test_padding_neither_counts_nor_belongs_to_a_cluster():
    saliency = smooth_map(3)
    box = (10, 0, 33, 84)
    labels, clusters = cluster_map(saliency, box, 4)
    shown = np.s_[10:43, 0:84]
    alone, same = cluster_map(saliency[shown].copy(), (0, 0, 33, 84), 4)
    assert (labels[shown] == alone).all()
    assert clusters.inertia == same.inertia
    assert (labels[:10] == OUTSIDE).all() and (labels[43:] == OUTSIDE).all()
    assert (labels == OUTSIDE).sum() == (60 - 33) * 84


def test_inputs_stay_and_results_cannot_be_changed():
    saliency = smooth_map(1)
    before = saliency.copy()
    saliency.setflags(write=False)
    labels, clusters = cluster_map(saliency, (0, 0, 60, 84), 4)
    assert (saliency == before).all() and labels.dtype == np.uint8
    with pytest.raises(ValueError):
        clusters.labels[0] = 1
    with pytest.raises(ValueError):
        clusters.centroids[0] = 1


@pytest.mark.parametrize("k", [0, -1, MAX_CLUSTERS + 1, 2.5, True])
def test_number_of_clusters_out_of_range(k):
    with pytest.raises(ConfigError, match="number of clusters"):
        kmeans_1d(histogram_of([(1, 1)]), k)


@pytest.mark.parametrize(
    "histogram",
    [np.zeros(256, int), np.ones(255, int), np.ones(256), histogram_of([(3, -1), (4, 9)])],
)
def test_not_a_histogram(histogram):
    with pytest.raises(ValueError):
        kmeans_1d(histogram, 2)


@pytest.mark.parametrize("box", [(0, 0, 7, 9), (-1, 0, 3, 3), (0, 5, 6, 5), (0, 0, 0, 4)])
def test_valid_box_outside_the_map(box):
    with pytest.raises(ValueError, match="valid box"):
        cluster_map(np.zeros((6, 9), np.uint8), box, 2)


def test_map_of_another_type():
    with pytest.raises(ValueError, match="uint8"):
        cluster_map(np.zeros((6, 9), np.float32), (0, 0, 6, 9), 2)
