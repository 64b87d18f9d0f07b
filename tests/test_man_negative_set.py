"""Negative sets: the manifest, one sequence over all shards, and readers in several processes."""

import multiprocessing
import operator
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import joblib
import numpy as np
import pytest

import manifests.atomic
import manifests.negative_set
from manifests.digest import array_digest, file_digest
from manifests.edits import render
from manifests.errors import ConfigError, DigestError, SetError
from manifests.geometry import Geometry
from manifests.negative_set import CHECKS, NegativeSet
from manifests.schema import (
    read_manifest,
    write_manifest,
)
from manifests.set_folders import find_sets
from manifests.shard import negative_digest
from manifests.shard_file import ShardFile
from reference.small_sets import H, W, records, write_set


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


# Reading


@pytest.mark.parametrize("check", CHECKS)
def test_a_set_is_one_sequence_over_its_shards(folder, check):
    with NegativeSet.open(folder, check=check) as negative_set:
        assert len(negative_set) == 18 and negative_set.n_normals == 8
        assert negative_set.geometry == Geometry(H, W, "stretch")
        assert negative_set.policies == ("scar", "sgsf", "swap")
        assert negative_set.levels == (4, 10)
        assert negative_set.digest == file_digest(folder / "manifest.json")
        assert negative_set.manifest.category == "tiles"
        position = 0
        for number in range(2):
            normals, negatives, donors = records(seed=number)
            for i, expected in enumerate(normals):
                normal = negative_set.normal(4 * number + i)
                assert array_digest(normal.image) == normal.digest == expected.digest
                assert (normal.source, normal.file_sha256) == (
                    expected.source,
                    expected.file_sha256,
                )
                assert normal.canvas_box == (0, 2, H, W - 4)
                for level in (4, 10):
                    place = (4 * number + i, level)
                    assert np.array_equal(negative_set.saliency(*place), expected.saliency[level])
                    assert np.array_equal(negative_set.centres(*place), expected.centres[level])
            for expected in negatives:
                negative = negative_set[position]
                assert negative_digest(negative.image, negative.mask) == expected.digest
                for name in ("policy", "level", "repeat", "edits", "fallback", "digest"):
                    assert getattr(negative, name) == getattr(expected, name)
                assert np.array_equal(negative.anchors, expected.anchors)
                assert negative.normal == 4 * number + expected.normal
                normal = negative_set.normal(negative.normal)
                assert negative.source == normal.source
                image, mask = render(normal.image, negative.edits, donors)
                assert np.array_equal(image, negative.image)
                assert np.array_equal(mask, negative.mask)
                assert np.array_equal(negative_set.negative_image(position), negative.image)
                assert negative_set.negative_normal[position] == negative.normal
                assert negative_set.negative_policy[position] == negative.policy
                assert negative_set.negative_level[position] == negative.level
                assert negative_set.negative_repeat[position] == negative.repeat
                position += 1


def test_indices_behave_like_those_of_a_list(folder):
    with NegativeSet.open(folder) as negative_set:
        assert negative_set[-1].digest == negative_set[17].digest
        assert negative_set[np.int64(9)].digest == negative_set[9].digest
        assert [row.digest for row in negative_set] == [negative_set[j].digest for j in range(18)]
        for index in (18, -19):
            with pytest.raises(IndexError):
                negative_set[index]
        with pytest.raises(IndexError):
            negative_set.normal(8)
        with pytest.raises(SetError, match="no saliency level 5"):
            negative_set.saliency(0, 5)
        with pytest.raises(ValueError):
            negative_set.negative_normal[0] = 3
        assert "8 normals, 18 negatives" in repr(negative_set)


def test_anchors_and_pixels_are_the_same_set(folder, tmp_path):
    manifest, _ = write_set(tmp_path / "tiles", store="anchors")
    with NegativeSet.open(folder) as pixels, NegativeSet.open(tmp_path / "tiles") as anchors:
        assert pixels.manifest.content_digest == anchors.manifest.content_digest
        assert pixels.manifest.saliency_digest == manifest.saliency_digest
        assert pixels.manifest.counts == anchors.manifest.counts
        for one, other in zip(pixels, anchors, strict=True):
            assert np.array_equal(one.image, other.image)
            assert np.array_equal(one.mask, other.mask) and one.digest == other.digest


def test_a_set_written_twice_is_the_same_to_the_byte(folder, tmp_path):
    write_set(tmp_path / "tiles")
    names = sorted(os.listdir(folder))
    assert names == ["manifest.json", "manifest.sha256", "shard-00000.h5", "shard-00001.h5"]
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "tiles" / name).read_bytes(), name


def test_more_shards_than_may_be_open_at_once(tmp_path, monkeypatch):
    write_set(tmp_path / "tiles", shards=5, n=2, r=2, store="anchors")
    monkeypatch.setattr(manifests.negative_set, "_MAX_OPEN_SHARDS", 2)
    before = len(os.listdir("/proc/self/fd"))
    with NegativeSet.open(tmp_path / "tiles", check="files") as negative_set:
        expected = [records(2, 2, seed=s)[1][j].digest for s in range(5) for j in range(2)]
        for order in (range(10), range(9, -1, -1), [0, 8, 1, 4, 9, 2]):
            assert [negative_set[j].digest for j in order] == [expected[j] for j in order]
            assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_set_without_negatives_or_shards_can_be_opened(tmp_path):
    write_set(tmp_path / "none", r=0)
    write_set(tmp_path / "empty", shards=0)
    for name, normals in (("none", 8), ("empty", 0)):
        with NegativeSet.open(tmp_path / name) as negative_set:
            assert (len(negative_set), negative_set.n_normals) == (0, normals)
            assert negative_set.policies == () and len(negative_set.negative_normal) == 0
            assert list(negative_set) == []


# Several processes and threads


def expected_digests():
    return [row.digest for seed in range(2) for row in records(seed=seed)[1]]


def digests_of(rows):
    return [negative_digest(row.image, row.mask) for row in rows]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_processes_may_share_an_opened_set(folder, method):
    with NegativeSet.open(folder, check="files") as negative_set:
        negative_set[0], negative_set[17]
        with multiprocessing.get_context(method).Pool(2) as pool:
            rows = pool.map(partial(operator.getitem, negative_set), range(18), chunksize=3)
            again = [negative_set[j] for j in range(18)]  # while the pool's copies are open
        assert digests_of(rows) == digests_of(again) == expected_digests()


def _child_reads(negative_set, order, queue):
    queue.put(digests_of([negative_set[j] for j in order]))


def test_a_forked_child_reads_through_its_own_handle_at_the_same_time(folder):
    context = multiprocessing.get_context("fork")
    with NegativeSet.open(folder) as negative_set:
        negative_set[0], negative_set[17]
        queue = context.SimpleQueue()
        order = [17 - j % 18 for j in range(90)]
        child = context.Process(target=_child_reads, args=(negative_set, order, queue))
        child.start()
        own = digests_of([negative_set[j % 18] for j in range(90)])
        theirs = queue.get()
        child.join()
        expected = expected_digests()
        assert own == expected * 5
        assert theirs == [expected[j] for j in order]


def test_joblib_workers_may_share_an_opened_set(folder):
    with NegativeSet.open(folder) as negative_set:
        negative_set[3]
        read = joblib.delayed(operator.getitem)
        rows = joblib.Parallel(n_jobs=2)(read(negative_set, j) for j in range(18))
    assert digests_of(rows) == expected_digests()


def test_threads_may_share_a_set(folder, monkeypatch):
    monkeypatch.setattr(manifests.negative_set, "_MAX_OPEN_SHARDS", 1)
    with NegativeSet.open(folder) as negative_set, ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(negative_set.__getitem__, [(7 * j) % 18 for j in range(180)]))
        expected = expected_digests()
        assert digests_of(rows) == [expected[(7 * j) % 18] for j in range(180)]


def test_a_pickled_set_reads_on_after_closing(folder):
    negative_set = NegativeSet.open(folder, check="files")
    first = negative_set[10].digest
    data = pickle.dumps(negative_set)
    negative_set.close()
    with pickle.loads(data) as other:
        assert other[10].digest == first == negative_set[10].digest
        assert other.digest == negative_set.digest
    negative_set.close()


# Checks at opening


def test_files_are_checked_when_they_are_first_read(fresh):
    with open(fresh / "shard-00001.h5", "rb+") as file:
        file.seek(40_000)
        byte = file.read(1)
        file.seek(40_000)
        file.write(bytes([byte[0] ^ 4]))
    with NegativeSet.open(fresh, check="files") as negative_set:
        assert negative_set[8].digest
        with pytest.raises(DigestError, match=r"shard-00001\.h5: is not the file"):
            negative_set[9]
    with NegativeSet.open(fresh, check="quick") as negative_set:
        assert len(negative_set) == 18


@pytest.mark.parametrize("check", ["quick", "files"])
def test_a_missing_or_cut_shard_is_named_at_opening(fresh, check):
    path = fresh / "shard-00001.h5"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SetError, match=r"shard-00001\.h5: shard is truncated"):
        NegativeSet.open(fresh, check=check)
    path.unlink()
    with pytest.raises(SetError, match=r"shard-00001\.h5: shard is missing"):
        NegativeSet.open(fresh, check=check)
    with NegativeSet.open(fresh, check="none") as negative_set:
        assert negative_set[0].digest


def test_the_shard_of_another_set_is_refused(fresh, tmp_path):
    write_set(tmp_path / "other", category="other", n=4, r=9)
    (tmp_path / "other" / "shard-00000.h5").replace(fresh / "shard-00000.h5")
    with (
        NegativeSet.open(fresh, check="none") as negative_set,
        pytest.raises(SetError, match="content digest is not the one in the manifest"),
    ):
        negative_set[0]


def test_an_unknown_check_and_an_absent_set_are_named(tmp_path, folder):
    with pytest.raises(ConfigError, match="unknown check"):
        NegativeSet.open(folder, check="all")
    with pytest.raises(SetError, match="no such folder"):
        NegativeSet.open(tmp_path / "nothing")
    with pytest.raises(SetError, match="unfinished build"):
        NegativeSet.open(tmp_path)


def test_a_recipe_without_geometry_is_refused(tmp_path, folder):
    manifest, _ = read_manifest(folder)
    for geometry in (None, {"height": 8, "width": 8, "fit": "stretch"}, [256, 256]):
        write_manifest(tmp_path, replace(manifest, recipe={"geometry": geometry}))
        with pytest.raises(SetError, match="no usable geometry"):
            NegativeSet.open(tmp_path, check="none")


def test_sets_are_found_at_their_folder_or_below_a_root(tmp_path, folder):
    for name in ("b", "a"):
        write_set(tmp_path / "root" / name, shards=1, r=1)
    (tmp_path / "root" / "logs").mkdir()
    (tmp_path / "root" / "unfinished").mkdir()
    (tmp_path / "root" / "unfinished" / "shard-00000.h5").write_bytes(b"")
    assert find_sets(folder) == [folder]
    found = find_sets(tmp_path / "root")
    assert [path.name for path in found] == ["a", "b", "unfinished"]
    for path in (tmp_path / "root" / "logs", tmp_path / "nowhere"):
        with pytest.raises(SetError):
            find_sets(path)


def test_a_file_that_another_thread_closes_as_soon_as_it_is_open_is_read(tmp_path):
    class ClosedAtOnce(ShardFile):
        """Whoever looks at what is open finds that it was closed a moment ago."""

        _open = property(lambda self: None, lambda self, handle: None)

    path = tmp_path / "file"
    path.write_bytes(b"abcdef")
    assert ClosedAtOnce(path).read_at(2, 3) == b"cde"
