"""The taps of LayerCAM: nothing in a network stays changed, after success or refusal."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import timm
import torch
from torch import nn

from generator.saliency import layer_cam
from manifests.errors import ConfigError, ImageError, WeightsError
from manifests.weights import state_digest
from reference.cam_networks import as_network, lively, lively_resnet, photos


@pytest.fixture(scope="module")
def resnet():
    return lively_resnet()


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
