"""Cutting a network behind its frozen stages: both parts together are the network."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from detector.frozen_prefix import FrozenPrefix, frozen_modules, pooled_features, probe
from manifests.errors import ConfigError
from manifests.weights import load_network


def cut(network, n_stages: int) -> FrozenPrefix:
    _, ranks = probe(network.module, "cpu")
    return FrozenPrefix(network, network.module, ranks, n_stages, device="cpu")


def inputs(side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn((3, 3, side, side + 32), generator=generator).contiguous(
        memory_format=torch.channels_last
    )


def assert_cut(network, n_stages: int) -> None:
    prefix = cut(network, n_stages)
    with torch.no_grad():
        expected = pooled_features(network.module, inputs())
        activations = prefix.activations(inputs())
        assert torch.equal(pooled_features(prefix.suffix, activations), expected)
    stride = 2**n_stages
    assert activations.shape[2:] == (64 // stride, 96 // stride)
    # The rest has the weights of the network itself, and none that are frozen.
    _, ranks = probe(network.module, "cpu")
    frozen = frozen_modules(network, network.module, ranks, n_stages)
    frozen_names = {
        f"{name}.{own}"
        for name, module in network.module.named_modules()
        if module in frozen
        for own, _ in module.named_parameters(recurse=False)
    }
    whole = dict(network.module.named_parameters())
    rest = dict(prefix.suffix.named_parameters())
    assert rest.keys() == whole.keys() - frozen_names and frozen_names
    assert all(rest[name] is whole[name] for name in rest)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_both_parts_together_are_the_network(name):
    network = load_network(name, pretrained=False, seed=3)
    for n_stages in range(1, 6):
        assert_cut(network, n_stages)


@pytest.mark.slow
def test_vgg_can_be_cut():
    network = load_network("vgg16", pretrained=False, seed=3)
    for n_stages in (1, 2, 4):
        assert_cut(network, n_stages)


def test_a_stage_that_is_one_layer_can_be_cut():
    assert_cut(load_network("mobilenetv3_small_050", pretrained=False), 1)


class Toy(nn.Module):
    """Two convolutions, with or without something that passes the cut between them."""

    def __init__(self, kind: str):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.act = nn.SiLU() if kind == "shared SiLU" else nn.ReLU()
        self.stage = nn.Identity()
        self.second = nn.Conv2d(7 if kind == "skip" else 4, 5, 1)
        self.kind = kind

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stage(self.act(self.first(x)))
        if self.kind == "skip":
            y = torch.cat([y, nn.functional.avg_pool2d(x, 2)], dim=1)
        return self.act(self.second(y))

    def forward_head(self, x: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return x.mean(dim=(2, 3))


@pytest.mark.parametrize("kind", ["plain", "skip", "shared SiLU"])
def test_what_passes_the_cut_beside_the_stage_is_refused(kind):
    base = load_network("test_resnet", pretrained=False)
    network = dataclasses.replace(base, name="toy", module=Toy(kind).eval(), stages={0: "stage"})
    if kind == "plain":  # a ReLU that is used again is one more ReLU, which changes nothing
        assert isinstance(cut(network, 1).suffix.first, nn.Identity)
        return
    with pytest.raises(ConfigError, match=r"--cache-activations cannot be used with toy .*stage 0"):
        cut(network, 1)


def test_a_cut_leaves_the_network_as_it_was():
    network = load_network("test_resnet", pretrained=False)
    names = [name for name, _ in network.module.named_modules()]
    prefix = cut(network, 2)
    prefix.activations(inputs())
    assert [name for name, _ in network.module.named_modules()] == names
    assert not any(part._forward_hooks for part in network.module.modules())
    assert isinstance(prefix.suffix.layer1, nn.Identity)
    assert type(prefix.suffix.layer2) is type(network.module.layer2)
