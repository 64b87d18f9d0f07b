"""Single bits that flip in sets, recipes and models: each is found, none is used silently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import invoke_det
from test_gen_pipeline import good_photos

from manifests.errors import CutswapError, SetError
from manifests.negative_set import NegativeSet
from manifests.recipe import read_recipe, recipe_problems, write_recipe
from manifests.schema import MANIFEST_NAME, read_manifest
from manifests.verify import verify_set
from reference.faults import contents, flip_bit
from reference.small_sets import read_everything, write_set
from reference.writers import save_small_model

FLIPS = pytest.mark.parametrize("times", [200, pytest.param(1000, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of a few kilobytes."""
    folder = tmp_path_factory.mktemp("flips") / "model"
    save_small_model(folder)
    return folder


@pytest.fixture
def no_child(monkeypatch):
    """Without the child process that parses unfamiliar shards first.

    It has tests of its own, and takes longer to start than all of this.
    """
    monkeypatch.setattr("manifests.probe.probe_problems", lambda paths: {})


def flipped(files: list[Path], times: int, problems: Callable[[], list], seed: int = 0) -> int:
    """Flips single bits, of each file as often, and counts those that are found."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(times):
        path = files[rng.integers(len(files))]
        bit = int(rng.integers(path.stat().st_size * 8))
        flip_bit(path, bit)
        if problems():
            found += 1
        else:
            print(f"bit {bit} of {path.name} was not found")
        flip_bit(path, bit)
    assert problems() == []
    return found


@FLIPS
def test_verify_finds_every_flipped_bit_of_a_set(tmp_path, no_child, times):
    write_set(tmp_path / "set", n=2, r=3)
    files = sorted((tmp_path / "set").iterdir())
    assert len(files) == 4
    found = flipped(files, times, lambda: verify_set(tmp_path / "set"))
    print(f"verify found {found} of {times} flipped bits of a set")
    assert found == times


def test_every_single_bit_of_the_recorded_digest_counts(tmp_path):
    # sha256sum takes capital digits for small ones and a star for a space; here they are found,
    # since they are not as written. No single bit of the file is without a meaning.
    write_set(tmp_path / "set")
    path = tmp_path / "set" / "manifest.sha256"
    for bit in range(path.stat().st_size * 8):
        flip_bit(path, bit)
        with pytest.raises(SetError):
            read_manifest(tmp_path / "set")
        flip_bit(path, bit)
    _, digest = read_manifest(tmp_path / "set")
    # More than one bit: what sha256sum would write for a binary file, or another system ends a
    # line with, names the same digest.
    for text in (f"{digest} *{MANIFEST_NAME}\n", f"{digest}  {MANIFEST_NAME}\r\n"):
        path.write_bytes(text.encode())
        assert read_manifest(tmp_path / "set")[1] == digest


@FLIPS
def test_verify_finds_every_flipped_bit_of_a_recipe(tmp_path, times):
    write_set(tmp_path / "set", n=2, r=6)
    recipe = tmp_path / "set.recipe"
    with NegativeSet.open(tmp_path / "set") as negative_set:
        write_recipe(recipe, negative_set, with_donors=True)

    def problems() -> list:
        try:
            read_recipe(recipe)
        except CutswapError:
            return recipe_problems(recipe)
        return []

    found = flipped([recipe], times, problems)
    print(f"verify found {found} of {times} flipped bits of a recipe, and reading refused as many")
    assert found == times


@FLIPS
def test_verify_finds_every_flipped_bit_of_a_model(model, times):
    from detector.model import load_model
    from detector.verify_model import verify_model

    def problems() -> list:
        found = verify_model(model)
        if found:  # what scores with a model loads it like this
            with pytest.raises(CutswapError):
                load_model(model)
        return found

    files = sorted(model.iterdir())
    assert len(files) == 6
    found = flipped(files, times, problems)
    print(f"verify found {found} of {times} flipped bits of a model, and loading refused as many")
    assert found == times


@pytest.mark.parametrize("times", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_training_reads_no_flipped_bit_of_a_shard(tmp_path, no_child, times):
    write_set(tmp_path / "set", n=2, r=3)

    def problems() -> list:
        try:
            with NegativeSet.open(tmp_path / "set", check="files") as negative_set:
                for number in range(len(negative_set.manifest.shards)):
                    read_everything(negative_set._shard(number))
        except SetError as error:
            return [error]
        return []

    found = flipped(sorted((tmp_path / "set").glob("*.h5")), times, problems)
    assert found == times


def test_commands_refuse_what_is_damaged(model, tmp_path):
    write_set(tmp_path / "set")
    shard = tmp_path / "set" / "shard-00001.h5"
    flip_bit(shard, 8 * (shard.stat().st_size // 2))
    out = tmp_path / "models"
    result = invoke_det("fit", tmp_path / "set", "--out", out, "--updates", 0, exit_code=1)
    assert f"{shard}: is not the file that was recorded" in result.output
    assert contents(out) == {}
    bank = model / "bank.safetensors"
    flip_bit(bank, 8 * (bank.stat().st_size - 3))
    image = good_photos(tmp_path / "photos", 1)
    result = invoke_det("score", model, image, exit_code=1)
    assert f"{bank}: " in result.output and "digest" in result.output
    flip_bit(bank, 8 * (bank.stat().st_size - 3))
