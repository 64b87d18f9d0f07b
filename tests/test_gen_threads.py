"""Shards made by threads of one process: a network and a number of threads for each."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from conftest import IMAGE_SIZE, invoke_gen
from test_gen_pipeline import digests

from generator import unit
from generator.backends import Backend
from generator.thread_count import torch_threads
from generator.threads import in_threads
from manifests.errors import ConfigError


def test_threads_give_the_bytes_of_one_worker(sample_data, built, category_name, tmp_path):
    before = torch.get_num_threads()
    invoke_gen(
        "build", sample_data, "--out", tmp_path, "--image-size", IMAGE_SIZE, "--shard-images", 4,
        "--backend", "threading", "--jobs", 3, "--quiet",
    )  # fmt: skip
    assert digests(tmp_path / category_name) == digests(built / category_name)
    assert torch.get_num_threads() == before


def test_every_thread_has_a_network_of_its_own(monkeypatch):
    def load(name, *, weights, device):
        return [name, weights, device]

    monkeypatch.setattr(unit, "load_network", load)
    monkeypatch.setattr(unit, "folded_network", lambda network: network)
    monkeypatch.setattr(unit, "_own", threading.local())
    meeting = threading.Barrier(3)

    def use(number):
        first = unit.cached_network("net", None, "cpu")
        meeting.wait(30)
        assert unit.cached_network("net", None, "cpu") is first
        return first, unit.cached_network("other", str(number), "cpu")

    with in_threads(use, range(3), workers=3) as results:
        found = [network for pair in results for network in pair]
    assert len({id(network) for network in found}) == 6
    assert sorted(network[1] for network in found[1::2]) == ["0", "1", "2"]


def test_the_number_of_threads_holds_until_the_last_pass_is_done():
    before = torch.get_num_threads()
    held, done = threading.Event(), threading.Event()

    def first():
        with torch_threads(before + 1):
            held.set()
            done.wait(30)
            assert torch.get_num_threads() == before + 1

    thread = threading.Thread(target=first)
    thread.start()
    held.wait(30)
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before + 1  # of the pass that still runs
    seen = []

    def other():
        with torch_threads(before + 2):
            seen.append((done.is_set(), torch.get_num_threads()))

    waiting = threading.Thread(target=other)
    waiting.start()
    time.sleep(0.05)
    assert not seen
    done.set()
    thread.join()
    waiting.join()
    assert seen == [(True, before + 2)]
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_after_an_error_nobody_is_at_work_any_more():
    busy, ended = threading.Event(), []

    def make(number):
        if number == 0:
            busy.wait(30)
            raise ValueError("none")
        busy.set()
        time.sleep(0.3)
        ended.append(number)

    with pytest.raises(ValueError, match="none"), in_threads(make, range(50), workers=2) as results:
        list(results)
    count = len(ended)
    assert 1 <= count < 49
    time.sleep(0.4)
    assert len(ended) == count


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"name": "spark"}, "unknown"),
        ({"name": "loky", "scheduler": "tcp://127.0.0.1:1"}, "this machine alone"),
        ({"name": "threading", "scheduler": "tcp://127.0.0.1:1"}, "this machine alone"),
    ],
)
def test_a_backend_that_cannot_work_is_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        Backend(**fields)


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_backend_that_is_not_installed_names_the_extra(name, monkeypatch):
    from generator import backends

    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf'pip install "cutswap\[{name}\]"'):
        Backend(name=name, scheduler="tcp://127.0.0.1:1")
