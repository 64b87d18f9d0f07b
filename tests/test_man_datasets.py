"""Data folders of every layout, their mistakes, and the real magnetic tiles."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from manifests.datasets import FORMATS, Category, open_data, slugify
from manifests.digest import bytes_digest
from manifests.errors import ConfigError, DataError
from manifests.images import read_image, read_mask

TILES = Path(__file__).resolve().parents[2] / "shared" / "data" / "mtd"
TILES_LIST = TILES.parent / "mtd_train_filenames.txt"
needs_tiles = pytest.mark.skipif(
    not TILES.is_dir() or not TILES_LIST.is_file(),
    reason=f"the magnetic tiles are not at {TILES} (with mtd_train_filenames.txt beside them)",
)


def tree(root: Path, *names: str) -> Path:
    """Files with a byte each: opening a data set reads no pixels."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def mvtec(root: Path, defect: str = "scratch") -> Path:
    return tree(
        root,
        "train/good/000.png",
        "train/good/001.png",
        "train/good/.DS_Store",
        "test/good/000.png",
        f"test/{defect}/000.png",
        f"test/{defect}/001.PNG",
        f"test/{defect}/Thumbs.db",
        f"ground_truth/{defect}/000_mask.png",
        f"ground_truth/{defect}/001_mask.png",
    )


def mtd(root: Path, free: int = 10) -> Path:
    stems = [f"MT_Free/Imgs/exp1_num_{i}" for i in range(free)]
    names = [stem + suffix for stem in stems for suffix in (".jpg", ".png")]
    names += ["MT_Blowhole/Imgs/exp2_num_7.jpg", "MT_Blowhole/Imgs/exp2_num_7.png", "README.md"]
    return tree(root, *names, "dataset.jpg")


def one(path: object, **options: object) -> Category:
    (category,) = open_data(path, **options)
    return category


def sources(samples: tuple) -> list[str]:
    return [sample.source for sample in samples]


# --- mvtec ----------------------------------------------------------------------------------------


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


# --- mtd ------------------------------------------------------------------------------------------


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
    with pytest.raises(ConfigError, match="--train-list is for data of the format mtd only"):
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


# --- plain folders --------------------------------------------------------------------------------


def test_plain_folder(tmp_path: Path) -> None:
    root = tree(tmp_path / "Line 3", "b.PNG", "a.jpg", "day 2/a.jpg", ".hidden.png", "notes.txt")
    category = one(root)
    assert (category.name, category.format) == ("line_3", "folder")
    assert sources(category.samples) == ["a.jpg", "b.PNG", "day 2/a.jpg"]
    assert category.train == category.samples and category.test == ()
    assert {(s.label, s.defect, s.mask) for s in category.samples} == {(0, "good", None)}
    assert (category.licence, category.attribution) == ("", "")
    assert sources(one(tree(tmp_path / "nested", "a/b/c.png")).train) == ["a/b/c.png"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.png", "test/b.png"], "test/b.png looks like a test image"),
        (["a.png", "Ground_Truth/b.png"], "looks like a test image, a defect or a mask"),
        (["ok/a.png", "NOK/b.png"], "NOK/b.png looks like"),
        (["good/a.png", "dent/b.png"], "dent/b.png lies outside the folder 'good'"),
        (["Good/a.png", "b.png"], "b.png lies outside the folder 'good'"),
        (["a.jpg", "a.png"], "a.png has the name of a.jpg and may be its mask"),
        (["data/bottle/train/good/0.png", "data/bottle/test/dent/0.png"], "test/dent/0.png looks"),
    ],
)
def test_a_folder_that_may_hold_defects_is_not_guessed_at(
    tmp_path: Path, names: list[str], reason: str
) -> None:
    root = tree(tmp_path / "data", *names)
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        open_data(root)
    assert "--format folder to take every image as good" in str(caught.value)
    assert len(one(root, format="folder").train) == len(names)


def test_images_of_mtd_free_are_not_mixed_with_their_masks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="may be its mask"):
        open_data(mtd(tmp_path / "mtd") / "MT_Free")


def test_folders_called_good_or_like_an_image_are_fine(tmp_path: Path) -> None:
    assert len(one(tree(tmp_path / "a", "good/1.png", "good/2.png")).train) == 2
    assert sources(one(tree(tmp_path / "b", "x.png/1.png", "x.png/2.png")).train) == [
        "x.png/1.png",
        "x.png/2.png",
    ]
    assert len(one(tree(tmp_path / "c", "MT_300 series/1.png")).train) == 1


# --- any layout -----------------------------------------------------------------------------------


def test_missing_empty_and_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: no such folder"):
        open_data(tmp_path / "gone")
    with pytest.raises(DataError, match=r"the folder is empty \(expected mvtec: train/good.*mtd: "):
        open_data(tmp_path)
    tree(tmp_path, "notes.txt", "sub/.DS_Store")
    with pytest.raises(DataError, match=r"no images and no known layout.*folder: good images"):
        open_data(tmp_path)
    with pytest.raises(DataError, match=r"notes\.txt: not a folder"):
        open_data(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="no image files found"):
        open_data(tmp_path, format="folder")
    with pytest.raises(ConfigError, match="no data folder given"):
        open_data([])


def test_ambiguous_layout_and_override(tmp_path: Path) -> None:
    root = mtd(mvtec(tmp_path / "both"))
    with pytest.raises(
        DataError, match=r"ambiguous: looks like mvtec and mtd; pass --format mvtec or --format mtd"
    ):
        open_data(root)
    assert len(one(root, format="mvtec").train) == 2
    assert len(one(root, format="mtd").train) == 8
    assert one(root, format="folder").format == "folder"
    with pytest.raises(ConfigError, match=r"unknown --format \(expected mvtec \| mtd \| folder"):
        open_data(root, format="visa")
    assert list(FORMATS) == ["mvtec", "mtd", "folder"]


def test_several_paths(tmp_path: Path) -> None:
    paths = [mvtec(tmp_path / "z"), mtd(tmp_path / "tiles"), tree(tmp_path / "cam", "1.png")]
    names = tmp_path / "train.txt"
    names.write_text("exp1_num_1.jpg\n")
    found = open_data(paths, train_list=names)
    assert [(c.name, c.format, len(c.train)) for c in found] == [
        ("cam", "folder", 1),
        ("tiles", "mtd", 1),
        ("z", "mvtec", 2),
    ]


def test_category_filter(tmp_path: Path) -> None:
    for name in ("Metal Nut", "screw", "cable"):
        mvtec(tmp_path / name)
    wanted = open_data(tmp_path, categories=["screw", "Metal Nut"])
    assert [category.name for category in wanted] == ["metal_nut", "screw"]
    with pytest.raises(
        ConfigError,
        match=r"unknown --category \(expected cable \| metal_nut \| screw, got 'bolt', 'nut'\)",
    ):
        open_data(tmp_path, categories=["screw", "bolt", "nut"])


def test_two_categories_of_one_name(tmp_path: Path) -> None:
    a, b = mvtec(tmp_path / "a" / "Metal Nut"), mvtec(tmp_path / "b" / "metal_nut")
    with pytest.raises(DataError, match="two categories would be named 'metal_nut'"):
        open_data([a, b])
    with pytest.raises(DataError, match="pass it once only"):
        open_data([a, a])


def test_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--seed cannot be used \(expected 0 or more, got -1\)"):
        open_data(mtd(tmp_path / "mtd"), seed=-1)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("bottle", "bottle"),
        ("Metal Nut", "metal_nut"),
        ("Prüfteil-7 (neu)", "prufteil-7_neu"),
        ("a/../b", "a_b"),
        ("__x__", "x"),
        ("-", "category-3973e022"),
    ],
)
def test_slugs(name: str, slug: str) -> None:
    assert slugify(name) == slug


def test_names_in_other_scripts_stay_apart(tmp_path: Path) -> None:
    names = ["磁瓦", "螺丝"]
    for name in names:
        mvtec(tmp_path / name)
    found = open_data(tmp_path)
    assert len({category.name for category in found}) == 2
    assert all(re.fullmatch(r"category-[0-9a-f]{8}", category.name) for category in found)
    assert one(tmp_path, categories=[names[0]]).root == tmp_path / names[0]


def test_the_current_folder_and_links_have_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = mvtec(tmp_path / "part")
    monkeypatch.chdir(root)
    assert one(".").name == "part"
    assert one(".").train[0].path == root / "train/good/000.png"
    (tmp_path / "alias").symlink_to(root)
    assert one(tmp_path / "alias").name == "alias"


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    tree(tmp_path / "part", "a.png")
    try:
        (tmp_path / "part" / os.fsdecode(b"b\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    with pytest.raises(DataError, match=r"b\\xff\.png: the file name is not valid UTF-8"):
        open_data(tmp_path / "part")


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        open_data(tree(tmp_path / "part", "a.png"))


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
