"""Colour jitter against torchvision, a hand-computed case, and what training relies on."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from detector.jitter import apply_factors, colour_jitter, draw_factors
from manifests.errors import ConfigError

NEUTRAL = (1.0, 1.0, 1.0, 0.0)


def noise(count: int = 5, height: int = 37, width: int = 53) -> torch.Tensor:
    """(B, H, W, 3) uint8, not square, R != G != B, with black, white, grey and primary pixels."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, height, width, 3), generator=generator)
    images[:, 0, 0] = 0
    images[:, 0, 1] = 255
    images[:, 0, 2] = 77
    images[:, 0, 3:6] = 255 * torch.eye(3, dtype=torch.int64)
    return images.to(torch.uint8)


def literal(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """torchvision's four adjustments on (B, H, W, 3) floats, image by image."""
    out = []
    for image, (brightness, contrast, saturation, hue) in zip(images, factors, strict=True):
        planes = image.permute(2, 0, 1)
        planes = tv.adjust_brightness(planes, float(brightness))
        planes = tv.adjust_contrast(planes, float(contrast))
        planes = tv.adjust_saturation(planes, float(saturation))
        out.append(tv.adjust_hue(planes, float(hue)).permute(1, 2, 0))
    return torch.stack(out)


@pytest.mark.parametrize("jitter", [0.1, 0.5])
def test_float_images_equal_torchvision(jitter):
    images = noise().float() / 255
    factors = draw_factors(len(images), jitter=jitter, generator=torch.Generator().manual_seed(1))
    changed = apply_factors(images, factors)
    assert changed.dtype == torch.float32
    torch.testing.assert_close(changed, literal(images, factors), atol=5e-6, rtol=0)
    assert (changed - images).abs().mean() > 0.01


def test_uint8_images_are_the_float_result_rounded_once():
    images = noise()
    factors = draw_factors(len(images), jitter=0.1, generator=torch.Generator().manual_seed(1))
    changed = apply_factors(images, factors)
    expected = (literal(images.float() / 255, factors) * 255).round()
    difference = (changed.float() - expected).abs()
    assert changed.dtype == torch.uint8
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ((1.2, 1.0, 1.0, 0.0), (0.6, 0.3, 0.36)),
        # The image is one colour, so its mean grey is the pixel's own:
        # 0.2989 * 0.5 + 0.587 * 0.25 + 0.114 * 0.3 = 0.3304.
        ((1.0, 0.5, 1.0, 0.0), (0.4152, 0.2902, 0.3152)),
        ((1.0, 1.0, 0.0, 0.0), (0.3304, 0.3304, 0.3304)),
        ((1.0, 1.0, 1.0, 1 / 3), (0.3, 0.5, 0.25)),
        ((1.0, 1.0, 1.0, -1 / 3), (0.25, 0.3, 0.5)),
        # Red is clipped from 1.25 to 1 before the saturation takes the grey, which is
        # 0.2989 + 0.587 * 0.625 + 0.114 * 0.75 = 0.7513; each channel goes half-way there.
        ((2.5, 1.0, 0.5, 0.0), (0.8756, 0.6881, 0.7506)),
    ],
)
def test_one_colour_by_hand(factors, expected):
    image = torch.tensor([0.5, 0.25, 0.3]).expand(1, 3, 4, 3).contiguous()
    changed = apply_factors(image, torch.tensor([factors]))
    assert changed[0, 2, 3].tolist() == pytest.approx(expected, abs=5e-5)


def test_neutral_factors_change_nothing():
    images = noise()
    assert torch.equal(apply_factors(images, torch.tensor([NEUTRAL] * len(images))), images)


def test_a_swap_commutes_with_jitter():
    images = noise(2, 40, 56)

    def swap(batch: torch.Tensor) -> torch.Tensor:
        out = batch.clone()
        out[:, 2:12, 3:20] = batch[:, 25:35, 30:47]
        out[:, 25:35, 30:47] = batch[:, 2:12, 3:20]
        return out

    factors = draw_factors(2, jitter=0.3, generator=torch.Generator().manual_seed(2))
    first, second = apply_factors(swap(images), factors), swap(apply_factors(images, factors))
    # The contrast's mean is summed in another order, which may tip a value that lies on a half.
    assert (first != second).float().mean() < 1e-3
    assert (first.int() - second.int()).abs().max() <= 1


def test_images_do_not_depend_on_their_batch():
    images = noise(7, 200, 210)  # several blocks
    factors = draw_factors(7, jitter=0.2, generator=torch.Generator().manual_seed(4))
    whole = apply_factors(images, factors)
    for row in range(7):
        alone = apply_factors(images[row : row + 1], factors[row : row + 1])
        assert torch.equal(whole[row : row + 1], alone)


def test_draws_are_per_image_in_range_and_repeatable():
    factors = draw_factors(500, jitter=0.1, generator=torch.Generator().manual_seed(5))
    assert factors.shape == (500, 4) and factors.dtype == torch.float32
    spread = factors - torch.tensor(NEUTRAL)
    assert spread.abs().max() <= 0.1 + 1e-6
    assert (spread.amin(0) < -0.09).all() and (spread.amax(0) > 0.09).all()
    assert len(torch.unique(factors[:, 0])) > 490
    again = draw_factors(500, jitter=0.1, generator=torch.Generator().manual_seed(5))
    assert torch.equal(factors, again)


def test_only_the_given_generator_is_used_and_the_input_is_kept():
    images = noise()
    before, state = images.clone(), torch.random.get_rng_state()
    generator = torch.Generator().manual_seed(6)
    first = colour_jitter(images, jitter=0.1, generator=generator)
    second = colour_jitter(images, jitter=0.1, generator=generator)
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first, second)
    floats = images.float() / 255
    kept = floats.clone()
    colour_jitter(floats, jitter=0.1, generator=generator)
    assert torch.equal(floats, kept)


def test_no_jitter_keeps_the_images_and_still_advances_the_generator():
    images = noise()
    with_jitter, without = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    colour_jitter(images, jitter=0.1, generator=with_jitter)
    assert torch.equal(colour_jitter(images, jitter=0.0, generator=without), images)
    assert torch.equal(with_jitter.get_state(), without.get_state())


def test_grey_images_stay_grey():
    images = noise()[..., :1].expand(-1, -1, -1, 3)
    changed = apply_factors(images, torch.tensor([[0.9, 1.1, 1.1, 0.1]] * len(images))).int()
    assert (changed.amax(-1) - changed.amin(-1)).max() == 0


@pytest.mark.parametrize("jitter", [-0.1, 0.6, float("nan")])
def test_jitter_out_of_range_is_refused(jitter):
    with pytest.raises(ConfigError, match="--jitter"):
        draw_factors(2, jitter=jitter, generator=torch.Generator())


def test_other_types_and_shapes_are_refused():
    factors = torch.tensor([NEUTRAL])
    with pytest.raises(TypeError, match="float64"):
        apply_factors(torch.zeros(1, 4, 5, 3, dtype=torch.float64), factors)
    with pytest.raises(ValueError, match="B, H, W, 3"):
        apply_factors(torch.zeros(1, 3, 4, 5), factors)
    with pytest.raises(ValueError, match="factors"):
        apply_factors(torch.zeros(2, 4, 5, 3), factors)
