"""Validation split: the rule by hand, strata, order, the committed file and what it refuses."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from conftest import REPO

from detector.study.validation import read_split, validation_split, write_split
from manifests.datasets import open_data
from manifests.errors import ConfigError, DataError, OutputError
from reference.statistics import validation


def _names(**counts: int) -> tuple[list[str], list[str]]:
    sources = [f"{kind}/{i:03d}.png" for kind, count in counts.items() for i in range(count)]
    defects = [kind for kind, count in counts.items() for _ in range(count)]
    return sources, defects


def test_takes_the_smallest_hashes_by_hand():
    sources, defects = ["a", "b", "c", "d", "e"], ["good"] * 5
    hashes = [hashlib.sha256(f"validation|0|{name}".encode()).hexdigest()[:4] for name in sources]
    assert hashes == ["207c", "e2d4", "05ea", "650e", "b93b"]  # as sha256sum prints them
    # "c" has the smallest; round(0.2 * 5) = 1 image is taken, round(0.4 * 5) = 2 are "c" and "a".
    assert validation_split(sources, defects).tolist() == [False, False, True, False, False]
    got = validation_split(sources, defects, share=0.4)
    assert got.tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_agrees_with_the_literal_rule(seed, share):
    sources, defects = _names(good=23, scratch=5, hole=4, stain=1)
    got = validation_split(sources, defects, seed=seed, share=share)
    chosen = {source for source, taken in zip(sources, got, strict=True) if taken}
    assert chosen == validation(sources, defects, seed=seed, share=share)


def test_parts_stay_together():
    sources, defects = _names(good=24, hole=12)
    parts = [
        f"{source[:8]}" if defect == "hole" else ""
        for source, defect in zip(sources, defects, strict=True)
    ]
    parts[24:] = [f"tile {i // 5}" for i in range(12)]  # of 5, 5 and 2 images
    got = validation_split(sources, defects, parts=parts)
    # Images by themselves are taken as they are without parts.
    assert np.array_equal(got[:24], validation_split(sources, defects)[:24])
    # Whole tiles in the order of their hashes until round(0.2 * 12) = 2 images are there.
    hashes = {
        number: hashlib.sha256(f"validation|0|hole/{first:03d}.png".encode()).hexdigest()
        for number, first in enumerate((0, 5, 10))
    }
    smallest = min(hashes, key=hashes.get)
    assert got[24:].tolist() == [i // 5 == smallest for i in range(12)]
    order = np.random.default_rng(0).permutation(36)
    again = validation_split(
        *([row[i] for i in order] for row in (sources, defects)), parts=[parts[i] for i in order]
    )
    assert np.array_equal(again, got[order])
    # The last part of a kind is never taken: there would be nothing left to report on.
    alone = validation_split(sources, defects, parts=["one"] * 36, share=0.5)
    assert not alone.any()


def test_counts_per_stratum():
    sources, defects = _names(good=191, blowhole=115, fray=32, two=2, five=5)
    got = validation_split(sources, defects, share=0.05)
    taken = {kind: int(got[np.array(defects) == kind].sum()) for kind in set(defects)}
    # 0.05 * 5 rounds to 0, but five images give at least one; two give none.
    assert taken == {"good": 10, "blowhole": 6, "fray": 2, "two": 0, "five": 1}


def test_neither_order_nor_other_strata_matter():
    sources, defects = _names(good=30, scratch=11)
    got = dict(zip(sources, validation_split(sources, defects), strict=True))
    order = np.random.default_rng(0).permutation(41)
    shuffled = [sources[i] for i in order]
    again = validation_split(shuffled, [defects[i] for i in order])
    assert dict(zip(shuffled, again, strict=True)) == got
    alone = validation_split(sources[:30], defects[:30])
    assert alone.tolist() == [got[source] for source in sources[:30]]


def test_another_seed_is_another_part():
    sources, defects = _names(good=60)
    one, other = (validation_split(sources, defects, seed=seed) for seed in (0, 1))
    assert one.sum() == other.sum() == 12
    assert (one != other).any()


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 0.51}, {"seed": -1}])
def test_refuses_options_that_cannot_work(options):
    with pytest.raises(ConfigError):
        validation_split(["a"], ["good"], **options)


def test_refuses_two_images_of_one_name():
    with pytest.raises(DataError, match=r"2 test images of one name.*'b'"):
        validation_split(["a", "b", "b"], ["good"] * 3)
    with pytest.raises(ValueError, match="2 sources, 1 defects"):
        validation_split(["a", "b"], ["good"])


def test_no_images_no_part():
    assert validation_split([], []).shape == (0,)


def test_file_is_readable_and_read_back_in_any_order(tmp_path):
    sources, defects = _names(good=6, **{"a, b": 5})
    path = tmp_path / "split.csv"
    written = write_split(path, sources, defects, seed=3, share=0.25)
    assert np.array_equal(written, validation_split(sources, defects, seed=3, share=0.25))
    lines = path.read_text().splitlines()
    assert lines[0] == "# rule=sha256-per-defect-by-part seed=3 share=0.25 images=11 validation=3"
    assert lines[1] == "source,defect"
    assert lines[2].startswith('"a, b/')  # sorted by source, quoted where it has a comma
    assert len(lines) == 5
    assert np.array_equal(read_split(path, sources[::-1], defects[::-1]), written[::-1])


def test_a_name_that_is_no_unicode_survives(tmp_path):
    sources = [*"abcd", b"caf\xe9.png".decode("utf-8", "surrogateescape")]
    path = tmp_path / "split.csv"
    written = write_split(path, sources, ["good"] * 5, share=0.5)
    assert np.array_equal(read_split(path, sources, ["good"] * 5), written)


def _tampered(path, change):
    text = path.read_text()
    changed = change(text)
    assert changed != text
    path.write_text(changed)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda text: text.replace("seed=0", "seed=1"), "not the validation split"),
        (lambda text: text.replace("share=0.2", "share=0.3"), "not the validation split"),
        (lambda text: text.replace("share=0.2", "share=0.9"), "share cannot be used"),
        (lambda text: text.replace("sha256-per-defect", "first"), "another rule"),
        (lambda text: text.replace("images=31", "images=32"), "of other test images"),
        (lambda text: text.replace("validation=6", "validation=7"), "not the validation split"),
        (lambda text: text[: text.rindex("hole/")], "not the validation split"),
        (lambda text: text.replace("hole/", "pit/"), "1 validation images are not among"),
        (lambda text: text.replace(",hole", ",good"), "not the validation split"),
        (lambda text: text.replace(",hole", ""), "row . has 1 fields"),
        (lambda text: text.replace("source,defect", "name,kind"), "second line"),
        (lambda text: text[1:], "first line"),
        (lambda text: text + '"', "no validation split"),
        (lambda text: "", "first line"),
    ],
)
def test_reading_refuses_what_is_not_the_rules_own(tmp_path, change, what):
    sources, defects = _names(good=26, hole=5)
    path = tmp_path / "split.csv"
    write_split(path, sources, defects)
    _tampered(path, change)
    with pytest.raises(DataError, match=what) as caught:
        read_split(path, sources, defects)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_refuses_other_data(tmp_path):
    sources, defects = _names(good=26, hole=5)
    path = tmp_path / "split.csv"
    is_validation = write_split(path, sources, defects)
    gone = int(np.flatnonzero(~is_validation)[0])
    fewer = [i for i in range(31) if i != gone]
    with pytest.raises(DataError, match="of other test images"):
        read_split(path, [sources[i] for i in fewer], [defects[i] for i in fewer])
    renamed = [*sources]
    renamed[int(np.flatnonzero(is_validation)[0])] = "other.png"
    with pytest.raises(DataError, match="not among the test images"):
        read_split(path, renamed, defects)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_split(tmp_path / "none.csv", ["a"], ["good"])
    with pytest.raises(OutputError):
        write_split(tmp_path / "no" / "split.csv", ["a"], ["good"])


def test_the_committed_split_of_the_tiles_is_the_rules_own(tiles, tiles_list):
    (category,) = open_data(tiles, train_list=tiles_list)
    sources = [sample.source for sample in category.test]
    defects = [sample.defect for sample in category.test]
    parts = [sample.part for sample in category.test]
    path = REPO / "docs" / "studies" / "mtd-validation.csv"
    found = read_split(path, sources, defects, parts=parts)
    assert 100 < found.sum() < 140
    assert (found == validation_split(sources, defects, parts=parts)).all()
    for defective in (True, False):
        of_kind = [(d != "good") == defective for d in defects]
        sides = [
            {p for p, f, k in zip(parts, found, of_kind, strict=True) if k and f == side}
            for side in (True, False)
        ]
        assert all(sides) and not sides[0] & sides[1]
