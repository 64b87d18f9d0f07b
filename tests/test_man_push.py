"""Sets put behind URLs: what is there at every moment, and what is refused."""

import shutil
import sys
import warnings
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from manifests import pull, transfer
from manifests.errors import ConfigError, DigestError, SetError
from manifests.remote import RemoteError, find_remote_sets, open_location, pull_set, push_set
from manifests.schema import write_manifest
from manifests.verify import verify_set
from reference.buckets import s3_bucket
from reference.folders import names, same
from reference.small_sets import flip_pixel, write_set

SHARD = "shard-00001.h5"


class Elsewhere(MemoryFileSystem):
    """A protocol that writes files bit by bit, as sftp does, and can be told to fail."""

    protocol = "elsewhere"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    log: ClassVar = []
    fail: ClassVar = None

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("elsewhere://"))

    def put_file(self, lpath, rpath, **settings):
        self.log.append(("put", rpath))
        if Elsewhere.fail is not None:
            Elsewhere.fail(self, Path(lpath), rpath)
        else:
            super().put_file(lpath, rpath, **settings)

    def mv(self, path1, path2, **settings):
        self.log.append(("mv", path1, path2))
        super().mv(path1, path2, **settings)


@pytest.fixture
def elsewhere(monkeypatch):
    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    Elsewhere.store.clear()
    Elsewhere.log.clear()
    monkeypatch.setattr(Elsewhere, "fail", None)
    return Elsewhere


@pytest.fixture(autouse=True)
def quick(monkeypatch, original):
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("CUTSWAP_CACHE", str(original.parent / "cache"))
    monkeypatch.setattr(pull, "probe_shards", lambda paths: None)  # a process for each pull


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "tiles"
    write_set(folder, shards=3, n=3, r=6)
    return folder


def test_a_folder_gets_the_set_and_nothing_else(original, tmp_path):
    url = f"file://{tmp_path}/there/tiles"
    shown = []
    summary = push_set(
        original, url, check=True, make_progress=lambda *_: lambda *state: shown.append(state)
    )
    assert same(tmp_path / "there" / "tiles", original)
    assert (summary.sent_shards, summary.present_shards) == (3, 0)
    total = sum(path.stat().st_size for path in original.glob("shard-*"))
    assert shown[0] == (0, total) and shown[-1] == (total, total)
    assert summary.sent_bytes == total
    assert find_remote_sets(f"file://{tmp_path}/there") == [url]
    assert pull_set(url, tmp_path / "back") == (tmp_path / "back" / "tiles", summary.set_digest)
    assert same(tmp_path / "back" / "tiles", original)
    again = push_set(original, url)
    assert (again.sent_shards, again.sent_bytes, again.present_shards) == (0, 0, 3)


def test_memory_works_too(original, tmp_path):
    MemoryFileSystem.store.clear()
    summary = push_set(original, "memory://sets/tiles", check=True)
    assert pull_set("memory://sets", tmp_path, expect=summary.set_digest)[1] == summary.set_digest
    assert same(tmp_path / "tiles", original)
    assert same(open_location("memory://sets/tiles"), original)


def test_files_get_their_names_when_they_are_whole_and_the_manifest_last(original, elsewhere):
    push_set(original, "elsewhere://sets/tiles", jobs=1)
    put = [row[1].rsplit("/", 1)[-1] for row in elsewhere.log if row[0] == "put"]
    assert all(name.startswith(".") and ".tmp-" in name for name in put)
    got = [row[2].rsplit("/", 1)[-1] for row in elsewhere.log if row[0] == "mv"]
    assert got == [
        "manifest.sha256",
        *sorted(path.name for path in original.glob("*.h5")),
        "manifest.json",
    ]
    assert {path.rsplit("/", 1)[-1] for path in elsewhere.store} == set(names(original))


def test_an_interrupted_push_goes_on(original, elsewhere, tmp_path):
    url = "elsewhere://sets/tiles"

    def broken(fs, lpath, rpath):
        if SHARD in rpath:
            fs.pipe_file(rpath, lpath.read_bytes()[:100])
            raise ConnectionResetError("gone")
        MemoryFileSystem.put_file(fs, str(lpath), rpath)

    elsewhere.fail = broken
    with pytest.raises(RemoteError, match="gone"):
        push_set(original, url, jobs=1, retries=2)
    assert sum(SHARD in row[1] for row in elsewhere.log) == 3
    assert not any(path.endswith("manifest.json") for path in elsewhere.store)
    with pytest.raises(RemoteError, match="unfinished push"):
        pull_set(url, tmp_path)
    elsewhere.store["/sets/tiles/.shard-00001.h5.tmp-77"] = elsewhere.store[
        "/sets/tiles/manifest.sha256"
    ]
    elsewhere.fail = None
    summary = push_set(original, url, jobs=1)
    assert (summary.sent_shards, summary.present_shards) == (2, 1)
    assert same(pull_set(url, tmp_path)[0], original)
    assert {path.rsplit("/", 1)[-1] for path in elsewhere.store} == set(names(original))


def test_shards_of_an_unfinished_push_of_another_set_are_not_taken_for_ours(original, tmp_path):
    there = shutil.copytree(original, tmp_path / "there")
    (there / "manifest.json").unlink()
    (there / "manifest.sha256").write_text("0" * 64 + "  manifest.json\n")
    (there / SHARD).write_bytes(bytes((there / SHARD).stat().st_size))  # of the same size
    with pytest.raises(SetError, match="holds part of another set"):
        push_set(original, f"file://{there}")
    (there / "manifest.sha256").unlink()
    with pytest.raises(SetError, match="holds part of another set"):
        push_set(original, f"file://{there}")
    push_set(original, f"file://{there}", overwrite=True)
    assert same(there, original)


def test_another_set_is_replaced_only_when_asked(original, tmp_path):
    there = tmp_path / "there"
    digest = write_set(there, shards=5, n=2, r=3)[1]
    with pytest.raises(SetError) as error:
        push_set(original, f"file://{there}")
    assert "already holds another set" in str(error.value) and "--overwrite" in str(error.value)
    assert verify_set(there, expect=digest) == []
    push_set(original, f"file://{there}", overwrite=True)
    assert same(there, original)


def test_what_was_lost_there_is_sent_again(original, tmp_path):
    there = shutil.copytree(original, tmp_path / "there")
    (there / SHARD).write_bytes(b"short")
    (there / "shard-00000.h5").unlink()
    assert push_set(original, f"file://{there}").sent_shards == 2
    assert same(there, original)


def test_what_is_stored_otherwise_than_sent_is_found(original, elsewhere):
    def short(fs, lpath, rpath):
        fs.pipe_file(rpath, lpath.read_bytes()[:-1] if ".h5" in rpath else lpath.read_bytes())

    elsewhere.fail = short
    with pytest.raises(RemoteError, match="not stored as it was sent"):
        push_set(original, "elsewhere://a/tiles")
    assert "/a/tiles/manifest.json" not in elsewhere.store

    def damaged(fs, lpath, rpath):
        data = bytearray(lpath.read_bytes())
        data[50] ^= SHARD in rpath
        fs.pipe_file(rpath, bytes(data))

    elsewhere.fail = damaged
    with pytest.raises(DigestError, match=SHARD):
        push_set(original, "elsewhere://b/tiles", check=True)
    assert "/b/tiles/manifest.json" not in elsewhere.store
    elsewhere.fail = None
    assert push_set(original, "elsewhere://b/tiles", check=True).sent_shards == 1

    def wrong_manifest(fs, lpath, rpath):
        data = lpath.read_bytes()
        fs.pipe_file(rpath, data.replace(b"tiles", b"files") if "manifest.json" in rpath else data)

    elsewhere.fail = wrong_manifest
    with pytest.raises(DigestError, match="not what was sent"):
        push_set(original, "elsewhere://c/tiles")


def test_a_damaged_set_is_not_sent(original, tmp_path):
    folder = shutil.copytree(original, tmp_path / "tiles")
    flip_pixel(folder / SHARD)
    assert verify_set(folder, quick=True) == []
    with pytest.raises(DigestError, match="nothing was sent"):
        push_set(folder, f"file://{tmp_path}/there")
    (folder / SHARD).unlink()
    with pytest.raises(SetError, match="shard is missing"):
        push_set(folder, f"file://{tmp_path}/there")
    assert not (tmp_path / "there").exists()


def test_http_cannot_be_written_and_unknown_protocols_neither(original):
    with pytest.raises(ConfigError, match="http:// cannot be written"):
        push_set(original, "http://127.0.0.1:9/tiles")
    with pytest.raises(ConfigError, match="nosuch"):
        push_set(original, "nosuch://x/tiles")


def test_a_folder_that_cannot_be_written_is_named(original, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetError) as error:
        push_set(original, f"file://{tmp_path}/file/tiles")
    assert "file" in str(error.value) and "\n" not in str(error.value)


def test_a_restricting_licence_warns(original, tmp_path):
    from dataclasses import replace

    from manifests.schema import read_manifest

    folder = shutil.copytree(original, tmp_path / "tiles")
    manifest = read_manifest(folder)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        push_set(folder, f"file://{tmp_path}/a")
    write_manifest(folder, replace(manifest, licence="CC BY-NC-SA 4.0"))
    with pytest.warns(UserWarning, match="export-recipe"):
        push_set(folder, f"file://{tmp_path}/b")


@pytest.mark.parametrize(
    ("url", "module", "hint"),
    [
        ("s3://bucket/tiles", "s3fs", 'pip install "cutswap[s3]"'),
        ("https://127.0.0.1/tiles", "aiohttp", 'pip install "fsspec[http]"'),
        ("abfs://box/tiles", "adlfs", "Install adlfs"),
    ],
)
def test_a_missing_package_is_named(url, module, hint, tmp_path, monkeypatch):
    protocol = url.split(":")[0]
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    with pytest.raises(ConfigError) as error:
        pull_set(url, tmp_path)
    assert hint in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def bucket(monkeypatch):
    with s3_bucket(monkeypatch) as url:
        yield url


def test_an_s3_bucket_takes_and_gives_a_set(bucket, original, tmp_path):
    url = f"{bucket}/some/tiles"
    digest = push_set(original, url, check=True).set_digest
    assert push_set(original, url).sent_shards == 0
    assert find_remote_sets(f"{bucket}/some") == [url]
    part = tmp_path / "out" / "tiles" / f".{SHARD}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((original / SHARD).read_bytes()[:20_000])
    assert same(pull_set(f"{bucket}/some", tmp_path / "out", expect=digest)[0], original)
    assert same(open_location(url), original)
    other = tmp_path / "other" / "tiles"
    write_set(other, shards=1, n=2, r=3)
    with pytest.raises(SetError, match="already holds another set"):
        push_set(other, url)
    push_set(other, url, overwrite=True)
    assert same(open_location(url), other)
    with pytest.raises(RemoteError, match="no negative set here"):
        pull_set(f"{bucket}/nothing", tmp_path / "none")
