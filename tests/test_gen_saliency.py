"""LayerCAM: against a literal loop, another package and itself in other company."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import timm
import torch
from torch import nn

from generator.saliency import layer_cam
from manifests.errors import WeightsError
from manifests.stages import vgg_pools
from manifests.weights import load_network
from reference.cam_networks import as_network, lively_resnet, photos
from reference.saliency import literal_layer_cam


@pytest.fixture(scope="module")
def embedded():
    return load_network()


@pytest.fixture(scope="module")
def resnet():
    return lively_resnet()


@pytest.fixture(scope="module")
def vgg():
    # VGG16's convolutions as they are, with a narrow classifier: that has most of the weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        module = timm.create_model("vgg16", mlp_ratio=1 / 64, num_classes=10)
    return as_network(module, vgg_pools(module))


def assert_same_maps(ours, want):
    assert list(ours) == list(want)
    for level, expected in want.items():
        got = ours[level]
        assert got.dtype == np.float32
        assert got.shape == expected.shape
        peak = expected.max(axis=(1, 2), keepdims=True)
        assert (peak > 0).all(), f"level {level} is empty: nothing is compared"
        np.testing.assert_allclose(got / peak, expected / peak, atol=2e-4, err_msg=f"level {level}")


class Linear1x2(nn.Module):
    """Two 1×1 filters on a 1×2 image, then two classes with one weight per channel and pixel."""

    def __init__(self):
        super().__init__()
        self.filters = nn.Conv2d(3, 2, 1, bias=False)
        self.head = nn.Linear(4, 2)
        self.filters.weight.data = torch.tensor([[1.0, 0, 0], [0, -1.0, 0]]).view(2, 3, 1, 1)
        self.head.weight.data = torch.tensor([[9.0, 9, 9, 9], [2.0, -1, 0.1, 3]])
        self.head.bias.data = torch.tensor([-1000.0, 0])

    def forward(self, pixels):
        return self.head(self.filters(pixels).flatten(1))


def test_hand_computed():
    network = as_network(Linear1x2(), {7: "filters"}, mean=(0, 0, 0), std=(1, 1, 1))
    image = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    # A_0 = R = (10, 40), A_1 = -G = (-20, -50); class 1 wins; its weights are (2, -1), (0.1, 3).
    # M = relu(2·10 + 0.1·(-20)), relu(0·40 + 3·(-50)) = 18, 0
    maps = layer_cam(network, image[None], levels=(7,))
    np.testing.assert_allclose(maps[7], [[[18.0, 0.0]]], rtol=1e-6)


@pytest.mark.parametrize("name", ["embedded", "resnet", "vgg"])
def test_equals_the_literal_reference(name, request):
    network = request.getfixturevalue(name)
    images = photos(32, 64) if name == "vgg" else photos()
    levels = tuple(network.levels)
    got = layer_cam(network, images, levels=levels)
    assert_same_maps(got, literal_layer_cam(network, images, levels=levels))
    assert all((maps >= 0).all() for maps in got.values())


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("resnet", ("bn1", "layer2.0.bn1", "layer2.0.downsample.1")),
        ("vgg", ("features.0", "features.10", "features.28")),
    ],
)
def test_layers_that_work_in_place_do_not_change_what_was_tapped(name, paths, request):
    base = request.getfixturevalue(name)
    # Every one of these is followed by a ReLU that overwrites its output.
    network = dataclasses.replace(base, levels=dict(enumerate(paths)))
    images = photos(32, 64)
    levels = tuple(network.levels)
    assert any(getattr(layer, "inplace", False) for layer in network.module.modules())
    got = layer_cam(network, images, levels=levels)
    assert_same_maps(got, literal_layer_cam(network, images, levels=levels))


class Adder(nn.Module):
    """A residual-like sum, in place or not."""

    def __init__(self, *, in_place):
        super().__init__()
        self.in_place = in_place
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, pixels):
        start = self.first(pixels)
        x = self.second(start)
        if self.in_place:
            x.add_(start.detach()).mul_(0.5)
            x += 1.0
            torch.relu_(x)
        else:
            x = torch.relu((x + start.detach()) * 0.5 + 1.0)
        return self.head(x.mean((2, 3)))


def test_sums_in_place_do_not_change_what_was_tapped():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        altering, pure = Adder(in_place=True), Adder(in_place=False)
    pure.load_state_dict(altering.state_dict())
    for levels in ({0: "first", 1: "second"}, {1: "second"}):
        # `first` is detached from the sum, so only its path through `second` counts.
        got = layer_cam(as_network(altering, levels), photos(), levels=tuple(levels))
        want = literal_layer_cam(as_network(pure, levels), photos(), levels=tuple(levels))
        assert_same_maps(got, want)


def test_equals_the_gradcam_package_layer_by_layer(embedded):
    gradcam = pytest.importorskip("pytorch_grad_cam")
    images = photos(64, 96)
    ours = layer_cam(embedded, images, levels=tuple(embedded.levels))
    for level, path in embedded.levels.items():
        layer = embedded.module.get_submodule(path)
        pixels = embedded.preprocess(images).requires_grad_()
        with gradcam.LayerCAM(embedded.module, [layer]) as cam:
            scaled = cam(pixels, targets=None)
            tapped = cam.activations_and_grads
            raw = cam.get_cam_image(
                pixels,
                layer,
                None,
                tapped.activations[0].numpy(),
                tapped.gradients[0].numpy(),
                False,
            )
        # Theirs before any scaling, at the native grid; then what a caller of theirs sees.
        assert_same_maps({level: ours[level]}, {level: np.maximum(raw, 0)})
        for mine, theirs in zip(ours[level], scaled, strict=True):
            resized = cv2.resize((mine - mine.min()) / np.ptp(mine), (96, 64))
            resized = (resized - resized.min()) / np.ptp(resized)
            np.testing.assert_allclose(resized, theirs, atol=1e-3)


def test_grids_of_vgg16_at_224_are_the_papers(vgg):
    maps = layer_cam(vgg, photos(224, 224)[:1], levels=(4, 9, 16, 23, 30))
    assert {level: batch.shape for level, batch in maps.items()} == {
        4: (1, 112, 112),
        9: (1, 56, 56),
        16: (1, 28, 28),
        23: (1, 14, 14),
        30: (1, 7, 7),
    }


def test_grids_of_an_image_that_is_not_square(embedded):
    maps = layer_cam(embedded, photos(64, 128), levels=(0, 1, 2, 3, 4))
    assert [maps[level].shape for level in maps] == [
        (2, 32, 64),
        (2, 16, 32),
        (2, 8, 16),
        (2, 4, 8),
        (2, 2, 4),
    ]


def test_images_of_a_batch_do_not_influence_each_other(embedded):
    images = photos()
    together = layer_cam(embedded, images, levels=(1, 4))
    for index in range(2):
        alone = layer_cam(embedded, images[index : index + 1], levels=(1, 4))
        assert_same_maps(alone, {k: v[index : index + 1] for k, v in together.items()})


def test_any_selection_in_any_order_gives_the_same_maps(embedded):
    images = photos()
    every = layer_cam(embedded, images, levels=(0, 1, 2, 3, 4))
    some = layer_cam(embedded, images, levels=(4, 1))
    assert list(some) == [4, 1]
    assert_same_maps(some, {level: every[level] for level in (4, 1)})


def test_torch_and_numpy_images_give_the_same(embedded):
    images = photos()
    a = layer_cam(embedded, images, levels=(2,))
    b = layer_cam(embedded, torch.from_numpy(images), levels=(2,))
    np.testing.assert_array_equal(a[2], b[2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_switched_off(embedded, mode):
    images = photos()
    want = layer_cam(embedded, images, levels=(0, 3))
    with mode():
        got = layer_cam(embedded, images, levels=(0, 3))
        assert not torch.is_grad_enabled()
    assert_same_maps(got, want)


def test_bf16_is_close_to_fp32_but_not_the_same(resnet):
    images = photos()
    fp32 = layer_cam(resnet, images, levels=(2,))[2]
    bf16 = layer_cam(resnet, images, levels=(2,), precision="bf16")[2]
    assert bf16.dtype == np.float32
    assert not np.array_equal(fp32, bf16)
    assert np.corrcoef(fp32.ravel(), bf16.ravel())[0, 1] > 0.9


def test_weights_that_give_no_numbers_are_refused():
    module = Linear1x2()
    module.head.bias.data[0] = torch.nan
    network = as_network(module, {0: "filters"})
    with pytest.raises(WeightsError, match="not finite"):
        layer_cam(network, np.zeros((1, 1, 2, 3), np.uint8), levels=(0,))
