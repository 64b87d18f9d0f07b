"""Servers that send, but too slowly: given up, and shown meanwhile."""

import time

import pytest

from manifests import http_reader, pace, transfer
from manifests.progress import Progress, amount
from manifests.remote import RemoteError, pull_set
from manifests.schema import read_manifest
from reference.folders import names, same
from reference.remote_sets import SHARD, hurry, one_line, publish
from reference.servers import Answer, file_server


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A set of three shards, and its digest."""
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    hurry(monkeypatch, tmp_path / "cache")


def test_a_server_that_drips_counts_as_failed(published, tmp_path, monkeypatch):
    """It never falls silent, and every connection brings a byte more: that alone is no progress."""
    folder, _ = published
    monkeypatch.setattr(pace, "RATE_WINDOW_S", 0.3)
    monkeypatch.setattr(http_reader, "HAND_ON_S", 0.05)
    shown = []

    def behave(request):
        return Answer(drip_s=0.02) if request.name == SHARD else Answer()

    def make_progress(_label, _unit):
        return lambda *state: shown.append(state)

    started = time.monotonic()
    with file_server(folder, behave) as served, pytest.raises(RemoteError) as error:
        pull_set(served.url, tmp_path, jobs=1, retries=1, make_progress=make_progress)
    assert time.monotonic() - started < 20
    text = one_line(error)
    assert SHARD in text and "comes too slowly after" in text and "2 times in a row" in text
    assert f"expected {pace.MIN_BYTES_PER_S} bytes/s" in text and "goes on" in text
    assert len(served.of(SHARD)) == 2
    # What came is shown as it comes, and why it was tried again.
    first = read_manifest(folder)[0].shards[0].file_bytes
    assert sum(first < state[0] < first + 100 for state in shown) > 3
    assert any("trying again" in state[2] for state in shown if len(state) == 3)
    kept = (tmp_path / "tiles" / f".{SHARD}.part").stat().st_size
    with file_server(folder) as served:
        pull_set(served.url, tmp_path)
    assert [one.start for one in served.of(SHARD)] == [kept] and 0 < kept < 100
    assert same(tmp_path / "tiles", folder)


def test_a_server_that_cuts_after_every_byte_does_not_hold_forever(
    published, tmp_path, monkeypatch
):
    monkeypatch.setattr(pace, "RATE_WINDOW_S", 0.3)
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.02)

    def behave(request):
        return Answer(cut_after=1) if request.name == SHARD else Answer()

    slow = pytest.raises(RemoteError, match="3 times in a row")
    with file_server(published[0], behave) as served, slow:
        pull_set(served.url, tmp_path, jobs=1, retries=2)
    assert len(served.of(SHARD)) > 3


def test_a_slow_moment_is_forgiven(published, tmp_path, monkeypatch):
    folder, _ = published
    monkeypatch.setattr(pace, "RATE_WINDOW_S", 0.3)
    monkeypatch.setattr(http_reader, "HAND_ON_S", 0.05)

    def behave(request):
        is_first = request.name == SHARD and not request.number
        return Answer(drip_s=0.02) if is_first else Answer()

    with file_server(folder, behave) as served:
        pull_set(served.url, tmp_path, retries=1)
    assert len(served.of(SHARD)) == 2 and same(tmp_path / "tiles", folder)


def test_a_small_file_has_a_deadline(published, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "SMALL_FILE_S", 0.5)
    monkeypatch.setattr(http_reader, "HAND_ON_S", 0.05)

    def behave(request):
        return Answer(drip_s=0.02) if request.name == "manifest.json" else Answer()

    started = time.monotonic()
    with file_server(published[0], behave) as served, pytest.raises(RemoteError) as error:
        pull_set(served.url, tmp_path)
    assert time.monotonic() - started < 10
    text = one_line(error)
    assert "manifest.json: does not come in time (expected within 0.5 s" in text
    assert not names(tmp_path)


def test_a_server_that_goes_away_is_waited_for(published, tmp_path, monkeypatch):
    """Once something has arrived, a refused connection may be a restart."""
    folder, _ = published
    size = (folder / SHARD).stat().st_size
    tries = []
    real = transfer.Location.open_at

    def open_at(self, offset, *, end=None):
        if offset:
            tries.append(offset)
            if len(tries) < 4:
                found = RemoteError("the server cannot be reached", path=self.name)
                found.is_passing = found.is_unreachable = True
                raise found
        return real(self, offset, end=end)

    def behave(request):
        is_first = request.name == SHARD and not request.number
        return Answer(cut_after=size // 2) if is_first else Answer()

    monkeypatch.setattr(transfer.Location, "open_at", open_at)
    with file_server(folder, behave) as served:
        pull_set(served.url, tmp_path)
    assert tries == [size // 2] * 4 and same(tmp_path / "tiles", folder)


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (109_900, "109.9 KB"), (3_210_000, "3.2 MB"),
     (4e9, "4.0 GB")],
)  # fmt: skip
def test_bytes_in_words(n_bytes, words):
    assert amount(n_bytes) == words


def test_progress_of_bytes_is_in_their_units(capsys):
    show = Progress("pull tiles", "bytes")
    show(0, 2_000_000)
    show(2_000_000, 2_000_000)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "pull tiles  0 B of 2.0 MB"
    assert last.startswith("pull tiles  2.0 MB of 2.0 MB  ") and "B/s" in last
