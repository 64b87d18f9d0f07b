"""Guided segmentation as a whole: batches, updates, going on, references, the command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import invoke_det

from detector.checkpoint import read_checkpoint
from detector.dataset import TripletSampler
from detector.detectors import GuidedConfig, GuidedSegmentation
from detector.diverged import Diverged
from detector.guided.batch import GuidedBatches
from detector.guided.losses import focal_loss, reconstruction_loss
from detector.guided.trainee import COLUMNS, GuidedTrainee
from detector.guided.training import NEIGHBOURS, train_guided
from detector.model import load_model
from detector.training_log import read_training_csv
from manifests.errors import ConfigError, ModelError
from manifests.negative_set import NegativeSet
from reference import small_guided
from reference.small_guided import CONFIG, batch_of, new_networks
from reference.small_networks import GEOMETRY, batches, make_images, make_network
from reference.small_sets import write_set


@pytest.fixture
def negative_set(tmp_path):
    write_set(tmp_path / "tiles", shards=2, n=4, r=12)
    with NegativeSet.open(tmp_path / "tiles") as opened:
        yield opened


def sampler_of(negative_set, batch=2, shares=(2.0, 1.0)):
    return TripletSampler(
        negative_set, batch=batch, seed=3, negatives=("swap", "scar"), shares=shares
    )


def test_a_batch_reads_what_its_normals_need(negative_set):
    neighbours = np.array([[(row + 1) % 8, (row + 3) % 8] for row in range(8)])
    read = GuidedBatches(negative_set, sampler_of(negative_set), neighbours)
    seen = set()
    for update in range(12):
        batch = read(update)
        rows = batch.images.rows[:2]
        assert batch.guide.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
        owners = negative_set.negative_normal[batch.images.rows[2:] - 8]
        assert (owners == rows[batch.guide[2:]]).all()
        for place, row in enumerate(rows):
            found = [
                number
                for number in neighbours[row]
                if (negative_set.normal(int(number)).image == batch.references[place]).all()
            ]
            assert len(found) == 1
            seen.add((int(row), int(found[0])))
        assert batch.boxes.tolist() == [[0, 2, 32, 40]] * 8
        again = read(update)
        assert (again.references == batch.references).all()
        assert (again.images.images == batch.images.images).all()
    # Both neighbours of some normal were drawn.
    assert any((row, (row + 1) % 8) in seen and (row, (row + 3) % 8) in seen for row in range(8))
    bare = GuidedBatches(negative_set, sampler_of(negative_set), None)(0)
    assert bare.references is None and bare.reference_boxes is None


def test_an_update_follows_the_sum_of_both_losses():
    """One step against Adam's first step written out: the rate times the gradient's sign."""
    batch = batch_of(3, padded=True)
    networks = new_networks()
    reference = new_networks()
    config = replace(CONFIG, weight_decay=0.0, freeze_bn=False)
    row = GuidedTrainee(networks, config).update(0, batch)
    for module in reference.modules().values():
        module.train()
    shown = torch.zeros((16, 32, 48), dtype=torch.bool)
    for one, (y, x, h, w) in zip(shown, batch.boxes.tolist(), strict=True):
        one[y : y + h, x : x + w] = True
    images = torch.from_numpy(batch.images.images)
    references = torch.from_numpy(batch.references).permute(0, 3, 1, 2) / 255.0
    references = references * shown[:4, None]
    rebuilt, features = reference.guidance(references)
    pixels = ((images - 127.0) / 64.0).permute(0, 3, 1, 2) * shown[:, None]
    logits = reference.segmenter(pixels, [feature[batch.guide] for feature in features])
    focal = focal_loss(logits, torch.from_numpy(batch.images.masks), valid=shown)
    rebuilding = reconstruction_loss(rebuilt, references, valid=shown[:4])
    (focal + rebuilding).backward()
    names = dict(zip(COLUMNS, row, strict=False))
    assert names["update"] == 1 and names["lr"] == config.lr
    assert names["focal_loss"] == pytest.approx(focal.item(), rel=1e-4)
    assert names["reconstruction_loss"] == pytest.approx(rebuilding.item(), rel=1e-4)
    assert names["loss"] == pytest.approx((focal + rebuilding).item(), rel=1e-4)
    for part in ("segmenter", "guidance"):
        before = dict(reference.modules()[part].named_parameters())
        for name, after in networks.modules()[part].named_parameters():
            gradient = before[name].grad
            if gradient is None:
                assert torch.equal(before[name], after)
                continue
            clear = gradient.abs() > 1e-5
            step = (before[name] - after)[clear]
            expected = config.lr * gradient[clear].sign()
            torch.testing.assert_close(step, expected, rtol=0.02, atol=1e-5)


def test_accuracy_is_the_mean_of_both_kinds_of_pixels():
    from detector.guided.trainee import _accuracy

    logits = torch.tensor([[[2.0, -1.0], [3.0, -2.0]]])
    masks = torch.tensor([[[True, True], [False, False]]])
    assert _accuracy(logits, masks, None) == 0.5
    shown = torch.tensor([[[True, False], [True, True]]])
    assert _accuracy(logits, masks, shown) == (1.0 + 0.5) / 2
    assert _accuracy(logits, torch.zeros_like(masks), None) == 0.5


def test_frozen_stages_and_statistics_stay():
    def changed(**settings):
        networks = new_networks(freeze_stages=settings.pop("freeze_stages", 0))
        before = {k: v.clone() for k, v in networks.segmenter.state_dict().items()}
        trainee = GuidedTrainee(networks, replace(CONFIG, **settings))
        for update in range(3):
            trainee.update(update, batch_of(update))
        after = networks.segmenter.state_dict()
        return {name for name in before if not torch.equal(before[name], after[name])}

    stages = [f"encoder.backbone.stages.{stage}.0.weight" for stage in range(4)]
    assert set(stages) <= changed()
    frozen = changed(freeze_stages=2)
    assert not {*stages[:2]} & frozen and {*stages[2:]} <= frozen
    assert "head.weight" in frozen and "encoder.fusions.0.zero.weight" in frozen


def test_only_trained_batch_norms_leave_eval_mode():
    """Dropout and stochastic depth would draw from the global random state."""
    networks = new_networks(freeze_stages=2)
    backbone = networks.segmenter.encoder.backbone
    backbone.stages[3].append(torch.nn.Dropout(0.5))
    for stage in (1, 3):
        width = backbone.stages[stage][0].out_channels
        backbone.stages[stage].append(torch.nn.BatchNorm2d(width).requires_grad_(stage == 3))
    for freeze_bn in (True, False):
        trainee = GuidedTrainee(networks, replace(CONFIG, freeze_bn=freeze_bn))
        row = trainee.update(0, batch_of(0))
        torch.manual_seed(99)
        assert np.isfinite(row[2])
        assert not backbone.stages[3][-2].training and not backbone.stages[1][-1].training
        assert backbone.stages[3][-1].training is not freeze_bn
        assert networks.segmenter.decoder.training


def test_training_overfits_and_is_finite():
    networks = new_networks()
    trainee = GuidedTrainee(networks, replace(CONFIG, updates=80, lr=0.01))
    rows = [trainee.update(update, batch_of(0)) for update in range(80)]
    assert rows[-1][4] < 0.2 * rows[0][4]  # focal
    assert rows[-1][5] < 0.9 * rows[0][5]  # reconstruction
    assert rows[-1][3] > 0.9  # accuracy
    network, learned = trainee.finish()
    assert not network.module.training and network.digest != make_network().digest
    assert all(tensor.isfinite().all() for tensor in learned.values())
    assert not any(name.startswith("segmenter/encoder") for name in learned)
    # The encoder is a plain network again: no hook of the segmenter is left on it.
    assert not any(module._forward_hooks for module in network.module.modules())


def run(negative_set, folder, *, config=None, sampler=None, **settings):
    config = config or replace(CONFIG, updates=6, batch=2, checkpoint_every=2, seed=3, lr=0.01)
    options = {"is_guided": True, "width": 4, "folder": folder} | settings
    network = make_network()
    return train_guided(
        network, negative_set, sampler or sampler_of(negative_set), config, **options
    )


def test_an_interrupted_training_goes_on_to_the_same_weights(negative_set, tmp_path):
    network, learned = run(negative_set, tmp_path / "whole")

    def stop(done, total, row):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(negative_set, tmp_path / "parts", progress=stop)
    again, same = run(negative_set, tmp_path / "parts")
    assert again.digest == network.digest
    assert learned.keys() == same.keys()
    assert all(torch.equal(learned[name], same[name]) for name in learned)
    log = read_training_csv(tmp_path / "parts" / "training.csv")
    assert [row["update"] for row in log] == [1, 2, 3, 4, 5, 6] and set(log[0]) == set(COLUMNS)
    # A checkpoint goes on only with the same options.
    with pytest.raises(ModelError, match="guidance"):
        run(negative_set, tmp_path / "parts", is_guided=False)
    assert read_checkpoint(tmp_path / "none", run={}) is None


def test_a_checkpoint_of_other_sizes_is_refused(negative_set, tmp_path):
    run(negative_set, tmp_path, width=4)
    with pytest.raises(ModelError, match="width"):
        run(negative_set, tmp_path, width=8)


def test_divergence_is_named_and_leaves_no_checkpoint(negative_set, tmp_path):
    config = replace(CONFIG, updates=6, batch=2, seed=3, lr=1e30)
    with pytest.raises(Diverged, match="--lr"):
        run(negative_set, tmp_path, config=config)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_training_leaves_network_and_global_randomness_alone(negative_set, tmp_path):
    state = torch.random.get_rng_state()
    network, _ = run(negative_set, tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), state)
    other, _ = run(negative_set, tmp_path / "b")
    assert network.digest == other.digest != make_network().digest


def test_neighbours_are_the_most_similar_others(negative_set):
    from detector.guided.training import _neighbours

    found = _neighbours(make_network(), negative_set, None, "cpu", None)
    assert found.shape == (8, NEIGHBOURS)
    network = make_network()
    images = np.stack([negative_set.normal(row).image for row in range(8)])
    pixels = torch.from_numpy((images - 127.0) / 64.0).permute(0, 3, 1, 2).float()
    cells = network.module.forward_features(pixels)
    # Canvases show columns 2 to 42 of 44: the centres of all cells lie in them.
    vectors = F.normalize(cells.mean((2, 3)), dim=1).double()
    for row in range(8):
        similar = (vectors @ vectors[row]).tolist()
        order = sorted((other for other in range(8) if other != row), key=lambda i: -similar[i])
        assert found[row].tolist() == order[:NEIGHBOURS]


def detector_of(**changes):
    config = replace(GuidedConfig(references=4, width=4, batch=3), **changes)
    return GuidedSegmentation(
        make_network(),
        GEOMETRY,
        config,
        untuned=make_network() if config.guidance else None,
        learned=small_guided.trained(is_guided=config.guidance),
    )


def test_without_guidance_no_pixels_are_kept():
    detector = detector_of(guidance=False)
    detector.fit(batches(make_images(6)))
    assert not detector.holds_pixels
    assert all(name.startswith("segmenter/") for name in detector.state())
    image, _ = detector.training_scores()
    assert np.array_equal(image, detector.score(make_images(6)).image)
    assert "without" in detector.summary()


def test_the_most_similar_reference_guides_and_never_an_image_itself():
    detector = detector_of(references=5)
    images = make_images(5)
    detector.fit(batches(images))
    vectors = torch.cat([detector._references._embeddings])
    chosen, _ = detector.references.most_similar(vectors)
    assert (chosen.numpy() == images).all()
    others, _ = detector.references.most_similar(vectors, own_rows=np.arange(5))
    similar = vectors.double() @ vectors.double().T
    similar.fill_diagonal_(-2.0)
    assert (others.numpy() == images[similar.argmax(1).numpy()]).all()
    # Images of which the model keeps none have no self to leave out.
    unknown, _ = detector.references.most_similar(vectors, own_rows=np.arange(5) + 100)
    assert (unknown.numpy() == images).all()


def test_what_a_detector_lacks_is_named():
    with pytest.raises(ConfigError, match="before training"):
        GuidedSegmentation(make_network(), GEOMETRY, GuidedConfig(), learned={"a": torch.ones(1)})
    with pytest.raises(ModelError, match="fit it first"):
        GuidedSegmentation(make_network(), GEOMETRY, GuidedConfig(), untuned=make_network())
    with pytest.raises(ConfigError, match="one network"):
        GuidedSegmentation(
            make_network(), GEOMETRY, GuidedConfig(guidance=False), untuned=make_network()
        )
    with pytest.raises(ConfigError, match="references"):
        GuidedConfig(references=1)


@pytest.mark.parametrize("guidance", [True, False])
def test_the_command_from_end_to_end(guidance, built, sample_data, category_name, tmp_path):
    options = ["--detector", "guided-seg", "--updates", 2, "--batch", 2, "--width", 4]
    options += ["--references", 3] if guidance else ["--no-guidance"]
    result = invoke_det("fit", built, "--out", tmp_path / "m", *options)
    folder = tmp_path / "m" / category_name
    words = "segmentation guided by 3 normal images" if guidance else "without guidance"
    assert words in result.output and "last accuracy" in result.output
    names = {path.name for path in folder.glob("*.safetensors")}
    always = ("extractor", "calibration", "guided", "normals")
    expected = {f"{name}.safetensors" for name in always}
    assert names == expected | ({"untuned.safetensors"} if guidance else set())
    assert invoke_det("verify", tmp_path / "m").exit_code == 0
    plain = json.loads(invoke_det("inspect", tmp_path / "m", "--json").output)[0]
    assert plain["holds_pixels"] is guidance
    results = tmp_path / "results"
    table = invoke_det("eval", tmp_path / "m", sample_data, "--out", results, "--quiet").output
    assert "IoU" in table
    metrics = json.loads((results / "metrics.json").read_text())[0]["metrics"]
    assert 0.0 <= metrics["pixel_iou"] <= 1.0
    # What guided it is shown by name.
    normal = next((sample_data / category_name / "train" / "good").glob("*.png"))
    asked = ("explain", folder, normal, "-o", tmp_path / "why.png")
    if not guidance:
        assert "trained without guidance" in invoke_det(*asked, exit_code=1).output
        return
    model = load_model(folder)
    (found,) = json.loads(invoke_det(*asked, "--json").stdout)
    assert found["grid"] is None and found["is_known"] and len(found["neighbours"]) == 3
    distances = [one["distance"] for one in found["neighbours"]]
    assert distances == sorted(distances) and distances[0] >= -1e-6
    assert {one["image"] for one in found["neighbours"]} <= {one.source for one in model.normals}
    assert "guided the segmentation" in invoke_det(*asked).stdout
    assert (tmp_path / "why.png").stat().st_size > 1000
    images = sorted((sample_data / category_name / "test").glob("*/*.png"))[:3]
    scored = invoke_det("score", folder, *images, "--output", "json", "--quiet")
    assert len(json.loads(scored.output)) == 3
    # The same options again: nothing to do; others are refused.
    assert "nothing to do" in invoke_det("fit", built, "--out", tmp_path / "m", *options).output
    invoke_det("fit", built, "--out", tmp_path / "m", "--updates", 0, exit_code=1)
    model = load_model(folder)
    assert model.detector.config.guidance is guidance
