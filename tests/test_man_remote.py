"""Sets over the network: servers that behave, servers that do not, and what is left behind."""

import base64
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import REPO

from manifests import http_reader, pull, remote_manifest, transfer
from manifests.digest import bytes_digest
from manifests.errors import DigestError, OutputError, SetError
from manifests.probe import probe_shards
from manifests.remote import RemoteError, find_remote_sets, pull_set
from manifests.schema import read_manifest
from manifests.verify import verify_set
from reference.folders import names, same
from reference.remote_sets import SHARD, hurry, one_line, publish
from reference.servers import Answer, file_server, plain_server
from reference.small_sets import write_set


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A set of three shards, and its digest."""
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    hurry(monkeypatch, tmp_path / "cache")


@pytest.fixture
def parsing(quick, monkeypatch):
    monkeypatch.setattr(pull, "probe_shards", probe_shards)


def with_digests(folder, shard, data):
    """Put other bytes in the place of a shard, and a manifest that agrees with them."""
    (folder / shard).write_bytes(data)
    plain = json.loads((folder / "manifest.json").read_bytes())
    entry = next(entry for entry in plain["shards"] if entry["name"] == shard)
    entry |= {"file_sha256": bytes_digest(data), "file_bytes": len(data)}
    text = (json.dumps(plain, sort_keys=True, indent=1) + "\n").encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_text(f"{bytes_digest(text)}  manifest.json\n")


# Servers that behave


def test_pull_over_http_gives_the_published_bytes(published, tmp_path, parsing):
    folder, digest = published
    shown = []

    def make_progress(label, unit):
        assert (label, unit) == ("pull tiles", "bytes")
        return lambda done, total: shown.append((done, total))

    with file_server(folder) as served:
        assert pull_set(served.url, tmp_path, make_progress=make_progress) == (
            tmp_path / "tiles",
            digest,
        )
        first = len(served.requests)
        pull_set(served.url + "/", tmp_path)
        again = served.requests[first:]
    assert same(tmp_path / "tiles", folder) and verify_set(tmp_path / "tiles") == []
    total = sum(path.stat().st_size for path in folder.glob("shard-*"))
    assert shown[0] == (0, total) and shown[-1] == (total, total)
    assert {request.name for request in again} == {"manifest.sha256", "manifest.json"}


def test_shards_come_in_parallel(published, tmp_path):
    folder, _ = published
    with file_server(folder, meeting=threading.Barrier(3)) as served:
        pull_set(served.url, tmp_path, jobs=3)
    assert served.together == 3 and same(tmp_path / "tiles", folder)


def test_a_root_is_listed_where_the_server_lists_it(published, tmp_path):
    folder, digest = published
    root = tmp_path / "root"
    shutil.copytree(folder, root / "tiles")
    (root / "Not a slug").mkdir()
    (root / "empty").mkdir()
    with plain_server(root) as url:
        assert find_remote_sets(url) == [f"{url}/tiles"]
        assert pull_set(url, tmp_path / "out") == (tmp_path / "out" / "tiles", digest)
        write_set(root / "more", category="more", shards=1)
        assert find_remote_sets(url + "/") == [f"{url}/more", f"{url}/tiles"]
        with pytest.raises(RemoteError, match=r"2 sets here \(more, tiles\)"):
            pull_set(url, tmp_path / "out")
        with pytest.raises(RemoteError, match="no negative set here"):
            pull_set(url + "/empty", tmp_path / "out")
    assert same(tmp_path / "out" / "tiles", folder)


def test_links_out_of_the_folder_are_no_categories(published, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "index.html").write_text(
        '<a href="/">up</a> <a href="../x/">x</a> <a href="http://other.example/tiles/">y</a>'
        '<a href="tiles/deeper/">z</a> <A class=k HREF=tiles/>t</A> <a href="http://[/">bad</a>'
    )
    shutil.copytree(published[0], root / "tiles")
    with plain_server(root) as url:
        assert find_remote_sets(url) == [f"{url}/tiles"]


def test_a_server_without_ranges_serves_a_whole_file_again(published, tmp_path):
    folder, _ = published
    half = (folder / SHARD).stat().st_size // 2

    def behave(request):
        return Answer(cut_after=half) if request.name == SHARD and not request.number else Answer()

    with file_server(folder, behave, ranges=False) as served:
        pull_set(served.url, tmp_path)
    assert [(one.start, one.status) for one in served.of(SHARD)] == [(None, 200), (half, 200)]
    assert same(tmp_path / "tiles", folder)


# Connections that are cut


def test_cut_connections_go_on_where_they_stopped(published, tmp_path):
    folder, _ = published
    rng = random.Random(4)

    def behave(_):
        return Answer(cut_after=rng.randrange(1, 40_000))

    with file_server(folder, behave) as served:
        pull_set(served.url, tmp_path, jobs=2)
    assert same(tmp_path / "tiles", folder)
    assert len(served.shards()) > 6
    for entry in read_manifest(folder)[0].shards:
        kept = 0
        for request in served.of(entry.name):
            assert (request.start or 0) == kept  # only the rest is asked for
            kept += request.sent
        assert kept == entry.file_bytes  # and nothing comes twice


def test_an_interrupted_pull_goes_on_in_the_next_run(published, tmp_path):
    folder, _ = published
    size = (folder / SHARD).stat().st_size
    out = tmp_path / "tiles"

    def behave(request):
        if request.name == SHARD:
            return Answer(cut_after=max(0, size // 2 - (request.start or 0)))
        return Answer()

    with file_server(folder, behave) as served, pytest.raises(RemoteError) as error:
        pull_set(served.url, tmp_path, jobs=1, retries=2)
    assert SHARD in one_line(error) and f"after {size // 2} of {size} bytes" in one_line(error)
    assert "3 times in a row" in one_line(error) and "goes on" in one_line(error)
    assert (out / f".{SHARD}.part").stat().st_size == size // 2
    assert not (out / "manifest.json").exists()
    (out / ".shard-00007.h5.part").write_bytes(b"of another set")
    (out / ".manifest.json.tmp-1").write_bytes(b"left by a kill")
    with file_server(folder) as served:
        pull_set(served.url, tmp_path)
    assert [one.start for one in served.of(SHARD)] == [size // 2]
    assert not served.of("shard-00000.h5")  # was there, whole
    assert same(out, folder)


def test_a_killed_pull_goes_on(published, tmp_path):
    folder, _ = published
    size = (folder / SHARD).stat().st_size

    def behave(request):
        return Answer(cut_after=size // 3, hang=True) if request.name == SHARD else Answer()

    part = tmp_path / "tiles" / f".{SHARD}.part"
    with file_server(folder, behave) as served:
        program = (
            f"from manifests.remote import pull_set; pull_set({served.url!r}, {str(tmp_path)!r})"
        )
        run = subprocess.Popen([sys.executable, "-c", program], cwd=REPO)
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
    kept = part.stat().st_size
    assert 0 < kept <= size // 3
    with file_server(folder) as served:
        pull_set(served.url, tmp_path)
    assert [one.start for one in served.of(SHARD)] == [kept]
    assert same(tmp_path / "tiles", folder)


def test_the_rest_of_another_file_is_found_out(published, tmp_path):
    folder, _ = published
    part = tmp_path / "tiles" / f".{SHARD}.part"
    part.parent.mkdir()
    for rubbish in (b"x" * 1000, b"x" * (folder / SHARD).stat().st_size, b"x" * (1 << 20)):
        part.write_bytes(rubbish)
        with file_server(folder) as served:
            pull_set(served.url, tmp_path)
        assert same(tmp_path / "tiles", folder)
        assert served.of(SHARD)[-1].start is None
        (tmp_path / "tiles" / SHARD).unlink()


def test_another_range_than_the_one_asked_for_is_not_taken(published, tmp_path):
    folder, _ = published

    def behave(request):
        if request.name != SHARD:
            return Answer()
        return Answer(
            wrong_range=request.number == 1, cut_after=5000 if not request.number else None
        )

    with file_server(folder, behave) as served:
        pull_set(served.url, tmp_path)
    assert [one.start for one in served.of(SHARD)] == [None, 5000, 5000]
    assert same(tmp_path / "tiles", folder)


def test_a_server_that_hangs_counts_as_cut(published, tmp_path, monkeypatch):
    monkeypatch.setattr(http_reader, "READ_TIMEOUT_S", 1.5)
    folder, _ = published

    def behave(request):
        is_first = request.name == SHARD and not request.number
        return Answer(claimed=1 << 20, cut_after=4000, hang=True) if is_first else Answer()

    with file_server(folder, behave) as served:
        pull_set(served.url, tmp_path)
    assert [one.start for one in served.of(SHARD)] == [None, 4000]
    assert same(tmp_path / "tiles", folder)


# Wrong bytes


@pytest.mark.parametrize("name", [SHARD, "manifest.json", "manifest.sha256"])
def test_bytes_damaged_once_are_fetched_again(published, tmp_path, name):
    folder, _ = published

    def behave(request):
        # Finding the set reads manifest.sha256 once before.
        first = 1 if name == "manifest.sha256" else 0
        return Answer(flip_at=70) if (request.name, request.number) == (name, first) else Answer()

    with file_server(folder, behave) as served:
        pull_set(served.url, tmp_path)
    assert len(served.of(name)) == (3 if name == "manifest.sha256" else 2)
    assert same(tmp_path / "tiles", folder)


def test_bytes_damaged_each_time_are_refused(published, tmp_path):
    folder, _ = published

    def behave(request):
        return Answer(flip_at=-9) if request.name == SHARD else Answer()

    with file_server(folder, behave) as served, pytest.raises(DigestError) as error:
        pull_set(served.url, tmp_path)
    assert f"{served.url}/{SHARD}: is damaged, 3 times in a row" in one_line(error)
    assert len(served.of(SHARD)) == 3
    assert not (tmp_path / "tiles" / "manifest.json").exists()
    assert not (tmp_path / "tiles" / f".{SHARD}.part").exists()
    assert not list((tmp_path / "tiles").glob("shard-*"))


def test_a_manifest_that_its_digest_does_not_name_is_refused(published, tmp_path):
    def behave(request):
        return Answer(flip_at=70) if request.name == "manifest.json" else Answer()

    with file_server(published[0], behave) as served, pytest.raises(DigestError) as error:
        pull_set(served.url, tmp_path)
    assert f"{served.url}/manifest.json" in one_line(error)
    assert not served.shards() and not names(tmp_path)


def test_endless_bytes_are_not_taken(published, tmp_path, monkeypatch):
    folder, _ = published
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}

    def endless(name):
        return lambda request: Answer(endless=request.name == name)

    # What was recorded is there; what follows is not even read.
    with file_server(folder, endless(SHARD)) as served:
        pull_set(served.url, tmp_path / "a")
    assert same(tmp_path / "a" / "tiles", folder)

    def zeros(request):
        return Answer(endless=True, cut_after=10) if request.name == SHARD else Answer()

    with file_server(folder, zeros) as served, pytest.raises(DigestError, match="is damaged"):
        pull_set(served.url, tmp_path / "b")
    assert sum(one.sent for one in served.of(SHARD)) < 3 * (sizes[SHARD] + (64 << 20))
    large = pytest.raises(SetError, match="too large")
    with file_server(folder, endless("manifest.sha256")) as served, large:
        pull_set(served.url, tmp_path / "c")
    monkeypatch.setattr(remote_manifest, "MAX_MANIFEST_BYTES", 1 << 17)
    with file_server(folder, endless("manifest.json")) as served, large:
        pull_set(served.url, tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_length_that_is_too_short_is_an_early_end(published, tmp_path, ranges):
    folder, _ = published

    def behave(request):
        is_first = request.name == SHARD and not request.number
        return Answer(claimed=3000) if is_first else Answer()

    with file_server(folder, behave, ranges=ranges) as served:
        pull_set(served.url, tmp_path)
    assert [one.start for one in served.of(SHARD)] == [None, 3000]
    assert same(tmp_path / "tiles", folder)


def test_a_length_that_is_too_long_or_missing_harms_nobody(published, tmp_path, monkeypatch):
    folder, _ = published
    # Bytes that were promised and are not needed are not waited for.
    monkeypatch.setattr(http_reader, "READ_TIMEOUT_S", 1e3)
    for number, claimed in enumerate((1 << 20, "none")):

        def behave(request, claimed=claimed):
            return Answer(claimed=claimed) if request.name == SHARD else Answer()

        with file_server(folder, behave) as served:
            pull_set(served.url, tmp_path / str(number))
        assert len(served.of(SHARD)) == 1 and same(tmp_path / str(number) / "tiles", folder)


def test_a_file_that_is_shorter_there_is_named(published, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / "published")
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:999])
    with file_server(folder) as served, pytest.raises(RemoteError) as error:
        pull_set(served.url, tmp_path, retries=1)
    assert f"{SHARD}: ends early after 999 of" in one_line(error)


def test_what_is_no_shard_is_refused_before_it_gets_its_name(published, tmp_path, parsing):
    folder = shutil.copytree(published[0], tmp_path / "published")
    with_digests(folder, SHARD, b"\x89HDF\r\n\x1a\n" + b"no more" * 99)
    with file_server(folder) as served, pytest.raises(SetError) as error:
        pull_set(served.url, tmp_path / "out")
    assert f"{served.url}/{SHARD}" in one_line(error)
    out = tmp_path / "out" / "tiles"
    assert not list(out.glob("shard-*")) and f".{SHARD}.part" not in names(out)


def test_a_shard_of_another_set_is_refused_though_its_digest_fits(published, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / "published")
    with_digests(folder, SHARD, (folder / "shard-00000.h5").read_bytes())
    with file_server(folder) as served, pytest.raises(SetError) as error:
        pull_set(served.url, tmp_path / "out")
    assert "is not the one in the manifest" in one_line(error)
    assert f"{served.url}/{SHARD}" in one_line(error)
    assert "manifest.json" not in names(tmp_path / "out" / "tiles")


# Servers that refuse


def test_missing_files_are_not_asked_for_twice(published, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / "published")
    with file_server(tmp_path) as served, pytest.raises(RemoteError, match="no negative set here"):
        pull_set(served.url + "/nothing", tmp_path / "out")
    (folder / SHARD).unlink()
    with file_server(folder) as served, pytest.raises(RemoteError, match="no such file") as error:
        pull_set(served.url, tmp_path / "out")
    assert SHARD in one_line(error) and len(served.of(SHARD)) == 1
    (folder / "manifest.json").unlink()
    with file_server(folder) as served, pytest.raises(RemoteError, match="unfinished push"):
        pull_set(served.url, tmp_path / "out")


def test_errors_of_the_server_pass_or_do_not(published, tmp_path):
    folder, _ = published

    def late(request):
        return Answer(status=503 if request.number < 3 else None)

    with file_server(folder, late) as served:
        pull_set(served.url, tmp_path / "a")
    assert same(tmp_path / "a" / "tiles", folder)
    for status, count in ((500, 3), (403, 1), (410, 1)):
        refused = pytest.raises(RemoteError, match=str(status))
        answer = Answer(status=status)
        with file_server(folder, lambda _, answer=answer: answer) as served, refused as error:
            pull_set(served.url, tmp_path / "b", retries=2)
        assert len(served.requests) == count
        assert ("3 times in a row" in one_line(error)) == (count == 3)


def test_nobody_there_is_an_error_without_the_password(tmp_path):
    with plain_server(tmp_path) as url:
        pass
    started = time.monotonic()
    with pytest.raises(RemoteError, match="the server cannot be reached") as error:
        pull_set(url.replace("://", "://me:hunter2@"), tmp_path)
    assert "hunter2" not in one_line(error) and "***@127.0.0.1" in one_line(error)
    # Nothing has arrived, so nothing goes on; nor is a server that is down asked six times.
    assert "goes on" not in one_line(error) and "whether the server runs" in one_line(error)
    assert time.monotonic() - started < 5


def test_a_password_opens_and_is_never_shown(published, tmp_path):
    folder, _ = published
    right = base64.b64encode(b"me:hunter2").decode()
    with file_server(folder, password=right) as served:
        pull_set(served.url.replace("://", "://me:hunter2@"), tmp_path)
        with pytest.raises(RemoteError, match="access is refused") as error:
            pull_set(served.url.replace("://", "://me:secret9@"), tmp_path / "b")
    assert same(tmp_path / "tiles", folder)
    assert "secret9" not in one_line(error) and "credentials" in one_line(error)
    assert "secret9" not in repr(error.value.args)


# What must hold before anything is fetched


def test_another_digest_than_expected_fetches_no_shard(published, tmp_path):
    folder, digest = published
    with file_server(folder) as served:
        with pytest.raises(DigestError, match="another set than expected"):
            pull_set(served.url, tmp_path / "a", expect="0" * 64)
        assert not served.shards() and not (tmp_path / "a").exists()
        pull_set(served.url, tmp_path / "a", expect=f" {digest.upper()}\n")
    assert same(tmp_path / "a" / "tiles", folder)


def test_a_disk_that_is_too_small_fetches_no_shard(published, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda _: usage(10**9, 0, 1000))
    with file_server(published[0]) as served, pytest.raises(OutputError) as error:
        pull_set(served.url, tmp_path)
    assert "not enough free space" in one_line(error) and not served.shards()


def test_a_full_disk_keeps_what_has_arrived(published, tmp_path, monkeypatch):
    folder, _ = published

    def full(self, data):
        self._file.write(data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transfer._PartFile, "write", full)
        with file_server(folder) as served, pytest.raises(OutputError) as error:
            pull_set(served.url, tmp_path, jobs=1)
    assert "No space left" in one_line(error) and ".part" in one_line(error)
    with file_server(folder) as served:
        pull_set(served.url, tmp_path)
    assert served.of("shard-00000.h5")[0].start == 100
    assert same(tmp_path / "tiles", folder)


def test_a_link_that_leads_out_is_named_with_the_way_round(published, tmp_path):
    folder, _ = published
    for target, way in (("disk/tiles", "disk"), ("disk/other", "disk/other")):
        (tmp_path / target).mkdir(parents=True)
        out = tmp_path / f"out-{Path(target).name}"
        out.mkdir()
        (out / "tiles").symlink_to(tmp_path / target)
        with file_server(folder) as served, pytest.raises(OutputError) as error:
            pull_set(served.url, out)
        text = one_line(error)
        assert f"{out / 'tiles'}: is a link that leads out of --out" in text
        assert str(tmp_path / target) in text and text.endswith(f"pass --out {tmp_path / way}")
        assert not served.shards()
        with file_server(folder) as served:
            assert same(pull_set(served.url, tmp_path / way)[0], folder)


def test_only_one_run_writes(published, tmp_path):
    from manifests.lock import folder_lock

    (tmp_path / "tiles").mkdir()
    refused = pytest.raises(OutputError, match="another run is writing here")
    with file_server(published[0]) as served, folder_lock(tmp_path / "tiles"), refused:
        pull_set(served.url, tmp_path)


# What is there already


def test_a_damaged_shard_is_fetched_again_and_only_it(published, tmp_path):
    folder, _ = published
    out = shutil.copytree(folder, tmp_path / "tiles")
    data = bytearray((out / SHARD).read_bytes())
    data[5000] ^= 1
    (out / SHARD).write_bytes(data)
    (out / "manifest.sha256").unlink()
    (out / "build.log").write_text("mine")
    with file_server(folder) as served:
        pull_set(served.url, tmp_path)
    assert [one.name for one in served.shards()] == [SHARD]
    assert (out / "build.log").read_text() == "mine"
    (out / "build.log").unlink()
    assert same(out, folder)


def test_another_set_is_replaced_only_when_asked_and_only_at_the_end(published, tmp_path):
    folder, digest = published
    out = tmp_path / "tiles"
    old = write_set(out, shards=5, n=2, r=3)[1]

    def damaging(request):
        return Answer(flip_at=9) if request.name == SHARD else Answer()

    with file_server(folder) as served, pytest.raises(SetError) as error:
        pull_set(served.url, tmp_path)
    assert "already holds another set" in one_line(error) and "--overwrite" in one_line(error)
    assert not served.shards()
    with file_server(folder, damaging) as served, pytest.raises(DigestError):
        pull_set(served.url, tmp_path, overwrite=True)
    assert verify_set(out, expect=old) == []
    with file_server(folder) as served:
        pull_set(served.url, tmp_path, overwrite=True, expect=digest)
    assert same(out, folder)


def test_shards_of_an_unfinished_build_are_not_replaced_unasked(published, tmp_path):
    folder, _ = published
    out = tmp_path / "tiles"
    write_set(out, shards=1, n=2, r=3)
    (out / "manifest.json").unlink()
    with file_server(folder) as served:
        with pytest.raises(SetError, match="unfinished set of other options"):
            pull_set(served.url, tmp_path)
        assert not served.shards()
        pull_set(served.url, tmp_path, overwrite=True)
    assert same(out, folder)
