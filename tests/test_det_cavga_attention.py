"""Attention from the latent: against the literal one, its gradients, its bounds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from detector.cavga.attention import (
    CEILINGS,
    NORMALISERS,
    attention,
    class_evidence,
    infer_attention,
    infer_class_attention,
    latent_evidence,
)
from detector.cavga.classifier import LatentClassifier
from detector.cavga.latent import FlatLatentHead, LatentHead
from detector.cavga.losses import expansion_loss, guided_loss
from detector.stage_taps import stage_taps
from manifests.errors import ConfigError, ModelError
from manifests.weights import load_network
from reference.cavga import attention_literally, directional_slope_literally, slope_literally

SIZE = (12, 22)  # px; no multiple of the grid


def features_of(seed: int = 0, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, 4, 3, 5), generator=generator, dtype=torch.float64)


def spatial_head() -> LatentHead:
    return LatentHead(4, 6, generator=torch.Generator().manual_seed(1), hidden=7).double()


def flat_head() -> FlatLatentHead:
    generator = torch.Generator().manual_seed(2)
    return FlatLatentHead(
        4, 6, grid=(3, 5), grid_channels=2, generator=generator, hidden=7
    ).double()


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("make_head", [spatial_head, flat_head])
def test_attention_equals_the_literal_one(make_head, normaliser):
    head, features = make_head(), features_of()
    found = infer_attention(head, features, normaliser, size=SIZE)
    with torch.no_grad():
        expected = attention_literally(lambda f: head(f).mean.mean(), features, normaliser, SIZE)
    assert found.shape == (3, *SIZE)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_attention_to_classes_equals_the_literal_one():
    head, features = spatial_head(), features_of()
    classifier = LatentClassifier(90, generator=torch.Generator().manual_seed(3)).double()
    found = infer_class_attention(head, classifier, features, "sigmoid", size=SIZE)
    assert found.shape == (3, 2, *SIZE)
    with torch.no_grad():
        for label in (0, 1):
            expected = attention_literally(
                lambda f, label=label: classifier(head(f).mean)[0, label],
                features,
                "sigmoid",
                SIZE,
            )
            np.testing.assert_allclose(found[:, label].numpy(), expected, atol=1e-6)
    assert (found[:, 0] - found[:, 1]).abs().max() > 0.1


def test_evidence_by_hand():
    # The mean of z = 2 F_0 - F_1 over its four cells: each gradient is 2/4 or -1/4, their sums over
    # cells 2 and -1, so that the evidence is z itself.
    features = torch.tensor([[[[1.0, 0.0], [3.0, -1.0]], [[0.5, 2.0], [1.0, 0.0]]]])
    features.requires_grad_()
    mean = 2.0 * features[:, :1] - features[:, 1:]
    evidence = latent_evidence(features, mean, create_graph=False)
    assert evidence.tolist() == [[[1.5, -2.0], [5.0, -2.0]]]
    assert evidence.mean().item() == pytest.approx(mean.mean().item())


def test_evidence_does_not_depend_on_the_grid():
    cell = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    found = []
    for grid in ((2, 2), (4, 8)):
        features = cell.expand(1, 2, *grid).clone().requires_grad_()
        mean = (0.3 * features).sum(dim=1, keepdim=True)
        found.append(latent_evidence(features, mean, create_graph=False).mean().item())
    assert found == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize("make_head", [spatial_head, flat_head])
def test_each_image_weighs_the_channels_for_itself(make_head):
    head, features = make_head(), features_of().requires_grad_()
    (gradients,) = torch.autograd.grad(head(features).mean.sum(), features)
    weights = gradients.sum(dim=(2, 3))
    assert (weights[0] - weights[1]).abs().max() > 0.1 * weights.abs().max()


def test_images_do_not_interact():
    head, features = spatial_head(), features_of(batch=4)
    together = infer_attention(head, features, "ratio", size=SIZE)
    for row in range(4):
        alone = infer_attention(head, features[row : row + 1], "ratio", size=SIZE)
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_the_gradient_of_the_expansion_loss_equals_finite_differences(normaliser):
    """Also where it reaches weights only through the gradients, that is, in second order."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn((2, 3, 6, 10), generator=generator, dtype=torch.float64)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Tanh()).double()
    for parameter in encoder.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3
    head = spatial_head()

    def loss(*, create_graph: bool = False) -> torch.Tensor:
        features = encoder(pixels)
        evidence = latent_evidence(features, head(features).mean, create_graph=create_graph)
        return expansion_loss(attention(evidence, normaliser, size=SIZE))

    loss(create_graph=True).backward()
    assert not loss().requires_grad
    checked = [encoder[0].weight, encoder[0].bias, head.body[0].weight, head.mean.weight]
    for parameter in checked:
        gradient = parameter.grad
        assert gradient.abs().max() > 1e-5
        # The largest, and a few others.
        largest = int(gradient.abs().argmax())
        for flat in {largest, 0, gradient.numel() // 2, gradient.numel() - 1}:
            place = tuple(int(i) for i in np.unravel_index(flat, gradient.shape))
            expected = slope_literally(loss, parameter, place)
            assert gradient[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)
    # Evidence does not know what is added to the latent, nor how sure the encoder is.
    assert head.mean.bias.grad is None
    assert head.log_variance.weight.grad is None


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_second_order_gradients_pass_through_real_backbones(name):
    """The gradients go from stage 4 through convolutions, batch norms and ReLUs to stage 3."""
    network = load_network(name, pretrained=name == "efficientnet_lite0")
    module = copy.deepcopy(network.module).double().requires_grad_(True)
    taps = [network.stages[3], network.stages[4]]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn((2, 3, 64, 96), generator=generator, dtype=torch.float64)

    def features() -> list[torch.Tensor]:
        with stage_taps(module, taps, is_last=True) as taken:
            module.forward_features(pixels)
        return [taken[tap] for tap in taps]

    with torch.no_grad():
        width = features()[1].shape[1]
    head = LatentHead(width, 4, generator=generator, hidden=8).double()

    def loss(*, create_graph: bool = False) -> torch.Tensor:
        at_stage_3, last = features()
        evidence = latent_evidence(at_stage_3, head(last).mean, create_graph=create_graph)
        return expansion_loss(attention(evidence, "sigmoid", size=(64, 96)))

    total = loss(create_graph=True)
    total.backward()
    last_convs = [
        parameter
        for part in module.get_submodule(taps[1]).modules()
        if isinstance(part, nn.Conv2d)
        for parameter in part.parameters()
    ]
    for parameters in (last_convs, [head.body[0].weight, head.mean.weight]):
        directions = [torch.randn(p.shape, generator=generator).double() for p in parameters]
        slope = sum(
            (p.grad * direction).sum().item()
            for p, direction in zip(parameters, directions, strict=True)
        )
        # Small steps: a ReLU that switches on the way is a jump of the gradients.
        expected = directional_slope_literally(loss, parameters, directions, 1e-8)
        assert abs(slope) > 1e-4
        assert slope == pytest.approx(expected, rel=1e-3)


def test_inference_leaves_nothing_behind():
    head, features = spatial_head(), features_of()
    before = features.clone()
    evidence_features = features.clone().requires_grad_()
    trained = attention(
        latent_evidence(evidence_features, head(evidence_features).mean, create_graph=True),
        "sigmoid",
        size=SIZE,
    )
    assert trained.requires_grad
    plain = infer_attention(head, features, "sigmoid", size=SIZE)
    with torch.no_grad():
        without_grad = infer_attention(head, features, "sigmoid", size=SIZE)
    with torch.inference_mode():
        made_inside = features * 1.0
        inside = infer_attention(head, made_inside, "sigmoid", size=SIZE)
    for found in (plain, without_grad, inside):
        assert not found.requires_grad
        assert torch.equal(found, trained.detach())
    assert torch.equal(features, before)
    assert not features.requires_grad
    assert all(parameter.grad is None for parameter in head.parameters())


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_bounds_and_order(normaliser):
    line = torch.linspace(-40.0, 40.0, 81).view(1, 9, 9)
    values = attention(line, normaliser, size=(9, 9))
    assert values.min() >= 0.0
    assert values.max() <= 1.0
    assert (values.flatten().diff() >= 0.0).all()
    assert values[0, 0, 0] < 0.1
    assert values[0, 8, 8] > 0.9
    # Of an even map that is strong enough, attention nears its ceiling in all cells.
    even = attention(torch.full((1, 3, 5), 4.0), normaliser, size=SIZE)
    torch.testing.assert_close(even, torch.full((1, *SIZE), CEILINGS[normaliser]))
    assert CEILINGS[normaliser] > 0.9
    # Where the evidence is even and negative, so is the answer.
    assert attention(torch.full((1, 3, 5), -4.0), normaliser, size=SIZE).max() < 0.15
    dead = attention(torch.zeros((1, 3, 5)), normaliser, size=SIZE)
    assert torch.isfinite(dead).all()


def test_the_normalisers_by_hand():
    evidence = torch.tensor([[[0.0, 0.25 * np.log(3.0)]]], dtype=torch.float64)
    assert NORMALISERS["sigmoid"](evidence)[0, 0].tolist() == pytest.approx([0.5, 0.75])
    # Root mean square 1, so that the smooth positive part is (e + sqrt(e² + 1/16)) / 2.
    found = NORMALISERS["ratio"](torch.tensor([[[1.0, -1.0]]], dtype=torch.float64))[0, 0].tolist()
    root = np.sqrt(1.0 + 1.0 / 16.0)
    raised = [(root + 1.0) / 2.0, (root - 1.0) / 2.0]
    assert found == pytest.approx([m / (m + 0.1) for m in raised], rel=1e-5)


def test_ratio_ignores_scale_and_sigmoid_does_not():
    evidence = torch.randn((2, 4, 5), generator=torch.Generator().manual_seed(0))
    ratio, sigmoid = NORMALISERS["ratio"], NORMALISERS["sigmoid"]
    torch.testing.assert_close(ratio(evidence), ratio(10.0 * evidence), atol=1e-5, rtol=1e-5)
    assert (sigmoid(evidence) - sigmoid(10.0 * evidence)).abs().max() > 0.1
    # Evidence far below the latent's unit is none.
    assert ratio(1e-6 * evidence.abs()).max() < 0.6


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_slopes_are_bounded_and_act_where_attention_is_low(normaliser):
    evidence = torch.linspace(-1.0, 1.0, 40, dtype=torch.float64).view(1, 5, 8).requires_grad_()
    expansion_loss(attention(evidence, normaliser, size=(5, 8))).backward()
    slopes = evidence.grad.flatten() * evidence.numel()
    assert slopes.abs().max() < 3.0 / np.sqrt(evidence.square().mean().item())
    assert (slopes[:20] < -1e-3).all()  # raising what is low lowers the loss


def test_each_class_is_normalised_for_itself():
    maps = torch.randn((2, 2, 3, 5), generator=torch.Generator().manual_seed(0))
    found = attention(maps, "ratio", size=SIZE)
    assert found.shape == (2, 2, *SIZE)
    for label in (0, 1):
        torch.testing.assert_close(found[:, label], attention(maps[:, label], "ratio", size=SIZE))


def test_guided_attention_has_gradients_of_second_order():
    head, features = spatial_head(), features_of()
    classifier = LatentClassifier(90, generator=torch.Generator().manual_seed(3)).double()
    labels = torch.tensor([0, 0, 1])

    def loss(*, create_graph: bool = False) -> torch.Tensor:
        leaf = features.clone().requires_grad_()
        logits = classifier(head(leaf).mean)
        evidence = class_evidence(leaf, logits, create_graph=create_graph)
        maps = attention(evidence, "sigmoid", size=SIZE)
        return guided_loss(maps, torch.tensor([[1.0, 0.0]] * 3), labels)

    loss(create_graph=True).backward()
    for parameter in (classifier.linear.weight, head.mean.weight, head.body[0].weight):
        place = tuple(
            int(i) for i in np.unravel_index(int(parameter.grad.abs().argmax()), parameter.shape)
        )
        expected = slope_literally(loss, parameter, place)
        assert parameter.grad[place].item() == pytest.approx(expected, rel=1e-4)


def test_half_precision_becomes_float32():
    head = LatentHead(4, 6, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = infer_attention(head, features_of().bfloat16(), "sigmoid", size=SIZE)
    assert found.dtype == torch.float32


def test_misuse_is_named():
    head, features = spatial_head(), features_of()
    with pytest.raises(ConfigError, match=r"unknown normaliser .*sigmoid, ratio"):
        attention(torch.zeros((1, 3, 5)), "minmax", size=SIZE)
    with pytest.raises(ModelError, match="needs gradients"):
        latent_evidence(features, head(features).mean, create_graph=True)
    leaf = features.clone().requires_grad_()
    with pytest.raises(ModelError, match="does not depend"):
        latent_evidence(leaf, head(features).mean, create_graph=True)
