"""Sets opened by their URL: copied once, followed when they change, repaired when they rot."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

from manifests import remote
from manifests.digest import file_digest
from manifests.errors import DigestError
from manifests.remote import RemoteError, open_location
from manifests.schema import read_manifest
from reference.folders import same
from reference.remote_sets import SHARD, hurry, one_line, publish
from reference.servers import file_server
from reference.small_sets import write_set


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A set of three shards, and its digest."""
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    hurry(monkeypatch, tmp_path / "cache")


def test_a_path_passes_through(published, tmp_path):
    folder, digest = published
    assert open_location("sets/x") == Path("sets/x")
    assert open_location(folder, expect=digest) == folder
    with pytest.raises(DigestError, match="another set than expected"):
        open_location(folder, expect="0" * 64)


def test_a_url_is_copied_once_and_followed_when_it_changes(published, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / "published")
    with file_server(folder) as served:
        place = open_location(served.url)
        assert place == open_location(served.url + "/")
        assert len(served.shards()) == 3
        assert place.is_relative_to(tmp_path / "cache" / "sets") and same(place, folder)
        assert open_location(served.url, cache=tmp_path / "mine").is_relative_to(tmp_path / "mine")
        shutil.rmtree(folder)
        old, new = read_manifest(place)[1], write_set(folder, shards=1, n=2, r=3)[1]
        # A set of the named digest is used as it is; otherwise the server counts.
        assert read_manifest(open_location(served.url, expect=old))[1] == old
        with pytest.raises(DigestError, match="another set than expected"):
            open_location(served.url, expect="0" * 64)
        assert open_location(served.url) == place and same(place, folder)
    assert open_location(served.url, expect=new) == place
    with pytest.raises(RemoteError):
        open_location(served.url)


def test_a_damaged_copy_is_not_taken_for_the_set(published):
    folder, digest = published
    with file_server(folder) as served:
        place = open_location(served.url)
        (place / SHARD).write_bytes(b"short")
        assert open_location(served.url, expect=digest) == place
        assert len(served.of(SHARD)) == 2
    assert same(place, folder)


def test_a_set_is_opened_straight_from_a_url(published):
    from manifests.negative_set import NegativeSet

    folder, digest = published
    with file_server(folder) as served, NegativeSet.open(served.url, check="files") as opened:
        assert opened.digest == digest
        assert file_digest(opened.path / SHARD) == file_digest(folder / SHARD)
        assert opened[7].image.shape == opened.normal(0).image.shape


def test_nothing_of_the_network_is_imported_before_it_is_needed():
    program = (
        "import sys; from manifests.remote import is_url, open_location\n"
        "from manifests.negative_set import NegativeSet\n"
        "assert not is_url('sets/x'); open_location('sets/x')\n"
        "assert not {'fsspec', 'aiohttp', 'torch', 's3fs'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True, env=environment)


@pytest.mark.parametrize("with_expect", [True, False])
def test_a_copy_that_rotted_is_repaired_at_the_next_opening(published, with_expect, monkeypatch):
    """A flipped bit changes neither size nor manifest; only the bytes tell."""
    folder, digest = published
    expect = digest if with_expect else None
    with file_server(folder) as served:
        place = open_location(served.url)
        data = bytearray((place / SHARD).read_bytes())
        data[-7] ^= 4
        (place / SHARD).write_bytes(data)
        assert open_location(served.url, expect=expect) == place
        assert [len(served.of(name)) for name in ("shard-00000.h5", SHARD)] == [1, 2]
    assert same(place, folder)
    # From a whole copy, a named set is opened without the server.
    assert open_location(served.url, expect=digest) == place
    (place / SHARD).write_bytes(data)
    with pytest.raises(RemoteError) as error:
        open_location(served.url, expect=expect)
    if with_expect:
        assert f"the copy in {place} is damaged ({SHARD})" in one_line(error)
    else:  # the server could have another set by now, so the copy was not looked at
        assert f"an earlier copy lies in {place}" in one_line(error)


def test_comparing_a_large_copy_is_shown(published, monkeypatch):
    folder, _ = published
    labels = []

    def make_progress(label, unit):
        labels.append((label, unit))
        return lambda *state: None

    with file_server(folder) as served:
        open_location(served.url, make_progress=make_progress)
        open_location(served.url, make_progress=make_progress)
        assert labels == [("pull tiles", "bytes")]
        monkeypatch.setattr(remote, "_SHOWN_BYTES", 1)
        open_location(served.url, make_progress=make_progress)
    assert labels[1:] == [("check the copy of tiles", "bytes")]
