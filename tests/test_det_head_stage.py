"""The image head on a stage of the network instead of its end."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from click.testing import CliRunner

from detector.cli import main
from detector.dataset import TripletSampler
from detector.train import TRAINING_CSV, read_training_csv, train_extractor
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from detector.training_options import HeadStageType
from manifests.errors import ConfigError
from manifests.weights import load_network
from reference.training import PaintedSet, train_literally

LABELS = ("normal", "swap", "scar")
CONFIG = TrainConfig(
    updates=4, batch=3, lr=0.05, frozen_start=1, checkpoint_every=2, seed=4, jitter=0.0,
    head_stage=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


def _fit(network, config: TrainConfig, folder):
    sampler = TripletSampler(PaintedSet(), batch=config.batch, seed=config.seed)
    return train_extractor(network, sampler, config, folder=folder)


def test_training_equals_the_literal_loop_on_that_stage(network, tmp_path):
    trained = _fit(network, CONFIG, tmp_path)
    module = copy.deepcopy(network.module)
    head = Trainee(network, CONFIG, labels=LABELS, device="cpu").heads["head"]
    sampler = TripletSampler(PaintedSet(), batch=CONFIG.batch, seed=CONFIG.seed)
    batches = []
    for update in range(CONFIG.updates):
        batch = sampler.batch(update)
        batches.append((network.preprocess(batch.images), torch.from_numpy(batch.labels)))

    def to_features(module, inputs):
        stem = module.maxpool(module.act1(module.bn1(module.conv1(inputs))))
        return module.layer2(module.layer1(stem)).mean((2, 3))

    losses, _ = train_literally(
        module,
        head,
        batches,
        lr=CONFIG.lr,
        momentum=CONFIG.momentum,
        weight_decay=CONFIG.weight_decay,
        frozen_start=CONFIG.frozen_start,
        freeze_bn=CONFIG.freeze_bn,
        to_features=to_features,
    )
    rows = read_training_csv(tmp_path / TRAINING_CSV)
    assert [row["loss"] for row in rows] == pytest.approx(losses, abs=1e-4)
    before = network.module.state_dict()
    changed = {
        name.partition(".")[0]
        for name, tensor in trained.module.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {"conv1", "bn1", "layer1", "layer2"}  # nothing beyond the head's stage


def test_the_stage_can_be_shared_with_the_loss_on_cells_and_a_cache(network, tmp_path):
    config = dataclasses.replace(
        CONFIG, head_stage=3, loss="both", freeze_stages=2, cache_activations=True
    )
    trained = _fit(network, config, tmp_path)
    row = read_training_csv(tmp_path / TRAINING_CSV)[-1]
    assert {"accuracy_scar", "patch_accuracy"} <= set(row)
    before = network.module.state_dict()
    changed = {
        name.partition(".")[0]
        for name, tensor in trained.module.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {"layer2", "layer3"}


def test_with_the_networks_end_as_its_stage_the_head_sees_what_the_network_pools(network):
    # test_resnet pools the very output of its last stage, so the two heads are the same.
    ends = [dataclasses.replace(CONFIG, head_stage=stage) for stage in (4, None)]
    sampler = TripletSampler(PaintedSet(), batch=CONFIG.batch, seed=CONFIG.seed)
    rows = [
        Trainee(network, config, labels=LABELS, device="cpu").update(0, sampler.batch(0))
        for config in ends
    ]
    assert rows[0] == pytest.approx(rows[1], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_stage": 5}, "--head-stage"),
        ({"head_stage": -1}, "--head-stage"),
        ({"head_stage": 1, "freeze_stages": 2}, "is frozen"),
        ({"head_stage": 3, "loss": "patch"}, "--loss patch has none"),
    ],
)
def test_stages_that_cannot_serve_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_a_stage_that_the_network_lacks_is_named():
    network = load_network("resnet18", pretrained=False)
    lacking = dataclasses.replace(network, stages={1: "layer1", 3: "layer3", 4: "layer4"})
    with pytest.raises(ConfigError, match="--head-stage 2 does not fit resnet18"):
        Trainee(lacking, CONFIG, labels=LABELS, device="cpu")


def test_the_command_line_takes_a_number_or_end():
    kind = HeadStageType()
    assert [kind.convert(text, None, None) for text in ("3", "end", 2)] == [3, "end", 2]
    result = CliRunner().invoke(main, ["fit", "x", "--out", "y", "--head-stage", "last"])
    assert result.exit_code == 2
    assert "neither a stage's number nor 'end'" in result.output
