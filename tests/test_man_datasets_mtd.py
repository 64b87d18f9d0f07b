"""Data folders of magnetic tiles: training lists, seeded splits, masks, and the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests.datasets import open_data
from manifests.digest import bytes_digest
from manifests.errors import ConfigError, DataError
from manifests.images import read_image, read_mask
from reference.data_folders import mtd, mvtec, one, sources, tree

TILES = Path(__file__).resolve().parents[2] / "shared" / "data" / "mtd"
TILES_LIST = TILES.parent / "mtd_train_filenames.txt"
needs_tiles = pytest.mark.skipif(
    not TILES.is_dir() or not TILES_LIST.is_file(),
    reason=f"the magnetic tiles are not at {TILES} (with mtd_train_filenames.txt beside them)",
)


def test_mtd_with_a_training_list(tmp_path: Path) -> None:
    root = mtd(tmp_path / "Magnetic Tiles")
    names = tmp_path / "train.txt"
    # A byte order mark, Windows line ends, folders, blank lines and a repeated name.
    text = "exp1_num_3.jpg\r\n\r\nMT_Free\\Imgs\\exp1_num_1.jpg\r\nMT_Free/Imgs/exp1_num_3.jpg\r\n"
    names.write_bytes(b"\xef\xbb\xbf" + text.encode())
    category = one(root, train_list=names)
    assert (category.name, category.format) == ("magnetic_tiles", "mtd")
    assert category.mask_binarise_at == 128
    assert sources(category.train) == [
        "MT_Free/Imgs/exp1_num_1.jpg",
        "MT_Free/Imgs/exp1_num_3.jpg",
    ]
    assert len(category.test) == 8 + 1
    hole = category.test[0]
    assert (hole.label, hole.defect) == (1, "blowhole")
    assert hole.mask == root / "MT_Blowhole/Imgs/exp2_num_7.png"
    assert all(sample.mask is None for sample in category.samples if sample.label == 0)
    listed = bytes_digest(b"exp1_num_1.jpg\nexp1_num_3.jpg")
    assert category.split_rule == f"list of 2 of 10 free tiles, SHA-256 of its names {listed}"
    assert category.licence == "not stated; citation requested"
    assert "Huang" in category.attribution


def test_mtd_seeded_split(tmp_path: Path) -> None:
    root = mtd(tmp_path / "mtd")
    first = one(root)
    assert len(first.train) == 8 and len(first.test) == 2 + 1
    assert first == one(root)
    assert {sources(one(root, seed=seed).train)[0] for seed in range(30)} != {
        sources(first.train)[0]
    }
    # The documented rule, literally.
    names = sorted(f"exp1_num_{i}.jpg" for i in range(10))
    order = np.random.Generator(np.random.PCG64(5)).permutation(10)
    expected = sorted(f"MT_Free/Imgs/{names[i]}" for i in order[:8])
    fifth = one(root, seed=5)
    assert sources(fifth.train) == expected
    assert fifth.split_rule == "seed 5: 8 of 10 free tiles (80 %, PCG64)"
    single = one(mtd(tmp_path / "single", free=1))
    assert len(single.train) == 1


def test_training_list_with_names_that_are_missing(tmp_path: Path) -> None:
    root = mtd(tmp_path / "mtd")
    names = tmp_path / "train.txt"
    names.write_text("exp1_num_1.jpg\nz.jpg\na.jpg\nc.jpg\nb.jpg\n")
    with pytest.raises(
        DataError,
        match=r"train\.txt: 4 of 5 listed names are not among the free tiles.*"
        r"got a\.jpg, b\.jpg, c\.jpg, …\)",
    ):
        open_data(root, train_list=names)
    names.write_text("exp2_num_7.jpg\n")  # a defective tile must never be trained on
    with pytest.raises(DataError, match=r"1 of 1 listed names.*exp2_num_7\.jpg"):
        open_data(root, train_list=names)


def test_training_list_that_is_no_list(tmp_path: Path) -> None:
    root = mtd(tmp_path / "mtd")
    names = tmp_path / "train.txt"
    with pytest.raises(DataError, match="training list cannot be read: No such file"):
        open_data(root, train_list=names)
    names.write_text("\n  \n")
    with pytest.raises(DataError, match="training list is empty"):
        open_data(root, train_list=names)
    names.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="cannot be read: not a UTF-8 text file"):
        open_data(root, train_list=names)
    names.write_text("000.png\n")
    with pytest.raises(
        ConfigError, match="--train-list is for data of the formats mtd and labelled"
    ):
        open_data(mvtec(tmp_path / "part"), train_list=names)


def test_mtd_masks(tmp_path: Path) -> None:
    root = tree(mtd(tmp_path / "mtd"), "MT_Crack/Imgs/1.jpg", "MT_Crack/Imgs/2.JPG")
    assert [s.mask for s in one(root).test if s.defect == "crack"] == [None, None]
    tree(root, "MT_Crack/Imgs/1.png")
    with pytest.raises(
        DataError, match=r"1 of 2 images of the defect 'crack' .*MT_Crack/Imgs/2\.JPG"
    ):
        open_data(root)


def test_mtd_that_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "empty/MT_Free/Imgs").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty: no training images.*MT_Free/Imgs"):
        open_data(tmp_path / "empty")
    root = tree(mtd(tmp_path / "mtd"), "MT_Fray/1.jpg")
    with pytest.raises(DataError, match=r"MT_Fray: no images of this defect.*Imgs"):
        open_data(root)
    tree(tmp_path / "no free", "MT_Fray/Imgs/1.jpg")
    with pytest.raises(DataError, match=r"ambiguous: MT_Fray/Imgs/1\.jpg looks like"):
        open_data(tmp_path / "no free")
    with pytest.raises(DataError, match=r"not laid out as --format mtd says \(expected MT_Free"):
        open_data(tmp_path / "no free", format="mtd")


# --- the real tiles -------------------------------------------------------------------------------


@needs_tiles
def test_real_tiles_are_split_as_published() -> None:
    category = one(TILES, train_list=TILES_LIST)
    assert (category.name, category.format) == ("mtd", "mtd")
    assert len(category.train) == 761
    good = [sample for sample in category.test if sample.label == 0]
    defective = [sample for sample in category.test if sample.label == 1]
    assert (len(good), len(defective)) == (191, 392)
    counts: dict[str, int] = {}
    for sample in defective:
        counts[sample.defect] = counts.get(sample.defect, 0) + 1
    assert counts == {"blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103}
    assert len({sample.source for sample in category.samples}) == 952 + 392
    assert len(one(TILES).train) == 952 * 4 // 5


@needs_tiles
def test_real_masks_fit_their_tiles_and_four_are_empty() -> None:
    category = one(TILES, train_list=TILES_LIST)
    empty = []
    for sample in category.test:
        if sample.label == 0:
            continue
        mask = read_mask(sample.mask, binarise_at=category.mask_binarise_at)
        if not mask.any():
            empty.append(sample.source)
        if sample.defect == "crack":
            assert read_image(sample.path).shape == (*mask.shape, 3)
    assert empty == [
        f"MT_Uneven/Imgs/{name}.jpg"
        for name in ("exp3_num_45042", "exp4_num_124690", "exp4_num_352527", "exp4_num_45057")
    ]
