"""CAVGA as a whole: its batches, its updates, going on, known anomalies, the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import invoke_det

from detector.anomalous_images import AnomalousImages, files_digest
from detector.cavga.attention import NORMALISERS, attention, latent_evidence
from detector.cavga.batches import NegativeBatches, NormalBatches
from detector.cavga.collapse import find_collapses
from detector.cavga.losses import (
    adversarial_loss,
    discriminator_loss,
    divergence_loss,
    expansion_loss,
    reconstruction_loss,
)
from detector.cavga.networks import mean_image
from detector.cavga.trainee import (
    COLUMNS,
    DISCRIMINATOR_RATE,
    WEAK_COLUMNS,
    figures_of,
    mean_attention,
)
from detector.cavga.training import train_cavga
from detector.config import LATENTS, FitConfig
from detector.config import NORMALISERS as CONFIG_NORMALISERS
from detector.dataset import TripletSampler
from detector.detectors import Cavga, CavgaConfig
from detector.diverged import Diverged
from detector.model import load_model
from detector.random_stream import random_stream
from detector.training_log import read_training_csv
from manifests.errors import ConfigError, DataError, ModelError
from manifests.geometry import Geometry
from manifests.negative_set import NegativeSet
from reference import small_cavga
from reference.small_cavga import CONFIG, SHAPE, batch_of, new_networks, new_trainee
from reference.small_networks import GEOMETRY, make_images, make_network
from reference.small_sets import write_set


@pytest.fixture
def negative_set(tmp_path):
    write_set(tmp_path / "tiles", shards=2, n=4, r=12)
    with NegativeSet.open(tmp_path / "tiles") as opened:
        yield opened


def test_options_and_code_know_the_same_names():
    assert tuple(NORMALISERS) == CONFIG_NORMALISERS
    for latent in LATENTS:
        assert new_networks(replace(SHAPE, latent=latent)).head is not None
    assert CavgaConfig() == FitConfig(detector="cavga").detector_config()


def test_batches_are_epochs_of_normals(negative_set):
    read = NormalBatches(negative_set, batch=4, seed=1)
    epoch = np.concatenate([read(0).images, read(1).images])
    everything = np.stack([negative_set.normal(row).image for row in range(8)])
    assert sorted(image.tobytes() for image in epoch) == sorted(
        image.tobytes() for image in everything
    )
    assert (read(1).images == read(1).images).all() and (read(0).images != read(2).images).any()
    assert read(3).boxes.tolist() == [[0, 2, 32, 40]] * 4 and read(3).n_normals == 4
    assert len(NormalBatches(negative_set, batch=11, seed=1)(0).images) == 11  # with replacement


def test_known_anomalies_join_the_batches(negative_set):
    known = AnomalousImages(
        np.full((3, 32, 44, 3), [[[[9]]], [[[8]]], [[[7]]]], dtype=np.uint8),
        np.array([[0, 0, 32, 44]] * 3),
        ["b", "a", "c"],
    )
    read = NormalBatches(negative_set, batch=4, seed=1, anomalous=known)
    seen = set()
    for update in range(9):
        batch = read(update)
        assert batch.n_normals == 4 and len(batch.images) == 6
        assert batch.boxes[4:].tolist() == [[0, 0, 32, 44]] * 2
        seen |= {int(image[0, 0, 0]) for image in batch.images[4:]}
    assert seen == {7, 8, 9}
    sampler = TripletSampler(
        negative_set, batch=4, seed=3, negatives=("swap", "scar"), shares=(0.25, 0.25)
    )
    batch = NegativeBatches(negative_set, sampler)(2)
    assert batch.n_normals == 4 and len(batch.images) == 6 and len(batch.boxes) == 6


def test_a_folder_of_anomalies_is_known_by_its_files(sample_data, category_name, tmp_path):
    source = sample_data / category_name / "test" / "scratch"
    geometry = Geometry(32, 48)
    known = AnomalousImages.read(source, geometry)
    assert known.images.shape[1:] == (32, 48, 3) and len(known) == len(list(source.glob("*.png")))
    assert known.digest == files_digest(source)
    for number, path in enumerate(sorted(source.glob("*.png"), reverse=True)):
        (tmp_path / "other").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "other" / f"{number}.png")
    assert files_digest(tmp_path / "other") == known.digest
    with pytest.raises(DataError):
        files_digest(tmp_path / "none")


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_an_update_follows_the_losses(normaliser):
    """Adam's first step written out: for both optimisers the rate times the gradient's sign."""
    config = replace(CONFIG, lr=1e-3)
    batch = batch_of(3)
    networks, reference = new_networks(), new_networks()
    trainee = new_trainee(networks, config, normaliser=normaliser, expansion=0.5)
    row = dict(zip(COLUMNS, trainee.update(0, batch), strict=False))
    for module in reference.modules().values():
        module.train()
    reference.encoder.backbone.eval()
    images = torch.from_numpy(batch.images)
    pixels = ((images - 127.0) / 64.0).permute(0, 3, 1, 2)
    colours = (images / 255.0).permute(0, 3, 1, 2)
    features = reference.encoder(pixels)[-1]
    latent = reference.head(features)
    drawn = latent.sample(random_stream(f"cavga|{config.seed}|latent|0"))
    logits = reference.decoder.logits(drawn, (32, 48))
    rebuilt = torch.sigmoid(logits)
    discriminator = reference.discriminator
    theirs = discriminator_loss(discriminator(colours), discriminator(rebuilt.detach()))
    theirs.backward()
    assert row["discriminator_loss"] == pytest.approx(theirs.item(), rel=1e-4)
    adversary = dict(networks.discriminator.named_parameters())
    for name, before in discriminator.named_parameters():
        clear = before.grad.abs() > 1e-6
        step = (before.detach() - adversary[name])[clear]
        rate = config.lr * DISCRIMINATOR_RATE
        torch.testing.assert_close(step, rate * before.grad[clear].sign(), rtol=0.05, atol=1e-6)
    # The others are opposed by the discriminator as it is after its step.
    discriminator.load_state_dict(
        {k: v for k, v in networks.discriminator.state_dict().items() if "left" not in k},
        strict=False,
    )
    parts = {
        "reconstruction_loss": reconstruction_loss(logits, colours),
        "divergence_loss": divergence_loss(latent, n_colours=3 * 32 * 48),
        "adversarial_loss": adversarial_loss(discriminator(rebuilt)),
    }
    evidence = latent_evidence(features, latent.mean, create_graph=True)
    maps = attention(evidence, normaliser, size=(32, 48))
    parts["attention_loss"] = expansion_loss(maps)
    for name, part in parts.items():
        assert row[name] == pytest.approx(part.item(), rel=1e-3), name
    loss = sum(parts.values()) - 0.5 * parts["attention_loss"]
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-3)
    loss.backward()
    for part in ("encoder", "head", "decoder"):
        after = dict(networks.modules()[part].named_parameters())
        for name, before in reference.modules()[part].named_parameters():
            if before.grad is None:
                continue
            clear = before.grad.abs() > 1e-4
            step = (before.detach() - after[name])[clear]
            expected = config.lr * before.grad[clear].sign()
            torch.testing.assert_close(step, expected, rtol=0.05, atol=1e-5)


def test_expansion_makes_attention_cover_more_of_normal_images():
    def last(expansion: float) -> float:
        trainee = new_trainee(new_networks(), replace(CONFIG, updates=40), expansion=expansion)
        return [trainee.update(update, batch_of(update)) for update in range(40)][-1][9]

    assert last(1.0) > last(0.0) + 0.05


def test_weak_training_learns_to_tell_anomalies():
    networks = new_networks(replace(SHAPE, is_weak=True))
    trainee = new_trainee(networks, replace(CONFIG, updates=80))
    rows = [trainee.update(update, batch_of(update % 4, is_weak=True)) for update in range(80)]
    assert len(rows[0]) == len(WEAK_COLUMNS) - 1
    first, last = (dict(zip(WEAK_COLUMNS, row, strict=False)) for row in (rows[0], rows[-1]))
    assert last["reconstruction_error"] < 0.5 * first["reconstruction_error"]
    assert last["classifier_loss"] < first["classifier_loss"]


def run(negative_set, folder, *, config=None, shape=None, **settings):
    config = config or replace(CONFIG, updates=6, batch=4, checkpoint_every=2)
    options = {"expansion": 0.01, "normaliser": "sigmoid", "run": {"a": 1}} | settings
    return train_cavga(
        make_network(),
        negative_set,
        NormalBatches(negative_set, batch=4, seed=0),
        config,
        shape=shape or replace(SHAPE, canvas=(32, 44)),
        folder=folder,
        **options,
    )


@pytest.mark.parametrize("latent", LATENTS)
def test_an_interrupted_training_goes_on_to_the_same_weights(latent, negative_set, tmp_path):
    shape = replace(SHAPE, canvas=(32, 44), latent=latent)
    state = torch.random.get_rng_state()
    (network, learned), _ = run(negative_set, tmp_path / "whole", shape=shape)
    assert torch.equal(torch.random.get_rng_state(), state)

    def stop(done, total, row):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(negative_set, tmp_path / "parts", shape=shape, progress=stop)
    (again, same), _ = run(negative_set, tmp_path / "parts", shape=shape)
    assert again.digest == network.digest != make_network().digest
    assert learned.keys() == same.keys()
    assert all(torch.equal(learned[name], same[name]) for name in learned)
    assert not any(name.startswith("discriminator") for name in learned)
    log = read_training_csv(tmp_path / "parts" / "training.csv")
    assert [row["update"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert figures_of(log[2]).update == 2
    with pytest.raises(ModelError, match="normaliser"):
        run(negative_set, tmp_path / "parts", shape=shape, normaliser="ratio")


def test_divergence_is_named_and_collapse_is_told(negative_set, tmp_path):
    with pytest.raises(Diverged, match="--lr"):
        run(negative_set, tmp_path / "a", config=replace(CONFIG, updates=9, batch=4, lr=1e20))
    assert not (tmp_path / "a" / "checkpoint.safetensors").exists()
    log = [
        dict.fromkeys(COLUMNS, 1.0) | {"update": float(number), "latent_nats": 0.0}
        for number in range(1, 60)
    ]
    names = [collapse.name for collapse in find_collapses(map(figures_of, log))]
    assert names == ["posterior-collapse"]


def test_the_mean_image_and_attention_are_of_what_is_shown():
    images = np.full((2, 4, 6, 3), 8, dtype=np.uint8)
    images[0, :, :3] = 200  # padding, as if it were bright
    boxes = [(0, 3, 4, 3), (0, 0, 4, 6)]
    assert (mean_image([(images, boxes)]) == 8).all()
    inside = np.zeros((1, 4, 6, 3), dtype=np.uint8)
    assert (mean_image([(inside + 7, [(0, 0, 4, 3)])])[:, 3:] == 0).all()
    shown = torch.zeros((1, 2, 2), dtype=torch.bool)
    shown[0, 0, 0] = True
    maps = torch.tensor([[[0.25, 9.0], [9.0, 9.0]]])
    assert mean_attention(maps, shown) == 0.25 and mean_attention(maps, None) == 6.8125


def test_scoring_takes_no_memory_that_the_stored_tensors_do_not(tmp_path):
    """A stranger's model may say that its layers are of any size."""
    shape = replace(SHAPE, latent="flat", latent_channels=1024, canvas=(4096, 4096), is_weak=True)
    networks = new_networks(shape, is_trained=True)
    layers = [networks.head.mean, networks.head.back, networks.classifier.linear]
    assert all(layer.weight.is_meta for layer in layers)
    with pytest.raises(ModelError):
        networks.take(small_cavga.trained())


def test_the_discriminator_that_opposes_is_the_one_just_taught():
    """Autocast keeps the weights it has cast; the adversary's change in between."""
    config = replace(CONFIG, lr=0.05, precision="bf16", jitter=0.0)
    networks, again = new_networks(), new_networks()
    row = dict(zip(COLUMNS, new_trainee(networks, config).update(0, batch_of(0)), strict=False))
    trainee = new_trainee(again, config)
    step = trainee.optimisers["adversary"].step

    def step_and_forget():
        step()
        torch.clear_autocast_cache()

    trainee.optimisers["adversary"].step = step_and_forget
    other = dict(zip(COLUMNS, trainee.update(0, batch_of(0)), strict=False))
    assert row["adversarial_loss"] == other["adversarial_loss"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="--latent-stage 4"):
        new_networks(replace(SHAPE, latent_stage=4))
    with pytest.raises(ConfigError, match="--freeze-stages 3 or less"):
        new_networks(freeze_stages=4)
    with pytest.raises(ConfigError, match="one network"):
        Cavga(make_network(), GEOMETRY, CavgaConfig(latent_stage=3), untuned=make_network())
    with pytest.raises(ModelError, match="fit it first"):
        Cavga(make_network(), GEOMETRY, CavgaConfig(latent_stage=3))
    train = replace(CONFIG, jitter=0.1)
    for options, expected in (
        ({"weak": True, "anomalous": "a" * 64}, "--anomalous"),
        ({"weak": True, "expansion": 0.5}, "--expansion"),
        ({"train": replace(train, negatives=("swap",))}, "--negatives"),
        ({"train": replace(train, levels=(2,))}, "--levels"),
        ({"train": replace(train, freeze_bn=True)}, "--freeze-bn"),
    ):
        with pytest.raises(ConfigError, match=expected):
            FitConfig(detector="cavga", **{"train": train} | options)


@pytest.mark.parametrize("is_weak", [False, True])
def test_maps_are_one_minus_attention(is_weak):
    shape = replace(SHAPE, is_weak=is_weak)
    config = CavgaConfig(latent_channels=4, latent_stage=3, width=4, weak=is_weak, sigma_px=0.0)
    learned = small_cavga.trained(shape)
    detector = Cavga(make_network(), GEOMETRY, config, learned=learned)
    images = make_images(3, seed=4)
    detector.fit([(images, [(0, 0, 32, 48)] * 3)])
    found = detector.score(images)
    networks = new_networks(shape)
    networks.take(learned)
    pixels = ((torch.from_numpy(images) - 127.0) / 64.0).permute(0, 3, 1, 2)
    features = networks.encoder(pixels)[-1].detach().requires_grad_(True)
    mean = networks.head(features).mean
    rebuilt = networks.decoder(mean, (32, 48)).detach()
    colours = (torch.from_numpy(images) / 255.0).permute(0, 3, 1, 2)
    np.testing.assert_allclose(
        found.image, (rebuilt - colours).square().mean((1, 2, 3)).numpy(), rtol=1e-3
    )
    for number in range(3):
        score = networks.classifier(mean)[number, 0] if is_weak else mean[number].mean()
        (gradient,) = torch.autograd.grad(score, features, retain_graph=True)
        evidence = (gradient[number].sum((1, 2), keepdim=True) * features[number]).sum(0)
        expected = 1.0 - attention(evidence[None], "ratio", size=(32, 48))[0]
        np.testing.assert_allclose(
            found.map[number], expected.detach().numpy(), rtol=1e-3, atol=1e-5
        )


def test_the_command_from_end_to_end(built, sample_data, category_name, tmp_path):
    test = sample_data / category_name / "test"
    size = ["--detector", "cavga", "--updates", 2, "--batch", 2, "--width", 4]
    for name, options in (
        ("plain", ["--latent", "flat", "--latent-channels", 5]),
        ("weak", ["--weak", "--negatives", "swap", "--normaliser", "sigmoid"]),
        ("known", ["--anomalous", test / "scratch", "--latent-stage", 3]),
    ):
        out = tmp_path / name
        result = invoke_det("fit", built, "--out", out, *size, *options)
        assert ("weakly" in result.output) == (name != "plain")
        assert "last loss" in result.output or "last accuracy" in result.output
        invoke_det("verify", out)
        model = load_model(out / category_name)
        assert not model.detector.holds_pixels
        results = tmp_path / f"r-{name}"
        told = invoke_det("eval", out, sample_data, "--out", results, "--quiet").output
        assert "IoU" in told
        counts = json.loads((results / "metrics.json").read_text())[0]["counts"]
        # What training has seen is not tested on.
        expected = len(list((test / "scratch").glob("*.png"))) if name == "known" else 0
        assert counts["excluded"] == expected
        assert "nothing to do" in invoke_det("fit", built, "--out", out, *size, *options).output
    invoke_det(
        "fit", built, "--out", tmp_path / "none", *size, "--anomalous", tmp_path / "x", exit_code=1
    )
