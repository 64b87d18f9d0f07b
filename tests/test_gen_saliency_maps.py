"""Saliency maps: LayerCAM's quantised to 8 bits, and brought to the image's grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from generator.saliency import layer_cam, quantise, saliency_maps, upsample
from manifests.weights import load_network
from reference.cam_networks import photos


@pytest.fixture(scope="module")
def embedded():
    return load_network()


def test_saliency_maps_are_the_quantised_maps(embedded):
    images = photos()
    raw = layer_cam(embedded, images, levels=(0, 4))
    maps = saliency_maps(embedded, images, levels=(0, 4))
    assert list(maps) == [0, 4]
    for level in maps:
        assert maps[level].dtype == np.uint8
        assert maps[level].shape == raw[level].shape
        for index in range(2):
            np.testing.assert_array_equal(maps[level][index], quantise(raw[level][index]))
            assert maps[level][index].min() == 0
            assert maps[level][index].max() == 255


def test_an_image_of_one_colour_has_zero_maps(embedded):
    images = photos()
    images[0] = (200, 90, 30)
    # LayerCAM itself sees the zero padding along the border of such an image.
    assert layer_cam(embedded, images[:1], levels=(0,))[0].max() > 0
    for batch in saliency_maps(embedded, images, levels=(0, 1, 2, 3, 4)).values():
        assert not batch[0].any()
        assert batch[1].max() == 255
    images[0, 3, 5] = (0, 0, 0)
    assert saliency_maps(embedded, images, levels=(0,))[0][0].max() == 255


def test_quantise_hand_computed():
    values = np.array([[0.0, 1.0, 2.0], [4.0, 3.0, 0.5]], np.float32)
    # 255 · v / 4 = 0, 63.75, 127.5, 255, 191.25, 31.875
    np.testing.assert_array_equal(quantise(values + 7), [[0, 64, 128], [255, 191, 32]])


def test_quantise_of_constant_maps_is_zero():
    assert not quantise(np.zeros((3, 5), np.float32)).any()
    assert not quantise(np.full((3, 5), -2.5, np.float32)).any()
    rounding = np.full((3, 5), 0.1, np.float32)
    rounding[1, 1] = np.nextafter(np.float32(0.1), np.float32(1))
    assert not quantise(rounding).any()


def test_quantise_of_tiny_and_huge_maps():
    for scale in (1e-44, 1e38):
        values = np.array([[0, 1], [2, 3]], np.float32) * np.float32(scale)
        got = quantise(values)
        assert got[0, 0] == 0
        assert got[1, 1] == 255
        assert 0 < got[0, 1] < got[1, 0] < 255


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantise_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="finite"):
        quantise(np.array([[0.0, bad]], np.float32))


@settings(max_examples=50, deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=7),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_quantise_keeps_the_order_and_spans_the_range(values):
    before = values.copy()
    got = quantise(values)
    np.testing.assert_array_equal(values, before)
    assert got.dtype == np.uint8
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(got.ravel()[order].astype(int)) >= 0).all()
    assert (got.min(), got.max()) in {(0, 255), (0, 0)}


def test_upsample_hand_computed():
    small = np.array([[0, 200]], np.uint8)
    got = upsample(small, 2, 4)
    np.testing.assert_array_equal(got, [[0, 50, 150, 200]] * 2)
    assert got.dtype == np.uint8


def test_upsample_takes_height_before_width():
    assert upsample(np.zeros((2, 3), np.uint8), 20, 50).shape == (20, 50)
