"""Training: against a literal loop, after interruptions, with everything that can be frozen."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

from detector import train as train_module
from detector import trainee as trainee_module
from detector.checkpoint import CHECKPOINT_NAME, read_checkpoint, remove_checkpoint
from detector.dataset import TripletSampler
from detector.train import TRAINING_CSV, read_training_csv, train_extractor
from detector.train_config import TrainConfig
from detector.trainee import Diverged, Trainee
from manifests.errors import ConfigError, ModelError, OutputError
from manifests.weights import load_network, state_digest
from reference.training import PaintedSet, train_literally

LABELS = ("normal", "swap", "scar")
SMALL = TrainConfig(updates=7, batch=3, lr=0.05, frozen_start=2, checkpoint_every=3, seed=4)


@pytest.fixture(scope="module")
def network():
    return load_network("test_resnet", pretrained=False, seed=1)


def sampler_of(config: TrainConfig) -> TripletSampler:
    return TripletSampler(
        PaintedSet(),
        batch=config.batch,
        seed=config.seed,
        negatives=config.negatives,
        shares=config.shares,
        levels=config.levels,
    )


def fit(network, config: TrainConfig, folder, **settings):
    return train_extractor(network, sampler_of(config), config, folder=folder, **settings)


def log_of(folder) -> list[dict[str, float]]:
    """The log without its wall times."""
    rows = read_training_csv(folder / TRAINING_CSV)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """A training that nothing interrupts: the network and its log."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(network, SMALL, folder), log_of(folder)


def assert_same_training(trained, log, whole) -> None:
    """Bit for bit, the counters that the digest leaves out included."""
    expected = whole[0].module.state_dict()
    for name, tensor in trained.module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert trained.digest == whole[0].digest
    assert log == whole[1]


# ---- the algorithm ------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_training_equals_the_literal_loop(network, tmp_path, freeze_bn):
    config = dataclasses.replace(
        SMALL, updates=5, jitter=0.0, weight_decay=0.01, freeze_bn=freeze_bn
    )
    trained = fit(network, config, tmp_path)
    module = copy.deepcopy(network.module)
    head = Trainee(network, config, labels=LABELS, device="cpu").heads["head"]
    batches = []
    for update in range(config.updates):
        batch = sampler_of(config).batch(update)
        batches.append((network.preprocess(batch.images), torch.from_numpy(batch.labels)))
    losses, _ = train_literally(
        module,
        head,
        batches,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        frozen_start=config.frozen_start,
        freeze_bn=freeze_bn,
        to_features=lambda module, inputs: module.global_pool(module.forward_features(inputs)),
    )
    assert [row["loss"] for row in log_of(tmp_path)] == pytest.approx(losses, abs=1e-4)
    before = network.module.state_dict()
    for name, tensor in trained.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        # Measured by how far training moved the tensor, so that a lost term cannot hide.
        error = (tensor - module.state_dict()[name]).abs().max()
        change = (tensor - before[name]).abs().max()
        assert error <= 0.02 * change + 1e-6, name
    assert (trained.module.conv1[0].weight - before["conv1.0.weight"]).abs().max() > 5e-3


def test_cosine_cycle_by_hand():
    config = TrainConfig(updates=8, lr=0.4)
    expected = [0.4, 0.2 + 0.2 * math.sqrt(0.5), 0.2, 0.2 - 0.2 * math.sqrt(0.5), 0.0]
    rates = [config.lr_at(update) for update in (0, 2, 4, 6, 8)]
    assert rates == pytest.approx(expected, abs=1e-15)
    assert all(config.lr_at(u) > config.lr_at(u + 1) for u in range(8))


def test_an_easy_task_is_learnt(network, tmp_path):
    config = TrainConfig(updates=16, batch=8, lr=0.03, frozen_start=2, freeze_bn=True)
    fit(network, config, tmp_path)
    log = log_of(tmp_path)
    assert log[0]["loss"] == pytest.approx(math.log(3), abs=0.5)
    assert np.mean([row["loss"] for row in log[-3:]]) < 0.2
    assert log[-1]["accuracy"] == log[-1]["accuracy_scar"] == 1.0


def test_the_head_is_ours_and_depends_on_the_seed_only(network):
    def head(seed: int):
        config = dataclasses.replace(SMALL, seed=seed)
        return Trainee(network, config, labels=LABELS, device="cpu").heads["head"]

    state = torch.random.get_rng_state()
    first, again, other = head(1), head(1), head(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [type(layer).__name__ for layer in first] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    bound = first[0].in_features ** -0.5
    assert 0.9 * bound < first[0].weight.abs().max() <= bound
    assert first[3].out_features == 3


def test_jitter_reaches_training(network, tmp_path, whole):
    plain = fit(network, dataclasses.replace(SMALL, jitter=0.0), tmp_path)
    assert plain.digest != whole[0].digest


def test_every_update_jitters_anew(network, tmp_path, monkeypatch):
    states = []

    def spy(images, *, jitter, generator):
        states.append(bytes(generator.get_state().numpy()))
        return images

    monkeypatch.setattr(trainee_module, "colour_jitter", spy)
    for seed in (4, 5):
        fit(network, dataclasses.replace(SMALL, updates=3, seed=seed), tmp_path / str(seed))
    assert len(set(states)) == len(states) == 6


def test_bf16_trains_close_to_fp32(network, tmp_path, whole):
    trained = fit(network, dataclasses.replace(SMALL, precision="bf16"), tmp_path)
    assert trained.digest != whole[0].digest
    assert {p.dtype for p in trained.module.parameters()} == {torch.float32}
    losses = [row["loss"] for row in log_of(tmp_path)]
    assert losses == pytest.approx([row["loss"] for row in whole[1]], abs=0.15)


# ---- what comes back, and what is left alone ----------------------------------------------------


def test_the_trained_network_is_ready_to_use(network, whole):
    trained, log = whole
    assert trained.digest == state_digest(trained.module) != network.digest
    assert not trained.module.training
    assert not any(part.training for part in trained.module.modules())
    assert not any(p.requires_grad or p.grad is not None for p in trained.module.parameters())
    assert trained.module.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert (trained.name, trained.stages, trained.mean) == (
        network.name,
        network.stages,
        network.mean,
    )
    assert len(log) == SMALL.updates


def test_the_network_passed_in_and_global_state_stay_as_they_are(network, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    state = torch.random.get_rng_state()
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    fit(network, dataclasses.replace(SMALL, updates=3), tmp_path)
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(p.requires_grad for p in network.module.parameters())
    assert not any(part._forward_hooks for part in network.module.modules())
    assert not network.module.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert flags == (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)


def test_no_updates_leave_the_network_as_it_is(network, tmp_path):
    trained = fit(network, TrainConfig(updates=0, batch=3), tmp_path)
    assert trained.digest == network.digest
    assert trained.module is not network.module
    assert read_training_csv(tmp_path / TRAINING_CSV) == []


def test_log_and_progress_tell_the_same(network, tmp_path):
    calls = []
    config = dataclasses.replace(SMALL, updates=4)
    fit(network, config, tmp_path, progress=lambda *values: calls.append(values))
    lines = (tmp_path / TRAINING_CSV).read_text().splitlines()
    assert lines[0] == (
        "update,lr,loss,accuracy,accuracy_normal,accuracy_swap,accuracy_scar,seconds"
    )
    rows = read_training_csv(tmp_path / TRAINING_CSV)
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    for number, (row, (update, total, loss, accuracy)) in enumerate(zip(rows, calls, strict=True)):
        assert (update, total) == (number + 1, 4)
        assert row["lr"] == pytest.approx(config.lr_at(number), rel=1e-8)
        assert (row["loss"], row["accuracy"]) == pytest.approx((loss, accuracy), rel=1e-8)
        per_class = [row[f"accuracy_{name}"] for name in LABELS]
        assert row["accuracy"] == pytest.approx(np.mean(per_class), abs=1e-6)
        assert all(round(3 * value, 6) in (0, 1, 2, 3) for value in per_class)
        assert row["seconds"] > 0


# ---- interruptions ------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a kill: nothing may be written on the way out."""


@pytest.mark.parametrize(
    ("kind", "at"),
    [(KeyboardInterrupt, 1), (KeyboardInterrupt, 3), (KeyboardInterrupt, 5), (KeyboardInterrupt, 7)]
    + [(Killed, 2), (Killed, 4), (Killed, 7)],
)
def test_an_interrupted_training_ends_the_same(network, tmp_path, whole, kind, at):
    # 1 is inside the frozen start, 2 its end, 3 a checkpoint, 4 and 5 follow one, 7 is the last.
    def interrupt(update: int, _total: int, _loss: float, _accuracy: float) -> None:
        if update == at:
            raise kind

    with pytest.raises(kind):
        fit(network, SMALL, tmp_path, progress=interrupt)
    calls = []
    trained = fit(network, SMALL, tmp_path, progress=lambda update, *_: calls.append(update))
    saved = at if kind is KeyboardInterrupt or at == SMALL.updates else at - at % 3
    assert calls == list(range(saved + 1, 8))
    assert_same_training(trained, log_of(tmp_path), whole)


def test_an_interrupt_in_the_middle_of_an_update_saves_the_one_before(
    network, tmp_path, whole, monkeypatch
):
    class Broken(torch.optim.SGD):
        n_steps = 0

        def step(self, closure=None):
            Broken.n_steps += 1
            loss = super().step(closure)
            if Broken.n_steps == 5:
                raise KeyboardInterrupt  # weights and momenta are already the next ones
            return loss

    monkeypatch.setattr(trainee_module.torch.optim, "SGD", Broken)
    with pytest.raises(KeyboardInterrupt):
        fit(network, SMALL, tmp_path)
    monkeypatch.undo()
    resumed = []
    trained = fit(network, SMALL, tmp_path, progress=lambda update, *_: resumed.append(update))
    assert resumed == [5, 6, 7]
    assert_same_training(trained, log_of(tmp_path), whole)


def test_interrupted_at_every_update_in_turn(network, tmp_path, whole):
    def interrupt(_update: int, _total: int, _loss: float, _accuracy: float) -> None:
        raise KeyboardInterrupt

    for _ in range(SMALL.updates):
        with pytest.raises(KeyboardInterrupt):
            fit(network, SMALL, tmp_path, progress=interrupt)
    assert_same_training(fit(network, SMALL, tmp_path), log_of(tmp_path), whole)


def test_a_finished_training_is_not_repeated(network, tmp_path, whole):
    fit(network, SMALL, tmp_path)
    (tmp_path / TRAINING_CSV).unlink()

    def fail(*_values) -> None:
        raise AssertionError("trained again")

    assert_same_training(fit(network, SMALL, tmp_path, progress=fail), log_of(tmp_path), whole)


def test_an_interrupt_while_reading_a_batch_is_saved(network, tmp_path, whole):
    sampler = sampler_of(SMALL)
    read = sampler.batch

    def batch(update: int):
        if update == 4:
            raise KeyboardInterrupt
        return read(update)

    sampler.batch = batch
    with pytest.raises(KeyboardInterrupt):
        train_extractor(network, sampler, SMALL, folder=tmp_path)
    assert_same_training(fit(network, SMALL, tmp_path), log_of(tmp_path), whole)


def test_how_often_checkpoints_are_written_changes_nothing_else(network, tmp_path, whole):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(4))
    config = dataclasses.replace(SMALL, checkpoint_every=1)
    assert_same_training(fit(network, config, tmp_path), log_of(tmp_path), whole)


def stop_at(at: int):
    def stop(update: int, *_values) -> None:
        if update == at:
            raise Killed

    return stop


@pytest.mark.parametrize(
    ("change", "named"), [({"lr": 0.01}, "lr=0.01"), ({"freeze_bn": True}, "freeze_bn=True")]
)
def test_a_checkpoint_of_other_options_is_refused(network, tmp_path, change, named):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(3))
    other = dataclasses.replace(SMALL, **change)
    with pytest.raises(ModelError, match=named) as caught:
        fit(network, other, tmp_path)
    assert "--overwrite" in str(caught.value)
    remove_checkpoint(tmp_path)
    assert fit(network, other, tmp_path).digest != network.digest


def test_a_checkpoint_of_another_set_or_network_is_refused(network, tmp_path):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(3))
    sampler = sampler_of(SMALL)
    sampler.set_digest = "ef" * 32
    with pytest.raises(ModelError, match="set_digest"):
        train_extractor(network, sampler, SMALL, folder=tmp_path)
    other = load_network("test_resnet", pretrained=False, seed=2)
    with pytest.raises(ModelError, match="network_digest"):
        fit(other, SMALL, tmp_path)


def test_tensors_that_do_not_fit_are_refused(network, tmp_path):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(3))
    run = train_module._describe_run(network, sampler_of(SMALL), SMALL)
    saved = read_checkpoint(tmp_path, run=run)
    trainee = Trainee(network, SMALL, labels=LABELS, device="cpu")
    rows = tuple(saved.tensors["log"].shape)
    before = trainee.module.conv1[0].weight.clone()
    for tensors in (
        {name: t for name, t in saved.tensors.items() if name != "module/bn1.running_var"},
        {**saved.tensors, "module/bn1.running_var": torch.ones(1)},
        {**saved.tensors, "momentum/module/nothing": torch.ones(1)},
        {**saved.tensors, "log": torch.ones((1, 1), dtype=torch.float64)},
    ):
        with pytest.raises(ModelError, match="does not fit"):
            trainee.restore(dataclasses.replace(saved, tensors=tensors), tmp_path, rows=rows)
    assert torch.equal(trainee.module.conv1[0].weight, before)


def test_another_number_of_threads_is_said_aloud(network, tmp_path, monkeypatch):
    with pytest.raises(Killed):
        fit(network, SMALL, tmp_path, progress=stop_at(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Killed):
            fit(network, SMALL, tmp_path, progress=stop_at(6))
    monkeypatch.setattr(train_module.torch, "get_num_threads", lambda: 77)
    with pytest.warns(UserWarning, match=r"from update 6 in another environment \(threads .* 77"):
        fit(network, SMALL, tmp_path)


# ---- freezing -----------------------------------------------------------------------------------


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


def test_statistics_train_by_default(network, whole):
    before, after = network.module.state_dict(), whole[0].module.state_dict()
    assert not torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    n_trained = SMALL.updates - SMALL.frozen_start
    assert after["bn1.num_batches_tracked"] - before["bn1.num_batches_tracked"] == n_trained


# ---- mistakes -----------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_update_and_way_out(network, tmp_path):
    config = dataclasses.replace(SMALL, lr=1e30, frozen_start=0, checkpoint_every=1)
    with pytest.raises(Diverged, match=r"update \d of 7.*--lr \(it was 1e\+30\)"):
        fit(network, config, tmp_path)
    assert not (tmp_path / CHECKPOINT_NAME).exists()
    # So the way out works as it is named.
    fit(network, dataclasses.replace(config, updates=1, lr=1e-3), tmp_path)


def test_weights_that_are_not_finite_are_never_returned(network, tmp_path, monkeypatch):
    def step(self, closure=None):
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(float("nan"))

    monkeypatch.setattr(trainee_module.torch.optim.SGD, "step", step)
    config = dataclasses.replace(SMALL, updates=1, frozen_start=0)
    with pytest.raises(Diverged, match="a weight is not finite"):
        fit(network, config, tmp_path)


def test_sampler_and_config_must_agree(network, tmp_path):
    for change in ({"batch": 4}, {"seed": 5}):
        with pytest.raises(ConfigError, match="do not agree"):
            train_extractor(
                network,
                sampler_of(SMALL),
                dataclasses.replace(SMALL, **change),
                folder=tmp_path,
            )


def test_a_folder_that_cannot_be_written_is_an_output_error(network, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        fit(network, SMALL, tmp_path / "file" / "model")


def test_a_log_that_is_none_is_refused(tmp_path):
    path = tmp_path / TRAINING_CSV
    for content in (None, "update,loss\n1,abc\n", "update,loss\n1\n", "update,loss\n1,2,3\n"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(ModelError, match=r"training\.csv"):
            read_training_csv(path)
