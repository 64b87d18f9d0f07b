"""Bombs and oddities in JSON: a manifest is read or refused within time and memory."""

import json
from dataclasses import replace
from functools import partial

import pytest

from manifests.errors import SetError
from manifests.manifest_json import MAX_MANIFEST_BYTES
from manifests.schema import Manifest, read_manifest
from manifests.strict_json import dump_json, dump_typed, load_json
from reference import mutants
from reference.small_sets import write_set


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CUTSWAP_CACHE", str(tmp_path / "cache"))


def manifest_bytes(tmp_path):
    write_set(tmp_path / "set", shards=1, n=1, r=1, store="anchors")
    return (tmp_path / "set" / "manifest.json").read_bytes()


# Bombs


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


# Texts, keys and places


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
