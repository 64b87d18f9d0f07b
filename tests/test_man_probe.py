"""Unfamiliar shards are parsed by a child with limits first; what kills it is refused."""

import os
import pickle
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import manifests.probe
import manifests.shard
from manifests import probe
from manifests.errors import CutswapError, DigestError, SetError
from manifests.familiar import cache_folder, is_familiar, remember, shard_files
from manifests.negative_set import NegativeSet
from manifests.probe import HostileShard, familiarise, mark_familiar, probe_problems, probe_shards
from manifests.schema import shard_name
from manifests.shard import Shard
from manifests.verify import verify_set
from reference.small_sets import write_set

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "tiles"
    write_set(path, shards=3, n=2, r=3, store="anchors")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CUTSWAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "tiles")


@pytest.fixture
def counted(monkeypatch):
    """The paths of every probe, which still take place."""
    calls = []
    real = manifests.probe.probe_problems

    def count(paths, **options):
        paths = list(paths)
        calls.append(paths)
        return real(paths, **options)

    monkeypatch.setattr(manifests.probe, "probe_problems", count)
    return calls


def stand_in(monkeypatch, tmp_path, body):
    """A child that starts in order and then does `body` with each `path`."""
    script = tmp_path / "child.py"
    script.write_text(
        "import json, os, resource, signal, sys, time\n"
        "setup = json.loads(sys.stdin.readline())\n"
        "say = lambda text: (sys.stdout.write(text + '\\n'), sys.stdout.flush())\n"
        "say('{\"ready\": true}')\n"
        "for line in sys.stdin:\n"
        "    path = json.loads(line)['file']\n" + textwrap.indent(textwrap.dedent(body), "    ")
    )
    monkeypatch.setattr(manifests.probe, "_CHILD", script)


def test_good_shards_pass_in_one_child(original, monkeypatch):
    started = []
    real = subprocess.Popen

    def start(*args, **options):
        started.append(args[0])
        return real(*args, **options)

    monkeypatch.setattr(manifests.probe.subprocess, "Popen", start)
    assert probe_problems(shard_files(original)) == {}
    probe_shards(shard_files(original))
    assert len(started) == 2 and all(args[:2] == [sys.executable, "-I"] for args in started)


def test_every_damaged_shard_is_named_as_this_process_would_name_it(folder):
    first, second, third = shard_files(folder)
    first.write_bytes(first.read_bytes()[:-50])
    third.write_bytes(b"\x89PNG" * 100)
    missing = folder / shard_name(9)
    problems = probe_problems([first, second, third, missing])
    assert list(problems) == [first, third, missing]
    for path, problem in problems.items():
        assert type(problem) is SetError
        with pytest.raises(SetError) as caught, Shard(path) as shard:
            shard.n_normals  # noqa: B018
        assert str(problem) == str(caught.value)
    with pytest.raises(SetError, match=r"shard-00000\.h5: is truncated"):
        probe_shards([second, first, third])


@pytest.mark.parametrize(
    "body, how",
    [
        ("time.sleep(60)", "took more than 1 s"),
        ("while True: pass", "took more than 1 s"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "failed"),
        ("os._exit(0)", "failed"),
        ("say('{\"memory\": true}')", "took more than 64 MiB of memory"),
        ("say('ok')", "failed"),
        ("say('null')", "failed"),
        ("say('[' * 9000)", "failed"),
        ('say(\'{"error": {"what": "x"}}\')', "failed"),
        ("say('{\"error\": false}')", "failed"),
        ("sys.stdout.write('x' * (1 << 24)); sys.stdout.flush()", "failed"),
    ],
)
def test_a_child_that_does_not_answer_in_order_condemns_the_file(
    original, tmp_path, monkeypatch, body, how
):
    stand_in(monkeypatch, tmp_path, body)
    path = shard_files(original)[1]
    started = time.monotonic()
    with pytest.raises(HostileShard) as caught:
        probe_shards([path], timeout_s=1.0, max_bytes=64 << 20)
    assert time.monotonic() - started < 8
    text = str(caught.value)
    assert f"{path}: parsing it {how} in a process of its own" in text
    assert "damaged or hostile; fetch or build it again" in text and "\n" not in text


def test_after_a_death_another_child_goes_on_and_there_is_an_end_to_it(
    original, tmp_path, monkeypatch
):
    stand_in(
        monkeypatch,
        tmp_path,
        """
        if path.endswith("bad.h5"):
            os._exit(1)
        say('{"error": null}')
        """,
    )
    paths = [tmp_path / name for name in ("a.h5", "1bad.h5", "b.h5", "2bad.h5", "c.h5")]
    assert list(probe_problems(paths)) == [paths[1], paths[3]]
    many = [tmp_path / f"{number}bad.h5" for number in range(9)]
    problems = probe_problems([*many, paths[0]])
    assert len(problems) == 10
    assert all(isinstance(problem, HostileShard) for problem in problems.values())
    assert "because 5 others could not be" in str(problems[paths[0]])


def test_what_a_child_says_steers_no_terminal(original, tmp_path, monkeypatch):
    fields = '{"what": "\\u001b[31mred", "expected": null, "got": "\\u202e", "hint": null}'
    stand_in(monkeypatch, tmp_path, f"say({fields!r}.join(['{{\"error\": ', '}}']))")
    (problem,) = probe_problems(shard_files(original)[:1]).values()
    assert "?[31mred" in str(problem) and "\x1b" not in str(problem)
    assert "\u202e" not in str(problem)


def test_where_no_child_starts_it_says_so(original, tmp_path, monkeypatch):
    script = tmp_path / "child.py"
    script.write_text("raise RuntimeError('no such library')")
    monkeypatch.setattr(manifests.probe, "_CHILD", script)
    with pytest.raises(SetError, match=r"cannot be started .*RuntimeError: no such library"):
        probe_problems(shard_files(original))
    (problem,) = verify_set(original)
    assert "cannot be started" in str(problem)
    monkeypatch.setattr(manifests.probe.sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(SetError, match="cannot be started"):
        NegativeSet.open(original)


def test_no_child_is_left_behind(original, tmp_path, monkeypatch):
    stand_in(
        monkeypatch,
        tmp_path,
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)",
    )
    with pytest.raises(HostileShard):
        probe_shards(shard_files(original), timeout_s=0.5)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# The limits of the real child


@pytest.fixture
def real_child(tmp_path, monkeypatch):
    """The real child, in which parsing a shard does `body` instead."""

    def make(body):
        source = (REPO / "manifests" / "probe_child.py").read_text(encoding="utf-8")
        there = "            with Shard(path) as shard:\n"
        assert there in source
        source = source.replace(there, f"            exec({body!r})\n{there}")
        # `here` is found from the script's own place.
        (tmp_path / "lib" / "manifests").mkdir(parents=True, exist_ok=True)
        script = tmp_path / "lib" / "manifests" / "probe_child.py"
        script.write_text(source)
        monkeypatch.setattr(manifests.probe, "_CHILD", script)

    return make


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
def test_memory_time_and_files_of_the_real_child_are_limited(original, tmp_path, real_child):
    path = shard_files(original)[0]
    real_child("bytearray(300 << 20)")
    assert probe_problems([path]) == {}
    problem = probe_problems([path], max_bytes=128 << 20)[path]
    assert isinstance(problem, HostileShard) and "more than 128 MiB of memory" in str(problem)
    target = tmp_path / "written"
    real_child(f"open({str(target)!r}, 'wb', buffering=0).write(b'x')")
    assert probe_problems([path]) and target.read_bytes() == b""
    real_child(
        "import resource; assert resource.getrlimit(resource.RLIMIT_CPU)[0] in range(9, 20); "
        "assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0; "
        "import os; assert os.environ['HDF5_PLUGIN_PRELOAD'] == '::'; "
        "import sys; assert sys.flags.isolated; assert '' not in sys.path; "
        "assert 'torch' not in sys.modules"
    )
    assert probe_problems([path], timeout_s=10) == {}


def test_many_shards_cost_one_start(tmp_path):
    write_set(tmp_path / "many", shards=24, n=1, r=1, store="anchors")
    paths = shard_files(tmp_path / "many")
    assert len(paths) == 24

    def seconds(paths):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert probe_problems(paths) == {}
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert seconds(paths) < 2 * seconds(paths[:1]) + 0.5


# Familiar sets


def test_a_set_is_tried_once_and_again_when_a_file_changes(folder, counted):
    for _ in range(2):
        with NegativeSet.open(folder) as negative_set:
            assert negative_set[0].digest
    assert verify_set(folder) == []
    assert counted == [shard_files(folder)]
    data = (folder / shard_name(1)).read_bytes()
    (folder / shard_name(1)).write_bytes(data)
    assert verify_set(folder, quick=True) == [] and len(counted) == 2
    shutil.copytree(folder, folder.parent / "other")
    NegativeSet.open(folder.parent / "other", check="none").close()
    assert len(counted) == 3


def test_a_damaged_set_never_becomes_familiar(folder, counted):
    path = folder / shard_name(1)
    path.write_bytes(path.read_bytes()[:-1] + b"")
    for number in (1, 2):
        assert len(verify_set(folder)) >= 2
        assert len(counted) == number
    assert not is_familiar(shard_files(folder))


def test_what_this_process_wrote_is_familiar(folder, counted):
    assert not is_familiar(shard_files(folder))
    mark_familiar(folder)
    assert is_familiar(shard_files(folder)) and not is_familiar(shard_files(folder)[1:])
    NegativeSet.open(folder).close()
    assert counted == []


def test_a_cache_that_cannot_be_written_costs_only_time(folder, counted, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where a folder should be")
    for _ in range(2):
        NegativeSet.open(folder).close()
    mark_familiar(folder)
    assert len(counted) == 2


def test_nothing_and_what_is_missing_is_never_familiar(tmp_path):
    remember([])
    assert not is_familiar([]) and not is_familiar([tmp_path / shard_name(0)])
    remember([tmp_path / shard_name(0)])
    assert not (tmp_path / "cache").exists()


def test_links_and_other_names_are_not_tried(folder, counted):
    path = folder / shard_name(2)
    path.rename(folder.parent / "elsewhere.h5")
    path.symlink_to(folder.parent / "elsewhere.h5")
    shutil.copy(folder / shard_name(0), folder / shard_name(7))
    familiarise(folder, [shard_name(number) for number in range(3)])
    assert counted == [[folder / shard_name(0), folder / shard_name(1)]]


def test_the_cache_lies_where_the_platform_has_it(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CUTSWAP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "cutswap"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "cutswap"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "cutswap"


# What is hostile is not parsed by this process


def test_a_hostile_shard_is_refused_before_this_process_parses_it(folder, tmp_path, monkeypatch):
    stand_in(
        monkeypatch,
        tmp_path,
        f"os._exit(1) if path.endswith({shard_name(1)!r}) else say('{{\"error\": null}}')",
    )
    monkeypatch.setattr(manifests.shard, "read_index", never_of(shard_name(1)))
    for check in ("none", "quick", "files"):
        with pytest.raises(HostileShard, match=r"shard-00001\.h5: parsing it failed"):
            NegativeSet.open(folder, check=check)
    problems = verify_set(folder)
    assert [type(problem) for problem in problems] == [HostileShard]
    flipped = bytearray((folder / shard_name(1)).read_bytes())
    flipped[9000] ^= 1
    (folder / shard_name(1)).write_bytes(flipped)
    text = "\n".join(map(str, verify_set(folder)))
    assert "is not the file that was recorded" in text and "parsing it failed" in text


def test_what_the_child_refused_is_not_parsed_here_either(folder, tmp_path, monkeypatch):
    """Within the child's limits it was an orderly refusal; without them it may not be."""
    stand_in(
        monkeypatch,
        tmp_path,
        """
        fields = {"what": "takes too much", "expected": None, "got": None, "hint": None}
        say(json.dumps({"error": fields if "00001" in path else None}))
        """,
    )
    monkeypatch.setattr(manifests.shard, "read_index", never_of(shard_name(1)))
    for check in ("none", "quick", "files"):
        with NegativeSet.open(folder, check=check) as negative_set:
            assert negative_set[0].digest
            with pytest.raises(SetError, match=r"shard-00001\.h5: takes too much"):
                negative_set[3]
            with pickle.loads(pickle.dumps(negative_set)) as other, pytest.raises(SetError):
                other[3]
    (problem,) = verify_set(folder)
    assert "takes too much" in str(problem)
    (folder / shard_name(1)).write_bytes((folder / shard_name(0)).read_bytes())
    with (
        NegativeSet.open(folder, check="files") as negative_set,
        pytest.raises(DigestError, match="is not the file"),
    ):
        negative_set[3]


def never_of(name):
    """`read_index`, but for one file that must not get there."""
    real = manifests.shard.read_index

    def read_index(path, *rest):
        assert Path(path).name != name
        return real(path, *rest)

    return read_index


def test_a_hostile_shard_survives_pickling():
    error = HostileShard("x", path="y", hint="z")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, CutswapError)


def test_the_probe_needs_no_torch():
    script = "import sys, manifests.probe, manifests.confine; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert probe.TIMEOUT_S == 10
