"""Patch features: local means, upsampling, padding, and the early end of the forward pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from detector.features import FeatureExtractor, valid_cells
from detector.joined_features import JoinedFeatures
from manifests.errors import ConfigError, ModelError
from manifests.images import Geometry
from manifests.weights import Network, load_network
from reference import patchcore as literal

HEIGHT, WIDTH = 64, 96


class Pyramid(nn.Module):
    """Five stages of 2×2 means: stage s holds the means of 2^(s+1) px squares, R G B."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.AvgPool2d(2) for _ in range(5))
        self.reached = -1

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        for depth, stage in enumerate(self.stages):
            pixels = stage(pixels)
            self.reached = depth
        return pixels.mean((2, 3))


def make_network(module: nn.Module | None = None) -> Network:
    return Network(
        name="pyramid",
        module=(module or Pyramid()).eval(),
        digest="0" * 64,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        levels={},
        stages={stage: f"stages.{stage}" for stage in range(5)},
        source="random",
    )


def make_images(batch: int = 2, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    source = np.random.default_rng(0)
    images = source.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    return images // np.array([1, 2, 3], dtype=np.uint8)


def means(image: np.ndarray, stride: int) -> np.ndarray:
    """(3, h, w) means of stride×stride squares."""
    h, w = image.shape[0] // stride, image.shape[1] // stride
    squares = image.reshape(h, stride, w, stride, 3).astype(np.float64)
    return squares.mean((1, 3)).transpose(2, 0, 1)


def literal_features(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """(h, w, 6) of stages 2 and 3."""
    levels = []
    geometry = Geometry(*image.shape[:2])
    for stride in (8, 16):
        activation = means(image, stride)
        cells = valid_cells(activation.shape[1:], geometry, box)
        level = literal.local_mean(activation, cells)
        for channel in level:
            fine = (image.shape[0] // 8, image.shape[1] // 8)
            levels.append(channel if stride == 8 else literal.upsample(channel, cells, *fine))
    return np.stack(levels, axis=-1)


def test_hand_computed():
    # A canvas of 32 px whose left half is red 90: stage 3 has 2x2 cells, 90 and 0, and every 3×3
    # square holds two of each and five zeros outside: 20. Stage 2 has columns 90 90 0 0; squares of
    # the first two hold six of them, those of the third three.
    images = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    images[0, :, :16, 0] = 90
    features = FeatureExtractor(make_network())(images)
    assert features.shape == (1, 4, 4, 6)
    assert features[0, 1, :, 0].tolist() == pytest.approx([60.0, 60.0, 30.0, 0.0])
    assert features[0, 0, :, 0].tolist() == pytest.approx([40.0, 40.0, 20.0, 0.0])
    assert features[0, :, :, 3].flatten().tolist() == pytest.approx([20.0] * 16)
    assert float(features[..., [1, 2, 4, 5]].abs().max()) == 0.0


def test_equals_literal():
    images = make_images()
    extractor = FeatureExtractor(make_network())
    features = extractor(images)
    assert extractor.dim == 6
    assert extractor.grid(HEIGHT, WIDTH) == (8, 12)
    assert features.dtype == torch.float32
    assert features.shape == (2, 8, 12, 6)
    for image, found in zip(images, features, strict=True):
        expected = literal_features(image, (0, 0, HEIGHT, WIDTH))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("box", [(16, 0, 32, 96), (0, 13, 64, 70), (5, 20, 50, 41)])
def test_equals_literal_with_padding(box):
    image = make_images(1)[0]
    features = FeatureExtractor(make_network())(image[None], canvas_boxes=[box])[0]
    cells = valid_cells((8, 12), Geometry(HEIGHT, WIDTH), box)
    expected = literal_features(image, box)
    np.testing.assert_allclose(features.numpy()[cells], expected[cells], rtol=1e-4)


def test_padding_has_no_influence():
    # Squares of 16 px line up with this box, so that no square mixes image and padding.
    box = (16, 32, 32, 48)
    inside = (slice(16, 48), slice(32, 80))
    images = make_images(2)
    images[1][inside] = images[0][inside]
    features = FeatureExtractor(make_network())(images, canvas_boxes=[box, box])
    cells = torch.from_numpy(valid_cells((8, 12), Geometry(HEIGHT, WIDTH), box))
    torch.testing.assert_close(features[0][cells], features[1][cells])
    unaware = FeatureExtractor(make_network())(images)
    assert not torch.allclose(unaware[0][cells], unaware[1][cells], rtol=1e-2)


def test_each_image_of_a_batch_has_its_own_box():
    images = make_images(2)
    boxes = np.array([[0, 0, 64, 96], [16, 0, 32, 96]])
    extractor = FeatureExtractor(make_network())
    together = extractor(images, canvas_boxes=boxes)
    for i in range(2):
        alone = extractor(images[i : i + 1], canvas_boxes=boxes[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone)
    torch.testing.assert_close(together[0], extractor(images)[0])


def test_a_box_thinner_than_a_cell_gives_finite_features():
    box = (33, 0, 2, 96)
    features = FeatureExtractor(make_network())(make_images(1), canvas_boxes=[box])
    assert torch.isfinite(features).all()
    cells = valid_cells((8, 12), Geometry(HEIGHT, WIDTH), box)
    assert cells.any(1).nonzero()[0].tolist() == [4]
    assert cells.all(1).any()


def test_deeper_stages_are_not_run_and_the_network_stays_as_it_is(monkeypatch):
    network = make_network()
    extractor = FeatureExtractor(network, stages=(1, 2))
    ran = []
    real = nn.AvgPool2d.forward
    monkeypatch.setattr(
        nn.AvgPool2d, "forward", lambda self, pixels: ran.append(1) or real(self, pixels)
    )
    extractor(make_images())
    assert len(ran) == 3
    assert all(not stage._forward_hooks for stage in network.module.stages)
    network.module(torch.zeros(1, 3, 64, 64))
    assert len(ran) == 8


def test_a_failure_leaves_nothing_behind():
    extractor = FeatureExtractor(make_network())
    with pytest.raises(RuntimeError):
        extractor(np.zeros((1, 4, 4, 3), dtype=np.uint8))
    images = make_images()
    torch.testing.assert_close(extractor(images), FeatureExtractor(make_network())(images))


def test_threads_read_at_once():
    extractor = FeatureExtractor(load_network("resnet18", pretrained=False), stages=(1, 2))
    batches = [make_images(1 + n % 3)[:, :, ::-1] // (1 + n) for n in range(12)]
    alone = [extractor(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(extractor, batches), alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_one_stage_and_inputs_untouched():
    images = make_images(1)
    images.flags.writeable = False
    features = FeatureExtractor(make_network(), stages=(3,))(images[:, ::-1])
    expected = literal.local_mean(means(images[0, ::-1], 16), np.ones((4, 6), dtype=bool))
    np.testing.assert_allclose(features[0].numpy(), expected.transpose(1, 2, 0), rtol=1e-4)


@pytest.mark.parametrize("stages", [(), (3, 2), (2, 2), (2, 7)])
def test_impossible_stages_are_refused(stages):
    with pytest.raises(ConfigError):
        FeatureExtractor(make_network(), stages=stages)


def test_training_mode_and_diverged_weights_are_refused():
    network = make_network()
    network.module.train()
    with pytest.raises(ModelError, match="training mode"):
        FeatureExtractor(network)
    diverged = Pyramid()
    diverged.stages[2] = nn.Conv2d(3, 3, 2, stride=2)
    nn.init.constant_(diverged.stages[2].weight, float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        FeatureExtractor(make_network(diverged))(make_images())


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0, 0, 64, 96), range(8), range(12)),
        # Centres at 4, 12, 20, ...: a box that begins at 4 has the first, one that ends there not.
        ((4, 0, 60, 96), range(8), range(12)),
        ((5, 0, 59, 96), range(1, 8), range(12)),
        ((0, 0, 64, 12), range(8), range(1)),
        ((0, 0, 64, 13), range(8), range(2)),
        ((30, 50, 2, 1), [3], [6]),
    ],
)
def test_valid_cells(box, rows, columns):
    cells = valid_cells((8, 12), Geometry(HEIGHT, WIDTH), box)
    expected = np.zeros((8, 12), dtype=bool)
    expected[np.ix_(list(rows), list(columns))] = True
    assert np.array_equal(cells, expected)


def test_precision_reaches_the_network_and_features_stay_float32():
    module = Pyramid()
    with torch.random.fork_rng(devices=[]):
        module.stages[2] = nn.Conv2d(3, 16, 2, stride=2)
    weights = np.random.default_rng(1).normal(size=module.stages[2].weight.shape)
    module.stages[2].weight.data = torch.from_numpy(weights.astype(np.float32))
    network = make_network(module.requires_grad_(False))
    exact = FeatureExtractor(network)(make_images())
    rough = FeatureExtractor(network, precision="bf16")(make_images())
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, rtol=0.05, atol=2.0)


def test_the_embedded_architecture():
    extractor = FeatureExtractor(load_network("efficientnet_lite0", pretrained=False))
    assert extractor.dim == 152
    assert extractor.grid(64, 96) == (8, 12)
    assert extractor(make_images(1)).shape == (1, 8, 12, 152)


def test_joined_features_are_each_extractors_side_by_side():
    images = make_images()
    boxes = [(16, 0, 32, 96), (0, 13, 64, 70)]
    parts = [FeatureExtractor(make_network(), stages=stages) for stages in ((2, 3), (2,))]
    joined = JoinedFeatures(parts)
    assert joined.dim == 6 + 3
    features = joined(images, canvas_boxes=boxes)
    assert features.shape == (2, 8, 12, 9)
    assert torch.equal(features[..., :6], parts[0](images, canvas_boxes=boxes))
    assert torch.equal(features[..., 6:], parts[1](images, canvas_boxes=boxes))
    assert torch.equal(JoinedFeatures(parts[:1])(images), parts[0](images))


def test_features_that_cannot_be_joined_are_refused():
    parts = [FeatureExtractor(make_network(), stages=(stage,)) for stage in (2, 3)]
    with pytest.raises(ModelError, match="different grids"):
        JoinedFeatures(parts)(make_images())
    with pytest.raises(ConfigError, match="no features"):
        JoinedFeatures([])
