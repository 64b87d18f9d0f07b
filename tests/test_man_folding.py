"""A folded network is the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from manifests.folding import folded_network
from manifests.weights import Network, load_network, state_digest


def _network(module: nn.Module, *, taps: dict[int, str] | None = None) -> Network:
    module.eval().requires_grad_(False)
    return Network(
        name="own",
        module=module,
        digest=state_digest(module),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        levels=taps or {},
        stages={},
        source="random",
    )


def _n_norms(network: Network) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.module.modules())


def _lively(module: nn.Module) -> nn.Module:
    """Statistics and weights that a fold cannot get right by chance."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
            if part.affine:
                part.weight.data.copy_(torch.randn(part.num_features, generator=generator))
                part.bias.data.copy_(torch.randn(part.num_features, generator=generator))
    return module


class _Small(nn.Module):
    """conv - bn, with a choice of what else happens to the convolution's output."""

    def __init__(self, use: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.use = use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = self.conv(x)
        return self.use(given, self.norm(given)).mean(dim=(2, 3))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "mobilenetv3_small_050"])
def test_gives_the_same_outputs_everywhere(name):
    network = load_network(name, pretrained=name == "efficientnet_lite0")
    _lively(network.module) if name != "efficientnet_lite0" else None
    network = replace(network, digest=state_digest(network.module))
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    folded = folded_network(network)
    assert _n_norms(network) > 0 and _n_norms(folded) == 0
    assert folded.digest == network.digest and folded.levels == network.levels
    images = torch.rand((2, 3, 96, 64), generator=torch.Generator().manual_seed(2)) - 0.5
    outputs = []
    for one in (network, folded):
        taken = {}
        handles = [
            one.module.get_submodule(path).register_forward_hook(
                lambda _module, _inputs, output, path=path, taken=taken: taken.__setitem__(
                    path, output.clone()
                )
            )
            for path in {*one.levels.values(), *one.stages.values()}
        ]
        with torch.no_grad():
            taken["logits"] = one.module(images.clone())
        for handle in handles:
            handle.remove()
        outputs.append(taken)
    for path, expected in outputs[0].items():
        scale = expected.abs().max()
        assert float((outputs[1][path] - expected).abs().max()) <= 1e-4 * float(scale), path
    after = network.module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_by_hand():
    module = _Small(lambda _given, normed: normed)
    module.conv.weight.data.fill_(0.0)
    module.conv.weight.data[:, 0, 1, 1] = 2.0
    module.norm.running_mean.fill_(3.0)
    module.norm.running_var.fill_(4.0)
    module.norm.eps = 0.0
    module.norm.weight.data.fill_(5.0)
    module.norm.bias.data.fill_(7.0)
    folded = folded_network(_network(module)).module
    # (2 x - 3) / 2 * 5 + 7 = 5 x - 0.5
    assert folded.conv.weight[0, 0, 1, 1] == 5.0 and folded.conv.weight.count_nonzero() == 4
    assert folded.conv.bias.tolist() == [-0.5] * 4
    assert isinstance(folded.norm, nn.Identity)


def test_leaves_what_cannot_be_folded():
    with_both = _network(_lively(_Small(lambda given, normed: given + normed)))
    assert folded_network(with_both) is with_both
    is_tapped = _network(_lively(_Small(lambda _given, normed: normed)), taps={0: "conv"})
    assert _n_norms(folded_network(is_tapped)) == 1
    heard = _network(_lively(_Small(lambda _given, normed: normed)))
    heard.module.norm.register_forward_hook(lambda *_: None)
    assert folded_network(heard) is heard
    without = _Small(lambda _given, normed: normed)
    without.norm = nn.BatchNorm2d(4, track_running_stats=False)
    assert _n_norms(folded_network(_network(without))) == 1


def test_leaves_a_convolution_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(self.conv(x))).mean(dim=(2, 3))

    network = _network(_lively(Twice()))
    assert _n_norms(folded_network(network)) == 1


def test_refuses_training_mode():
    module = _Small(lambda _given, normed: normed)
    network = _network(module)
    module.train()
    with pytest.raises(ValueError, match="eval mode"):
        folded_network(network)
