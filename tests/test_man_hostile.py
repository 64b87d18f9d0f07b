"""Thousands of damaged and forged files: each is read or refused in one line, soon and cheaply."""

import collections
import functools
import time
from unittest.mock import patch

import numpy as np
import pytest
from conftest import invoke_det

from manifests.errors import SetError
from manifests.probe import probe_problems
from reference import mutants
from reference.hostile_kinds import KINDS, ModelKind, RecipeKind, ShardKind, every, run_gen
from reference.lookup3 import lookup3

COUNTS = {"manifest": 90, "shard": 90, "recipe": 50, "edits": 30, "image": 40}
SLOW_COUNTS = {"manifest": 3000, "shard": 3000, "recipe": 1500, "edits": 1000, "image": 1200}
MODELS, SLOW_MODELS = 20, 300


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CUTSWAP_CACHE", str(tmp_path / "cache"))


def run(kind, count, *, seed, report):
    """Reads `count` mutants; returns how often each outcome came, and prints it."""
    outcomes = collections.Counter()
    probed = collections.Counter()
    failures = []
    started = time.monotonic()
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        kind.mutate(rng, is_repaired := number % 2 == 0)
        found = mutants.outcome(every(*kind.readers(number)))
        if isinstance(kind, ShardKind) and (found.startswith("died") or number % 50 == 7):
            problem = probe_problems([kind.path]).get(kind.path)
            probed[type(problem).__name__ if problem else "success"] += 1
            if found.startswith("died") and problem is not None:
                found = f"{type(problem).__name__} by the probe alone"
        outcomes[found.split(":")[0], is_repaired] += 1
        if found.startswith(("died", "raised")):
            failures.append(f"{type(kind).__name__} {number}: {found}")
    name = type(kind).__name__.removesuffix("Kind").lower()
    lines = [
        f"{name}: {count} mutants in {time.monotonic() - started:.1f} s; "
        + ", ".join(
            f"{what}{' (digests put right)' if is_repaired else ''} {number}"
            for (what, is_repaired), number in sorted(outcomes.items())
        )
        + (f"; real probe: {dict(probed)}" if probed else "")
    ]
    with report.disabled():
        print("\n" + "\n".join(lines), end="")
    assert not failures, "\n".join(failures[:5])
    # A suite whose mutants are all alike would prove nothing.
    assert sum(n for (what, _), n in outcomes.items() if what != "success") > count / 5
    return outcomes


@pytest.mark.parametrize("name", KINDS)
def test_mutants_are_read_or_refused(tmp_path, capsys, name):
    run(KINDS[name](tmp_path / name), COUNTS[name], seed=1, report=capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_mutants_are_read_or_refused(tmp_path, capsys, name):
    run(KINDS[name](tmp_path / name), SLOW_COUNTS[name], seed=2, report=capsys)


MODEL_OPTIONS = {
    "patchcore": ("--updates", 0, "--coreset", 0.05),
    "guided-seg": ("--updates", 1, "--batch", 2, "--width", 4, "--references", 3),
    "cavga": ("--updates", 1, "--batch", 2, "--width", 4, "--weak", "--latent", "flat"),
}


@pytest.fixture(scope="module")
def models(built, tmp_path_factory):
    """A model of each kind by its detector's name, made when it is asked for."""

    @functools.cache
    def made(detector):
        out = tmp_path_factory.mktemp("models")
        invoke_det(
            "fit", built, "--out", out, "--detector", detector, *MODEL_OPTIONS[detector], "--quiet"
        )
        return next(path.parent for path in out.glob("*/model.json"))

    return made


@pytest.fixture
def model(models):
    return models("patchcore")


@pytest.mark.parametrize("detector", MODEL_OPTIONS)
def test_mutated_models_are_read_or_refused(tmp_path, capsys, models, detector):
    run(ModelKind(tmp_path / "model", models(detector)), MODELS, seed=1, report=capsys)


@pytest.mark.slow
@pytest.mark.parametrize("detector", MODEL_OPTIONS)
def test_many_mutated_models_are_read_or_refused(tmp_path, capsys, models, detector):
    run(ModelKind(tmp_path / "model", models(detector)), SLOW_MODELS, seed=2, report=capsys)


# The suite itself


def test_unchanged_files_are_read(tmp_path, model):
    for name, make in KINDS.items():
        kind = make(tmp_path / name)
        if isinstance(kind.data, bytes):
            assert mutants.outcome(every(*kind.readers(0))) == "success", name
    kind = ModelKind(tmp_path / "model", model)
    assert mutants.outcome(every(*kind.readers(0))) == "success"


def test_commands_go_through_to_their_end_with_what_is_whole(tmp_path, model):
    """A reader that refuses everything would never be asked anything else."""
    kind = RecipeKind(tmp_path / "recipe")
    every(*kind.readers(0))()
    assert (tmp_path / "recipe" / "out" / "parts" / "manifest.json").is_file()
    kind.path.write_bytes(b"cutswap-recipe 1")
    with pytest.raises(SetError):
        every(*kind.readers(0))()
    with pytest.raises(ZeroDivisionError), patch("manifests.recipe.read_recipe", lambda _: 1 // 0):
        run_gen("inspect", kind.path)
    kind = ModelKind(tmp_path / "model", model)
    with pytest.raises(ZeroDivisionError), patch("detector.model.load_model", lambda *_: 1 // 0):
        every(*kind.readers(0))()


def test_the_child_notices_everything_that_must_not_be():
    assert mutants.outcome(lambda: None) == "success"

    def refused():
        raise SetError("is damaged", path="x")

    def garbled():
        raise SetError("is \x1b[31m damaged")

    assert mutants.outcome(refused) == "SetError"
    assert mutants.outcome(garbled).startswith("raised: an error that is no plain line")
    assert "ZeroDivisionError" in mutants.outcome(lambda: 1 // 0)
    # More than this process may have kept of what it has freed.
    assert "MemoryError" in mutants.outcome(lambda: bytearray(1 << 33), memory_bytes=1 << 27)
    assert mutants.outcome(lambda: time.sleep(60), timeout_s=0.1) == "died: SIGALRM"
    assert mutants.outcome(lambda: any(iter(int, 1)), timeout_s=0.2) == "died: SIGPROF"


def test_checksums_are_those_of_hdf5(tmp_path):
    # The first is Jenkins' own example.
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551
    kind = ShardKind(tmp_path / "shard")
    changed = bytearray(kind.data)
    start, end = next(place for place in kind.ranges if kind.data[place[0] :][:4] == b"OHDR")
    changed[start + 6] ^= 1
    mutants.seal(changed, kind.ranges)
    pairs = enumerate(zip(changed, kind.data, strict=True))
    assert next(i for i, (a, b) in pairs if a != b) == start + 6
    assert changed[end - 4 : end] != kind.data[end - 4 : end]
