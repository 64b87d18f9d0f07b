"""What every detector must do, whichever it is: a new one passes these by a row in `CASES`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import invoke_det

from detector.about import ABOUT
from detector.config import DETECTOR_OPTIONS
from detector.detectors import (
    CONFIGS,
    DETECTORS,
    CavgaConfig,
    Detector,
    GaussianConfig,
    GuidedConfig,
    PatchCoreConfig,
)
from detector.model_record import STATE_FILES, STATE_TENSORS
from detector.schedules import IDLE, SCHEDULES
from detector.trainings import TRAININGS
from manifests.errors import ModelError
from reference import small_cavga, small_guided
from reference.small_networks import (
    BOXES,
    FULL,
    GEOMETRY,
    batches,
    defect,
    make_images,
    make_network,
)


@dataclass(frozen=True)
class Case:
    """A config, what training leaves beside the network, and what the detector says of itself.

    Attributes:
        forgets: whether training images can be scored as if they had not been seen.
        localises: whether its map is sure to point at a defect that is plain to see.
    """

    config: Any
    learned: Callable[[], Any] = lambda: None
    needs_untuned: bool = False
    holds_pixels: bool = False
    forgets: bool = True
    localises: bool = True


CASES = {
    "patchcore": Case(PatchCoreConfig(coreset_ratio=0.2, batch=3)),
    "gaussian": Case(GaussianConfig(batch=3)),
    "guided-seg": Case(
        GuidedConfig(references=6, width=small_guided.WIDTH, batch=3),
        small_guided.trained,
        needs_untuned=True,
        holds_pixels=True,
    ),
    "cavga": Case(
        CavgaConfig(latent_channels=4, latent_stage=3, width=4, batch=3),
        small_cavga.trained,
        forgets=False,
        localises=False,  # attention looks for what is normal
    ),
}


@pytest.fixture(params=sorted(DETECTORS))
def name(request) -> str:
    return request.param


def unfitted(name: str, network=None, **changes) -> Detector:
    case = CASES[name]
    return DETECTORS[name](
        network or make_network(),
        GEOMETRY,
        replace(case.config, **changes),
        untuned=(network or make_network()) if case.needs_untuned else None,
        learned=case.learned(),
    )


def fitted(name: str, images: np.ndarray, boxes=None, *, batch: int = 4) -> Detector:
    detector = unfitted(name)
    detector.fit(batches(images, boxes, batch))
    return detector


def from_state(name: str, state, network=None) -> Detector:
    case = CASES[name]
    network = network or make_network()
    untuned = network if case.needs_untuned else None
    return DETECTORS[name].from_state(network, GEOMETRY, case.config, state, untuned=untuned)


def copy_of(name: str, detector: Detector) -> Detector:
    return from_state(name, detector.state())


def test_every_detector_has_a_case_a_config_and_options():
    assert set(DETECTORS) == set(CONFIGS) == set(CASES) == set(DETECTOR_OPTIONS)
    for name, case in CASES.items():
        assert type(case.config) is CONFIGS[name]
    tables = (STATE_FILES, STATE_TENSORS, TRAININGS, SCHEDULES, IDLE, ABOUT)
    assert all(set(table) == set(DETECTORS) for table in tables)
    files = list(STATE_FILES.values())
    assert len(set(files)) == len(files)
    assert all(file.endswith(".safetensors") for file in files)


def test_the_command_lists_every_detector(name):
    told = invoke_det("detectors").output
    row = next(one for one in json.loads(invoke_det("detectors", "--json").output)
               if one["name"] == name)  # fmt: skip
    assert set(row) == {"name", "summary", "needs", "source"}
    assert all(value in told for value in row.values())


def test_a_detector_that_keeps_pixels_says_so(name):
    """Features are not pixels; of a detector that keeps images `fit` warns."""
    detector = fitted(name, make_images(8))
    assert detector.holds_pixels is CASES[name].holds_pixels
    has_bytes = any(tensor.dtype == torch.uint8 for tensor in detector.state().values())
    assert has_bytes == detector.holds_pixels


def test_bounded_scores_are_bounded(name):
    detector = fitted(name, make_images(8))
    scores = detector.score(np.stack([defect(image) for image in make_images(3, seed=5)]))
    if detector.is_bounded:
        assert max(scores.image.max(), scores.map.max()) <= 1.0


def test_shapes_dtypes_and_finite_values(name):
    detector = fitted(name, make_images(12))
    assert detector.needs <= {"mask", "saliency"}
    scores = detector.score(make_images(4, seed=1), [FULL] * 4)
    assert scores.image.shape == (4,)
    assert scores.map.shape == (4, 32, 48)
    assert scores.image.dtype == scores.map.dtype == np.float32
    assert np.isfinite(scores.image).all() and np.isfinite(scores.map).all()
    assert scores.image.min() > 0 and scores.map.min() >= 0
    assert len(detector.summary()) > 10


def test_a_defect_scores_higher_and_is_found_where_it_is(name):
    detector = fitted(name, make_images(24))
    normal = make_images(4, seed=2)
    damaged = np.stack([defect(image) for image in normal])
    before, after = detector.score(normal), detector.score(damaged)
    assert after.image.min() > before.image.max()
    for score_map in after.map if CASES[name].localises else ():
        y, x = np.unravel_index(score_map.argmax(), score_map.shape)
        # Cells of up to 16 px and their neighbourhoods: the worst pixel is near, not exact.
        assert 0 <= y < 32 and 8 <= x < 42
        assert score_map[8:20, 20:30].mean() > 1.3 * score_map[:, :6].mean()


def test_state_round_trip_bit_for_bit(name):
    images = make_images(9)
    detector = fitted(name, images, [FULL] * 4 + BOXES)
    state = detector.state()
    for tensor in state.values():
        assert tensor.is_contiguous() and tensor.device.type == "cpu"
    copy = copy_of(name, detector)
    again = copy.state()
    assert all(torch.equal(state[key], again[key]) for key in {*state, *again})
    expected, found = detector.score(images[:5], BOXES), copy.score(images[:5], BOXES)
    assert np.array_equal(expected.image, found.image)
    assert np.array_equal(expected.map, found.map)
    assert detector.summary() == copy.summary()
    with pytest.raises(ModelError, match="after fitting"):
        copy.training_scores()


def test_fitting_twice_gives_the_same(name):
    one, other = fitted(name, make_images(7)), fitted(name, make_images(7))
    other.training_scores()
    other.fit(batches(make_images(7)))
    for key, tensor in one.state().items():
        assert torch.equal(tensor, other.state()[key])
    for first, second in zip(one.training_scores(), other.training_scores(), strict=True):
        assert np.array_equal(first, second)


def test_training_scores_are_as_of_images_not_seen(name):
    images = make_images(20)
    detector = fitted(name, images, batch=7)
    image_scores, maxima = detector.training_scores()
    assert image_scores.shape == maxima.shape == (20,)
    assert image_scores.dtype == maxima.dtype == np.float32
    seen = detector.score(images)
    changed = image_scores != seen.image
    if not CASES[name].forgets:
        np.testing.assert_allclose(image_scores, seen.image, rtol=1e-5)
    elif CASES[name].holds_pixels:  # those that are kept have to be guided by another one
        assert changed.sum() == CASES[name].config.references
    else:
        assert np.median(image_scores) > np.median(seen.image)
    again = detector.training_scores()
    assert again[0] is image_scores and again[1] is maxima
    detector.fit(batches(make_images(6)))
    assert len(detector.training_scores()[0]) == 6


def test_batches_change_nothing_but_last_bits(name):
    images = make_images(7)
    boxes = BOXES + [FULL] * 2
    detector = fitted(name, images, boxes, batch=5)
    expected = detector.score(images, boxes)
    for size in (1, 2, 7):
        parts = [
            detector.score(images[i : i + size], boxes[i : i + size]) for i in range(0, 7, size)
        ]
        image = np.concatenate([part.image for part in parts])
        maps = np.concatenate([part.map for part in parts])
        np.testing.assert_allclose(image, expected.image, rtol=1e-4)
        np.testing.assert_allclose(maps, expected.map, rtol=1e-3, atol=1e-4)
    other = fitted(name, images, boxes, batch=1)
    np.testing.assert_allclose(other.training_scores()[0], detector.training_scores()[0], rtol=1e-3)


def test_padding_has_no_influence_and_no_score(name):
    # The convolutions do not overlap, and the box lies on their squares of 16 px.
    box = (0, 16, 32, 16)
    dark, bright = make_images(8), make_images(8)
    bright[:, :, :16] = 255
    bright[:, :, 32:] = 255
    one, other = fitted(name, dark, [box] * 8), fitted(name, bright, [box] * 8)
    # Relative to the largest value: tiny distances are differences of large numbers.
    for first, second in zip(one.training_scores(), other.training_scores(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3)
    expected, found = one.score(dark, [box] * 8), other.score(bright, [box] * 8)
    np.testing.assert_allclose(expected.image, found.image, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(expected.map, found.map, rtol=1e-3, atol=1e-4)
    assert found.map[:, :, :16].max() == found.map[:, :, 32:].max() == 0.0
    assert found.map.max() > 0.0
    unaware = one.score(bright)
    assert not np.allclose(unaware.image, expected.image, rtol=0.05)


def test_inputs_may_be_read_only_and_stay_as_they_are(name):
    images = make_images(5)
    images.flags.writeable = False
    boxes = np.array(BOXES)
    before = images.copy(), boxes.copy()
    detector = fitted(name, images, boxes)
    detector.training_scores()
    detector.score(images, boxes)
    assert np.array_equal(images, before[0]) and np.array_equal(boxes, before[1])


def test_no_global_randomness(name):
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fitted(name, make_images(6)).training_scores()
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


def test_progress_ends_with_all(name):
    calls = []
    detector = unfitted(name)
    detector.fit(batches(make_images(6)), progress=lambda done, total: calls.append((done, total)))
    done, total = calls[-1]
    assert done == total > 1
    assert detector.progress_unit.endswith("s")


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_are_refused(name, count):
    detector = unfitted(name)
    with pytest.raises(ModelError, match=r"no normal images|at least"):
        detector.fit(batches(make_images(count)))
        detector.training_scores()


def test_unfitted_use_is_refused(name):
    detector = unfitted(name)
    for use in (
        lambda: detector.score(make_images(1)),
        detector.training_scores,
        detector.state,
        detector.summary,
    ):
        with pytest.raises(ModelError, match="fit it first"):
            use()


def test_a_failed_fit_leaves_nothing_behind(name):
    detector = fitted(name, make_images(4))
    with pytest.raises(ModelError):
        detector.fit(batches(make_images(0)))
    with pytest.raises(ModelError, match="fit it first"):
        detector.score(make_images(1))


def test_images_that_do_not_fit_are_refused(name):
    detector = fitted(name, make_images(4))
    for images in (
        np.zeros((1, 48, 32, 3), dtype=np.uint8),
        np.zeros((1, 32, 48, 3), dtype=np.float32),
        np.zeros((32, 48, 3), dtype=np.uint8),
        np.zeros((0, 48, 32, 3), dtype=np.uint8),
    ):
        with pytest.raises(ModelError, match="do not fit the model"):
            detector.score(images)
    with pytest.raises(ModelError, match="one canvas box"):
        detector.score(make_images(2), [FULL])
    with pytest.raises(ModelError, match="do not fit the model"):
        detector.fit([(np.zeros((2, 48, 32, 3), dtype=np.uint8), [(0, 0, 48, 32)] * 2)])


def test_no_images_no_scores(name):
    scores = fitted(name, make_images(4)).score(make_images(0))
    assert scores.image.shape == (0,)
    assert scores.map.shape == (0, 32, 48)


def test_a_state_of_another_network_or_detector_is_refused(name):
    state = fitted(name, make_images(5)).state()
    with pytest.raises(ModelError, match="another network"):
        from_state(name, state, make_network(channels=4))
    for key in state.keys() - {"cell"}:  # which models of version 5 lack
        part = {other: tensor for other, tensor in state.items() if other != key}
        with pytest.raises(ModelError, match="malformed"):
            from_state(name, part)
    with pytest.raises(ModelError, match="malformed"):
        from_state(name, {**state, "other": torch.zeros(1)})


def test_a_network_in_training_mode_is_refused(name):
    network = make_network()
    network.module.train()
    with pytest.raises(ModelError, match="training mode"):
        unfitted(name, network)


def test_a_diverged_network_is_named(name):
    network = make_network()
    network.module.stages[2][0].weight.data[:] = float("nan")
    with pytest.raises(ModelError, match="diverged"):
        unfitted(name, network).fit(batches(make_images(4)))


def test_precision_reaches_the_network(name):
    images = make_images(6)
    exact = fitted(name, images)
    rough = unfitted(name, precision="bf16")
    rough.fit(batches(images))
    expected, found = exact.score(images).image, rough.score(images).image
    assert found.dtype == np.float32
    assert not np.array_equal(expected, found)
