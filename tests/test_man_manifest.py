"""The manifest: one form, its bounds, what contradicts itself, written last and atomically."""

import json
import os
import pickle
from dataclasses import replace

import pytest

import manifests.atomic
import manifests.negative_set
from manifests.digest import bytes_digest
from manifests.errors import DigestError, OutputError, SetError
from manifests.negative_set import NegativeSet
from manifests.schema import (
    MAX_MANIFEST_BYTES,
    Manifest,
    ShardEntry,
    read_manifest,
    set_digest_of,
    tally,
    write_manifest,
)
from reference.small_sets import write_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two shards of four normals and nine negatives; nobody changes it."""
    path = tmp_path_factory.mktemp("sets") / "tiles"
    write_set(path)
    return path


@pytest.fixture
def fresh(tmp_path):
    write_set(tmp_path / "tiles")
    return tmp_path / "tiles"


def test_a_manifest_reads_back_and_its_digest_is_that_of_sha256sum(fresh):
    manifest, digest = read_manifest(fresh)
    data = (fresh / "manifest.json").read_bytes()
    assert manifest.to_bytes() == data and Manifest.from_bytes(data) == manifest
    assert digest == bytes_digest(data)
    assert (fresh / "manifest.sha256").read_text() == f"{digest}  manifest.json\n"
    assert data.endswith(b"\n") and data.isascii()
    plain = json.loads(data)
    assert plain["attribution"] == "Ölmühle GmbH" and list(plain) == sorted(plain)
    assert plain["counts"]["policies"]["swap"] == {"10": 2, "4": 4}


def test_the_tally_by_hand():
    rows = [("swap", 4, 0), ("swap", 4, 1), ("swap", 9, 0), ("cutpaste", -1, 0)]
    counts, fallbacks = tally(3, rows)
    assert counts == {
        "normals": 3,
        "negatives": 4,
        "policies": {"swap": {"4": 2, "9": 1}, "cutpaste": {"-1": 1}},
    }
    assert fallbacks == {
        "swap": {"4": {"none": 1, "shrunk": 1}, "9": {"none": 1}},
        "cutpaste": {"-1": {"none": 1}},
    }


def test_the_digest_of_a_set_by_hand():
    assert set_digest_of(["00" * 32, "ff" * 32]) == bytes_digest(bytes(32) + b"\xff" * 32)


BAD_FIELDS = {
    "schema_version": [2, 0, -1, "1", True, None, 1.5],
    "category": ["", "../x", "A", 5, "a" * 200],
    "format": [None, 3],
    "recipe": [[], None],
    "training_files": ["a" * 64, ["x"], ["a" * 64, "a" * 64], ["b" * 64, "a" * 64], {}],
    "duplicates": [-1, 1.5, True, "0"],
    "skipped": [{}, [{"source": "a"}], [{"source": "a", "reason": 3}], ["a"]],
    "counts": [[], 3],
    "fallbacks": [None],
    "shards": [{}, [3], [{"name": "shard-00000.h5"}]],
    "content_digest": ["x", None, "A" * 64],
    "versions": [{"numpy": 2}, []],
}


@pytest.mark.parametrize(
    "name, value", [(name, value) for name, values in BAD_FIELDS.items() for value in values]
)
def test_malformed_manifests_are_refused(folder, name, value):
    plain = json.loads((folder / "manifest.json").read_bytes())
    plain[name] = value
    data = (json.dumps(plain, sort_keys=True, indent=1) + "\n").encode()
    with pytest.raises(SetError) as caught:
        Manifest.from_bytes(data)
    assert ("newer cutswap" in str(caught.value)) == (name == "schema_version" and value == 2)


@pytest.mark.parametrize(
    "name, value",
    [
        ("name", "../shard-00000.h5"),
        ("name", "/tmp/shard-00000.h5"),
        ("name", "shard-00000.h5\n"),
        ("name", 5),
        ("file_sha256", "x"),
        ("file_bytes", -1),
        ("normals", 1 << 60),
        ("negatives", True),
        ("environment", {"cpu": 1}),
    ],
)
def test_malformed_shard_entries_are_refused(folder, name, value):
    manifest, _ = read_manifest(folder)
    with pytest.raises(SetError):
        replace(manifest.shards[0], **{name: value})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"schema_version": NaN}',
        b'{"schema_version": 1e999}',
        b'{"schema_version": 1, "schema_version": 1}',
        b"9" * 10_000,
    ],
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(SetError) as caught:
        Manifest.from_bytes(data)
    assert len(str(caught.value)) < 500


def test_a_manifest_has_one_form_and_bounds(folder):
    data = (folder / "manifest.json").read_bytes()
    plain = json.loads(data)
    for other in (data + b"\n", json.dumps(plain).encode(), data.replace(b"0.15", b"0.150")):
        with pytest.raises(SetError, match="canonical"):
            Manifest.from_bytes(other)
    deep: list = []
    for _ in range(30):
        deep = [deep]
    for change, message in (({"extra": 1}, "unknown fields"), ({"recipe": {"a": deep}}, "deeper")):
        with pytest.raises(SetError, match=message):
            Manifest.from_bytes(json.dumps(plain | change).encode())
    with pytest.raises(SetError, match="too large"):
        Manifest.from_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    del plain["licence"]
    with pytest.raises(SetError, match="lacks licence"):
        Manifest.from_bytes(json.dumps(plain).encode())


def test_a_manifest_that_contradicts_itself_is_neither_written_nor_read(tmp_path, folder):
    manifest, _ = read_manifest(folder)
    for change in (
        {"content_digest": "a" * 64},
        {"saliency_digest": "a" * 64},
        {"counts": manifest.counts | {"normals": 7}},
        {"counts": {}},
        {"shards": manifest.shards[::-1]},
        {"shards": manifest.shards[1:]},
    ):
        wrong = replace(manifest, **change)
        with pytest.raises(SetError):
            write_manifest(tmp_path, wrong)
        assert os.listdir(tmp_path) == []
        data = wrong.to_bytes()
        other = tmp_path / "written"
        other.mkdir()
        (other / "manifest.json").write_bytes(data)
        (other / "manifest.sha256").write_text(f"{bytes_digest(data)}  manifest.json\n")
        with pytest.raises(SetError):
            read_manifest(other)
        for file in other.iterdir():
            file.unlink()
        other.rmdir()
    with pytest.raises(SetError, match="JSON"):
        write_manifest(tmp_path, replace(manifest, recipe={"area": float("nan")}))
    with pytest.raises(SetError, match="JSON"):
        write_manifest(tmp_path, replace(manifest, recipe={5: 1, "a": "keys of two kinds"}))
    assert os.listdir(tmp_path) == []


def test_a_changed_manifest_or_digest_file_is_refused(fresh):
    path, digest = fresh / "manifest.json", fresh / "manifest.sha256"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(DigestError, match=r"manifest\.sha256"):
        read_manifest(fresh)
    path.write_bytes(good)
    for text in ("", "x", "a" * 64, "a" * 64 + "  shard-00000.h5\n", "a" * 5000):
        digest.write_text(text)
        with pytest.raises(SetError, match=r"manifest\.sha256"):
            NegativeSet.open(fresh)
    digest.unlink()
    with pytest.raises(SetError, match=r"manifest\.sha256: there is no such file"):
        NegativeSet.open(fresh)
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(SetError, match=r"manifest\.json: is not a plain file"):
        NegativeSet.open(fresh)


@pytest.mark.parametrize("failing", [0, 1])
def test_the_manifest_is_written_last_and_atomically(tmp_path, folder, monkeypatch, failing):
    manifest, _ = read_manifest(folder)
    calls = []
    real = os.replace

    def fail(source, target):
        calls.append(os.path.basename(target))
        if len(calls) > failing:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(manifests.atomic.os, "replace", fail)
    with pytest.raises(OutputError, match="disk is full"):
        write_manifest(tmp_path, manifest)
    assert calls == ["manifest.sha256", "manifest.json"][: failing + 1]
    assert os.listdir(tmp_path) == ["manifest.sha256"][:failing]


def test_an_entry_is_plain_data():
    entry = ShardEntry("shard-00000.h5", "a" * 64, 1, 1, 0, "b" * 64, "c" * 64, {})
    assert entry == pickle.loads(pickle.dumps(entry))
