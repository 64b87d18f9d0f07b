"""Kolektor's data sets, where masks say what is defective: tiny ones with real masks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests.datasets import open_data
from manifests.errors import BadImages, DataError
from reference.data_folders import one, sources, tree


def mask(path: Path, *, is_marked: bool) -> None:
    pixels = np.zeros((20, 17), np.uint8)
    if is_marked:
        pixels[3, 4] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def kolektor(root: Path, defective: set[str], parts: int = 7) -> Path:
    for number in range(1, parts + 1):
        for image in range(2):
            stem = f"kos{number:02}/Part{image}"
            tree(root, f"{stem}.jpg")
            mask(root / f"{stem}_label.bmp", is_marked=stem in defective)
    return root


def test_kolektor_parts_are_never_in_both(tmp_path: Path) -> None:
    root = kolektor(tmp_path / "KolektorSDD", {"kos01/Part1", "kos03/Part0", "kos06/Part1"})
    found = one(root)
    assert (found.name, found.format, found.mask_binarise_at) == ("kolektorsdd", "kolektor", 1)
    # The documented rule, literally: of kos01 to kos07, the third and the sixth.
    assert {sample.part for sample in found.test} == {"kos03", "kos06"}
    assert {sample.part for sample in found.train} == {"kos01", "kos02", "kos04", "kos05", "kos07"}
    assert sources(found.test) == [
        "kos03/Part0.jpg",
        "kos03/Part1.jpg",
        "kos06/Part0.jpg",
        "kos06/Part1.jpg",
    ]
    assert [sample.label for sample in found.test] == [1, 0, 0, 1]
    assert [sample.mask for sample in found.test] == [
        root / "kos03/Part0_label.bmp",
        None,
        None,
        root / "kos06/Part1_label.bmp",
    ]
    assert len(found.train) == 9 and all(sample.label == 0 for sample in found.train)
    assert found.left_out == ("kos01/Part1.jpg",)
    assert found.notes == ("1 defective image of training parts left out",)
    assert found.split_rule == (
        "part folders sorted by name: every third for testing (3 folds, the last); "
        "1 defective image of training parts left out"
    )
    assert "Tabernik" in found.attribution and found.licence == "CC BY-NC-SA 4.0"


def test_kolektor_that_is_not_whole(tmp_path: Path) -> None:
    root = kolektor(tmp_path / "a", set(), parts=3)
    assert one(root).notes == () and one(root).left_out == ()
    os.remove(root / "kos02/Part1_label.bmp")
    with pytest.raises(DataError, match=r"1 of 2 images of kos02 have no mask.*kos02/Part1\.jpg"):
        open_data(root)
    (root / "kos02/Part1_label.bmp").write_bytes(b"BM")
    (root / "kos03/Part0_label.bmp").write_bytes(b"")
    with pytest.raises(BadImages, match="2 masks of 6 cannot be read") as caught:
        open_data(root)
    assert [Path(error.path).parent.name for error in caught.value.errors] == ["kos02", "kos03"]
    every = {f"kos{number:02}/Part{image}" for number in (1, 2) for image in range(2)}
    with pytest.raises(DataError, match=r"no training images \(expected images whose mask is bla"):
        open_data(kolektor(tmp_path / "bad", every, parts=2))


def test_folders_that_merely_are_called_so(tmp_path: Path) -> None:
    assert one(tree(tmp_path / "photos", "kos1/a.png", "kos2/a.png")).format == "folder"


def kolektor2(root: Path, names: dict[str, bool]) -> Path:
    for name, is_marked in names.items():
        tree(root, f"{name}.png")
        mask(root / f"{name}_GT.png", is_marked=is_marked)
    return root


def test_kolektor2_leaves_defective_training_images_out(tmp_path: Path) -> None:
    names = {
        "train/10000": False,
        "train/10001": True,
        "train/10002": False,
        "test/20000": False,
        "test/20001": True,
    }
    root = kolektor2(tmp_path / "KolektorSDD2", names)
    tree(root, "train/10000 (copy).png", "train/10000_GT (copy).png")  # as the real one has it
    found = one(root)
    assert (found.name, found.format) == ("kolektorsdd2", "kolektor2")
    assert sources(found.train) == ["train/10000.png", "train/10002.png"]
    assert [(s.source, s.label, s.defect, s.mask) for s in found.test] == [
        ("test/20000.png", 0, "good", None),
        ("test/20001.png", 1, "defective", root / "test/20001_GT.png"),
    ]
    assert found.left_out == ("train/10000 (copy).png", "train/10001.png")
    assert found.notes == (
        "1 defective image in train left out",
        "1 named as a copy of another image left out",
    )
    assert found.split_rule.endswith("; ".join(("testing", *found.notes)))
    assert "KolektorSDD2" in found.attribution and found.licence == "CC BY-NC-SA 4.0"


def test_kolektor2_of_somebodys_own_and_broken(tmp_path: Path) -> None:
    root = kolektor2(tmp_path / "own", {"train/a": False, "test/b": True})
    assert (one(root).licence, one(root).attribution) == ("", "")
    tree(root, "test/c.png")
    with pytest.raises(DataError, match=r"1 of 2 images of test have no mask.*test/c\.png"):
        open_data(root)
    with pytest.raises(DataError, match="no training images"):
        open_data(kolektor2(tmp_path / "none", {"train/a": True, "test/b": False}))
