"""Worker processes: results, errors, Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial

import pytest
from conftest import REPO

from generator.workers import in_workers, start_workers
from manifests.errors import WorkerError

posix = pytest.mark.skipif(
    not hasattr(signal, "pthread_sigmask"), reason="needs signal masks, which only POSIX has"
)


def square(number):
    return number * number


def slow_first(number):
    time.sleep(0.5 if number == 0 else 0)
    return number


def fail_at_two(number):
    if number == 2:
        raise ValueError("two")
    return number


def own_number(_):
    return os.getpid()


def blocked_signals(_):
    return os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, ())


def interrupt_itself(number):
    os.kill(os.getpid(), signal.SIGINT)
    return number


def kill_itself(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def slow_number(number):
    time.sleep(0.05)
    return number, os.getpid()


def kill_all_others(number):
    time.sleep(0.02)
    if "loky" in " ".join(sys.orig_argv):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def raise_here(pid, error, number):
    time.sleep(0.02)
    if os.getpid() == pid:
        raise error
    return number


_kept = []


def grow(number):
    _kept.append(bytearray(150_000_000))
    time.sleep(0.6)
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_has_its_result(workers):
    with in_workers(square, range(7), workers=workers) as results:
        assert sorted(results) == [0, 1, 4, 9, 16, 25, 36]


def test_results_can_be_had_in_the_order_of_the_items():
    with in_workers(slow_first, range(6), workers=2, in_order=True) as results:
        assert list(results) == [0, 1, 2, 3, 4, 5]


def test_one_worker_is_this_process():
    with in_workers(own_number, [0], workers=1) as results:
        assert list(results) == [os.getpid()]


def test_this_process_may_be_one_of_the_workers():
    for workers in (2, 3):
        with in_workers(slow_number, range(20), workers=workers, take_part=True) as results:
            found = list(results)
        assert sorted(number for number, _ in found) == list(range(20))
        pids = {pid for _, pid in found}
        # A worker may still be starting when the work is done, but the first is sent two items.
        assert os.getpid() in pids and 2 <= len(pids) <= workers


def test_this_process_gets_one_of_a_few_items():
    # Two items for two: a worker that is still starting is not given both.
    with in_workers(own_number, range(2), workers=2, take_part=True) as results:
        assert os.getpid() in list(results)


def test_order_and_taking_part_exclude_each_other():
    both = in_workers(square, range(3), workers=2, in_order=True, take_part=True)
    with pytest.raises(ValueError, match="order"), both:
        pass


def test_workers_that_were_started_before_are_those_that_others_join():
    start_workers(2, slow_number, take_part=True)
    with in_workers(slow_number, range(12), workers=2, take_part=True) as results:
        found = list(results)
    assert len(found) == 12 and len({pid for _, pid in found} - {os.getpid()}) == 1


@posix
def test_a_worker_that_is_killed_is_noticed_by_who_works_with_it():
    with (
        pytest.raises(WorkerError, match="fewer --jobs"),
        in_workers(kill_all_others, range(60), workers=2, take_part=True) as results,
    ):
        list(results)


def test_an_own_error_and_ctrl_c_end_the_others():
    for error in (ValueError("own"), KeyboardInterrupt()):
        with (
            pytest.raises(type(error)),
            in_workers(
                partial(raise_here, os.getpid(), error), range(40), workers=2, take_part=True
            ) as results,
        ):
            list(results)
    with in_workers(square, range(3), workers=2, take_part=True) as results:
        assert sorted(results) == [0, 1, 4]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_through_and_the_next_call_works(workers):
    with (
        pytest.raises(ValueError, match="two"),
        in_workers(fail_at_two, range(40), workers=workers) as results,
    ):
        list(results)
    with in_workers(square, range(3), workers=workers) as results:
        assert sorted(results) == [0, 1, 4]


@posix
def test_a_body_that_raises_says_nothing_and_kills_the_workers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with (
            pytest.raises(KeyboardInterrupt),
            in_workers(own_number, range(200), workers=2) as results,
        ):
            pid = next(results)
            raise KeyboardInterrupt
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")


def test_an_abort_leaves_joblibs_thread_alive_however_short_the_work(monkeypatch):
    # It failed with a KeyError where items were sent while the workers were being killed.
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    for _ in range(5):
        with (
            pytest.raises(KeyboardInterrupt),
            in_workers(square, range(2000), workers=2) as results,
        ):
            next(results)
            raise KeyboardInterrupt
    assert not died


@posix
def test_a_worker_that_is_killed_is_an_error_with_a_way_out():
    with (
        pytest.raises(WorkerError, match="fewer --jobs"),
        in_workers(kill_itself, range(6), workers=2) as results,
    ):
        list(results)
    with in_workers(square, range(3), workers=2) as results:
        assert sorted(results) == [0, 1, 4]


def test_workers_that_grow_are_neither_ended_nor_reported():
    # loky checks once a second, and only where psutil is installed.
    start_workers(2, square)
    # Recorded and not raised: an error in loky's thread is a run that never ends.
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with in_workers(grow, range(8), workers=2) as results:
            pids = set(results)
    assert not seen and len(pids) == 2


_FRESH = """
import os, signal
from generator.workers import in_workers, start_workers
from test_gen_workers import blocked_signals

def check(workers):
    with in_workers(blocked_signals, range(40), workers=workers) as results:
        found = dict(results)
    assert os.getpid() not in found
    assert all(signal.SIGINT in blocked for blocked in found.values()), found

if __name__ == "__main__":
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    {first}
    check(2)
    check(4)
    check(3)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before and signal.SIGINT not in before
"""


@posix
@pytest.mark.parametrize("first", ["pass", "start_workers(2, blocked_signals)"])
def test_workers_never_see_ctrl_c_and_their_process_does(first, tmp_path):
    # In a process of its own: the first pool of a process starts Python's helper process as well.
    script = tmp_path / "script.py"
    script.write_text(_FRESH.replace("{first}", first))
    path = os.pathsep.join([str(REPO), str(REPO / "tests")])
    subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": path}, check=True)


@posix
def test_a_worker_takes_no_notice_of_ctrl_c():
    with in_workers(interrupt_itself, range(4), workers=2) as results:
        assert sorted(results) == [0, 1, 2, 3]


@posix
def test_ctrl_c_while_workers_are_started_is_seen_once_and_not_lost():
    for delay_s in (0, 0.001, 0.01, 0.1):
        timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            with in_workers(square, range(10**9), workers=2) as results:
                for _ in results:
                    pass
        timer.join()
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@posix
def test_workers_of_another_thread_do_not_see_it_either():
    found = []

    def work():
        with in_workers(blocked_signals, range(4), workers=2) as results:
            found.extend(results)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == 4 and all(signal.SIGINT in blocked for _, blocked in found)


def test_fewer_workers_than_were_started_are_no_reason_to_warn(recwarn):
    start_workers(3, square)
    with in_workers(square, range(5), workers=2) as results:
        assert sorted(results) == [0, 1, 4, 9, 16]
    assert not recwarn.list
