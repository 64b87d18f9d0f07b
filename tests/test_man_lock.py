"""One writer per folder: who waits, who is refused, what a dead writer leaves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import REPO

from manifests.errors import OutputError
from manifests.lock import LOCK_NAME, folder_lock

HOLD = """
import sys, time
from pathlib import Path
from manifests.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_held_folder_has_its_lock_and_a_released_one_has_none(tmp_path):
    with folder_lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
    assert list(tmp_path.iterdir()) == []


def test_it_is_released_when_the_block_fails(tmp_path):
    with pytest.raises(ValueError), folder_lock(tmp_path):
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path):
        pass


def test_a_second_process_is_told_at_once(tmp_path, holder):
    started = time.monotonic()
    with pytest.raises(OutputError) as caught, folder_lock(tmp_path):
        pass
    assert time.monotonic() - started < 5
    assert str(caught.value).startswith(f"{tmp_path}: another run is writing here")
    assert "\n" not in str(caught.value)
    # The one that was refused must not take the holder's file with it.
    assert (tmp_path / LOCK_NAME).exists()


def test_a_killed_holder_holds_nobody_up(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_NAME).exists()
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_threads_of_one_process_exclude_each_other(tmp_path):
    refused = []

    def second():
        try:
            with folder_lock(tmp_path):
                pass
        except OutputError as error:
            refused.append(error)

    with folder_lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an open file cannot be removed")
def test_a_lock_on_a_file_that_has_just_been_removed_is_none(tmp_path, monkeypatch):
    # The other run ends between our opening its file and our locking it: without a second look
    # both we and a third run, which finds no file and makes a new one, would hold the folder.
    import fcntl

    real, ending = fcntl.flock, folder_lock(tmp_path)
    ending.__enter__()

    def flock(descriptor, operation):
        if operation & fcntl.LOCK_EX and not ended:
            ended.append(True)
            ending.__exit__(None, None, None)
        return real(descriptor, operation)

    ended = []
    monkeypatch.setattr(fcntl, "flock", flock)
    with folder_lock(tmp_path):
        assert ended
        assert (tmp_path / LOCK_NAME).exists()
        with pytest.raises(OutputError), folder_lock(tmp_path):
            pass


def _compete(folder: Path, rounds: int, outcome) -> None:
    clashes = wins = 0
    for _ in range(rounds):
        try:
            with folder_lock(folder):
                token = folder / "token"
                try:
                    os.close(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                except FileExistsError:
                    clashes += 1
                    continue
                wins += 1
                token.unlink()
        except OutputError:
            pass
    outcome.put((wins, clashes))


@pytest.mark.parametrize(
    ("processes", "rounds"), [(2, 60), pytest.param(4, 1500, marks=pytest.mark.slow)]
)
def test_never_two_holders(tmp_path, processes, rounds):
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    workers = [
        context.Process(target=_compete, args=(tmp_path, rounds, outcome)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    results = [outcome.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    print(f"folder held {sum(wins for wins, _ in results)} times by {processes} processes")
    assert sum(clashes for _, clashes in results) == 0
    assert all(wins > 0 for wins, _ in results)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="links need no rights here")
def test_a_lock_that_is_a_link_or_a_folder_is_refused(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / LOCK_NAME).mkdir()
    with pytest.raises(OutputError, match="cannot be locked"), folder_lock(folder):
        pass
    (folder / LOCK_NAME).rmdir()
    (folder / LOCK_NAME).symlink_to(elsewhere)
    with pytest.raises(OutputError, match="cannot be locked"), folder_lock(folder):
        pass
    assert elsewhere.read_text() == "kept"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="gone"), folder_lock(tmp_path / "gone"):
        pass
