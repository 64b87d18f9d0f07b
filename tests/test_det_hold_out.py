"""Good images that training leaves out, and thresholds that come from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import invoke_det

from detector.calibration import HELD_OUT, TRAINING
from detector.cavga.batches import NormalBatches
from detector.config import FitConfig
from detector.dataset import TripletSampler
from detector.fit_steps import calibration_of
from detector.guided.training import _neighbours
from detector.hold_out import held_out
from detector.model import load_model
from detector.train_config import TrainConfig
from manifests.digest import bytes_digest
from manifests.errors import ConfigError, ModelError
from manifests.negative_set import NegativeSet
from reference.small_networks import make_network
from reference.small_sets import write_set


@pytest.fixture
def negative_set(tmp_path):
    write_set(tmp_path / "tiles", shards=2, n=5, r=30)
    with NegativeSet.open(tmp_path / "tiles") as opened:
        yield opened


def test_who_is_held_out_follows_from_the_images():
    digests = [bytes_digest(bytes([n])) for n in range(30)]
    found = held_out(digests, 0.1, 0)
    assert found.sum() == 3 and found.dtype == bool
    keys = {one: bytes_digest(f"hold-out|0|{one}".encode()) for one in digests}
    assert {one for one, out in zip(digests, found, strict=True) if out} == set(
        sorted(digests, key=keys.get)[:3]
    )
    assert (held_out(digests[::-1], 0.1, 0)[::-1] == found).all()
    assert (held_out(digests, 0.1, 1) != found).any()
    assert held_out(digests, 0.05, 0).sum() == 2 and held_out(digests, 0.0, 0).sum() == 0


def test_what_is_left_out_is_never_drawn(negative_set):
    digests = negative_set.normal_digests()
    assert digests == tuple(negative_set.normal(i).digest for i in range(10))
    out = held_out(digests, 0.3, 0)
    hidden = {negative_set.normal(i).image.tobytes() for i in np.flatnonzero(out)}
    sampler = TripletSampler(negative_set, batch=3, seed=1, left_out=out)
    assert (sampler.n_usable, sampler.n_skipped) == (7, 0)
    owners = negative_set.negative_normal
    for update in range(12):
        normals, negatives = sampler.draw(update)
        assert not out[normals].any() and not out[owners[np.concatenate(negatives)]].any()
    assert not out[owners[sampler.rows[sampler.rows >= 10] - 10]].any()
    read = NormalBatches(negative_set, batch=3, seed=1, left_out=out)
    seen = {image.tobytes() for update in range(12) for image in read(update).images}
    assert len(seen) == 7 and not seen & hidden
    with pytest.raises(ModelError, match="no normal images"):
        NormalBatches(negative_set, batch=3, seed=1, left_out=np.ones(10, dtype=bool))


def test_what_is_left_out_guides_nobody(negative_set):
    out = held_out(negative_set.normal_digests(), 0.4, 0)
    everyone = _neighbours(make_network(), negative_set, None, "cpu", None)
    found = _neighbours(make_network(), negative_set, out, "cpu", None)
    for row in np.flatnonzero(~out):
        # Those of all in the same order, as far as they are left.
        left = [other for other in everyone[row] if not out[other]]
        assert found[row].tolist()[: len(left)] == left
        assert row not in found[row] and not out[found[row]].any()


def test_thresholds_come_from_what_was_left_out(negative_set):
    scores = np.arange(10.0), np.arange(10.0)[::-1]
    config = FitConfig(train=TrainConfig(updates=1, hold_out=0.3))
    found = calibration_of(scores, negative_set, config)
    out = held_out(negative_set.normal_digests(), 0.3, 0)
    assert found.source == HELD_OUT and found.image.tolist() == sorted(scores[0][out])
    assert found.map_maximum.tolist() == sorted(scores[1][out])
    everyone = calibration_of(scores, negative_set, FitConfig(train=TrainConfig(updates=1)))
    assert (len(everyone), everyone.source) == (10, TRAINING)


def test_a_share_that_means_nothing_is_refused():
    for share in (-0.1, 0.6, True, float("nan")):
        with pytest.raises(ConfigError, match="--hold-out"):
            TrainConfig(hold_out=share)
    with pytest.raises(ConfigError, match="--hold-out keeps images out of a training"):
        TrainConfig(updates=0, hold_out=0.1)
    assert "hold_out" not in TrainConfig().to_json()
    assert TrainConfig(**TrainConfig(hold_out=0.2).to_json()).hold_out == 0.2


@pytest.mark.parametrize("detector", ["patchcore", "guided-seg", "cavga"])
def test_the_command_says_what_its_thresholds_come_from(detector, built, category_name, tmp_path):
    options = ["--detector", detector, "--updates", 1, "--batch", 2, "--false-alarm-rate", 0.4]
    told = {}
    for share in (0, 0.25):
        result = invoke_det(
            "fit", built, "--out", tmp_path / str(share), *options, "--hold-out", share
        )
        told[share] = result
        model = load_model(tmp_path / str(share) / category_name)
        total = len(model.training_files)
        assert model.image_threshold.n == (total if share == 0 else -(-total // 4))
        assert f"from {model.image_threshold.n} images" in result.stdout
    assert "that training left out" in told[0.25].stdout
    assert "that training left out" in invoke_det("inspect", tmp_path / "0.25").stdout
    is_trained_itself = detector != "patchcore"
    assert ("--hold-out 0.2" in told[0].stderr) == is_trained_itself
    assert "--hold-out" not in told[0.25].stderr
    plain = json.loads(invoke_det("inspect", tmp_path / "0.25", "--json").stdout)[0]
    assert plain["config"]["train"]["hold_out"] == 0.25
