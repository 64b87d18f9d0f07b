"""What a training freezes: the start, stages and statistics."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from detector.train_config import TrainConfig
from detector.trainee import Trainee
from manifests.errors import ConfigError
from manifests.weights import load_network
from reference.small_training import LABELS, fit, log_of, sampler_of

SMALL = TrainConfig(updates=7, batch=3, lr=0.05, frozen_start=2, checkpoint_every=3, seed=4)


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


def test_the_frozen_start_leaves_the_backbone_alone(network, tmp_path):
    config = dataclasses.replace(SMALL, updates=2, frozen_start=2)
    with pytest.warns(UserWarning, match="--frozen-start 2 is not under --updates 2"):
        trained = fit(network, config, tmp_path)
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(trained.module.state_dict()[name], tensor), name
    assert trained.digest == network.digest
    assert log_of(tmp_path)[0]["loss"] != log_of(tmp_path)[1]["loss"]


def saved_bytes(network, config: TrainConfig, update: int) -> tuple[int, dict[str, bool]]:
    """Bytes that autograd keeps in one update, and which stages have a graph."""
    trainee = Trainee(network, config, labels=LABELS, device="cpu")
    has_graph: dict[str, bool] = {}
    for stage, name in network.stages.items():
        trainee.module.get_submodule(name).register_forward_hook(
            lambda _part, _in, out, stage=stage: has_graph.update({stage: out.requires_grad})
        )
    # Weights are kept by reference, so only what is made on the way counts.
    weights = {tensor.data_ptr() for tensor in trainee._state().values()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = sampler_of(config).batch(update)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainee.update(update, batch)
    return sum(kept.values()), has_graph


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_autograd_skips_what_is_frozen(name):
    network = load_network(name, pretrained=False)
    config = dataclasses.replace(SMALL, frozen_start=1)
    kept = []
    for n_stages in range(6):
        one = dataclasses.replace(config, freeze_stages=n_stages)
        n_bytes, has_graph = saved_bytes(network, one, update=1)
        assert has_graph == {stage: stage >= n_stages for stage in range(5)}
        kept.append(n_bytes)
    assert kept == sorted(kept, reverse=True)
    assert kept[2] < 0.6 * kept[0]
    n_bytes, has_graph = saved_bytes(network, config, update=0)
    assert not any(has_graph.values())
    assert n_bytes <= kept[5]


@pytest.mark.parametrize("n_stages", [1, 3])
def test_frozen_stages_stay_as_they_are(network, tmp_path, n_stages):
    trained = fit(network, dataclasses.replace(SMALL, freeze_stages=n_stages), tmp_path)
    frozen = ["conv1.", "bn1.", "layer1.", "layer2."][: n_stages + 1]
    before = network.module.state_dict()
    for name, tensor in trained.module.state_dict().items():
        if name.endswith("num_batches_tracked") or name.startswith("fc."):
            continue
        assert torch.equal(tensor, before[name]) == name.startswith(tuple(frozen)), name


def test_a_stage_that_is_one_layer_is_frozen_whole():
    network = load_network("mobilenetv3_small_050", pretrained=False)
    assert network.stages[0] == "bn1"
    config = dataclasses.replace(SMALL, freeze_stages=1)
    module = Trainee(network, config, labels=LABELS, device="cpu").module
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {"conv_stem.weight", "bn1.weight", "bn1.bias"}


def test_stages_a_network_does_not_have_are_refused(network):
    headless = dataclasses.replace(network, stages={1: "layer1", 2: "layer2"})
    for n_stages in (1, 4):
        with pytest.raises(ConfigError, match=f"--freeze-stages {n_stages}"):
            Trainee(
                headless,
                dataclasses.replace(SMALL, freeze_stages=n_stages),
                labels=LABELS,
                device="cpu",
            )


def test_frozen_statistics_stay_and_affine_weights_train(network, tmp_path):
    trained = fit(network, dataclasses.replace(SMALL, freeze_bn=True), tmp_path)
    before, after = network.module.state_dict(), trained.module.state_dict()
    for name in before:
        if "bn" in name and name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(after[name], before[name]), name
        if "bn" in name and name.endswith("bias"):
            assert not torch.equal(after[name], before[name]), name
