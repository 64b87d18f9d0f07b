"""Recipes: one text, verified by themselves, and nothing a stranger writes gets through."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import os
import resource
import shutil
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from manifests import recipe_reader, recipe_text, shard_records
from manifests.digest import array_digest, bytes_digest
from manifests.edits import decode, render
from manifests.errors import DigestError, EditError, OutputError, SetError
from manifests.negative_set import NegativeSet
from manifests.recipe import dump_recipe, read_recipe, recipe_problems, write_recipe
from manifests.recipe_rows import donor_line, parse_donor, parse_negative
from manifests.schema import Manifest, read_manifest, write_manifest
from reference.recipe import literal_recipe, photo_set, photos
from reference.small_sets import write_set

SHORT_DONOR = base64.b64encode(zlib.compress(bytes(31 * 44 * 3))).decode()


def export(folder: Path, path: Path, **options):
    with NegativeSet.open(folder) as negative_set:
        return write_recipe(path, negative_set, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A set with swaps, scars and blends, whose donors are none of its normals."""
    folder = tmp_path_factory.mktemp("set") / "tiles"
    write_set(folder)
    return folder


@pytest.fixture(scope="module")
def file(folder) -> Path:
    path = folder.parent / "tiles.recipe"
    export(folder, path, with_donors=True)
    return path


def write_text(path: Path, lines: list[bytes], *, ended: bool = True) -> Path:
    """A recipe file of any lines, its own digest right."""
    body = gzip.compress(b"\n".join(lines) + (b"\n" if ended else b""), 9, mtime=0)
    path.write_bytes(
        b"cutswap-recipe 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    )
    return path


def lines_of(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes().split(b"\n", 1)[1]).splitlines()


def compact(row: object) -> bytes:
    return json.dumps(row, sort_keys=True, separators=(",", ":")).encode()


# --- what is written --------------------------------------------------------------------------


def test_a_literal_reader_agrees(folder, file):
    set_digest, rows = literal_recipe(file)
    recipe = read_recipe(file)
    _, digest = read_manifest(folder)
    assert recipe.set_digest == set_digest == digest
    kinds = [row[0] for row in rows]
    assert kinds == ["manifest"] + 2 * (["shard"] + 4 * ["normal"] + 9 * ["negative"]) + 2 * [
        "donor"
    ]
    assert list(dump_recipe(file)) == [compact(row).decode() for row in rows]


def test_rows_are_those_of_the_set(folder, file):
    recipe = read_recipe(file)
    with NegativeSet.open(folder) as negative_set:
        manifest = negative_set.manifest
        assert (recipe.n_normals, recipe.n_negatives) == (8, 18)
        normals = [row for shard in recipe.shards for row in shard.normals]
        for i, row in enumerate(normals):
            normal = negative_set.normal(i)
            assert row.digest == normal.digest and row.source == normal.source
            assert row.file_sha256 == normal.file_sha256 and row.canvas_box == normal.canvas_box
        numbers = iter(range(18))
        for shard, entry in zip(recipe.shards, manifest.shards, strict=True):
            assert shard.name == entry.name
            for row in shard.negatives:
                negative = negative_set[next(numbers)]
                assert row.edits(32, 44) == negative.edits
                assert (row.policy, row.level, row.repeat) == (
                    negative.policy, negative.level, negative.repeat,
                )  # fmt: skip
                assert np.array_equal(row.anchors, negative.anchors)
                assert (row.fallback, row.digest) == (negative.fallback, negative.digest)
                normal = negative_set.normal(negative.normal)
                donors = {digest: recipe.donors[digest].image() for digest in row.donors}
                image, mask = render(normal.image, row.edits(32, 44), donors)
                assert np.array_equal(image, negative.image)
                assert np.array_equal(mask, negative.mask)


def test_same_set_same_bytes_and_figures(folder, file, tmp_path):
    again = tmp_path / "another-name.recipe"
    summary = export(folder, again, with_donors=True)
    assert again.read_bytes() == file.read_bytes()
    assert summary.file_bytes == file.stat().st_size
    assert summary.text_bytes == sum(len(line) + 1 for line in lines_of(file))
    assert (summary.n_normals, summary.n_negatives) == (8, 18)
    manifest, digest = read_manifest(folder)
    assert (summary.set_digest, summary.content_digest) == (digest, manifest.content_digest)
    # Title, then a gzip header without name and time.
    body = again.read_bytes().split(b"\n", 1)[1]
    assert body[:9] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02"


def test_both_stores_give_the_same_rows(file, tmp_path):
    write_set(tmp_path / "tiles", store="anchors")
    export(tmp_path / "tiles", tmp_path / "a.recipe", with_donors=True)
    assert lines_of(tmp_path / "a.recipe")[1:] == lines_of(file)[1:]


def test_foreign_donors_are_refused_by_name(folder, tmp_path):
    with pytest.raises(SetError, match=r"2 donor images are no normals.*--with-donors"):
        export(folder, tmp_path / "x.recipe")
    assert os.listdir(tmp_path) == []


def test_donors_that_are_normals_of_another_shard_do_not_travel(tmp_path):
    sources = photos(tmp_path / "data", 6)
    photo_set(tmp_path / "parts", tmp_path / "data", sources, donor="lent")
    export(tmp_path / "parts", tmp_path / "x.recipe")
    recipe = read_recipe(tmp_path / "x.recipe")
    assert not recipe.donors and recipe.shards[0].donors
    assert recipe.shards[0].donors <= {row.digest for row in recipe.shards[1].normals}


def test_pixels_that_travel_warn_where_the_licence_has_a_say(tmp_path):
    sources = photos(tmp_path / "data", 3)
    photo_set(
        tmp_path / "a", tmp_path / "data", sources, donor="foreign", licence="CC BY-NC-SA 4.0"
    )
    with pytest.warns(UserWarning, match="non-commercial"):
        export(tmp_path / "a", tmp_path / "a.recipe", with_donors=True)
    photo_set(tmp_path / "b", tmp_path / "data", sources, donor="", licence="CC BY-NC-SA 4.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(tmp_path / "b", tmp_path / "b.recipe", with_donors=True)


def test_a_set_that_contradicts_itself_gives_no_recipe(folder, tmp_path):
    import dataclasses
    import shutil

    from manifests.schema import write_manifest

    shutil.copytree(folder, tmp_path / "tiles")
    manifest, _ = read_manifest(tmp_path / "tiles")
    write_manifest(tmp_path / "tiles", dataclasses.replace(manifest, training_files=()))
    with pytest.raises(SetError, match="contradicts itself: normal is not one of"):
        export(tmp_path / "tiles", tmp_path / "x.recipe", with_donors=True)
    assert os.listdir(tmp_path) == ["tiles"]


def test_folder_that_is_not_there(folder, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        export(folder, tmp_path / "no" / "x.recipe", with_donors=True)


def test_too_much_for_one_recipe_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_text, "MAX_LINE_BYTES", 400)
    with pytest.raises(SetError, match="a row is too large for a recipe"):
        export(folder, tmp_path / "x.recipe", with_donors=True)
    monkeypatch.undo()
    monkeypatch.setattr(recipe_text, "MAX_FILE_BYTES", 400)
    with pytest.raises(SetError, match=r"too large for one recipe.*subset"):
        export(folder, tmp_path / "x.recipe", with_donors=True)
    assert os.listdir(tmp_path) == []


def test_the_manifest_may_be_longer_than_any_other_line(folder, tmp_path, monkeypatch):
    # It names every training file: at a quarter of a million it passed what a row may have.
    shutil.copytree(folder, tmp_path / "tiles")
    manifest, _ = read_manifest(tmp_path / "tiles")
    more = {bytes_digest(str(i).encode()) for i in range(200)}
    files = tuple(sorted(more.union(manifest.training_files)))
    write_manifest(tmp_path / "tiles", dataclasses.replace(manifest, training_files=files))
    monkeypatch.setattr(recipe_text, "MAX_LINE_BYTES", 8000)
    export(tmp_path / "tiles", tmp_path / "x.recipe", with_donors=True)
    assert read_recipe(tmp_path / "x.recipe").manifest.training_files == files


# --- what is read -----------------------------------------------------------------------------


def test_every_flipped_bit_is_found(file, tmp_path):
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    places = {*range(90), *rng.integers(0, len(data), 200).tolist(), len(data) - 1}
    target = tmp_path / "x.recipe"
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        target.write_bytes(damaged)
        assert recipe_problems(target), f"bit in byte {place}"
        with pytest.raises(SetError):
            read_recipe(target)


@pytest.mark.parametrize("kept", [0, 10, 82, 83, 200, -9, -1])
def test_truncated(file, tmp_path, kept):
    target = tmp_path / "x.recipe"
    target.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SetError):
        read_recipe(target)


def test_expect(file):
    recipe = read_recipe(file)
    assert read_recipe(file, expect=recipe.set_digest.upper()).set_digest == recipe.set_digest
    with pytest.raises(DigestError, match="another set than expected"):
        read_recipe(file, expect="0" * 64)
    assert recipe_problems(file) == recipe_problems(file, expect=recipe.set_digest) == []


def test_the_manifest_is_told_before_the_rows_unless_something_is_wrong_with_it(file, monkeypatch):
    told = []
    recipe = read_recipe(file, on_manifest=told.append)
    assert told == [recipe.manifest]
    with pytest.raises(DigestError):
        read_recipe(file, expect="0" * 64, on_manifest=told.append)
    assert len(told) == 1

    def no_rows(*_):
        raise SetError("a bad row")

    monkeypatch.setattr(recipe_reader, "parse_normal", no_rows)
    with pytest.raises(SetError, match="a bad row"):
        read_recipe(file, on_manifest=told.append)
    assert len(told) == 2


def test_all_problems_are_listed(file, tmp_path):
    lines = lines_of(file)
    lines[2], lines[3] = lines[3], lines[2]  # two normals of the first shard
    name = b'"shard-00001.h5"]'
    second = next(n for n, line in enumerate(lines) if line.endswith(name))
    lines[second + 1], lines[second + 2] = lines[second + 2], lines[second + 1]
    found = recipe_problems(write_text(tmp_path / "x.recipe", lines), expect="0" * 64)
    assert [type(problem) for problem in found] == [DigestError] * 3
    assert [name in str(one) for one, name in zip(found[1:], ("00000", "00001"), strict=True)]
    assert "\n" not in "".join(map(str, found))


def test_no_such_file_and_other_files(tmp_path):
    for path, what in (
        (tmp_path / "no.recipe", "no such file"),
        (tmp_path, "is not a file"),
        (Path(__file__), "is not a recipe"),
        (tmp_path / "x\0.recipe", "cannot be read"),
    ):
        with pytest.raises(SetError, match=what):
            read_recipe(path)
        assert len(recipe_problems(path)) == 1


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.recipe")
    with pytest.raises(SetError, match="is not a file"):
        read_recipe(tmp_path / "x.recipe")


def test_newer_recipe_is_named_as_such(file, tmp_path):
    newer = tmp_path / "x.recipe"
    newer.write_bytes(file.read_bytes().replace(b"recipe 1 ", b"recipe 2 ", 1))
    with pytest.raises(SetError, match=r"newer cutswap.*upgrade"):
        read_recipe(newer)


def changed(rows: list[list], kind: str, change) -> list[list]:
    """The rows with the first of a kind changed."""
    number = next(n for n, row in enumerate(rows) if row[0] == kind)
    row = json.loads(json.dumps(rows[number]))
    change(row)
    return [*rows[:number], row, *rows[number + 1 :]]


def put(index, value):
    return lambda row: row.__setitem__(index, value)


@pytest.mark.parametrize(
    ("kind", "change", "what"),
    [
        ("negative", put(1, 4), "negative of no normal"),
        ("negative", put(1, -1), "negative of no normal"),
        ("negative", put(1, True), "negative is not valid JSON of its type"),
        ("negative", put(2, "Swap"), "policy name"),
        ("negative", put(2, "-swap"), "policy name"),
        ("negative", put(3, 10_000), "level is out of range"),
        ("negative", put(4, 65_536), "repeat is out of range"),
        ("negative", put(4, 1e3), r"got `float` - at `\$\[4\]`"),
        ("negative", put(5, [[1, 2, 3, 4], [1, 2, 3, 1 << 31]]), r"at `\$\[5\]\[1\]\[3\]`"),
        ("negative", put(5, [[1, 2, 3, 4]]), r"length 2.* at `\$\[5\]`"),
        ("negative", put(6, []), "edits are malformed"),
        ("negative", put(6, [{"kind": "copy"}]), "edits are malformed"),
        ("negative", lambda row: row[6][0].__setitem__("src", [30, 2, 9, 6]), "edits are malform"),
        ("negative", lambda row: row[6][0].__setitem__("src", [1, 2, 9, 7]), "differ in size"),
        ("negative", lambda row: row[6][0].__setitem__("dst", [99, 2, 9, 6]), "dst box has no"),
        ("negative", lambda row: row[6][0].__setitem__("angle_cdeg", 36_001), "angle is out of"),
        ("negative", lambda row: row[6][0].__setitem__("feather_px", 0), "not in the canonical"),
        ("negative", lambda row: row[6][0].__setitem__("feather_px", 128), "feather is out of"),
        ("negative", lambda row: row[6][0].__setitem__("src", [-1, 2, 9, 6]), "src box lies"),
        ("negative", lambda row: row[6].extend(64 * [row[6][0]]), "edits are.*length <= 64"),
        ("negative", put(7, 5), "fallback is unknown"),
        ("negative", put(8, -1), "rejections are out of range"),
        ("negative", put(9, "0" * 63), "negative digest is malformed"),
        ("negative", lambda row: row.append(1), "at most length 9"),
        ("normal", put(1, "0" * 63), "normal digest is malformed"),
        ("normal", put(1, 5), r"`str`, got `int` - at `\$\[1\]`"),
        ("normal", put(2, "../x.png"), "source"),
        ("normal", put(2, None), r"`str`, got `null` - at `\$\[2\]`"),
        ("normal", put(3, "x"), "file_sha256 is malformed"),
        ("normal", put(3, "\x00\x1b[2J"), r"file_sha256 is malformed \(got '\\x00\\x1b"),
        ("negative", put(2, "\x1b[2J"), r"policy name is malformed \(got '\\x1b"),
        ("negative", put(9, "\x1b[2J"), r"negative digest is malformed \(got '\\x1b"),
        ("normal", put(4, [0, 0, 33, 44]), "canvas box lies outside"),
        ("normal", put(4, [0, 0, 32.5, 44]), r"got `float` - at `\$\[4\]\[2\]`"),
        ("normal", lambda row: row.pop(), "at least length 5"),
        ("shard", put(1, "shard-00001.h5"), "not the next shard"),
        ("shard", put(1, "../shard-00000.h5"), "shard name is malformed"),
        ("donor", put(1, "0" * 64), "donor pixels are not those"),
        ("donor", put(2, [32, 44, 4]), "not of the canvas' size"),
        ("donor", put(2, [44, 32, 3]), r"not of the canvas' size \(expected \[32, 44, 3\]"),
        ("donor", put(2, [4096, 4096, 3]), "not of the canvas' size"),
        ("donor", put(2, [32.0, 44, 3]), "not of the canvas' size"),
        ("donor", put(2, "\x1b[2J"), r"not of the canvas' size .*got '\\x1b\["),
        ("donor", put(3, SHORT_DONOR), "donor image has the wrong size"),
        ("donor", put(3, "eJw"), "base64"),
        ("donor", put(3, "AAAA"), "donor image is damaged"),
        ("manifest", lambda row: row[1].pop("shards"), "lacks shards"),
        ("manifest", lambda row: row[1].__setitem__("schema_version", 2), "newer cutswap"),
        ("manifest", lambda row: row[1]["recipe"].pop("geometry"), "no usable geometry"),
        ("manifest", put(1, []), "not a JSON object|object"),
    ],
)  # fmt: skip
def test_every_value_is_checked(file, tmp_path, kind, change, what):
    rows = [json.loads(line) for line in lines_of(file)]
    target = write_text(tmp_path / "x.recipe", [*map(compact, changed(rows, kind, change))])
    with pytest.raises(SetError, match=what) as caught:
        read_recipe(target)
    assert str(target) in str(caught.value) and str(caught.value).isprintable()
    assert recipe_problems(target)


@pytest.mark.parametrize(
    "change",
    [
        put(9, "0" * 64),
        put(8, 7),
        put(3, 9),
        lambda row: row[6][0].__setitem__("angle_cdeg", 1),
    ],
)
def test_a_changed_row_is_not_that_of_the_set(file, tmp_path, change):
    rows = [json.loads(line) for line in lines_of(file)]
    target = write_text(tmp_path / "x.recipe", [*map(compact, changed(rows, "negative", change))])
    with pytest.raises(DigestError, match=r"shard-00000.h5: its rows are not those"):
        read_recipe(target)


def test_a_mask_counts_by_its_bits_and_not_by_its_zlib_stream(file, tmp_path):
    def fold_again(row):
        mask = row[6][0]["mask"]
        bits = zlib.decompress(base64.b64decode(mask["bits"]))
        mask["bits"] = base64.b64encode(zlib.compress(bits, 0)).decode()

    rows = [json.loads(line) for line in lines_of(file)]
    number = next(n for n, row in enumerate(rows) if row[0] == "negative" and row[2] == "sgsf")
    changed_rows = [*rows[:number], *changed(rows[number:], "negative", fold_again)]
    target = write_text(tmp_path / "x.recipe", [*map(compact, changed_rows)])
    assert target.read_bytes() != file.read_bytes()
    assert read_recipe(target).set_digest == read_recipe(file).set_digest


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda lines: lines[:-1], "ends early.*donor"),
        (lambda lines: lines[:9], "ends early"),
        (lambda lines: [*lines, lines[-1]], "nothing needs this line"),
        (lambda lines: [*lines[:2], lines[3], *lines[3:]], "normal is there twice"),
        (lambda lines: [lines[0].replace(b'{"attr', b'{ "attr', 1), *lines[1:]], "canonical"),
        (lambda lines: [*lines[:2], lines[2] + b" ", *lines[3:]], "canonical form"),
        (lambda lines: [*lines[:6], lines[6].replace(b",", b", ", 1), *lines[7:]], "canonical"),
        (lambda lines: [*lines[:2], b"\x1b[2J", *lines[3:]], "not printable ASCII"),
        (lambda lines: [*lines[:2], b"\xff", *lines[3:]], "not printable ASCII"),
        (lambda lines: [*lines[:2], b"[" * 100_000, *lines[3:]], "not valid JSON|nested"),
        (lambda lines: [], "not valid JSON|manifest"),
    ],
)
def test_lines_that_do_not_belong(file, tmp_path, change, what):
    target = write_text(tmp_path / "x.recipe", change(lines_of(file)))
    with pytest.raises(SetError, match=what):
        read_recipe(target)
    assert any(what.split(".*")[0].split("|")[0] for what in map(str, recipe_problems(target)))


def test_ends_within_a_line(file, tmp_path):
    target = write_text(tmp_path / "x.recipe", lines_of(file), ended=False)
    with pytest.raises(SetError, match="ends within a line"):
        read_recipe(target)


def test_one_gzip_member_and_nothing_behind_it(file, tmp_path):
    _, body = file.read_bytes().split(b"\n", 1)
    for longer in (body + b"x", body + gzip.compress(b"")):
        title = b"cutswap-recipe 1 " + hashlib.sha256(longer).hexdigest().encode() + b"\n"
        (tmp_path / "x.recipe").write_bytes(title + longer)
        with pytest.raises(SetError, match="bytes behind its end"):
            read_recipe(tmp_path / "x.recipe")


@pytest.mark.parametrize("kind", ["one line", "many lines"])
def test_a_bomb_takes_no_memory(tmp_path, kind):
    """A file of half a megabyte that unfolds to half a gigabyte is refused after a few of them."""
    unit = b"[" * (1 << 20) if kind == "one line" else (b"[" * 1023 + b"\n") * 1024
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    body = head + 511 * block  # blocks that refer to nothing before them may be repeated
    target = tmp_path / "x.recipe"
    title = b"cutswap-recipe 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n"
    target.write_bytes(title + body)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SetError, match=r"a line of more than|times its size"):
        for _ in dump_recipe(target):
            pass
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 80 << 10


def test_honest_recipes_are_far_from_the_bounds(file):
    text_bytes = sum(len(line) + 1 for line in lines_of(file))
    assert text_bytes < recipe_text.MAX_UNFOLDING * file.stat().st_size / 4


def test_a_donor_is_unfolded_to_its_size_and_no_further():
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    donor = parse_donor(donor_line(image), 5, 7)
    assert np.array_equal(donor.image(), image) and donor.digest == array_digest(image)
    row = json.loads(donor_line(np.zeros((1024, 1024, 3), np.uint8)))
    row[2] = [5, 7, 3]
    with pytest.raises(SetError, match="wrong size"):
        parse_donor(compact(row), 5, 7)


def test_donors_of_one_shard_are_counted_before_any_is_unfolded(file, tmp_path, monkeypatch):
    """Those that other shards lend count, too: whoever renders the shard holds all of them."""
    monkeypatch.setattr(shard_records, "MAX_DONOR_BYTES", 32 * 44 * 3)
    assert recipe_problems(file) == []
    monkeypatch.setattr(shard_records, "MAX_DONOR_BYTES", 32 * 44 * 3 - 1)
    (problem,) = recipe_problems(file)
    assert "too many donor images" in problem.what and problem.path == str(file)
    assert problem.expected == "at most 0 of 32x44 px"
    with pytest.raises(SetError, match="too many donor images"):
        read_recipe(file)
    sources = photos(tmp_path / "data", 4)
    monkeypatch.undo()
    photo_set(tmp_path / "lent", tmp_path / "data", sources, donor="lent")
    export(tmp_path / "lent", tmp_path / "lent.recipe")
    assert not read_recipe(tmp_path / "lent.recipe").donors
    monkeypatch.setattr(shard_records, "MAX_DONOR_BYTES", 1)
    with pytest.raises(SetError, match="too many donor images"):
        read_recipe(tmp_path / "lent.recipe")


def test_reading_ten_thousand_negatives_takes_no_time(file):
    """The spec's two seconds for 10,000 hold for this sample of a quarter with room for noise."""
    line = next(one for one in lines_of(file) if b'"scar",' in one and one.startswith(b'["neg'))
    parse_negative(line, 4, 32, 44)
    started = time.process_time()
    for _ in range(2500):
        parse_negative(line, 4, 32, 44)
    assert time.process_time() - started < 0.8


def test_copies_are_judged_as_the_full_parser_judges_them(file):
    """Most copies take a short way; it must let through nothing that the long one refuses."""
    line = next(one for one in lines_of(file) if b'"swap",' in one and one.startswith(b'["neg'))
    row = json.loads(line)
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(3000):
        edit = {"angle_cdeg": 0, "colour": None, "dst": [15, 20, 9, 6], "kind": "copy"}
        edit |= {"src": [1, 2, 9, 6]}
        for box in ("src", "dst"):
            if rng.random() < 0.4:
                edit[box][int(rng.integers(4))] = int(rng.choice([-9, -1, 0, 6, 9, 23, 24, 38, 39]))
        if rng.random() < 0.3:
            edit["angle_cdeg"] = int(rng.choice([-36_001, -36_000, 9000, 36_000, 36_001]))
        if rng.random() < 0.3:
            edit["feather_px"] = int(rng.choice([-1, 0, 1, 127, 128]))
        if rng.random() < 0.3:
            gain, offset = int(rng.choice([-1, 0, 4096, 4097])), int(rng.choice([-256, 0, 255]))
            edit["colour"] = {"gain_q8": [256, gain, 256], "offset": [0, 0, offset]}
        edits = compact([edit])
        judged = []
        for judge in (
            lambda edits=edits: decode(edits, 32, 44),
            lambda edit=edit: parse_negative(compact([*row[:6], [edit], *row[7:]]), 4, 32, 44),
        ):
            try:
                judge()
                judged.append(True)
            except (EditError, SetError):
                judged.append(False)
        assert judged[0] == judged[1], edit
        verdicts.append(judged[0])
    assert 500 < sum(verdicts) < 2500


def test_progress_counts_negatives_to_the_end(file):
    seen = []
    assert recipe_problems(file, progress=lambda *counts: seen.append(counts)) == []
    assert seen[0] == (0, 18) and seen[-1] == (18, 18)


def test_problems_are_listed_up_to_a_hundred(tmp_path):
    """A stranger's file must not make a list as long as itself."""
    write_set(tmp_path / "tiles", shards=1, n=130, r=1, store="anchors")
    export(tmp_path / "tiles", tmp_path / "a.recipe", with_donors=True)
    rows = [json.loads(line) for line in lines_of(tmp_path / "a.recipe")]
    rows[0][1]["training_files"] = []
    found = recipe_problems(write_text(tmp_path / "x.recipe", [*map(compact, rows)]))
    assert len(found) == 101 and "more than 100 problems" in str(found[-1])


def test_negatives_of_one_normal_are_bounded(file, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_reader, "MAX_NEGATIVES_OF_A_NORMAL", 2)
    what = r"too many negatives of one normal \(expected at most 2\)"
    with pytest.raises(SetError, match=what):
        read_recipe(file)
    with pytest.raises(SetError, match=what):
        raise recipe_problems(file)[-1]


# --- what is there already --------------------------------------------------------------------


def test_a_recipe_that_is_there_is_nothing_to_do(folder, file, tmp_path):
    target = tmp_path / "x.recipe"
    assert not export(folder, target, with_donors=True).is_unchanged
    before = target.stat()
    summary = export(folder, target, with_donors=True, overwrite=True)
    assert summary.is_unchanged and target.stat().st_mtime_ns == before.st_mtime_ns
    assert (summary.file_bytes, summary.n_negatives) == (before.st_size, 18)
    assert summary.text_bytes == sum(len(line) + 1 for line in lines_of(file))


@pytest.mark.parametrize("content", [b"precious\n", b"", b"cutswap-recipes are precious"])
def test_what_is_no_recipe_is_never_replaced(folder, tmp_path, content):
    target = tmp_path / "x.recipe"
    target.write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is there and is no recipe"):
            export(folder, target, with_donors=True, overwrite=overwrite)
    assert target.read_bytes() == content
    target.unlink()
    target.mkdir()
    with pytest.raises(OutputError, match="is there and is no recipe"):
        export(folder, target, with_donors=True, overwrite=True)


def test_another_recipe_is_replaced_only_where_that_is_asked_for(folder, file, tmp_path):
    target = tmp_path / "x.recipe"
    write_set(tmp_path / "other", category="other", n=3)
    export(tmp_path / "other", target, with_donors=True)
    other = target.read_bytes()
    for content in (other, file.read_bytes()[:-9]):  # another set's, and a damaged one
        target.write_bytes(content)
        with pytest.raises(OutputError, match=r"holds another recipe.*pass --overwrite"):
            export(folder, target, with_donors=True)
        assert target.read_bytes() == content
        assert not export(folder, target, with_donors=True, overwrite=True).is_unchanged
        assert target.read_bytes() == file.read_bytes()


def test_the_manifest_of_a_recipe_is_the_sets(folder, file):
    recipe = read_recipe(file)
    assert recipe.manifest == Manifest.from_bytes((folder / "manifest.json").read_bytes())
