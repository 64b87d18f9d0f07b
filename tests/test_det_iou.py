"""Intersection over union: by hand, against a loop over pixels, and where it is not defined."""

from __future__ import annotations

import numpy as np
import pytest

from detector.iou import mean_iou


def literal(maps, masks, valid, threshold):
    ratios = []
    for score_map, mask, inside in zip(maps, masks, valid, strict=True):
        both = either = marked = 0
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                if not inside[y, x]:
                    continue
                called = score_map[y, x] > threshold
                both += bool(called and mask[y, x])
                either += bool(called or mask[y, x])
                marked += bool(mask[y, x])
        if marked:
            ratios.append(both / either)
    return sum(ratios) / len(ratios)


def test_by_hand():
    maps = np.array([[[0.9, 0.9, 0.1], [0.2, 0.5, 0.6]], [[0.9, 0.9, 0.9]] * 2], np.float32)
    masks = np.array([[[1, 0, 0], [1, 1, 1]], [[0, 0, 0]] * 2], bool)
    # Called are three pixels (0.5 is not above 0.5), two of them marked, five are either; the
    # second image has no defect and does not count.
    assert mean_iou(maps, masks, None) == 2 / 5
    assert mean_iou(maps, masks, None, threshold=0.95) == 0.0
    assert mean_iou(maps[1:], masks[1:], None) is None


def test_against_a_loop_and_without_padding():
    source = np.random.default_rng(0)
    maps = source.random((5, 7, 9), dtype=np.float32)
    masks = source.random((5, 7, 9)) < 0.3
    valid = np.ones((5, 7, 9), bool)
    valid[2, :, 5:] = False
    valid[4, :2] = False
    for threshold in (0.3, 0.5, 0.8):
        expected = literal(maps, masks, valid, threshold)
        assert mean_iou(maps, masks, valid, threshold=threshold) == pytest.approx(expected)
    changed = np.where(valid, maps, 1.0).astype(np.float32)
    assert mean_iou(changed, masks, valid) == mean_iou(maps, masks, valid)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="differ"):
        mean_iou(np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 5), bool), None)
