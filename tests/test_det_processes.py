"""Two processes over gloo: what they say, train, choose and notice, beside what one does."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from detector.checkpoint import CHECKPOINT_NAME
from detector.coreset import coreset_size, project
from detector.detectors import PatchCore
from detector.memory_bank import MemoryBank
from detector.processes import ALONE, PeerLost, Processes
from detector.torchrun import torchrun_processes
from detector.train import train_extractor
from manifests.errors import ConfigError
from reference import coreset as literal
from reference.patchcore import refilled
from reference.small_training import log_of, sampler_of
from reference.torchrun import SCENARIO, run_without_agent
from reference.two_processes import (
    BANK,
    CUT_AT,
    GEOMETRY,
    N_IMAGES,
    PLAIN,
    TRAININGS,
    images,
    small_network,
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found, and the folder that they shared."""
    return _found(tmp_path_factory.mktemp("two"), "cpu")


def _found(out, device: str):
    said = run_without_agent(SCENARIO, out, device)
    assert [code for code, *_ in said] == [0, 0], said
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)], out


# ---- talking ------------------------------------------------------------------------------------


def test_processes_hear_the_first_and_sum_and_collect(found):
    first, second = (one["talk"] for one in found[0])
    for one in (first, second):
        assert one["heard"] == {"a": 0} and one["nothing"] == "" and one["sum"] == [3.0]
        assert one["all"] == [["x"], ["x", "x"]]
    assert first["rows"] == [[1, 1, 1]] * 2 and second["rows"] is None
    assert first["share"] + second["share"] == list(range(7))


def test_one_process_talks_to_nobody():
    rows = torch.ones(2, 3)
    assert ALONE.hear(3) == 3 and ALONE.hear_all(3) == [3] and ALONE.collect(rows) is rows
    assert ALONE.sum_(rows) is rows and ALONE.own_device("cuda") == "cuda"
    assert ALONE.rows(5) == range(5) and ALONE.is_first
    ALONE.need_same("nothing", lambda: pytest.fail("asked for"))


@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_shares_follow_one_another(n):
    shares = [Processes(rank, 5).rows(n) for rank in range(5)]
    assert [row for share in shares for row in share] == list(range(n))
    assert all(one.stop == other.start for one, other in pairwise(shares))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_learn_what_one_does(found, tmp_path, name):
    config = TRAININGS[name]
    one = train_extractor(small_network(), sampler_of(config), config, folder=tmp_path)
    alone, together = log_of(tmp_path), log_of(found[1] / name)
    assert len(alone) == len(together) == config.updates
    for mine, theirs in zip(alone, together, strict=True):
        # Accuracies count: of a thousand cells one may lie so close between two classes that the
        # last bits of the weights decide.
        cells = mine.pop("patch_accuracy", None), theirs.pop("patch_accuracy", None)
        assert cells[1] == (cells[0] if cells[0] is None else pytest.approx(cells[0], abs=1e-3))
        assert theirs == pytest.approx(mine, abs=2e-4)
    first, second = (rank["trainings"][name] for rank in found[0])
    assert first == second
    before, state = small_network().module.state_dict(), one.module.state_dict()
    for key, values in first["weights"].items():
        expected = state[key].double().flatten().numpy()
        moved = np.abs(expected - before[key].double().flatten().numpy()).max()
        assert np.abs(np.array(values) - expected).max() <= 0.01 * moved, key
    assert before["conv1.0.weight"].shape == state["conv1.0.weight"].shape


def test_the_slices_of_the_processes_are_the_batch_of_one(found):
    updates = [rank["watched"]["updates"] for rank in found[0]]
    for number in range(PLAIN.updates):
        batch = sampler_of(PLAIN).batch(number, with_images=False)
        slices = [np.array(update[number][2]).reshape(3, -1) for update in updates]
        assert np.concatenate(slices, axis=1).ravel().tolist() == batch.rows.tolist()


def test_the_frozen_start_skips_updates_and_leaves_requires_grad_alone(found):
    for rank in found[0]:
        is_left_alone, is_still, _ = zip(*rank["watched"]["updates"], strict=True)
        assert all(is_left_alone)
        assert list(is_still) == [n < PLAIN.frozen_start for n in range(PLAIN.updates)]


def test_weights_that_go_astray_are_noticed_at_the_next_stage(found):
    stages = {"1": "after the frozen start", "2": "after update 3", "4": "after update 5"}
    for rank in found[0]:
        for at, stage in stages.items():
            text = rank["wrong"][at]
            assert text.startswith(f"ModelError: the processes do not agree on the weights {stage}")
            assert "in process 1 of 2" in text
        assert "do not agree on the trained network" in rank["wrong average"]
    # What cannot be trusted is not gone on from.
    assert not (found[1] / "wrong-1" / CHECKPOINT_NAME).exists()
    assert not (found[1] / "wrong-2" / CHECKPOINT_NAME).exists()


def test_an_interrupted_training_is_ended_by_two_or_by_one(found):
    for rank in found[0]:
        assert rank["cut"]["calls"] == list(range(CUT_AT + 1, PLAIN.updates + 1))
        assert rank["cut"]["digest"] == rank["trainings"]["statistics"]["digest"]
    calls = []
    with pytest.warns(UserWarning, match="processes 2 -> 1"):
        train_extractor(
            small_network(),
            sampler_of(PLAIN),
            PLAIN,
            folder=found[1] / "left",
            progress=lambda update, *_: calls.append(update),
        )
    assert calls == [5]
    for mine, theirs in zip(log_of(found[1] / "left"), log_of(found[1] / "cut"), strict=True):
        assert mine == pytest.approx(theirs, abs=2e-4)


# ---- the memory bank ----------------------------------------------------------------------------


def test_the_bank_is_chosen_among_what_each_process_would_choose(found):
    ranks = [rank["bank"] for rank in found[0]]
    features, owners = ranks[0]["features"], ranks[0]["owners"]
    assert ranks[0]["cells"] == ranks[1]["cells"]
    assert (ranks[1]["features"], ranks[1]["owners"]) == (features, owners)
    detector = PatchCore(small_network(), GEOMETRY, BANK)
    whole = detector.collect([(images()[i : i + 1], [(0, 0, 40, 56)]) for i in range(N_IMAGES)])
    wanted = coreset_size(len(whole.features), BANK.coreset_ratio)
    cut = whole.offsets[N_IMAGES // 2]
    kept = []
    for start_row, part in ((0, whole.features[:cut]), (cut, whole.features[cut:])):
        kept += sorted(start_row + row for row in _greedy(part, wanted))
    union = whole.features[kept]
    expected = [kept[row] for row in sorted(_greedy(union, wanted))]
    assert len(features) == wanted
    assert np.allclose(features, whole.features[expected].numpy(), atol=1e-5)
    assert owners == whole.origins()[expected, 0].tolist()
    assert ranks[0]["cells"] == whole.origins()[expected, 1].tolist()
    # Every image's scores, against that bank without its own patches; the other images of its
    # process fill the holes.
    detector.adopt_bank(MemoryBank(torch.tensor(features), torch.tensor(owners).int()))
    patches = [whole.features[whole.rows(i)].numpy() for i in range(N_IMAGES)]
    for i in range(N_IMAGES):
        half = N_IMAGES // 2
        first, share = (0, patches[:half]) if i < half else (half, patches[half:])
        without = refilled(
            share, np.array(features, np.float32), np.array(owners), i - first, first=first
        )
        bank = MemoryBank(torch.from_numpy(without[0]), torch.from_numpy(without[1]).int())
        own = whole.features[whole.rows(i)]
        scores = detector.score_found(
            own, bank.nearest(own), whole.valid[i : i + 1], whole.boxes[i : i + 1],
            exclude_image=None, bank=bank,
        )  # fmt: skip
        mine = [ranks[0]["scores"][0][i], ranks[0]["scores"][1][i]]
        assert mine == pytest.approx([scores.image[0], scores.map.max()], abs=1e-5)
    assert ranks[1]["scores"] is None


def _greedy(features: torch.Tensor, picks: int) -> list[int]:
    rng = np.random.default_rng(BANK.seed)
    points = project(features, BANK.projection_dim, rng=rng).numpy()
    return literal.k_centre(points, picks, first=int(rng.integers(len(points)))).tolist()


# ---- ends ---------------------------------------------------------------------------------------


def test_the_first_process_says_what_went_wrong_in_another(found):
    assert [rank["last act"] for rank in found[0]] == [
        "FailedElsewhere: process 1 of 2: shard-00000.h5: cannot be read; copy it again",
        "SystemExit: 1",
    ]


# ---- torchrun's environment ---------------------------------------------------------------------

TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHRUN)
def test_without_torchrun_there_is_one_process(name):
    rest = {key: value for key, value in TORCHRUN.items() if key != name}
    with torchrun_processes(rest) as processes:
        assert processes is ALONE
    with torchrun_processes(
        TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    ) as processes:
        assert processes is ALONE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "one"}, "whole numbers.*RANK=one"),
        ({"WORLD_SIZE": "-2"}, "whole numbers.*WORLD_SIZE=-2"),
        ({"RANK": "4"}, "contradict.*RANK=4"),
        ({"LOCAL_RANK": "2"}, "contradict.*LOCAL_RANK=2"),
        ({"LOCAL_WORLD_SIZE": "9"}, "contradict.*LOCAL_WORLD_SIZE=9"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(change, message):
    with (
        pytest.raises(ConfigError, match=message),
        torchrun_processes(TORCHRUN | change),
    ):
        pytest.fail("entered")


# ---- GPUs ---------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a GPU")
def test_virtual_batches_on_a_gpu(tmp_path):
    for device in ("cpu", "cuda"):
        train_extractor(
            small_network(), sampler_of(PLAIN), PLAIN, device=device, folder=tmp_path / device
        )
    for mine, theirs in zip(log_of(tmp_path / "cuda"), log_of(tmp_path / "cpu"), strict=True):
        assert mine == pytest.approx(theirs, abs=0.02)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_learn_what_one_process_does(tmp_path):
    (first, second), out = _found(tmp_path, "cuda")
    assert first["trainings"] == second["trainings"]
    train_extractor(small_network(), sampler_of(PLAIN), PLAIN, folder=tmp_path / "alone")
    for mine, theirs in zip(log_of(out / "statistics"), log_of(tmp_path / "alone"), strict=True):
        assert mine == pytest.approx(theirs, abs=0.02)


def test_processes_that_do_not_find_each_other_are_told_how(monkeypatch):
    def refuse(*_arguments, **_settings):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:145] no error, remote=[127.0.0.1]:15270")

    monkeypatch.setattr("torch.distributed.init_process_group", refuse)
    with pytest.raises(PeerLost, match="GLOO_SOCKET_IFNAME"):
        Processes(rank=0, count=2).connect()
