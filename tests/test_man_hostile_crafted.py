"""Files that are whole by every digest and made to cost: time and memory are bounded even so."""

import shutil
import tracemalloc
from pathlib import Path

import pytest

from manifests.errors import SetError
from manifests.recipe import read_recipe, recipe_problems
from reference import mutants
from reference.crafted import claim, crafted_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CUTSWAP_CACHE", str(tmp_path / "cache"))


def test_many_negatives_of_one_draw_are_compared_in_seconds(tmp_path):
    """Looking for a free number from 0 each time took a minute for these."""
    from generator.set_diff import diff_sets

    path = crafted_recipe(tmp_path / "x.recipe", 12_000, is_one_draw=True, is_random=True)

    def compare():
        found = diff_sets(path, path)
        assert found.is_equal and len(found.a.negatives) == 12_000

    assert mutants.outcome(compare, timeout_s=15) == "success"


def test_a_recipe_is_verified_without_its_rows_in_memory(tmp_path):
    path = crafted_recipe(tmp_path / "x.recipe", 15_000, is_one_draw=False, is_random=True)
    tracemalloc.start()
    try:
        assert recipe_problems(path) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Some blocks of text; rows that are kept would take 13 MiB more.
    assert peak < 6 << 20


def test_a_recipe_that_unfolds_further_than_any_honest_one_is_refused_at_once(tmp_path):
    """A file of 5 MB gave rows for two minutes and a gigabyte."""
    path = crafted_recipe(tmp_path / "x.recipe", 30_000, is_one_draw=False, is_random=False)
    assert path.stat().st_size < 300_000
    for read in (read_recipe, lambda path: _raise(recipe_problems(path))):
        with pytest.raises(SetError, match="unfolds to more than 16 times its size"):
            read(path)


def test_a_model_that_claims_a_giant_network_is_refused_before_memory_is_taken(tmp_path, fitted):
    import timm
    import torch

    from detector.model import load_model

    torch.set_num_threads(1)
    assert timm.is_model("regnety_1280")  # 645 million parameters, 2.6 GB
    model = next(path.parent for path in Path(fitted).glob("*/model.json"))
    folder = tmp_path / "part"
    shutil.copytree(model, folder)
    assert mutants.outcome(lambda: load_model(folder)) == "success"
    claim(folder, network="regnety_1280")
    outcome = mutants.outcome(lambda: load_model(folder), memory_bytes=256 << 20)
    assert outcome == "WeightsError"
    with pytest.raises(Exception, match="fetch the model again, or fit it again") as caught:
        load_model(folder)
    assert "regnety_1280" in str(caught.value) and "--network" not in str(caught.value)


@pytest.mark.parametrize("change", [{"network": "\x1b[2J" * 99}, {"precision": "\x1b[2J\n"}])
def test_a_models_words_do_not_steer_the_terminal(tmp_path, fitted, change):
    from detector.model import load_model

    model = next(path.parent for path in Path(fitted).glob("*/model.json"))
    shutil.copytree(model, tmp_path / "part")
    claim(tmp_path / "part", **change)
    outcome = mutants.outcome(lambda: load_model(tmp_path / "part"))
    assert outcome in ("WeightsError", "ConfigError", "ModelError")


def _raise(problems):
    raise problems[-1]
