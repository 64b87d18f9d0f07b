"""The most salient pixels against a sorted list: which are sure, which are tied, how ties break."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from generator.anchors import sample_pair
from generator.clusters import OUTSIDE
from generator.most_salient import most_salient_map
from reference.most_salient import sure_and_tied


def rng_of(seed=0):
    return np.random.default_rng(seed)


def test_hand_computed():
    saliency = np.array([[9, 9, 9, 9, 9], [9, 7, 3, 5, 9], [9, 1, 8, 5, 9]], dtype=np.uint8)
    labels, regions = most_salient_map(saliency, (1, 1, 2, 3), 2, rng=rng_of())
    o = OUTSIDE
    assert labels.tolist() == [[o, o, o, o, o], [o, 1, 0, 0, o], [o, 0, 1, 0, o]]
    assert labels.dtype == np.uint8
    assert regions.count == 2
    assert regions.centroids.tolist() == [(3 + 5 + 1 + 5) / 4, 7.5]
    assert regions.centroids.dtype == np.float64
    seen = Counter()
    for seed in range(400):
        labels, _ = most_salient_map(saliency, (1, 1, 2, 3), 3, rng=rng_of(seed))
        assert labels[1, 1] == labels[2, 2] == 1 and (labels == 1).sum() == 3
        seen[1 if labels[1, 3] == 1 else 2] += labels[1, 3] + labels[2, 3] == 1
    assert sum(seen.values()) == 400 and chisquare([seen[1], seen[2]]).pvalue > 0.01


@pytest.mark.parametrize("seed", range(30))
def test_equals_a_sorted_list(seed):
    rng = rng_of(seed)
    height, width = rng.integers(3, 14, size=2).tolist()
    saliency = rng.integers(0, (4, 40, 256)[seed % 3], size=(height, width)).astype(np.uint8)
    top, left = rng.integers(0, 2, size=2).tolist()
    valid_box = (top, left, height - top, width - left)
    count = int(rng.integers(1, valid_box[2] * valid_box[3] + 5))
    before = saliency.copy()
    saliency.setflags(write=False)
    labels, regions = most_salient_map(saliency, valid_box, count, rng=rng)
    sure, tied, from_tied = sure_and_tied(saliency, valid_box, count)
    taken = {(int(y), int(x)) for y, x in zip(*np.nonzero(labels == 1), strict=True)}
    assert sure <= taken <= sure | tied and len(taken & tied) == from_tied
    outside = np.ones(saliency.shape, dtype=bool)
    outside[top:, left:] = False
    assert ((labels == OUTSIDE) == outside).all() and (labels[~outside] <= 1).all()
    assert (saliency == before).all()
    assert regions.centroids[1] == pytest.approx(saliency[labels == 1].mean())
    if (labels == 0).any():
        assert regions.centroids[0] == pytest.approx(saliency[labels == 0].mean())
        assert regions.centroids[0] <= regions.centroids[1]
    else:
        assert regions.centroids[0] == regions.centroids[1]


def test_ties_break_evenly_and_by_the_generator_alone():
    saliency = np.full((6, 10), 40, dtype=np.uint8)
    saliency[2, 3] = 200
    valid_box = (0, 2, 6, 8)
    seen = np.zeros(saliency.shape, dtype=int)
    rng = rng_of(2)
    for _ in range(600):
        labels, _ = most_salient_map(saliency, valid_box, 5, rng=rng)
        seen += labels == 1
    assert seen[2, 3] == 600
    tied = np.delete(seen[:, 2:].reshape(-1), 2 * 8 + 1)
    assert tied.sum() == 4 * 600 and chisquare(tied).pvalue > 0.01
    one, other = (most_salient_map(saliency, valid_box, 5, rng=rng_of(3))[0] for _ in range(2))
    assert (one == other).all()


def test_at_least_two_and_at_most_all():
    saliency = rng_of().integers(0, 256, size=(4, 5)).astype(np.uint8)
    assert (most_salient_map(saliency, (0, 0, 4, 5), 1, rng=rng_of())[0] == 1).sum() == 2
    labels, regions = most_salient_map(saliency, (0, 1, 4, 4), 99, rng=rng_of())
    assert (labels[:, 1:] == 1).all() and (labels[:, 0] == OUTSIDE).all()
    assert regions.centroids.tolist() == [saliency[:, 1:].mean()] * 2
    assert (most_salient_map(saliency, (2, 2, 1, 1), 2, rng=rng_of())[0] == 1).sum() == 1


def test_anchors_start_in_the_chosen_pixels():
    saliency = np.zeros((40, 56), dtype=np.uint8)
    saliency[5:15, 8:30] = rng_of(4).integers(1, 256, size=(10, 22))
    labels, regions = most_salient_map(saliency, (0, 0, 40, 56), 50, rng=rng_of())
    for seed in range(20):
        pair = sample_pair(rng_of(seed), labels, regions.count, (0, 0, 40, 56), 4, 5)
        assert labels[pair.first[:2]] == labels[pair.second[:2]] == 1


def test_refused_arguments():
    saliency = np.zeros((4, 5), dtype=np.uint8)
    for bad, box, count in (
        (saliency, (0, 0, 4, 5), 0),
        (saliency, (0, 0, 5, 5), 3),
        (saliency, (0, 0, 0, 5), 3),
        (saliency.astype(np.float32), (0, 0, 4, 5), 3),
    ):
        with pytest.raises(ValueError):
            most_salient_map(bad, box, count, rng=rng_of())
