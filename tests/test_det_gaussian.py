"""The Gaussian detector: embeddings, distribution, attribution, folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from detector.detectors import GaussianConfig, GaussianDetector
from detector.detectors.gaussian import FOLDS, folds
from detector.distribution import Distribution, fit_distribution
from detector.embeddings import CellEmbeddings
from detector.features import valid_cells
from manifests.errors import ConfigError, ModelError
from manifests.weights import load_network
from reference import gaussian as literal
from reference import patchcore as literal_map
from reference.small_networks import (
    BOXES,
    FULL,
    GEOMETRY,
    batches,
    defect,
    make_images,
    make_network,
)

CONFIG = GaussianConfig(sigma_px=10.0, batch=3)


def fitted(images: np.ndarray, boxes=None, config: GaussianConfig = CONFIG) -> GaussianDetector:
    detector = GaussianDetector(make_network(), GEOMETRY, config)
    detector.fit(batches(images, boxes))
    return detector


def cells_of(images: np.ndarray, boxes) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (n, h, w, D) and valid cells (n, h, w), by the network itself."""
    network = make_network()
    with torch.no_grad():
        cells = network.module.stages(network.preprocess(images)).permute(0, 2, 3, 1).numpy()
    return cells, np.stack([valid_cells(cells.shape[1:3], GEOMETRY, box) for box in boxes])


def literal_map_of(parts: np.ndarray, valid: np.ndarray, box, sigma_px: float) -> np.ndarray:
    pixels = np.zeros((32, 48), dtype=bool)
    pixels[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    upsampled = literal_map.upsample(np.maximum(parts, 0.0), valid, 32, 48)
    return literal_map.blur(upsampled, pixels, sigma_px * 32 / 256)


# distribution


def test_distribution_hand_computed():
    # Sample covariance diag(2, 1/2), scale 5/4; spread ((3/4)^2 + (3/4)^2) / 2 = 9/16; error
    # (4 * 17/4) / 16 / 2 = 17/32: shrinkage 17/18 and covariance diag(93/72, 87/72).
    points = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + [5.0, -3.0]
    fit = fit_distribution(points)
    assert fit.mean.tolist() == pytest.approx([5.0, -3.0])
    assert fit.shrinkage == pytest.approx(17 / 18)
    np.testing.assert_allclose(fit.precision.numpy(), np.diag([72 / 93, 72 / 87]), atol=1e-12)


def test_distances_hand_computed():
    # Cells (3, 0) and (1, 4) about the mean, precision diag(1/4, 1): the image is (2, 2), so
    # d^2 = 1 + 4; the parts are 3 * 2/4 + 0 and 1 * 2/4 + 4 * 2, and their mean is 5.
    fit = Distribution(
        torch.tensor([1.0, 1.0]).double(), torch.diag(torch.tensor([0.25, 1.0])).double(), 0.0
    )
    cells = torch.tensor([[[[4.0, 1.0], [2.0, 5.0], [900.0, 900.0]]]])
    valid = torch.tensor([[[True, True, False]]])
    distances, parts = fit.distances(cells, valid)
    assert distances.tolist() == pytest.approx([5.0**0.5])
    assert parts.flatten().tolist() == pytest.approx([1.5, 8.5, 0.0])
    assert distances.dtype == parts.dtype == torch.float64


def test_an_image_on_the_mean_has_distance_0():
    fit = fit_distribution(np.random.default_rng(0).normal(size=(9, 5)))
    cells = fit.mean[None, None, None, :].expand(1, 2, 3, 5)
    distances, parts = fit.distances(cells, torch.ones(1, 2, 3, dtype=torch.bool))
    assert distances.tolist() == [0.0]
    assert parts.abs().max() == 0.0


@pytest.mark.parametrize(("n", "dim"), [(40, 6), (5, 12), (3, 4)])
def test_distribution_equals_literal(n, dim):
    source = np.random.default_rng(n)
    rows = source.normal(size=(n, dim)) * source.uniform(0.1, 3.0, dim) + source.normal(size=dim)
    mean, covariance, shrinkage = literal.ledoit_wolf(rows)
    fit = fit_distribution(rows)
    assert fit.shrinkage == pytest.approx(shrinkage, rel=1e-9)
    np.testing.assert_allclose(fit.mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(fit.precision.numpy() @ covariance, np.eye(dim), atol=1e-8)
    assert torch.equal(fit.precision, fit.precision.T)


def test_a_silent_channel_is_no_trouble_and_equal_images_are_named():
    rows = np.random.default_rng(0).normal(size=(50, 4))
    rows[:, 2] = 0.0
    assert torch.isfinite(fit_distribution(rows).precision).all()
    with pytest.raises(ModelError, match="look the same"):
        fit_distribution(np.ones((5, 3)))
    with pytest.raises(ModelError, match="look the same"):
        # Equal but for rounding, as the same image is in batches of different sizes.
        fit_distribution(1.0 + 1e-7 * rows)
    with pytest.raises(ModelError, match="look the same"):
        fit_distribution(rows[[0, 1, 0, 1, 0, 1]])
    with pytest.raises(ModelError, match="at least 3"):
        fit_distribution(rows[:2])


# embeddings


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_the_mean_over_cells_is_what_the_network_classifies(name):
    network = load_network(name, pretrained=False, seed=1)
    images = make_images(2).repeat(3, axis=1).repeat(2, axis=2)  # 96 x 96
    cells = CellEmbeddings(network)(images)
    with torch.no_grad():
        features = network.module.forward_features(network.preprocess(images))
        pooled = network.module.forward_head(features, pre_logits=True)
    assert cells.shape == (2, 3, 3, pooled.shape[1])
    torch.testing.assert_close(cells.mean((1, 2)), pooled, rtol=1e-4, atol=1e-5)


def test_a_network_that_works_on_after_pooling_gives_the_map_before():
    network = load_network("mobilenetv3_small_050", pretrained=False)
    images = make_images(1).repeat(2, axis=1).repeat(2, axis=2)
    embeddings = CellEmbeddings(network)
    with torch.no_grad():
        features = network.module.forward_features(network.preprocess(images))
        pooled = network.module.forward_head(features, pre_logits=True)
    assert embeddings.dim == features.shape[1] != pooled.shape[1]
    torch.testing.assert_close(embeddings(images), features.permute(0, 2, 3, 1))


def test_a_network_without_a_feature_map_is_refused():
    network = make_network()
    with pytest.raises(ConfigError, match="no pooled feature map"):
        CellEmbeddings(replace(network, module=network.module.stages))
    tokens = make_network()
    tokens.module.forward_features = lambda pixels: pixels.flatten(2)
    with pytest.raises(ConfigError, match="no pooled feature map"):
        CellEmbeddings(tokens)


# detector


def test_scores_equal_literal():
    normals = make_images(12)
    boxes = [FULL, *BOXES, *BOXES, (2, 2, 30, 30)]
    detector = fitted(normals, boxes)
    images = make_images(5, seed=1)
    images[3] = defect(images[3])
    cells, valid = cells_of(normals, boxes)
    pooled = np.stack([literal.mean_cell(c, v) for c, v in zip(cells, valid, strict=True)])
    mean, covariance, _ = literal.ledoit_wolf(pooled)
    scores = detector.score(images, BOXES)
    cells, valid = cells_of(images, BOXES)
    has_negative = False
    for i, box in enumerate(BOXES):
        image, parts = literal.score(cells[i], valid[i], mean, covariance)
        assert scores.image[i] == pytest.approx(image, rel=1e-4)
        assert parts[valid[i]].mean() == pytest.approx(image**2, rel=1e-6)
        expected = literal_map_of(parts, valid[i], box, CONFIG.sigma_px)
        np.testing.assert_allclose(scores.map[i], expected, rtol=1e-3, atol=1e-4)
        has_negative |= bool((parts < 0).any())
    assert has_negative, "nothing was clipped"


def test_training_scores_equal_refits_without_each_fold():
    images = make_images(13)
    boxes = (BOXES * 3)[:13]
    config = replace(CONFIG, seed=3)
    image_scores, maxima = fitted(images, boxes, config).training_scores()
    cells, valid = cells_of(images, boxes)
    pooled = np.stack([literal.mean_cell(c, v) for c, v in zip(cells, valid, strict=True)])
    fold = folds(13, seed=3)
    for i in range(13):
        mean, covariance, _ = literal.ledoit_wolf(pooled[fold != fold[i]])
        image, parts = literal.score(cells[i], valid[i], mean, covariance)
        assert image_scores[i] == pytest.approx(image, rel=1e-4)
        expected = literal_map_of(parts, valid[i], boxes[i], CONFIG.sigma_px).max()
        assert maxima[i] == pytest.approx(expected, rel=1e-3)


def test_folds():
    fold = folds(23, seed=0)
    assert sorted(np.bincount(fold).tolist()) == [4, 4, 5, 5, 5]
    assert FOLDS == 5
    assert np.array_equal(fold, folds(23, seed=0))
    assert not np.array_equal(fold, folds(23, seed=1))
    assert sorted(folds(3, seed=0).tolist()) == [0, 1, 2]


def test_the_seed_changes_the_folds_only():
    images = make_images(15)
    one, other = fitted(images), fitted(images, config=replace(CONFIG, seed=1))
    assert torch.equal(one.state()["precision"], other.state()["precision"])
    assert not np.array_equal(one.training_scores()[0], other.training_scores()[0])


def test_training_scores_release_the_embeddings():
    detector = fitted(make_images(6))
    detector.training_scores()
    assert detector._training is None


def test_three_images_can_be_fitted_but_not_left_out():
    with pytest.raises(ModelError, match="at least 3 images"):
        fitted(make_images(2))
    detector = fitted(make_images(3))
    assert detector.score(make_images(1)).image.shape == (1,)
    with pytest.raises(ModelError, match="at least 4 images"):
        detector.training_scores()
    assert len(fitted(make_images(4)).training_scores()[0]) == 4


def test_images_that_look_alike_are_named():
    with pytest.raises(ModelError, match="look the same"):
        fitted(make_images(1).repeat(5, axis=0))


def test_sigma_reaches_the_map_and_not_the_score():
    images = make_images(8)
    sharp, soft = (fitted(images, config=replace(CONFIG, sigma_px=s)) for s in (0.0, 40.0))
    one, other = sharp.score(images), soft.score(images)
    assert np.array_equal(one.image, other.image)
    assert one.map.std() > other.map.std()


def test_state():
    detector = fitted(make_images(9))
    state = detector.state()
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()} == {
        "mean": (torch.float64, (8,)),
        "precision": (torch.float64, (8, 8)),
        "shrinkage": (torch.float64, ()),
    }
    assert detector.summary().startswith("Gaussian of 8 dimensions, shrinkage 0.")
    for name, value in (("mean", torch.full((8,), torch.nan).double()), ("mean", torch.zeros(8))):
        with pytest.raises(ModelError, match="malformed"):
            GaussianDetector.from_state(make_network(), GEOMETRY, CONFIG, {**state, name: value})


def test_a_second_network_is_refused():
    with pytest.raises(ConfigError, match="--with-untuned"):
        GaussianDetector(make_network(), GEOMETRY, CONFIG, untuned=make_network(seed=1))


@pytest.mark.parametrize(
    "change", [{"batch": 0}, {"sigma_px": -1.0}, {"sigma_px": float("nan")}, {"seed": -1}]
)
def test_configs_that_cannot_work_are_refused(change):
    with pytest.raises(ConfigError):
        replace(CONFIG, **change)
