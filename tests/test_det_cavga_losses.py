"""CAVGA's losses: by hand, against the literal ones, and where they reach."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detector.cavga.latent import Latent
from detector.cavga.losses import (
    UNSUPERVISED,
    WEAKLY_SUPERVISED,
    LossTerms,
    LossWeights,
    adversarial_loss,
    classifier_loss,
    discriminator_loss,
    divergence_loss,
    divergence_nats,
    expansion_loss,
    guided_loss,
    reconstruction_loss,
    squared_errors,
)
from manifests.errors import ConfigError
from reference.cavga import cross_entropy_literally, divergence_literally, guided_literally

LN2, LN3 = math.log(2.0), math.log(3.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_reconstruction_by_hand():
    # A reconstruction of 1/2 costs ln 2 whatever the image; one of 3/4 of white costs ln 4/3.
    targets = torch.tensor([1.0, 0.0, 0.3]).view(1, 3, 1, 1)
    assert reconstruction_loss(torch.zeros(1, 3, 1, 1), targets).item() == pytest.approx(LN2)
    white = torch.ones((1, 3, 1, 1))
    found = reconstruction_loss(torch.full((1, 3, 1, 1), LN3), white).item()
    assert found == pytest.approx(math.log(4.0 / 3.0))


def test_reconstruction_equals_the_literal_one_and_has_the_plain_slope():
    logits, targets = 2.0 * noise(2, 3, 4, 5).requires_grad_(), noise(2, 3, 4, 5, seed=1).sigmoid()
    logits.retain_grad()
    found = reconstruction_loss(logits, targets)
    expected = cross_entropy_literally(logits.detach().numpy(), targets.numpy())
    assert found.item() == pytest.approx(expected, rel=1e-12)
    found.backward()
    slope = (logits.detach().sigmoid() - targets) / targets.numel()
    torch.testing.assert_close(logits.grad, slope)


def test_saturated_reconstructions_keep_their_slope():
    logits = torch.full((1, 3, 1, 1), 200.0, requires_grad=True)
    loss = reconstruction_loss(logits, torch.zeros((1, 3, 1, 1)))
    loss.backward()
    assert loss.item() == 200.0
    assert logits.grad.flatten().tolist() == pytest.approx([1 / 3] * 3)


def test_the_divergence_by_hand():
    mean = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    log_variance = torch.tensor([[0.0, 0.0], [LN2, 0.0]])
    latent = Latent(mean, log_variance)
    assert divergence_nats(latent).tolist() == pytest.approx([0.5, 0.5 * (1.0 - LN2)])
    expected = (0.5 + 0.5 * (1.0 - LN2)) / 2 / 12
    assert divergence_loss(latent, n_colours=12).item() == pytest.approx(expected)
    assert divergence_nats(Latent(torch.zeros(2, 3), torch.zeros(2, 3))).tolist() == [0.0, 0.0]


def test_the_divergence_of_a_grid_equals_the_literal_one():
    mean, log_variance = noise(2, 3, 2, 2), noise(2, 3, 2, 2, seed=1)
    found = divergence_nats(Latent(mean, log_variance))
    for row in range(2):
        expected = divergence_literally(mean[row].numpy(), log_variance[row].numpy())
        assert found[row].item() == pytest.approx(expected, rel=1e-6)


def test_reconstruction_and_divergence_make_the_evidence_lower_bound():
    logits, targets = noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1).sigmoid()
    latent = Latent(noise(2, 6), noise(2, 6, seed=1))
    found = reconstruction_loss(logits, targets) + divergence_loss(latent, n_colours=60)
    bound = 0.0
    for row in range(2):
        bound -= 60 * cross_entropy_literally(logits[row].numpy(), targets[row].numpy())
        bound -= divergence_literally(latent.mean[row].numpy(), latent.log_variance[row].numpy())
    assert found.item() == pytest.approx(-bound / 2 / 60, rel=1e-6)


def test_the_adversaries_by_hand():
    zeros = torch.zeros(3)
    assert discriminator_loss(zeros, zeros).item() == pytest.approx(2 * LN2)
    assert adversarial_loss(zeros).item() == pytest.approx(LN2)
    # D(x) = 3/4, D(x_hat) = 1/4.
    real, fake = torch.full((2,), LN3), torch.full((5,), -LN3)
    assert discriminator_loss(real, fake).item() == pytest.approx(2 * math.log(4 / 3))
    assert adversarial_loss(fake).item() == pytest.approx(math.log(4.0))


def test_the_adversaries_are_stable_where_the_discriminator_is_sure():
    real, fake = torch.tensor([300.0]), torch.tensor([-300.0], requires_grad=True)
    assert discriminator_loss(real, fake).item() == 0.0
    assert discriminator_loss(-real, -fake).item() == 600.0
    loss = adversarial_loss(fake)
    loss.backward()
    assert loss.item() == 300.0
    assert fake.grad.item() == -1.0  # the paper's would be 0 here


def test_the_two_sides_oppose_each_other():
    fake = torch.tensor([0.7, -0.2], requires_grad=True)
    (down,) = torch.autograd.grad(discriminator_loss(torch.zeros(2), fake), fake)
    (up,) = torch.autograd.grad(adversarial_loss(fake), fake)
    assert (down > 0).all()
    assert (up < 0).all()


def test_expansion_by_hand():
    maps = torch.tensor([[[1.0, 0.5], [0.0, 0.5]], [[1.0, 1.0], [1.0, 1.0]]])
    assert expansion_loss(maps).item() == pytest.approx(0.25)


def test_guided_attention_by_hand():
    # Normal called normal: 1 - 0.75 + 0.25; normal called anomalous and anomalous: nothing.
    maps = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1).expand(3, 2, 4, 5)
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    found = guided_loss(maps, logits, torch.tensor([0, 0, 1]))
    assert found.item() == pytest.approx(0.5 / 3)
    assert guided_loss(maps, logits, torch.tensor([1, 1, 1])).item() == 0.0


def test_guided_attention_equals_the_literal_one():
    maps, logits = noise(6, 2, 3, 4).sigmoid().requires_grad_(), noise(6, 2, seed=1)
    labels = torch.tensor([0, 1, 0, 0, 1, 0])
    found = guided_loss(maps, logits.requires_grad_(), labels)
    expected = guided_literally(maps.detach().numpy(), logits.detach().numpy(), labels.tolist())
    assert found.item() == pytest.approx(expected, rel=1e-12)
    found.backward()
    assert logits.grad is None  # which images count is no function to climb
    is_counted = (labels == 0) & (logits[:, 0] >= logits[:, 1])
    assert 0 < is_counted.sum() < 4
    reached = maps.grad.abs().amax(dim=(1, 2, 3)) > 0
    assert torch.equal(reached, is_counted)
    assert (maps.grad[:, 0] <= 0).all()
    assert (maps.grad[:, 1] >= 0).all()


def test_the_classifiers_loss_by_hand():
    logits = torch.tensor([[LN3, 0.0], [0.0, 0.0]])  # p(normal) = 3/4 and 1/2
    labels = torch.tensor([0, 1])
    expected = (math.log(4 / 3) + LN2) / 2
    assert classifier_loss(logits, labels).item() == pytest.approx(expected)


def test_padding_does_not_count():
    shown = torch.zeros((2, 4, 5))
    shown[0, :, :3] = 1.0
    shown[1, 1:3] = 1.0
    clean, targets = noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1).sigmoid()
    maps = noise(2, 2, 4, 5, seed=2).sigmoid()
    logits, labels = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([0, 0])
    spoilt = torch.where(shown[:, None] > 0, clean, torch.full_like(clean, 50.0))
    spoilt_maps = torch.where(shown[:, None] > 0, maps, torch.zeros_like(maps))

    def losses(logits_, maps_):
        return [
            reconstruction_loss(logits_, targets, shown=shown),
            expansion_loss(maps_[:, 0], shown=shown),
            guided_loss(maps_, logits, labels, shown=shown),
            squared_errors(logits_.sigmoid(), targets, shown=shown).sum(),
        ]

    for found, expected in zip(losses(spoilt, spoilt_maps), losses(clean, maps), strict=True):
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    # Each image counts the same: means of the two parts, not of all shown pixels.
    halves = [
        cross_entropy_literally(clean[0, :, :, :3].numpy(), targets[0, :, :, :3].numpy()),
        cross_entropy_literally(clean[1, :, 1:3].numpy(), targets[1, :, 1:3].numpy()),
    ]
    found = reconstruction_loss(clean, targets, shown=shown)
    assert found.item() == pytest.approx(np.mean(halves), rel=1e-12)
    full = torch.ones((2, 4, 5), dtype=torch.float64)
    assert reconstruction_loss(clean, targets, shown=full).item() == pytest.approx(
        reconstruction_loss(clean, targets).item()
    )


def test_squared_errors_by_hand():
    images = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    assert squared_errors(images, torch.ones((2, 3, 2, 2))).tolist() == [1.0, 0.25]
    one = torch.full((1, 3, 2, 2), 0.5)
    assert squared_errors(one, images).tolist() == [0.25, 0.0]


def test_half_precision_is_not_summed_in_halves():
    logits = torch.zeros((1, 3, 64, 64), dtype=torch.bfloat16)
    assert reconstruction_loss(logits, logits).dtype == torch.float32
    latent = Latent(torch.ones((1, 4096), dtype=torch.bfloat16), torch.zeros((1, 4096)))
    assert divergence_nats(latent).item() == 2048.0


def test_the_papers_weights():
    assert LossWeights(1.0, 1.0, 0.01, 0.0, 0.0) == UNSUPERVISED
    assert LossWeights(1.0, 1.0, 0.0, 0.001, 0.01) == WEAKLY_SUPERVISED


def test_the_total_by_hand():
    terms = LossTerms(*(torch.tensor(value) for value in (1.0, 2.0, 10.0, 100.0, 1000.0, 10_000.0)))
    assert terms.total(UNSUPERVISED).item() == pytest.approx(3.0 + 10.0 + 1.0)
    assert terms.total(WEAKLY_SUPERVISED).item() == pytest.approx(3.0 + 10.0 + 1.0 + 100.0)
    weights = LossWeights(autoencoder=2.0, adversarial=0.0, expansion=0.0)
    assert LossTerms(torch.tensor(1.0), torch.tensor(2.0)).total(weights).item() == 6.0


def test_what_is_weighted_must_be_computed():
    terms = LossTerms(torch.tensor(1.0), torch.tensor(2.0), adversarial=torch.tensor(1.0))
    with pytest.raises(ConfigError, match="expansion is weighted"):
        terms.total(UNSUPERVISED)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_out_of_range_are_refused(value):
    with pytest.raises(ConfigError, match="guided"):
        LossWeights(guided=value)
