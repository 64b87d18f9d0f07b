from __future__ import annotations

import dataclasses
import random

import cv2
import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage import data
from torch import nn

from generator.saliency import layer_cam, quantise, saliency_maps, upsample
from manifests.errors import ConfigError, ImageError, WeightsError
from manifests.stages import find_stages, vgg_pools
from manifests.weights import Network, load_network, state_digest
from reference.saliency import literal_layer_cam

HEIGHT_PX, WIDTH_PX = 64, 96


def photos(height=HEIGHT_PX, width=WIDTH_PX):
    pictures = (data.chelsea(), data.coffee())
    return np.stack(
        [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in pictures]
    )


def as_network(module, levels, *, mean=(120.0, 115.0, 100.0), std=(58.0, 57.0, 56.0)):
    module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Network(
        name="test",
        module=module,
        digest=state_digest(module),
        mean=mean,
        std=std,
        levels=levels,
        stages={},
        source="random",
    )


def lively(module):
    """Batch-norms away from the identity, and from the zero that some residual blocks start at."""
    generator = torch.Generator().manual_seed(3)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.copy_(torch.rand(layer.weight.shape, generator=generator) + 0.5)
            layer.bias.data.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.2)
    return module


@pytest.fixture(scope="module")
def embedded():
    return load_network()


@pytest.fixture(scope="module")
def resnet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = lively(timm.create_model("resnet18"))
    return as_network(module, find_stages("resnet18", module.eval()))


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


def test_nothing_is_changed_but_the_result(resnet):
    module = resnet.module.requires_grad_(True)
    images = photos()
    original = images.copy()
    markers = {}
    for name, parameter in module.named_parameters():
        parameter.grad = markers[name] = torch.full_like(parameter, 0.5)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    python_state = random.getstate()
    try:
        layer_cam(resnet, images, levels=(0, 1, 2, 3, 4))
        for name, parameter in module.named_parameters():
            assert parameter.requires_grad
            assert parameter.grad is markers[name]
            assert bool((parameter.grad == 0.5).all())
    finally:
        module.requires_grad_(False)
        for parameter in module.parameters():
            parameter.grad = None
    assert state_digest(module) == resnet.digest
    np.testing.assert_array_equal(images, original)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002


def test_the_backward_pass_ends_at_the_first_tap(resnet):
    ran, sources = [], []
    module = resnet.module.requires_grad_(True)
    handles = [
        module.get_submodule(path).register_full_backward_hook(
            lambda _module, _inputs, _outputs, path=path: ran.append(path)
        )
        for path in ("conv1", "layer1", "layer4")
    ]

    def note_source(_module, inputs):
        copied_from, _ = inputs[0].grad_fn.next_functions[0]
        sources.append(copied_from.name())

    # No backward hook on layer2 or layer3: it would stand between the tap and what reads it.
    handles.append(module.layer3[0].conv1.register_forward_pre_hook(note_source))
    try:
        layer_cam(resnet, photos(), levels=(4, 2))
    finally:
        module.requires_grad_(False)
        for handle in handles:
            handle.remove()
    assert ran == ["layer4"]
    assert len(sources) == 1
    # Nothing before the first tap is part of the graph, so none of it is kept in memory.
    assert "AccumulateGrad" in sources[0]


def n_hooks(module):
    return sum(len(layer._forward_hooks) + len(layer._backward_hooks) for layer in module.modules())


class Failing(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels):
        self.network(pixels)
        raise RuntimeError("out of memory")


def test_hooks_are_removed_after_success_and_after_failure(resnet):
    levels = tuple(resnet.levels)
    layer_cam(resnet, photos(), levels=levels)
    assert n_hooks(resnet.module) == 0

    paths = {level: f"network.{path}" for level, path in resnet.levels.items()}
    failing = as_network(Failing(resnet.module), paths)
    with pytest.raises(RuntimeError, match="out of memory"):
        layer_cam(failing, photos(), levels=levels)
    assert n_hooks(failing.module) == 0

    absent = dataclasses.replace(resnet, levels={0: "act1", 1: "no_such_layer"})
    with pytest.raises(AttributeError):
        layer_cam(absent, photos(), levels=(0, 1))
    assert n_hooks(resnet.module) == 0


def test_bf16_is_close_to_fp32_but_not_the_same(resnet):
    images = photos()
    fp32 = layer_cam(resnet, images, levels=(2,))[2]
    bf16 = layer_cam(resnet, images, levels=(2,), precision="bf16")[2]
    assert bf16.dtype == np.float32
    assert not np.array_equal(fp32, bf16)
    assert np.corrcoef(fp32.ravel(), bf16.ravel())[0, 1] > 0.9


def test_errors(resnet):
    images = photos()
    with pytest.raises(ConfigError, match=r"no saliency level 9 .expected some of 0, 1, 2, 3, 4"):
        layer_cam(resnet, images, levels=(1, 9))
    with pytest.raises(ConfigError, match="no saliency level given"):
        layer_cam(resnet, images, levels=())
    with pytest.raises(ConfigError, match="fp16"):
        layer_cam(resnet, images, levels=(1,), precision="fp16")
    with pytest.raises(ImageError, match=r"\(B, H, W, 3\) uint8.*\(64, 96, 3\) uint8"):
        layer_cam(resnet, images[0], levels=(1,))
    vector = dataclasses.replace(resnet, levels={0: "global_pool"})
    with pytest.raises(WeightsError, match=r"level 0 .global_pool. is no feature map"):
        layer_cam(vector, images, levels=(0,))
    assert n_hooks(resnet.module) == 0


def test_training_mode_is_refused_before_it_shifts_batch_norm():
    module = lively(timm.create_model("mobilenetv3_small_050", num_classes=5))
    network = as_network(module, {0: "bn1"})
    module.train()
    with pytest.raises(ValueError, match="eval mode"):
        layer_cam(network, photos(), levels=(0,))
    assert state_digest(module) == network.digest


def test_weights_that_give_no_numbers_are_refused():
    module = Linear1x2()
    module.head.bias.data[0] = torch.nan
    network = as_network(module, {0: "filters"})
    with pytest.raises(WeightsError, match="not finite"):
        layer_cam(network, np.zeros((1, 1, 2, 3), np.uint8), levels=(0,))


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
