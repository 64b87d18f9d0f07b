"""Writes that fail and disks that fill up: said in one line, and nothing half-written is whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from manifests import schema
from manifests.errors import OutputError
from manifests.schema import MANIFEST_NAME, read_manifest, write_manifest
from manifests.verify import verify_set
from reference.faults import FailingCalls
from reference.fork_server import ForkServer
from reference.small_sets import write_set
from reference.writers import SETUP, SETUP_TORCH, WRITERS, Workshop, check_sha256sum

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with ForkServer(SETUP) as server:
        yield Workshop(server, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def torch_shop(tmp_path_factory):
    with ForkServer(SETUP_TORCH) as server:
        yield Workshop(server, tmp_path_factory.mktemp("shop"))


FAILING = (
    "build", "build --overwrite", "build --add", "replay", "merge", "subset", "pull",
    "export-recipe", "save_model",
)  # fmt: skip
ERRORS = {"a disk that stays full": ("ENOSPC", True), "one that fails once": ("EIO", False)}


def few_or_all() -> list:
    """Which writers, errors and calls: a few of each normally, all of them with `-m slow`."""
    # The last one needs torch, which takes seconds to import.
    few = [(name, error, 1) for name, error in zip(FAILING[:-1], [*ERRORS] * 4, strict=True)]
    return few + [
        pytest.param(name, error, None, marks=pytest.mark.slow)
        for name in FAILING
        for error in ERRORS
    ]


@posix
@pytest.mark.parametrize(("name", "error", "times"), few_or_all())
def test_every_call_that_writes_may_fail(request, tmp_path, name, error, times):
    shop = request.getfixturevalue("torch_shop" if name == "save_model" else "shop")
    writer, (code, is_lasting) = WRITERS[name], ERRORS[error]
    calls = shop.undisturbed(writer).calls
    assert len(calls) > 5
    chosen = list(range(len(calls)))
    if times is not None:
        writes = [number for number in chosen if calls[number].startswith("write ")]
        chosen = writes[len(writes) // 3 :][:times]
    refused = 0
    for number in chosen:
        out = writer.prepare(shop.world, tmp_path / str(number))
        fault = {"folders": [str(out)], "at": number, "error": code, "is_lasting": is_lasting}
        run = shop.server.run(writer.command(shop.world, out), fault=fault)
        if run.code != 0:  # else it only makes a name survive a power cut, or clears up
            refused += 1
            check_is_one_line(run.output, calls[number])
        shop.check_goes_on(writer, out)
        shutil.rmtree(out)
    print(f"{name}, {error}: {refused} of {len(chosen)} calls ended it, all went on to equal bytes")
    assert refused > 0


def check_is_one_line(output: str, call: str) -> None:
    lines = [line for line in output.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, (call, output)
    assert lines[0].startswith("error: /"), (call, output)
    # An OutputError: an OSError that nobody caught says its reason and no way out.
    assert " cannot be " in lines[0], (call, output)


SIZES = (0, 300_000)


@posix
@pytest.mark.parametrize(
    "free", [SIZES, pytest.param(range(0, 700_000, 23_000), marks=pytest.mark.slow)]
)
def test_a_file_system_that_fills_up(shop, tmp_path, small_disk, free):
    writer = WRITERS["build"]
    refused = 0
    for space in free:
        out = writer.prepare(shop.world, small_disk / "out")
        filler = small_disk / "filler"
        fill(filler, space)
        run = shop.server.run(writer.command(shop.world, out))
        filler.unlink()
        if run.code:
            refused += 1
            check_is_one_line(run.output, f"{space} bytes left")
            assert "the disk is full" in run.output or "No space left" in run.output
        shop.check_goes_on(writer, out)
        shutil.rmtree(out)
    print(f"{refused} of {len(free)} builds found the disk full, all went on to equal bytes")
    assert refused > len(free) // 2


def fill(path: Path, space: int) -> None:
    """Takes all of a file system but so many bytes."""
    size = 0
    with open(path, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                size += file.write(bytes(4096))
        file.truncate(max(size - space, 0))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB of its own, where this user may mount one."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    image.write_bytes(bytes(8 << 20))
    try:
        for command in (
            ["mkfs.ext2", "-q", "-F", "-m", "0", image],
            ["mount", "-o", "loop", image, folder],
        ):
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


# The manifest, replaced.


@pytest.fixture
def two_manifests(tmp_path, monkeypatch):
    """A folder with a set, and a second manifest for it; the set digests of both."""
    manifest, old = write_set(tmp_path / "set", n=2, r=3)
    second = dataclasses.replace(manifest, attribution="somebody else")
    # Their shards have been parsed before; the process that does so has tests of its own.
    monkeypatch.setattr("manifests.probe.probe_problems", lambda paths: {})
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    new = write_manifest(tmp_path / "copy", second)
    return tmp_path / "set", second, old, new


def test_a_replaced_manifest_leaves_one_line(two_manifests):
    folder, second, _, new = two_manifests
    assert write_manifest(folder, second) == new
    assert (folder / "manifest.sha256").read_text() == f"{new}  {MANIFEST_NAME}\n"
    assert read_manifest(folder) == (second, new)
    check_sha256sum(folder)


def test_a_manifest_is_replaced_without_a_gap(two_manifests, monkeypatch):
    # A reader before and after every rename, and one that reads the manifest before and the
    # digest after it.
    folder, second, old, new = two_manifests
    seen, real_replace = [], os.replace

    def replace(source, target):
        seen.append(read_manifest(folder)[1])
        before, real_bytes = schema.read_manifest_bytes(folder), schema.read_manifest_bytes
        real_replace(source, target)
        late = iter([before])
        with monkeypatch.context() as patch:
            patch.setattr(
                schema, "read_manifest_bytes", lambda path: next(late, None) or real_bytes(path)
            )
            seen.append(read_manifest(folder)[1])
        assert verify_set(folder, quick=True) == []

    monkeypatch.setattr(os, "replace", replace)
    write_manifest(folder, second)
    assert seen[0] == old and seen[-1] == new
    assert set(seen) == {old, new}
    assert len(seen) == 6  # both names, then the manifest, then its name alone


def test_a_replacement_that_dies_or_fails_anywhere_leaves_the_old_or_the_new(
    two_manifests, tmp_path
):
    folder, second, old, new = two_manifests
    shutil.copytree(folder, tmp_path / "before")
    with FailingCalls([str(folder)]) as counted:
        write_manifest(folder, second)
    total, left = len(counted.calls), {old: 0, new: 0}
    assert total > 15
    for number in range(total):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder)
        with FailingCalls([str(folder)], at=number, error="ENOSPC", is_lasting=True) as failing:
            try:
                write_manifest(folder, second)
            except OutputError as error:
                assert "\n" not in str(error) and "the disk is full" in str(error)
        assert len(failing.calls) > number
        digest = read_manifest(folder)[1]
        left[digest] += 1
        assert verify_set(folder, quick=True) == []
        assert write_manifest(folder, second) == new
        assert (folder / "manifest.sha256").read_text() == f"{new}  {MANIFEST_NAME}\n"
        check_sha256sum(folder)
    assert min(left.values()) > 0 and sum(left.values()) == total
