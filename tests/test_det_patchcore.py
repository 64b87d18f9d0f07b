"""PatchCore as a whole, against its literal steps and against true refits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from detector.coreset import coreset_size
from detector.detectors import PatchCore, PatchCoreConfig
from detector.features import valid_cells
from manifests.errors import ConfigError, ModelError
from reference import patchcore as literal
from reference.small_networks import (
    BOXES,
    FULL,
    GEOMETRY,
    batches,
    defect,
    make_images,
    make_network,
)

CONFIG = PatchCoreConfig(coreset_ratio=0.2, batch=3)


def fitted(images: np.ndarray, boxes=None, config: PatchCoreConfig = CONFIG) -> PatchCore:
    detector = PatchCore(make_network(), GEOMETRY, config)
    detector.fit(batches(images, boxes))
    return detector


def literal_scores(detector, image, box, *, bank=None, exclude=None):
    """Image score and map of one image, from the literal steps; `bank` has entries and owners."""
    features = detector.extractor(image[None], canvas_boxes=[box])[0].numpy()
    cells = valid_cells(features.shape[:2], GEOMETRY, box)
    bank, owner = bank or (detector.bank.features.numpy(), detector.bank.image_index.numpy())
    grid = np.zeros(cells.shape)
    where = np.full(cells.shape, -1)
    for y, x in np.argwhere(cells):
        grid[y, x], where[y, x] = literal.nearest(features[y, x], bank, owner, exclude)
    y, x = np.unravel_index(np.where(cells, grid, -1).argmax(), grid.shape)
    score = grid[y, x]
    if detector.config.reweight:
        score = literal.reweighted(features[y, x], where[y, x], score, bank, owner, exclude=exclude)
    pixels = np.zeros((32, 48), dtype=bool)
    pixels[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    sigma = detector.config.sigma_px * 32 / 256
    return score, literal.blur(literal.upsample(grid, cells, 32, 48), pixels, sigma)


@pytest.mark.parametrize("reweight", [False, True])
def test_scores_equal_literal(reweight):
    config = replace(CONFIG, reweight=reweight, sigma_px=10.0)
    detector = fitted(make_images(8), config=config)
    images = make_images(5, seed=1)
    images[3] = defect(images[3])
    scores = detector.score(images, BOXES)
    assert scores.image.dtype == scores.map.dtype == np.float32
    assert scores.map.shape == (5, 32, 48)
    for i in range(5):
        image, score_map = literal_scores(detector, images[i], BOXES[i])
        assert scores.image[i] == pytest.approx(image, rel=1e-4)
        np.testing.assert_allclose(scores.map[i], score_map, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reweight", [False, True])
def test_training_scores_equal_literal(reweight):
    config = replace(CONFIG, reweight=reweight, sigma_px=10.0)
    images = make_images(5)
    detector = fitted(images, BOXES, config)
    image_scores, maxima = detector.training_scores()
    assert image_scores.shape == maxima.shape == (5,)
    patches = [detector.patches(images[i : i + 1], BOXES[i : i + 1])[0].numpy() for i in range(5)]
    bank, owner = detector.bank.features.numpy(), detector.bank.image_index.numpy()
    n_added = 0
    for i in range(5):
        without = literal.refilled(patches, bank, owner, i)
        n_added += (without[1] == -1).sum()
        image, score_map = literal_scores(detector, images[i], BOXES[i], bank=without)
        assert image_scores[i] == pytest.approx(image, rel=1e-4)
        assert maxima[i] == pytest.approx(score_map.max(), rel=1e-4)
    assert n_added > 1


def test_bank_is_a_sorted_subset_that_knows_its_images():
    images = make_images(6)
    detector = fitted(images)
    bank = detector.bank
    features = detector.extractor(images).flatten(1, 2)
    assert len(bank) == coreset_size(6 * 4 * 6, 0.2)
    assert bank.image_index.tolist() == sorted(bank.image_index.tolist())
    for entry, image in zip(bank.features, bank.image_index, strict=True):
        # The batch size may change the last bits of a feature, nothing more.
        difference = (features[image] - entry).abs().amax(1)
        assert float(difference.min()) < 1e-5


def test_padding_never_enters_the_bank():
    # The convolutions do not overlap and the box lies on their squares of 16 px.
    box = (0, 16, 32, 16)
    dark, bright = make_images(4), make_images(4)
    for image in bright:
        image[:, :16] = 255
        image[:, 32:] = 255
    banks = [fitted(images, [box] * 4).bank.features for images in (dark, bright)]
    torch.testing.assert_close(*banks)
    score = [fitted(dark, [box] * 4).score(images, [box] * 4) for images in (dark, bright)]
    np.testing.assert_allclose(score[0].image, score[1].image, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(score[0].map, score[1].map, rtol=1e-3, atol=1e-4)
    assert score[0].map[:, :, :16].max() == 0.0


def test_a_defect_is_found_where_it_is():
    detector = fitted(make_images(12), config=replace(CONFIG, stages=(2,)))
    normal = make_images(3, seed=2)
    damaged = np.stack([defect(image) for image in normal])
    before, after = detector.score(normal), detector.score(damaged)
    assert after.image.min() > before.image.max()
    for score_map in after.map:
        inside = score_map[8:20, 20:30].mean()
        # Cells of 8 px and their 3×3 means: the damage reaches columns 8 to 40 and no others.
        assert inside > 2 * score_map[:, :7].mean()


def test_the_whole_bank_gives_training_images_zero_and_left_out_ones_not():
    images = make_images(5)
    detector = fitted(images, config=replace(CONFIG, coreset_ratio=1.0, batch=4))
    assert len(detector.bank) == 5 * 24
    assert detector.score(images).image.max() < 1e-3
    assert detector.training_scores()[0].min() > 0.1


def test_leaving_own_patches_out_equals_refitting_for_a_whole_bank():
    # With every patch kept, a bank without image i's is the bank of a refit without image i.
    images = make_images(5)
    config = replace(CONFIG, coreset_ratio=1.0)
    image_scores, maxima = fitted(images, config=config).training_scores()
    for i in range(5):
        others = np.delete(images, i, axis=0)
        refit = fitted(others, config=config).score(images[i : i + 1])
        assert image_scores[i] == pytest.approx(refit.image[0], rel=1e-4)
        assert maxima[i] == pytest.approx(refit.map.max(), rel=1e-4)


@pytest.mark.parametrize("ratio", [0.02, 0.05, 0.1])
def test_unseen_images_of_the_same_part_score_as_the_training_images_do(ratio):
    # Of what all images show the bank keeps one image's patches: without them, it seemed unique.
    part = np.random.default_rng(5).integers(0, 256, (32, 48, 3))
    noise = np.random.default_rng(1).normal(0, 6, (70, 32, 48, 3))
    images = np.clip(part + noise, 0, 255).astype(np.uint8)
    detector = fitted(images[:30], config=replace(CONFIG, coreset_ratio=ratio))
    own, unseen = detector.training_scores()[0], detector.score(images[30:]).image
    p_values = [(1 + (own >= score).sum()) / (1 + len(own)) for score in unseen]
    assert 0.35 < np.median(p_values) < 0.65  # 0.68 to 0.87 before holes were filled


@pytest.mark.slow
def test_leaving_own_patches_out_stands_for_refits():
    # Images differ in strength, as real ones do, so that there is something to agree on.
    gains = np.random.default_rng(3).uniform(0.2, 1.0, (100, 1, 1, 1))
    images = (make_images(100) * gains).astype(np.uint8)
    config = replace(CONFIG, coreset_ratio=0.1)
    left_out = np.stack(fitted(images, config=config).training_scores())
    refitted = np.empty_like(left_out)
    fold = np.random.default_rng(0).permutation(100) % 20
    for k in range(20):
        scores = fitted(images[fold != k], config=config).score(images[fold == k])
        refitted[:, fold == k] = scores.image, scores.map.max((1, 2))
    for own, true in zip(left_out, refitted, strict=True):
        assert np.corrcoef(own, true)[0, 1] > 0.7
        for quantile in (0.5, 0.95):
            ratio = np.quantile(own, quantile) / np.quantile(true, quantile)
            assert 0.9 < ratio < 1.1


def test_training_scores_are_computed_once_and_release_the_features():
    detector = fitted(make_images(4))
    first = detector.training_scores()
    assert detector._source is None
    assert detector.training_scores() is first
    detector.fit(batches(make_images(6)))
    assert len(detector.training_scores()[0]) == 6


def test_state_round_trip_and_determinism():
    images = make_images(6)
    detector = fitted(images)
    state = detector.state()
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "features": torch.float32,
        "image_index": torch.int32,
        "cell": torch.int32,
    }
    copy = PatchCore.from_state(make_network(), GEOMETRY, CONFIG, state)
    expected, found = detector.score(images), copy.score(images)
    assert np.array_equal(expected.image, found.image)
    assert np.array_equal(expected.map, found.map)
    again = fitted(images).state()
    assert all(torch.equal(state[name], again[name]) for name in state)
    other = fitted(images, config=replace(CONFIG, seed=1)).state()
    assert not torch.equal(state["features"], other["features"])
    with pytest.raises(ModelError, match="after fitting"):
        copy.training_scores()


def test_fit_reports_progress_and_takes_a_generator_once():
    calls = []
    detector = PatchCore(make_network(), GEOMETRY, CONFIG)
    detector.fit(batches(make_images(5)), progress=lambda done, total: calls.append((done, total)))
    wanted = len(detector.bank)
    assert calls[-1] == (wanted, wanted)


def test_coreset_max_limits_the_bank():
    assert len(fitted(make_images(6), config=replace(CONFIG, coreset_max=7)).bank) == 7


def test_a_bank_of_one_image_cannot_score_that_image():
    detector = fitted(make_images(3), config=replace(CONFIG, coreset_max=1))
    assert detector.score(make_images(1)).image.shape == (1,)
    with pytest.raises(ModelError, match="--coreset"):
        detector.training_scores()


def test_too_few_images():
    with pytest.raises(ModelError, match="no normal images"):
        fitted(make_images(0))
    with pytest.raises(ModelError, match="at least 2"):
        fitted(make_images(1)).training_scores()


def test_a_bank_of_another_network_is_refused():
    state = fitted(make_images(3)).state()
    with pytest.raises(ModelError, match="another network"):
        PatchCore.from_state(make_network(channels=4), GEOMETRY, CONFIG, state)
    with pytest.raises(ModelError, match="malformed memory bank"):
        PatchCore.from_state(make_network(), GEOMETRY, CONFIG, {"features": state["features"]})


@pytest.mark.parametrize(
    "change",
    [
        {"coreset_ratio": 0.0},
        {"coreset_max": 0},
        {"projection_dim": 0},
        {"batch": 0},
        {"sigma_px": -1.0},
        {"sigma_px": float("nan")},
        {"seed": -1},
    ],
)
def test_configs_that_cannot_work_are_refused(change):
    with pytest.raises(ConfigError):
        replace(CONFIG, **change)


def test_several_banks_from_features_computed_once():
    images = make_images(6)
    training = PatchCore(make_network(), GEOMETRY, CONFIG).collect(batches(images, BOXES + [FULL]))
    before = training.features.clone()
    assert len(training) == 6 and training.offsets[-1] == len(training.features)
    origins = training.origins().tolist()
    assert origins == sorted(origins) and len(origins) == len(training.features)
    for config in (CONFIG, replace(CONFIG, seed=1), replace(CONFIG, coreset_ratio=0.5)):
        whole = fitted(images, BOXES + [FULL], config)
        calls = []
        shared = PatchCore(make_network(), GEOMETRY, config)
        shared.fit_features(training, progress=lambda *counts, to=calls: to.append(counts))
        assert calls[-1] == (len(shared.bank), len(shared.bank))
        for name, tensor in whole.state().items():
            assert torch.equal(tensor, shared.state()[name])
        for one, other in zip(whole.training_scores(), shared.training_scores(), strict=True):
            assert np.array_equal(one, other)
    assert torch.equal(training.features, before)


def test_several_detectors_score_features_computed_once():
    one, other = fitted(make_images(6)), fitted(make_images(6), config=replace(CONFIG, seed=1))
    images = make_images(3, seed=1)
    patches, valid, boxes = one.patches(images, BOXES[:3])
    assert len(patches) == valid.sum() and boxes.tolist() == [list(box) for box in BOXES[:3]]
    for detector in (one, other):
        expected = detector.score(images, BOXES[:3])
        found = detector.score_features(patches, valid, boxes)
        assert np.array_equal(expected.image, found.image)
        assert np.array_equal(expected.map, found.map)
    assert not np.array_equal(one.score(images).image, other.score(images).image)


def test_detectors_that_differ_in_how_they_score_share_a_bank():
    config = replace(CONFIG, reweight=True, sigma_px=1.0)
    whole = fitted(make_images(6), config=config)
    shared = PatchCore(make_network(), GEOMETRY, config)
    shared.adopt_bank(fitted(make_images(6)).bank)
    images = make_images(3, seed=1)
    assert np.array_equal(shared.score(images).image, whole.score(images).image)
    assert np.array_equal(shared.score(images).map, whole.score(images).map)
    with pytest.raises(ModelError, match="only after fitting"):
        shared.training_scores()
    other = PatchCore(make_network(channels=4), GEOMETRY, config)
    with pytest.raises(ModelError, match="another network"):
        other.adopt_bank(whole.bank)


def test_features_of_other_dimensions_are_refused():
    training = PatchCore(make_network(channels=4), GEOMETRY, CONFIG).collect(
        batches(make_images(3))
    )
    detector = PatchCore(make_network(), GEOMETRY, CONFIG)
    with pytest.raises(ModelError, match="another network"):
        detector.fit_features(training)
    with pytest.raises(ModelError, match="fit it first"):
        detector.score(make_images(1))


def test_the_untuned_network_is_looked_at_beside_the_tuned_one():
    images = make_images(5)
    tuned, untuned = make_network(), make_network(seed=1)
    detector = PatchCore(tuned, GEOMETRY, CONFIG, untuned=untuned)
    alone = [
        PatchCore(network, GEOMETRY, CONFIG).patches(images)[0] for network in (tuned, untuned)
    ]
    assert torch.equal(detector.patches(images)[0], torch.cat(alone, dim=1))
    detector.fit(batches(images))
    state = detector.state()
    assert state["features"].shape[1] == 2 * fitted(images).bank.dim
    copy = PatchCore.from_state(tuned, GEOMETRY, CONFIG, state, untuned=untuned)
    assert np.array_equal(copy.score(images).map, detector.score(images).map)
    swapped = PatchCore.from_state(untuned, GEOMETRY, CONFIG, state, untuned=tuned)
    assert not np.allclose(swapped.score(images).image, copy.score(images).image, rtol=0.1)
    with pytest.raises(ModelError, match="another network"):
        PatchCore.from_state(tuned, GEOMETRY, CONFIG, state)


def test_the_bank_says_its_size():
    assert fitted(make_images(6)).summary() == "bank of 29 patches"
