"""Guidance and segmenter: shapes, fusion, threads, copies, and that they learn."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from detector.guided.folded import folded
from detector.guided.fused_encoder import Fusion
from detector.guided.guidance import Guidance
from detector.guided.losses import focal_loss, reconstruction_loss
from detector.guided.segmenter import Segmenter
from manifests.errors import ConfigError
from manifests.weights import Network, load_network
from reference.guided import fused_stages_literally, fusion_literally
from reference.small_networks import make_images, make_network

ODD = (45, 70)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


def stir(module: nn.Module, seed: int = 0) -> None:
    """Weights and statistics away from where they start: fusions that do something."""
    generator = seeded(seed)
    for name, tensor in module.state_dict().items():
        if "fusions" in name and tensor.is_floating_point():
            drawn = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(drawn + 0.5 if "running_var" in name else 0.6 * (drawn - 0.3))


def make_pair(network: Network | None = None, *, width: int = 2) -> tuple[Guidance, Segmenter]:
    guidance = Guidance(width=width, generator=seeded(1))
    segmenter = Segmenter(
        network or make_network(depth=5),
        guidance_channels=guidance.channels,
        width=width,
        generator=seeded(2),
    )
    return guidance.eval(), segmenter.eval()


def pixels_of(network: Network, count: int = 2, canvas: tuple[int, int] = (32, 48)) -> torch.Tensor:
    return network.preprocess(np.resize(make_images(count), (count, *canvas, 3)))


# guidance


@pytest.mark.parametrize("canvas", [(32, 48), ODD, (33, 161)])
def test_guidance_has_four_grids_and_a_picture(canvas):
    guidance = Guidance(width=3, generator=seeded()).eval()
    assert guidance.channels == (3, 6, 12, 24)
    pixels = noise(2, 3, *canvas).sigmoid()
    with torch.no_grad():
        reconstruction, features = guidance(pixels)
        alone = guidance.features(pixels)
    assert reconstruction.shape == pixels.shape and reconstruction.dtype == torch.float32
    assert reconstruction.min() >= 0.0 and reconstruction.max() <= 1.0
    for stride, channels, level in zip((2, 4, 8, 16), guidance.channels, features, strict=True):
        grid = [-(-side // stride) for side in canvas]
        assert list(level.shape) == [2, channels, *grid]
    for one, other in zip(features, alone, strict=True):
        assert torch.equal(one, other)


def test_nothing_bypasses_the_code():
    guidance = Guidance(width=2, generator=seeded()).train()
    images = [noise(2, 3, 64, 64, seed=seed).sigmoid() for seed in range(2)]
    code = noise(2, 16, 2, 2)
    guidance.down[-1].register_forward_hook(lambda *_: code)
    for one, other in zip(*(guidance.features(each) for each in images), strict=True):
        assert one.abs().max() > 0
        assert torch.equal(one, other)


def test_images_become_pixels_between_0_and_1():
    images = make_images(2)
    images[0, 0, 0] = (0, 51, 255)
    before = images.copy()
    pixels = Guidance.preprocess(images[:, ::-1])
    assert pixels.shape == (2, 3, 32, 48) and pixels.dtype == torch.float32
    assert pixels[0, :, -1, 0].tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert torch.equal(Guidance.preprocess(torch.from_numpy(images)), pixels.flip(2))
    np.testing.assert_array_equal(images, before)


# fusion


def test_a_fusion_starts_without_effect_but_not_without_gradient():
    fusion = Fusion(3, 2, seeded()).train()
    stage, guidance = noise(2, 3, 4, 5), noise(2, 2, 4, 5, seed=1)
    found = fusion(stage, guidance)
    assert torch.equal(found, stage)
    found.square().sum().backward()
    assert fusion.zero.weight.grad.abs().min() > 0
    with torch.no_grad():
        fusion.zero.weight -= 0.01 * fusion.zero.weight.grad
    fusion(stage, guidance).square().sum().backward()
    assert fusion.join[0].weight.grad.abs().max() > 0


def test_a_fusion_equals_the_literal_one():
    fusion = Fusion(3, 2, seeded())
    holder = nn.ModuleDict({"fusions": fusion})
    stir(holder)
    holder.eval()
    stage, guidance = noise(1, 3, 4, 5), noise(1, 2, 4, 5, seed=1)
    with torch.no_grad():
        found = fusion(stage, guidance)[0]
    expected = fusion_literally(stage[0].double().numpy(), guidance[0].double().numpy(), fusion)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert (found - stage[0]).abs().max() > 0.1


@pytest.mark.parametrize("canvas", [(32, 48), ODD])
def test_what_is_fused_goes_into_the_next_stage_and_to_the_decoder(canvas):
    network = make_network(channels=4, depth=5)
    guidance, segmenter = make_pair(network)
    stir(segmenter)
    pixels = pixels_of(network, canvas=canvas)
    with torch.no_grad():
        features = guidance.features(noise(2, 3, *canvas).sigmoid())
        found = segmenter.encoder(pixels, features)
        expected = fused_stages_literally(network, segmenter.encoder, pixels, features)
        plain = segmenter.encoder(pixels)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, plain, strict=True):
        assert not torch.allclose(one, other, atol=1e-3)


# segmenter


def test_at_the_start_guidance_makes_no_difference():
    network = make_network(depth=5)
    guidance, segmenter = make_pair(network)
    pixels = pixels_of(network)
    with torch.no_grad():
        guided = segmenter(pixels, guidance.features(noise(2, 3, 32, 48)))
        assert torch.equal(guided, segmenter(pixels))
        stir(segmenter)
        changed = segmenter(pixels, guidance.features(noise(2, 3, 32, 48)))
    assert not torch.allclose(changed, guided, atol=1e-3)


def test_a_network_without_guidance_is_the_ablation():
    network = make_network(depth=5)
    segmenter = Segmenter(network, width=2, generator=seeded()).eval()
    assert not any("fusions" in name for name in segmenter.state_dict())
    logits = segmenter(pixels_of(network))
    assert logits.shape == (2, 32, 48)
    with pytest.raises(ValueError, match="without guidance"):
        segmenter(
            pixels_of(network), Guidance(width=2, generator=seeded()).features(noise(2, 3, 32, 48))
        )


def test_the_first_logits_call_nearly_everything_normal():
    network = make_network(depth=5)
    _, segmenter = make_pair(network)
    assert segmenter(pixels_of(network)).sigmoid().mean().item() == pytest.approx(0.01, rel=0.7)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "convnext_atto"])
def test_pretrained_networks_on_odd_canvases(name):
    network = load_network(name, pretrained=name == "efficientnet_lite0")
    guidance, segmenter = make_pair(network, width=4)
    encoder = segmenter.encoder
    assert encoder.stages == tuple(network.stages)
    assert set(encoder.fusions) == {str(stage) for stage in network.stages if stage < 4}
    pixels = pixels_of(network, canvas=ODD)
    with torch.no_grad():
        logits = segmenter(pixels, guidance.features(noise(2, 3, *ODD).sigmoid()))
        stages = encoder(pixels)
    assert logits.shape == (2, *ODD) and logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert encoder.channels == tuple(stage.shape[1] for stage in stages)


def test_bf16_is_close_and_gives_float32():
    network = load_network("efficientnet_lite0")
    guidance, segmenter = make_pair(network, width=4)
    pixels, reference = pixels_of(network, canvas=(64, 96)), noise(2, 3, 64, 96).sigmoid()
    with torch.no_grad():
        expected = segmenter(pixels, guidance.features(reference))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reconstruction, features = guidance(reference)
            found = segmenter(pixels, features)
    assert found.dtype == reconstruction.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.05


def test_the_network_given_stays_as_it_is():
    network = make_network(depth=5)
    before = copy.deepcopy(network.module.state_dict())
    _, segmenter = make_pair(network)
    segmenter.train()
    segmenter(pixels_of(network), None).sum().backward()
    assert not network.module.training
    assert not any(part._forward_hooks for part in network.module.modules())
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(each.requires_grad for each in network.module.parameters())


def test_only_what_reaches_the_last_stage_is_trained_and_frozen_stages_are_not():
    network = load_network("efficientnet_lite0")
    segmenter = Segmenter(
        network, guidance_channels=(2, 4, 8, 16), width=2, freeze_stages=2, generator=seeded()
    ).train()
    trained = {name for name, each in segmenter.named_parameters() if each.requires_grad}
    backbone = {name.split(".", 2)[2] for name in trained if ".backbone." in name}
    assert {name.rsplit(".", 1)[0].split(".")[0] for name in backbone} == {"blocks"}
    assert {name.split(".")[1] for name in backbone} == {"2", "3", "4", "5", "6"}
    assert {"encoder.fusions.0.zero.weight", "head.weight"} <= trained
    before = copy.deepcopy(segmenter.encoder.backbone.state_dict())
    segmenter(pixels_of(network, canvas=(64, 64)), None).sum().backward()
    for name, each in segmenter.named_parameters():
        is_fusion = "fusions" in name  # without guidance they do not run
        assert (each.grad is not None) == (name in trained and not is_fusion), name
    moved = {
        name
        for name, tensor in segmenter.encoder.backbone.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert {name.split(".")[1] for name in moved} == {"2", "3", "4", "5", "6"}


def test_options_out_of_range_are_refused():
    network = make_network(depth=5)
    with pytest.raises(ConfigError, match="6 stages of small cannot be frozen"):
        Segmenter(network, freeze_stages=6, generator=seeded())
    with pytest.raises(ConfigError, match="other strides"):
        Segmenter(network, guidance_channels=(1, 2, 3), generator=seeded())
    with pytest.raises(ConfigError, match="decoder width"):
        Segmenter(network, width=0, generator=seeded())
    with pytest.raises(ConfigError, match="guidance width"):
        Guidance(width=0, generator=seeded())


# what belongs to one call, one thread, one copy


def test_threads_do_not_see_each_others_guidance():
    network = make_network(depth=5)
    guidance, segmenter = make_pair(network)
    stir(segmenter)
    pixels = pixels_of(network)
    with torch.no_grad():
        features = [
            [5 * noise(*each.shape, seed=seed) for each in guidance.features(noise(2, 3, 32, 48))]
            for seed in range(2)
        ]
        expected = [segmenter(pixels, each) for each in features]
        plain = segmenter(pixels)
    assert not torch.allclose(*expected, atol=1e-3)
    # All three are inside the network at the same time.
    meeting = threading.Barrier(3)

    def meet(*_: object) -> None:
        meeting.wait(timeout=20)

    segmenter.encoder.backbone.get_submodule("stages.2").register_forward_pre_hook(meet)

    def score(guidance: list[torch.Tensor] | None) -> torch.Tensor:
        with torch.no_grad():
            return segmenter(pixels, guidance)

    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            found = pool.map(score, [*features, None])
            for logits, one in zip(found, [*expected, plain], strict=True):
                torch.testing.assert_close(logits, one)


def test_a_copy_fuses_with_its_own_weights():
    network = make_network(depth=5)
    guidance, segmenter = make_pair(network)
    stir(segmenter)
    pixels = pixels_of(network)
    with torch.no_grad():
        features = guidance.features(noise(2, 3, 32, 48))
        expected = segmenter(pixels, features)
        other = copy.deepcopy(segmenter)
        assert torch.equal(other(pixels, features), expected)
        stir(other, seed=5)
        assert not torch.allclose(other(pixels, features), expected, atol=1e-3)
        assert torch.equal(segmenter(pixels, features), expected)
        segmenter.load_state_dict(other.state_dict())
        assert torch.equal(segmenter(pixels, features), other(pixels, features))
        other.encoder.close()
        assert torch.equal(segmenter(pixels, features), segmenter(pixels, features))
        with pytest.raises(RuntimeError, match="closed"):
            other(pixels, features)
    assert not any(part._forward_hooks for part in other.encoder.backbone.modules())


def test_the_backbone_alone_is_the_plain_network_even_after_an_error():
    network = make_network(depth=5)
    guidance, segmenter = make_pair(network)
    stir(segmenter)
    pixels = pixels_of(network)
    features = guidance.features(noise(2, 3, 32, 48))
    with pytest.raises(RuntimeError):
        segmenter(pixels, [each[:, :1] for each in features])
    assert torch.equal(segmenter.encoder.backbone(pixels), network.module(pixels))


def test_weights_follow_from_their_generator():
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    network = make_network(depth=5)
    pairs = [make_pair(network) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    for first, again in zip(*pairs, strict=True):
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name])
    other = Guidance(width=2, generator=seeded(9))
    assert not torch.equal(other.to_rgb.weight, pairs[0][0].to_rgb.weight)
    bound = (3 * 9) ** -0.5
    assert 0.8 * bound < other.down[0][0].weight.abs().max() <= bound


def test_gradients_of_the_segmentation_reach_the_guidance_unless_detached():
    network = make_network(depth=5)
    guidance, segmenter = make_pair(network)
    stir(segmenter)
    for is_detached in (True, False):
        features = guidance.features(noise(2, 3, 32, 48))
        given = [each.detach() for each in features] if is_detached else features
        segmenter(pixels_of(network), given).sum().backward()
        reached = [each.grad is not None for each in guidance.down.parameters()]
        assert not any(reached) if is_detached else all(reached)


def test_folded_copies_give_the_same_without_batch_norms():
    network = load_network("efficientnet_lite0")
    guidance, segmenter = make_pair(network, width=4)
    stir(segmenter)
    pixels, reference = pixels_of(network, canvas=(64, 96)), noise(2, 3, 64, 96).sigmoid()
    with torch.no_grad():
        guidance.train()(reference)
        segmenter.train()(pixels, guidance.features(reference))  # statistics of their own
    with pytest.raises(ValueError, match="eval mode"):
        folded(segmenter, guidance)
    guidance.eval()
    segmenter.eval()
    quick, quick_guidance = folded(segmenter, guidance)
    left = [m for both in (quick, quick_guidance) for m in both.modules() if is_used_norm(m)]
    assert len(left) == 0 and any(is_used_norm(m) for m in segmenter.modules())
    with torch.no_grad():
        expected = segmenter(pixels, guidance.features(reference))
        found = quick(pixels, quick_guidance.features(reference))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        alone = Segmenter(network, width=4, generator=seeded()).eval()
        quick, nothing = folded(alone, None)
        assert nothing is None
        torch.testing.assert_close(quick(pixels), alone(pixels), rtol=1e-3, atol=1e-3)


def test_a_stage_that_ends_in_a_batch_norm_is_still_heard_when_folded():
    network = load_network("mobilenetv3_small_100", weights=None, pretrained=False)
    segmenter = Segmenter(network, width=4, generator=seeded()).eval()
    pixels = pixels_of(network, canvas=(64, 64))
    with torch.no_grad():
        quick, _ = folded(segmenter, None)
        torch.testing.assert_close(quick(pixels), segmenter(pixels), rtol=1e-3, atol=1e-3)


def is_used_norm(module: nn.Module) -> bool:
    """A batch norm of the passes here: the last, of 1,280 channels, stands behind the stages."""
    return isinstance(module, nn.BatchNorm2d) and module.num_features != 1280


# learning


def test_a_small_network_learns_four_images_and_their_references():
    """Two images with two squares each: which is anomalous only the reference tells."""
    rng = np.random.default_rng(0)
    height, width = 32, 48
    squares = [np.s_[8:18, 6:18], np.s_[12:24, 28:40]]
    base = (110, 80, 50) + rng.normal(0, 12, (2, height, width, 3))
    images, references, masks = [], [], []
    for one, other in ((base[0], base[1]), (base[1], base[0])):
        for shown in (0, 1):
            image, reference = one.copy(), other.copy()
            for square in squares:
                image[square] += (90, 110, 120)
            reference[squares[shown]] += (90, 110, 120)
            mask = np.zeros((height, width), bool)
            mask[squares[1 - shown]] = True
            images.append(image)
            references.append(reference)
            masks.append(mask)
    images, references = (np.clip(each, 0, 255).astype(np.uint8) for each in (images, references))
    masks = torch.from_numpy(np.stack(masks))
    network = make_network(depth=5)
    pixels, shown = network.preprocess(images), Guidance.preprocess(references)

    def learn(is_guided: bool) -> tuple[float, float, float, float]:
        guidance, segmenter = make_pair(network, width=8)
        guidance.train()
        segmenter.train()
        trained = [*guidance.parameters(), *segmenter.parameters()]
        optimiser = torch.optim.Adam([each for each in trained if each.requires_grad], 0.01)
        rebuilt = []
        for _ in range(60):
            optimiser.zero_grad()
            reconstruction, features = guidance(shown)
            logits = segmenter(pixels, features if is_guided else None)
            focal, rest = focal_loss(logits, masks), reconstruction_loss(reconstruction, shown)
            (focal + rest).backward()
            optimiser.step()
            rebuilt.append(rest.item())
        found = logits > 0
        overlap = (found & masks).sum() / (found | masks).sum()
        return focal.item(), overlap.item(), rebuilt[0], rebuilt[-1]

    focal, overlap, first, last = learn(is_guided=True)
    assert focal < 0.02 and overlap > 0.85
    assert last < 0.7 * first
    # Without, both halves of each pair look alike.
    focal, overlap, _, _ = learn(is_guided=False)
    assert focal > 0.02 and overlap < 0.6
