"""`cutswap-det fit` under torchrun: one answer, one line where it fails, and on from there."""

from __future__ import annotations

import json
import signal
import time

import pytest
from conftest import invoke_det

from detector.checkpoint import CHECKPOINT_NAME
from detector.model import load_model
from detector.training_log import TRAINING_CSV, read_training_csv
from reference.machines import Machines, need_namespaces
from reference.torchrun import FAULTY_FIT, finish, own_lines, start, start_on

OPTIONS = (
    "--updates", "6", "--batch", "4", "--frozen-start", "2", "--coreset", "0.05", "--train-bn",
    "--checkpoint-every", "100", "--quiet",
)  # fmt: skip


def faulty(fault: str, rank: int, at: int, built, out, **environment):
    """What a fit said in which one process came to grief, and its exit code."""
    process = start(
        FAULTY_FIT, fault, rank, at, "fit", built, "--out", out, *OPTIONS, **environment
    )
    said = finish(process)
    return *said, process.returncode


def losses(folder) -> list[float]:
    return [row["loss"] for row in read_training_csv(folder / TRAINING_CSV)]


def test_two_processes_fit_one_model_and_answer_once(built, category_name, tmp_path):
    process = start("-m", "detector.cli", "fit", built, "--out", tmp_path, *OPTIONS, "--json")
    out, err = finish(process)
    assert process.returncode == 0, err
    (summary,) = json.loads(out)
    assert summary["category"] == category_name and summary["threshold_images"] == 9
    assert len([line for line in own_lines(err) if "false-alarm rate" in line]) == 1
    assert len(own_lines(err)) == len(summary["warnings"])
    folder = tmp_path / category_name
    model = load_model(folder)
    assert model.config.train.virtual_batches == 2 and model.processes == 2
    assert not list(folder.glob(".*")) and not (folder / CHECKPOINT_NAME).exists()
    # One process of as many virtual batches learns the same, and is told that it is all there.
    same = ("fit", built, "--virtual-batches", 2, *OPTIONS)
    invoke_det(*same, "--out", tmp_path / "one")
    assert losses(folder) == pytest.approx(losses(tmp_path / "one" / category_name), abs=1e-3)
    assert "nothing to do" in invoke_det(*same, "--out", tmp_path).output


@pytest.mark.slow
def test_two_machines_fit_one_model(built, category_name, tmp_path):
    need_namespaces()
    fit = ("-m", "detector.cli", "fit", built, "--out", tmp_path / "out", *OPTIONS)
    (tmp_path / "out").mkdir()
    with Machines(["first", "second"]) as machines:
        # The second machine has another folder of that name, which stays empty.
        started = [
            start_on(machines, name, *fit, hidden=tmp_path / "out") for name in machines.names
        ]
        said = [finish(process) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert not said[1][0] and not own_lines(said[1][1])
    assert "Grad strides" not in said[0][1]
    model = load_model(tmp_path / "out" / category_name)
    assert model.processes == 2
    invoke_det("fit", built, "--virtual-batches", 2, *OPTIONS, "--out", tmp_path / "one")
    expected = losses(tmp_path / "one" / category_name)
    assert losses(tmp_path / "out" / category_name) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_a_fault_in_any_process_ends_all_with_one_line(built, category_name, tmp_path):
    out, err, code = faulty("unreadable", 1, 3, built, tmp_path)
    assert code != 0 and not out
    assert own_lines(err) == [
        "error: process 1 of 2: shard-00000.h5: a shard cannot be read; copy it again"
    ]
    assert "detector/" not in err, "no place in our code"
    assert not (tmp_path / category_name / "model.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "rank", "expected"),
    [
        ("unreadable", 0, "error: shard-00000.h5: a shard cannot be read"),
        ("wrong", 1, "error: the processes do not agree on the weights after update 6"),
        ("killed", 0, "error: another process of this run has ended"),
        ("bug", 1, "error: process 1 of 2: ZeroDivisionError: a bug"),
    ],
)
def test_one_line_says_what_went_wrong(fault, rank, expected, built, tmp_path):
    _, err, code = faulty(fault, rank, 3, built, tmp_path)
    assert code != 0
    (line,) = own_lines(err)
    # torchrun's SIGTERM may come before the connection is seen to break.
    assert line.startswith((expected, "error: ended by SIGTERM") if fault == "killed" else expected)


@pytest.mark.slow
@pytest.mark.parametrize("n_later", [1, 2])
def test_a_killed_process_ends_the_run_and_it_goes_on(built, category_name, tmp_path, n_later):
    _, err, code = faulty("killed", 1, 3, built, tmp_path / "cut")
    assert code != 0
    (line,) = own_lines(err)
    assert "run the same command again" in line
    folder = tmp_path / "cut" / category_name
    n_before = len(losses(folder))
    assert (folder / CHECKPOINT_NAME).exists() and 3 <= n_before < 6
    options = (built, "--virtual-batches", "2", *OPTIONS)
    if n_later == 1:
        invoke_det("fit", *options, "--out", tmp_path / "cut")
    else:
        said = finish(start("-m", "detector.cli", "fit", *options, "--out", tmp_path / "cut"))
        assert "updates" in said[0]
    invoke_det("fit", *options, "--out", tmp_path / "whole")
    expected = losses(tmp_path / "whole" / category_name)
    assert losses(folder) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up(built, category_name, tmp_path):
    _, err, code = faulty("hangs", 1, 3, built, tmp_path, FAULTY_TIMEOUT_S="20")
    assert code != 0
    (line,) = own_lines(err)
    assert "does not answer" in line
    assert (tmp_path / category_name / CHECKPOINT_NAME).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")]
)
def test_a_stopped_run_keeps_what_it_has(built, category_name, tmp_path, number, expected):
    folder = tmp_path / category_name
    options = ["5000" if value == "6" else value for value in OPTIONS]
    process = start("-m", "detector.cli", "fit", built, "--out", tmp_path, *options)
    deadline = time.monotonic() + 120
    while not (folder / TRAINING_CSV).exists() or len(losses(folder)) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(number)
    _, err = finish(process)
    (line,) = own_lines(err)
    assert expected in line and "run the same command again" in line
    assert (folder / CHECKPOINT_NAME).exists() and not (folder / ".lock").exists()
