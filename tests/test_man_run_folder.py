"""The folder that a run's shards pass through: a late worker gets nothing past its end."""

import threading

import pytest

from generator.leftovers import clear_unfinished
from manifests.atomic import write_atomic
from manifests.errors import OutputError
from manifests.run_folder import end_runs, run_folder, write_through


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(text):
    def make(path):
        path.write_text(text)
        return text

    return make


def test_what_is_finished_lies_in_the_folder_around(tmp_path):
    with run_folder(tmp_path) as run:
        assert run.parent == tmp_path and names(tmp_path) == [run.name]
        assert write_through(run, "shard", write("one")) == "one"
        assert (tmp_path / "shard").read_text() == "one"
        assert names(run) == []
        assert write_through(run, "shard", write("two")) == "two"  # made by two workers
    assert names(tmp_path) == ["shard"] and (tmp_path / "shard").read_text() == "two"


def test_a_worker_that_begins_after_the_end_is_refused(tmp_path):
    with run_folder(tmp_path) as run:
        pass
    with pytest.raises(OutputError, match="the build is over") as error:
        write_through(run, "shard", write("late"))
    assert "URL" in str(error.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("end", [end_runs, clear_unfinished])
def test_a_worker_that_is_at_work_when_its_run_is_ended_is_refused(tmp_path, end):
    (tmp_path / "shard").write_text("of the next run")

    def make(path):
        path.write_text("late")
        end(tmp_path)  # as the next run does, whose first act it is

    with run_folder(tmp_path) as run, pytest.raises(OutputError, match="cannot be written"):
        write_through(run, "shard", make)
    assert names(tmp_path) == ["shard"]
    assert (tmp_path / "shard").read_text() == "of the next run"


def test_workers_that_write_while_the_run_is_ended_leave_nothing(tmp_path):
    refused = []

    def work():
        try:
            for _ in range(100_000):
                write_through(run, "shard", lambda path: write_atomic(path, b"late"))
        except OutputError as error:
            refused.append(error)

    with run_folder(tmp_path) as run:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while not (tmp_path / "shard").exists():
            pass
    (tmp_path / "shard").write_text("of the next run")
    for thread in threads:
        thread.join()
    assert len(refused) == 4
    assert (tmp_path / "shard").read_text() == "of the next run"
    end_runs(tmp_path)
    assert names(tmp_path) == ["shard"]


def test_an_error_leaves_nothing_and_comes_through(tmp_path):
    def make(path):
        path.write_text("half")
        raise ValueError("own")

    with run_folder(tmp_path) as run, pytest.raises(ValueError, match="own"):
        write_through(run, "shard", make)
    assert names(tmp_path) == []


def test_runs_of_killed_processes_are_ended_and_nothing_else(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a" * 32, "b" * 32 + ".ended"):
        (folder / f".run-{name}" / "worker-x").mkdir(parents=True)
        (folder / f".run-{name}" / "worker-x" / "half").touch()
    (folder / (".run-" + "c" * 32)).symlink_to(elsewhere)
    (folder / (".run-" + "d" * 32)).touch()
    (folder / ".run-mine").mkdir()
    end_runs(folder)
    assert names(folder) == [".run-" + "c" * 32, ".run-" + "d" * 32, ".run-mine"]
    assert names(elsewhere) == ["file"]
