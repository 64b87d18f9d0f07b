"""Latent heads, decoder, discriminator, classifier: shapes, ranges, weights, a small training."""

from __future__ import annotations

import copy

import pytest
import torch

from detector.cavga.attention import attention, latent_evidence
from detector.cavga.classifier import LatentClassifier
from detector.cavga.decoder import Decoder
from detector.cavga.discriminator import Discriminator
from detector.cavga.latent import FlatLatentHead, Latent, LatentHead
from detector.cavga.losses import (
    LossTerms,
    LossWeights,
    adversarial_loss,
    discriminator_loss,
    divergence_loss,
    expansion_loss,
    reconstruction_loss,
    squared_errors,
)
from detector.stage_taps import stage_taps
from manifests.errors import ConfigError
from reference.small_networks import GEOMETRY, make_images, make_network


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat_head(generator: torch.Generator) -> FlatLatentHead:
    return FlatLatentHead(5, 7, grid=(3, 4), grid_channels=6, generator=generator, hidden=8)


MODULES = {
    "spatial": lambda generator: LatentHead(5, 6, generator=generator),
    "flat": flat_head,
    "decoder": lambda generator: Decoder(6, 4, generator=generator, width=8),
    "discriminator": lambda generator: Discriminator(generator=generator, width=4, n_layers=3),
    "classifier": lambda generator: LatentClassifier(30, generator=generator),
}


@pytest.mark.parametrize("name", MODULES)
def test_weights_follow_from_the_generator_alone(name):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = MODULES[name](stream(3)).state_dict()
    torch.rand(5)
    again, other = MODULES[name](stream(3)).state_dict(), MODULES[name](stream(4)).state_dict()
    torch.random.set_rng_state(state)
    MODULES[name](stream(5))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert all(torch.isfinite(tensor).all() for tensor in first.values())


def test_a_latent_keeps_its_grid():
    head = LatentHead(5, 6, generator=stream())
    latent = head(torch.randn((2, 5, 3, 4), generator=stream(1)))
    assert latent.mean.shape == latent.log_variance.shape == (2, 6, 3, 4)
    assert head.to_grid(latent.mean) is latent.mean
    assert head.grid_channels == 6
    # At the start all values are equally sure.
    assert latent.log_variance.unique().numel() == 1
    assert -4.0 < latent.log_variance[0, 0, 0, 0] < -3.5


def test_a_flat_latent_has_none_until_it_is_given_one():
    head = flat_head(stream())
    latent = head(torch.randn((2, 5, 3, 4), generator=stream(1)))
    assert latent.mean.shape == latent.log_variance.shape == (2, 7)
    assert head.to_grid(latent.mean).shape == (2, 6, 3, 4)
    assert head.grid_channels == 6
    # Every value sees every cell.
    features = torch.zeros((1, 5, 3, 4))
    moved = features.clone()
    moved[0, :, 2, 3] = 1.0
    assert ((head(moved).mean - head(features).mean).abs() > 1e-6).all()


def test_log_variances_are_bounded():
    head = LatentHead(5, 6, generator=stream())
    with torch.no_grad():
        head.log_variance.bias.copy_(torch.tensor([1e6, -1e6, 4.0, 5.0, 3.0, 4.0]))
        found = head(torch.zeros((1, 5, 1, 1))).log_variance[0, :, 0, 0]
    assert found[:3].tolist() == pytest.approx([10.0, -10.0, 0.0])
    assert found[3] == pytest.approx(1.0, abs=0.01)


def test_samples_have_the_latents_mean_and_variance():
    mean = torch.tensor([[1.0, -2.0]]).expand(20_000, 2)
    latent = Latent(mean, torch.tensor([[0.0, -2.0]]).expand(20_000, 2))
    first, again = latent.sample(stream(1)), latent.sample(stream(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, latent.sample(stream(2)))
    assert first.mean(dim=0).tolist() == pytest.approx([1.0, -2.0], abs=0.03)
    assert first.var(dim=0).tolist() == pytest.approx([1.0, 0.1353], rel=0.05)


def test_samples_pass_gradients_on():
    mean, log_variance = torch.zeros((1, 3)).requires_grad_(), torch.zeros((1, 3)).requires_grad_()
    sample = Latent(mean, log_variance).sample(stream(1))
    sample.sum().backward()
    assert mean.grad.tolist() == [[1.0, 1.0, 1.0]]
    torch.testing.assert_close(log_variance.grad, 0.5 * sample.detach())


@pytest.mark.parametrize("stride", [2, 4, 16, 32])
@pytest.mark.parametrize("is_even", [True, False])
def test_the_decoder_fills_any_canvas(stride, is_even):
    decoder = Decoder(6, stride, generator=stream(), width=4)
    size = (2 * stride, 3 * stride) if is_even else (2 * stride - 1, 3 * stride - stride // 2)
    grid = 3.0 * torch.randn((2, 6, 2, 3), generator=stream(1))
    image = decoder(grid, size)
    assert image.shape == (2, 3, *size)
    assert image.min() >= 0.0
    assert image.max() <= 1.0
    assert image.std() > 0.05
    torch.testing.assert_close(image, decoder.logits(grid, size).sigmoid())


def test_the_decoders_channels_halve_towards_the_image():
    decoder = Decoder(6, 32, generator=stream(), width=4)
    assert decoder.first.out_channels == 32
    assert [block.conv2.out_channels for block in decoder.blocks] == [32, 32, 16, 8, 4]
    assert decoder.last.in_channels == 4


def test_the_decoders_blocks_add_to_a_shortcut():
    block = Decoder(6, 2, generator=stream(), width=4).blocks[0]
    grid = torch.randn((2, 8, 2, 3), generator=stream(1))
    whole = block(grid)
    with torch.no_grad():
        block.conv2.weight.zero_()
    plain = torch.einsum("oc,bchw->bohw", block.shortcut.weight[:, :, 0, 0], grid)
    doubled = plain.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(block(grid), doubled)
    assert (whole - doubled).abs().mean() > 0.1


def test_the_decoder_treats_each_image_for_itself():
    decoder = Decoder(6, 8, generator=stream(), width=8)
    grid = torch.randn((3, 6, 2, 3), generator=stream(1))
    together = decoder(grid, (16, 24))
    torch.testing.assert_close(together[1:2], decoder(grid[1:2], (16, 24)))
    decoder.eval()
    torch.testing.assert_close(together, decoder(grid, (16, 24)))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (40, 96)])
def test_the_discriminator_gives_a_logit_per_image(size):
    discriminator = Discriminator(generator=stream(), width=4)
    images = torch.rand((3, 3, *size), generator=stream(1))
    logits = discriminator.eval()(images)
    assert logits.shape == (3,)
    torch.testing.assert_close(logits[1:2], discriminator(images[1:2]))


def test_images_too_small_for_the_discriminator_are_refused():
    discriminator = Discriminator(generator=stream(), width=4, n_layers=4)
    assert discriminator(torch.zeros((1, 3, 16, 16))).shape == (1,)
    with pytest.raises(ConfigError, match=r"at least 16 px, got 64×15"):
        discriminator(torch.zeros((1, 3, 64, 15)))


def test_the_discriminators_convolutions_have_norm_one():
    discriminator = Discriminator(generator=stream(), width=4, n_layers=3)
    images = torch.rand((2, 3, 16, 24), generator=stream(1))
    with torch.no_grad():
        discriminator.layers[2].conv.weight.mul_(7.0)
    for _ in range(60):
        discriminator(images)
    hidden = 2.0 * images - 1.0
    for layer in discriminator.layers[::2]:
        norm = torch.linalg.svdvals(layer.conv.weight.detach().flatten(1))[0]
        expected = torch.nn.functional.conv2d(
            hidden, layer.conv.weight / norm, layer.conv.bias, stride=2, padding=1
        )
        torch.testing.assert_close(layer(hidden), expected, rtol=1e-3, atol=1e-4)
        hidden = torch.nn.functional.leaky_relu(expected, 0.2)


def test_only_training_moves_the_norms():
    discriminator = Discriminator(generator=stream(), width=4, n_layers=2)
    images = torch.rand((2, 3, 16, 24), generator=stream(1))
    before = copy.deepcopy(discriminator.state_dict())
    discriminator.eval()(images)
    assert all(torch.equal(before[key], now) for key, now in discriminator.state_dict().items())
    discriminator.train()(images)
    assert not torch.equal(before["layers.0.left"], discriminator.layers[0].left)
    # A second pass before the first one's backward, as an update has it.
    first = discriminator(images)
    (first - discriminator(1.0 - images)).sum().backward()
    assert discriminator.layers[0].conv.weight.grad.abs().max() > 0.0


def test_the_classifier_takes_either_latent():
    classifier = LatentClassifier(24, generator=stream())
    values = torch.randn((2, 2, 3, 4), generator=stream(1))
    assert classifier(values).shape == (2, 2)
    assert torch.equal(classifier(values), classifier(values.flatten(1)))


@pytest.mark.parametrize("stride", [0, 1, 3, 24, -4])
def test_strides_that_are_no_powers_of_two_are_refused(stride):
    with pytest.raises(ConfigError, match="stride"):
        Decoder(6, stride, generator=stream())


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("latent_channels", lambda g: LatentHead(5, 0, generator=g)),
        ("hidden", lambda g: LatentHead(5, 2, generator=g, hidden=0)),
        ("h out", lambda g: FlatLatentHead(5, 2, grid=(0, 3), grid_channels=2, generator=g)),
        (
            "latent_values",
            lambda g: FlatLatentHead(5, 0, grid=(2, 3), grid_channels=2, generator=g),
        ),
        ("width", lambda g: Decoder(6, 4, generator=g, width=0)),
        ("width", lambda g: Discriminator(generator=g, width=0)),
        ("n_layers", lambda g: Discriminator(generator=g, n_layers=0)),
        ("n_values", lambda g: LatentClassifier(0, generator=g)),
    ],
)
def test_empty_networks_are_refused(name, build):
    with pytest.raises(ConfigError, match=name):
        build(stream())


def train(weights: LossWeights, *, is_flat: bool = False, n_updates: int = 30) -> dict:
    """A small CAVGA on four images: its log, and what it has become."""
    network = make_network(channels=8)
    module = copy.deepcopy(network.module).requires_grad_(True)
    height, width = GEOMETRY.height, GEOMETRY.width
    images = torch.from_numpy(make_images(4))
    targets = images.permute(0, 3, 1, 2).float() / 255.0
    if is_flat:
        head = FlatLatentHead(8, 16, grid=(4, 6), grid_channels=8, generator=stream(), hidden=16)
    else:
        head = LatentHead(8, 8, generator=stream(), hidden=16)
    decoder = Decoder(8, 8, generator=stream(1), width=8)
    discriminator = Discriminator(generator=stream(2), width=4, n_layers=3)
    learners = [*module.parameters(), *head.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(learners, 2e-3, betas=(0.5, 0.999))
    opponent = torch.optim.Adam(discriminator.parameters(), 5e-4, betas=(0.5, 0.999))
    noise = stream(3)
    log = []
    for _ in range(n_updates):
        with stage_taps(module, [network.stages[2]], is_last=True) as taken:
            module.forward_features(network.preprocess(images))
        features = taken[network.stages[2]]
        latent = head(features)
        evidence = latent_evidence(features, latent.mean, create_graph=True)
        maps = attention(evidence, "sigmoid", size=(height, width))
        logits = decoder.logits(head.to_grid(latent.sample(noise)), (height, width))
        discriminator.requires_grad_(True)
        fake = discriminator(logits.detach().sigmoid())
        opposed = discriminator_loss(discriminator(targets), fake)
        opponent.zero_grad()
        opposed.backward()
        opponent.step()
        discriminator.requires_grad_(False)
        terms = LossTerms(
            reconstruction=reconstruction_loss(logits, targets),
            divergence=divergence_loss(latent, n_colours=3 * height * width),
            adversarial=adversarial_loss(discriminator(logits.sigmoid())),
            expansion=expansion_loss(maps),
        )
        total = terms.total(weights)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        error = squared_errors(logits.detach().sigmoid(), targets).mean()
        figures = (total, opposed, *vars(terms).values(), error, maps.mean())
        log.append([figure.detach().item() for figure in figures if figure is not None])
    state = {**module.state_dict(), **{f"d{k}": v for k, v in decoder.state_dict().items()}}
    return {
        "log": torch.tensor(log),
        "state": state,
        "reconstruction": torch.tensor([row[2] for row in log]),
        "error": torch.tensor([row[-2] for row in log]),
        "attention": torch.tensor([row[-1] for row in log]),
        "spread": targets.var(dim=(0, 2, 3), unbiased=False).mean(),
    }


@pytest.mark.parametrize("is_flat", [False, True])
def test_a_small_training_learns_to_reconstruct(is_flat):
    run = train(LossWeights(), is_flat=is_flat)
    assert torch.isfinite(run["log"]).all()
    assert run["reconstruction"][-5:].mean() < 0.97 * run["reconstruction"][:5].mean()
    # Better than one colour for everything, where it began as worse.
    assert run["error"][0] > run["spread"]
    assert run["error"][-5:].mean() < 0.7 * run["spread"]


def test_the_expansion_loss_expands_attention():
    runs = [train(LossWeights(expansion=weight)) for weight in (0.0, 1.0)]
    without, with_loss = (run["attention"] for run in runs)
    assert without[0] == with_loss[0]
    assert with_loss[-1] > without[-1] + 0.1
    assert with_loss[-1] > with_loss[0]


def test_a_training_repeats_to_the_bit():
    first, again = train(LossWeights(), n_updates=4), train(LossWeights(), n_updates=4)
    assert torch.equal(first["log"], again["log"])
    assert all(torch.equal(first["state"][key], again["state"][key]) for key in first["state"])
