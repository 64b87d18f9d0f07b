"""Data folders laid out as MVTec AD: categories, masks, and the data sets known by their names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manifests.datasets import open_data
from manifests.errors import DataError
from reference.data_folders import mvtec, one, sources, tree


def test_one_mvtec_category(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "My Part")
    category = one(root)
    assert (category.name, category.format, category.root) == ("my_part", "mvtec", root)
    assert category.mask_binarise_at == 1
    assert sources(category.train) == ["train/good/000.png", "train/good/001.png"]
    assert sources(category.test) == [
        "test/good/000.png",
        "test/scratch/000.png",
        "test/scratch/001.PNG",
    ]
    assert category.samples == category.train + category.test
    assert all(s.label == 0 and s.defect == "good" and s.mask is None for s in category.train)
    good, first, second = category.test
    assert (good.label, good.defect, good.mask) == (0, "good", None)
    assert (first.label, first.defect) == (1, "scratch")
    assert first.path == root / "test/scratch/000.png"
    assert first.mask == root / "ground_truth/scratch/000_mask.png"
    assert second.mask == root / "ground_truth/scratch/001_mask.png"


def test_root_of_several_mvtec_categories(tmp_path: Path) -> None:
    for name in ("screw", "bottle", ".cache"):
        mvtec(tmp_path / name)
    tree(tmp_path, "license.txt", "readme.txt", "notes/plan.png")
    assert [category.name for category in open_data(tmp_path)] == ["bottle", "screw"]
    assert one(tmp_path / "bottle") == open_data(str(tmp_path))[0]


def test_mvtec_without_test_or_without_good_test_images(tmp_path: Path) -> None:
    bare = one(tree(tmp_path / "bare", "train/good/0.bmp"))
    assert len(bare.train) == 1 and bare.test == ()
    defects = one(tree(tmp_path / "defects", "train/good/0.png", "test/dent/0.png"))
    assert [sample.label for sample in defects.test] == [1]
    only_good = one(tree(tmp_path / "only", "train/good/0.png", "test/Good/0.png"))
    assert [(sample.label, sample.defect) for sample in only_good.test] == [(0, "good")]


def test_masks_missing_for_a_whole_defect_are_none(tmp_path: Path) -> None:
    root = tree(mvtec(tmp_path / "part"), "test/dent/0.png", "test/dent/1.png")
    masks = {sample.source: sample.mask for sample in one(root).test}
    assert masks["test/dent/0.png"] is None and masks["test/dent/1.png"] is None
    assert masks["test/scratch/000.png"] is not None


def test_masks_missing_for_some_images_are_an_error(tmp_path: Path) -> None:
    root = tree(mvtec(tmp_path / "part"), "test/scratch/002.png", "test/scratch/003.png")
    with pytest.raises(
        DataError,
        match=r"2 of 4 images of the defect 'scratch' have no mask "
        r"\(expected a mask for test/scratch/002\.png, test/scratch/003\.png\)",
    ):
        open_data(root)
    os.remove(root / "test/scratch/002.png")
    tree(root, "ground_truth/scratch/003.png")  # without _mask: not this layout
    with pytest.raises(DataError, match=r"1 of 3 .* test/scratch/003\.png"):
        open_data(root)
    tree(root, "ground_truth/scratch/003_mask.PNG")
    assert one(root).test[-1].mask == root / "ground_truth/scratch/003_mask.PNG"


def test_an_empty_ground_truth_folder_is_lost_masks(tmp_path: Path) -> None:
    root = tree(tmp_path / "part", "train/good/0.png", "test/dent/0.png")
    (root / "ground_truth/dent").mkdir(parents=True)
    with pytest.raises(DataError, match="1 of 1 images of the defect 'dent' have no mask"):
        open_data(root)


def test_other_training_folders_are_not_trained_on(tmp_path: Path) -> None:
    root = tree(mvtec(tmp_path / "part"), "train/bad/0.png")
    assert sources(one(root).train) == ["train/good/000.png", "train/good/001.png"]


def test_unlabelled_test_image(tmp_path: Path) -> None:
    root = tree(mvtec(tmp_path / "part"), "test/lost.png")
    with pytest.raises(DataError, match=r"lost\.png: a test image without a label"):
        open_data(root)


def test_half_copied_categories(tmp_path: Path) -> None:
    mvtec(tmp_path / "whole")
    tree(tmp_path, "half/test/good/0.png")
    with pytest.raises(DataError, match=r"half: no training images \(expected images in train/go"):
        open_data(tmp_path)
    assert one(tmp_path, categories=["whole"]).name == "whole"
    # Alone it must not be taken for a folder of good images.
    with pytest.raises(
        DataError, match=r"half: ambiguous: test/good/0\.png looks like a test image"
    ):
        open_data(tmp_path / "half")
    with pytest.raises(DataError, match=r"not laid out as --format mvtec says.*train/good"):
        open_data(tmp_path / "half", format="mvtec")
    (tmp_path / "empty/train/good").mkdir(parents=True)
    with pytest.raises(DataError, match="empty: no training images"):
        open_data(tmp_path / "empty")


def test_images_that_belong_nowhere_are_told_of(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "gear")
    assert one(root).notes == () and one(root).left_out == ()
    odd = (
        "train/1.png",
        "train/bad/1.png",
        "ground_truth/scratch/999_mask.png",
        "validation/1.png",
    )
    found = one(tree(root, *odd))
    assert sorted(found.left_out) == sorted(odd)
    (note,) = found.notes
    assert note.startswith("4 images lie where this layout has none, and left out: ")
    root = tree(tmp_path / "btad", "train/ok/1.bmp", "test/ok/1.bmp", "train/ko/1.png")
    assert one(root).left_out == ("train/ko/1.png",)


def test_a_folder_of_masks_is_found_in_any_case(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "gear")
    (root / "ground_truth/scratch").rename(root / "ground_truth/Scratch")
    (root / "ground_truth").rename(root / "Ground_Truth")
    assert [s.mask.name for s in one(root).test if s.label] == ["000_mask.png", "001_mask.png"]


def test_mvtec_ad_is_recognised_by_name_and_defects(tmp_path: Path) -> None:
    real = one(mvtec(tmp_path / "a" / "metal_nut", "scratch"))
    assert real.licence == "CC BY-NC-SA 4.0" and "Bergmann" in real.attribution
    train_only = one(tree(tmp_path / "b" / "cable", "train/good/0.png"))
    assert train_only.licence == "CC BY-NC-SA 4.0"
    own = one(mvtec(tmp_path / "c" / "cable", "kink"))  # somebody's own cables
    assert (own.licence, own.attribution) == ("", "")
    other = one(mvtec(tmp_path / "d" / "gear", "scratch"))
    assert (other.licence, other.attribution) == ("", "")


@pytest.mark.parametrize("suffix", ["", "_mask"])
def test_visa_is_recognised_and_read_as_its_authors_convert_it(tmp_path: Path, suffix) -> None:
    """Masks are called like their images there; other converters call them as MVTec AD does."""
    root = tree(
        tmp_path / "pcb3", "train/good/0001.JPG", "test/good/0002.JPG", "test/bad/003.JPG",
        f"ground_truth/bad/003{suffix}.png",
    )  # fmt: skip
    found = one(root)
    assert found.licence == "CC BY 4.0" and "Zou" in found.attribution
    assert found.test[0].mask == root / f"ground_truth/bad/003{suffix}.png"


def test_what_is_not_visa_is_not_read_as_visa(tmp_path: Path) -> None:
    train_only = one(tree(tmp_path / "a" / "candle", "train/good/0.png"))
    assert train_only.licence == "CC BY 4.0"
    own = one(tree(mvtec(tmp_path / "b" / "candle", "bad"), "test/crack/0.png"))
    assert (own.licence, own.attribution) == ("", "")
    plain = tree(tmp_path / "c" / "gear", "train/good/0.png", "test/bad/0.png")
    tree(plain, "ground_truth/bad/0.png")
    with pytest.raises(DataError, match="1 of 1 images of the defect 'bad' have no mask"):
        open_data(plain)
