"""Thousands of damaged and forged files: each is read or refused in one line, soon and cheaply."""

import collections
import contextlib
import io
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import manifests.negative_set
import manifests.verify
from manifests.digest import bytes_digest, file_digest
from manifests.edits import decode, encode
from manifests.errors import CutswapError, SetError
from manifests.images import read_image
from manifests.manifest_json import MAX_MANIFEST_BYTES
from manifests.negative_set import NegativeSet
from manifests.probe import mark_familiar, probe_problems
from manifests.recipe import read_recipe, recipe_problems, write_recipe
from manifests.schema import Manifest, read_manifest
from manifests.strict_json import dump_json, dump_typed, load_json
from manifests.verify import verify_set
from reference import mutants
from reference.lookup3 import lookup3
from reference.small_sets import H, W, records, write_set

COUNTS = {"manifest": 90, "shard": 90, "recipe": 50, "edits": 30, "image": 40}
SLOW_COUNTS = {"manifest": 3000, "shard": 3000, "recipe": 1500, "edits": 1000, "image": 1200}
MODELS, SLOW_MODELS = 20, 300


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CUTSWAP_CACHE", str(tmp_path / "cache"))


# What is mutated, and how it is read


def every(*reads):
    """One reader of several: all are tried, and the first refusal counts."""

    def read():
        refusals = []
        for one in reads:
            try:
                one()
            except CutswapError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    return read


def read_set(folder):
    with NegativeSet.open(folder) as negative_set:
        for i in range(min(negative_set.n_normals, 50)):
            negative_set.normal(i)
        for j in range(min(len(negative_set), 50)):
            negative_set[j]


def check_list(problems):
    """What a list of problems says must be plain, too."""
    for problem in problems:
        assert isinstance(problem, CutswapError) and str(problem).isprintable(), repr(problem)


def run_command(*arguments):
    from generator.cli import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main.main([str(argument) for argument in arguments], standalone_mode=True)
        except SystemExit as error:
            assert error.code in (0, 1, 2)


class Kind:
    """A kind of file: `mutate` writes a mutant, `readers` read it."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def readers(self, number):
        raise NotImplementedError


class ManifestKind(Kind):
    def __init__(self, folder):
        super().__init__(folder)
        write_set(folder / "set", shards=2, n=2, r=3, store="anchors")
        self.path = folder / "set" / "manifest.json"
        self.data = self.path.read_bytes()
        mark_familiar(folder / "set")

    def mutate(self, rng, is_repaired):
        data = mutants.mutated_document(rng, self.data, indent=1)
        self.path.write_bytes(data)
        recorded = data if is_repaired else self.data
        self.path.with_suffix(".sha256").write_text(f"{bytes_digest(recorded)}  manifest.json\n")

    def readers(self, number):
        folder = self.path.parent
        reads = [
            lambda: Manifest.from_bytes(self.path.read_bytes()),
            lambda: read_manifest(folder),
            lambda: read_set(folder),
            lambda: check_list(verify_set(folder)),
        ]
        if number % 9 == 0:
            reads += [lambda: run_command("inspect", folder), lambda: run_command("verify", folder)]
        return reads


class ShardKind(Kind):
    def __init__(self, folder):
        super().__init__(folder)
        write_set(folder / "set", shards=1, n=2, r=3)
        self.path = folder / "set" / "shard-00000.h5"
        self.data = self.path.read_bytes()
        self.ranges = mutants.shard_ranges(self.data)
        self.plain = json.loads((folder / "set" / "manifest.json").read_bytes())

    def mutate(self, rng, is_repaired):
        self.path.write_bytes(
            mutants.mutated_shard(rng, self.data, self.ranges, is_repaired=is_repaired)
        )
        entry = self.plain["shards"][0]
        entry = entry | {"file_bytes": self.path.stat().st_size}
        if is_repaired:
            entry["file_sha256"] = file_digest(self.path)
        data = dump_json(self.plain | {"shards": [entry]}, indent=1)
        path = self.path.with_name("manifest.json")
        path.write_bytes(data)
        path.with_suffix(".sha256").write_text(f"{bytes_digest(data)}  manifest.json\n")

    def readers(self, number):
        folder = self.path.parent
        reads = [lambda: read_set(folder), lambda: check_list(verify_set(folder))]
        if number % 25 == 0:
            reads += [lambda: run_command("verify", folder)]
        return [lambda: self._directly(reads)]

    @staticmethod
    def _directly(reads):
        # The forked child of this suite stands for the one that the probe would start for each:
        # what it does not survive is given to the real one below.
        manifests.negative_set.familiarise = manifests.verify.familiarise = lambda *_: {}
        every(*reads)()


class RecipeKind(Kind):
    def __init__(self, folder):
        super().__init__(folder)
        write_set(folder / "set", shards=2, n=2, r=3, store="anchors")
        self.path = folder / "part.recipe"
        with NegativeSet.open(folder / "set") as negative_set:
            write_recipe(self.path, negative_set, with_donors=True)
        self.data = self.path.read_bytes()

    def mutate(self, rng, is_repaired):
        self.path.write_bytes(mutants.mutated_recipe(rng, self.data, is_repaired=is_repaired))

    def readers(self, number):
        return [
            lambda: read_recipe(self.path),
            lambda: check_list(recipe_problems(self.path)),
        ]


class EditsKind(Kind):
    def __init__(self, folder):
        super().__init__(folder)
        self.path = folder / "edits"
        self.data = [encode(row.edits) for row in records(2, 3)[1]]

    def mutate(self, rng, is_repaired):
        data = self.data[int(rng.integers(len(self.data)))]
        self.path.write_bytes(mutants.mutated_document(rng, data, indent=None))

    def readers(self, number):
        return [lambda: decode(self.path.read_bytes(), H, W)]


class ImageKind(Kind):
    def __init__(self, folder):
        super().__init__(folder)
        self.path = folder / "image"
        values = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
        values[10:30] = 77
        pictures = {
            "PNG": [Image.fromarray(values), Image.fromarray(values).convert("P")],
            "JPEG": [Image.fromarray(values), Image.fromarray(values).convert("CMYK")],
        }
        self.data = []
        for name, ones in pictures.items():
            for one in ones:
                stream = io.BytesIO()
                one.save(stream, name, **({"exif": b"Exif\0\0II*\0"} if name == "JPEG" else {}))
                self.data.append((name, stream.getvalue()))

    def mutate(self, rng, is_repaired):
        name, data = self.data[int(rng.integers(len(self.data)))]
        if name == "PNG":
            data = mutants.mutated_png(rng, data, is_repaired=is_repaired)
        else:
            data = mutants.mutated_bytes(rng, data)
        self.path.write_bytes(data)

    def readers(self, number):
        return [lambda: read_image(self.path, max_pixels=4_000_000)]


class ModelKind(Kind):
    """A model of the real command, of which all but the weights is small."""

    def __init__(self, folder, model):
        super().__init__(folder)
        self.model = model
        self.data = {
            path.name: path.read_bytes()
            for path in model.iterdir()
            if path.suffix in (".json", ".safetensors")
        }
        for path in model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        self.is_changed = None

    def mutate(self, rng, is_repaired):
        if self.is_changed:
            (self.folder / self.is_changed).write_bytes(self.data[self.is_changed])
        record = self.data["model.json"]
        names = [name for name in sorted(self.data) if name != "model.json"]
        name = "model.json" if rng.random() < 0.6 else names[int(rng.integers(len(names)))]
        self.is_changed = name
        if name == "model.json":
            record = mutants.mutated_document(rng, record, indent=1)
        else:
            data = self.data[name]
            # The header is where the parser is: its length, and JSON.
            head = 8 + int.from_bytes(data[:8], "little")
            data = mutants.mutated_bytes(rng, data, [(0, 8), (8, head)])
            (self.folder / name).write_bytes(data)
            if is_repaired:
                plain = json.loads(record)
                plain["files"][name] = bytes_digest(data)
                record = dump_json(plain, indent=1)
        (self.folder / "model.json").write_bytes(record)
        if is_repaired:
            line = f"{bytes_digest(record)}  model.json\n"
            (self.folder / "model.sha256").write_text(line)

    def readers(self, number):
        import torch

        from detector.model import load_model
        from detector.verify_model import verify_model

        torch.set_num_threads(1)
        return [
            lambda: load_model(self.folder),
            lambda: check_list(verify_model(self.folder)),
        ]


KINDS = {
    "manifest": ManifestKind,
    "shard": ShardKind,
    "recipe": RecipeKind,
    "edits": EditsKind,
    "image": ImageKind,
}


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


@pytest.fixture(scope="module")
def model(fitted):
    return next(path.parent for path in Path(fitted).glob("*/model.json"))


def test_mutated_models_are_read_or_refused(tmp_path, capsys, model):
    run(ModelKind(tmp_path / "model", model), MODELS, seed=1, report=capsys)


@pytest.mark.slow
def test_many_mutated_models_are_read_or_refused(tmp_path, capsys, model):
    run(ModelKind(tmp_path / "model", model), SLOW_MODELS, seed=2, report=capsys)


# The suite itself


def test_unchanged_files_are_read(tmp_path, model):
    for name, make in KINDS.items():
        kind = make(tmp_path / name)
        if isinstance(kind.data, bytes):
            assert mutants.outcome(every(*kind.readers(0))) == "success", name
    kind = ModelKind(tmp_path / "model", model)
    assert mutants.outcome(every(*kind.readers(0))) == "success"


def test_the_child_notices_everything_that_must_not_be():
    assert mutants.outcome(lambda: None) == "success"

    def refused():
        raise SetError("is damaged", path="x")

    def garbled():
        raise SetError("is \x1b[31m damaged")

    assert mutants.outcome(refused) == "SetError"
    assert mutants.outcome(garbled).startswith("raised: an error that is no plain line")
    assert "ZeroDivisionError" in mutants.outcome(lambda: 1 // 0)
    assert "MemoryError" in mutants.outcome(lambda: bytearray(1 << 28), memory_bytes=1 << 27)
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


# Bombs


def manifest_bytes(tmp_path):
    write_set(tmp_path / "set", shards=1, n=1, r=1, store="anchors")
    return (tmp_path / "set" / "manifest.json").read_bytes()


def filled(data, old, new, unit, count):
    """`data` with `old` replaced by `new`, in which `%s` stands for `count` times `unit`."""
    assert data.count(old) == 1
    return data.replace(old, new.replace(b"%s", unit * count))


# The middle one is under the limit of the largest open table.
SIZES = [8, *(pytest.param(mib, marks=pytest.mark.slow) for mib in (15, 64))]
DIGEST_ROW = b'  "' + b"a" * 64 + b'",\n'
BOMBS = {
    "lists in the recipe": (b'"recipe": {', b'"recipe": {"a": [%s 0],', b"[],"),
    "tables in the counts": (b'"counts": {', b'"counts": {"a": [%s 0],', b"{},"),
    "depth in the recipe": (b'"recipe": {', b'"recipe": {"a": %s', b"["),
    "keys": (b'"category"', b'%s"category"', b'"category":"",'),
    "unknown fields": (b'"category"', b'"a": [%s 0], "category"', b"{},"),
    "versions": (b'"versions": {', b'"versions": {%s', b'"":"",'),
    "environment": (b'"environment": {', b'"environment": {%s', b'"":"",'),
    "short files": (b'"training_files": [', b'"training_files": [%s', b'"ab",'),
    "equal files": (b'"training_files": [\n', b'"training_files": [\n%s', DIGEST_ROW),
    "skipped": (b'"skipped": [', b'"skipped": [%s', b'{"source":"ab","reason":"cd"},'),
    "escapes": (b'"licence": "', b'"licence": "%s', b"\\u00e9"),
    "quotes": (b'"licence": "', b'"licence": "%s', b'\\"'),
    "open text": (b'"licence": "', b'"licence": "%s', b"a"),
    "numbers": (b'"duplicates": 0', b'"duplicates": %s', b"9"),
}


def limited(read, mib):
    return mutants.outcome(read, memory_bytes=384 << 20 if mib == 8 else 1 << 30)


@pytest.mark.parametrize("mib", SIZES)
@pytest.mark.parametrize("name", BOMBS)
def test_a_manifest_that_is_a_bomb_is_refused_within_time_and_memory(tmp_path, name, mib):
    data = manifest_bytes(tmp_path)
    old, new, unit = BOMBS[name]
    room = (mib << 20) - (64 << 10)
    bomb = filled(data, old, new, unit, room // len(unit))
    assert room - 70 < len(bomb) <= mib << 20 <= MAX_MANIFEST_BYTES
    assert limited(lambda: Manifest.from_bytes(bomb), mib) == "SetError"


@pytest.mark.parametrize("mib", SIZES)
def test_an_honest_manifest_of_that_size_is_read_within_time_and_memory(tmp_path, mib):
    plain = json.loads(manifest_bytes(tmp_path))
    plain["training_files"] = [f"{number:064x}" for number in range(14_000 * mib)]
    data = dump_json(plain, indent=1)
    assert 15 * mib << 16 > len(data) > 14 * mib << 16
    assert limited(lambda: Manifest.from_bytes(data), mib) == "success"
    entry = plain["shards"][0]
    plain["training_files"] = plain["training_files"][:10]
    plain["shards"] = [entry | {"name": f"shard-{number:05d}.h5"} for number in range(2300 * mib)]
    data = dump_json(plain, indent=1)
    assert len(data) > 14 * mib << 16
    assert limited(lambda: Manifest.from_bytes(data), mib) == "success"


@pytest.mark.parametrize("mib", SIZES)
@pytest.mark.parametrize(
    "unit", [b"[],", b"{},", b'"",', b'"ab",', b"1,", b"1e5,", b'\\"', b"[", b'{"a":', b'"']
)
def test_open_json_that_is_a_bomb_is_refused_within_time_and_memory(unit, mib):
    data = b"[" + unit * ((mib << 20) // len(unit)) + b"0]"
    read = partial(load_json, data, max_bytes=64 << 20)
    is_small = unit == b'"ab",' and mib == 8  # no bomb yet: 1.6 million short strings
    assert limited(read, mib) == ("success" if is_small else "SetError")


# JSON


def test_typed_text_is_that_of_pythons_own_writer():
    value = {
        "b": ['a\x00\x1f\x7f\x80é\u2028😀/"\\\b\f\n\r\t', "", "é"],
        "a": [{}, [], {"é": [1, -2, True, None]}],
    }
    for indent in (None, 1):
        assert dump_typed(value, indent=indent) == dump_json(value, indent=indent)


def test_depth_is_counted_outside_of_strings(tmp_path):
    text = json.dumps({"a": "[" * 99 + '\\"' + "{" * 99, "b": ["\\", '"[', "]"]})
    assert load_json(text.encode(), max_bytes=1000)["b"] == ["\\", '"[', "]"]
    deep = b"[" * 24 + b"]" * 24
    assert load_json(deep + b"\n", max_bytes=1000)
    with pytest.raises(SetError, match="deeper"):
        load_json(b"[" + deep + b"]", max_bytes=1000)


def test_repeated_keys_are_refused_at_every_level(tmp_path):
    data = manifest_bytes(tmp_path)
    for old, new in (
        (b' "duplicates": 0,', b' "duplicates": 1,\n "duplicates": 0,'),
        (b'   "normals": 1,\n', b'   "normals": 2,\n   "normals": 1,\n'),
        (b'  "seed": 0\n', b'  "seed": 1,\n  "seed": 0\n'),
    ):
        assert data.count(old) == 1
        with pytest.raises(SetError, match=r"repeated|canonical"):
            Manifest.from_bytes(data.replace(old, new))


def test_texts_of_a_manifest_may_be_any_unicode(tmp_path):
    write_set(tmp_path / "set", shards=1, n=1, r=1, store="anchors")
    manifest, _ = read_manifest(tmp_path / "set")
    odd = replace(
        manifest,
        licence="© 😀 \x7f\x80\u2028",
        recipe=manifest.recipe | {"ü": [0.1, 1e16, 1e-7, 10**30, None]},
        skipped=({"source": "Bäder/\udcff.png", "reason": "no\ttext"},),
    )
    assert Manifest.from_bytes(odd.to_bytes()) == odd
    assert odd.skipped[0]["source"] == "Bäder/\\udcff.png"  # what was no text
    with pytest.raises(SetError, match="licence"):
        Manifest.from_bytes(replace(odd, licence="x" * 70_000).to_bytes())


@pytest.mark.parametrize(
    "field, value",
    [
        ("counts", {"policies": {"swap": 3}}),
        ("counts", {"policies": {"swap": {"4": "3"}}}),
        ("counts", {"dropped": 3}),
        ("counts", {"dropped": {"swap": {"4": 3}}}),
        ("counts", {"more": -1}),
        ("counts", {"more": {"a": {"b": {"c": 1}}}}),
        ("fallbacks", {"swap": {"4": {"none": 0}}}),
        ("fallbacks", {"swap": {"4": {"none": "1"}}}),
        ("fallbacks", {"swap": {"4": {}}}),
        ("fallbacks", {"swap": {}}),
        ("fallbacks", {"swap": {"four": {"none": 1}}}),
        ("fallbacks", {"swap": {"4": 1}}),
    ],
)
def test_counts_that_nobody_could_add_up_are_refused(tmp_path, field, value):
    manifest = Manifest.from_bytes(manifest_bytes(tmp_path))
    assert replace(manifest, counts={"more": {"a": {"b": 1}}}).to_bytes()
    with pytest.raises(SetError, match=field):
        replace(manifest, **{field: value})


def test_errors_name_the_place_and_stay_short(tmp_path):
    data = manifest_bytes(tmp_path)
    for old, new, message in (
        (b'"duplicates": 0', b'"duplicates": "0"', r"duplicates"),
        (b'"file_bytes": ', b'"file_bytes": -', r"file_bytes is not a count"),
        (b'"environment"', b'"enviro"', r"unknown fields at \$\.shards\[0\], the first is enviro"),
        (b' "licence": "",\n', b"", "manifest lacks licence"),
        (b'"licence"', b'"' + b"\\u001b" * 5000 + b'"', "unknown fields"),
    ):
        with pytest.raises(SetError, match=message) as caught:
            Manifest.from_bytes(data.replace(old, new, 1))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 300
