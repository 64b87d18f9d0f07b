"""Data folders of any layout and none: plain ones, ambiguous ones, several, and their names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from manifests.command_line import DATA_FORMATS
from manifests.datasets import FORMATS, open_data, slugify
from manifests.errors import ConfigError, DataError
from reference.data_folders import mtd, mvtec, one, sources, tree

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
        (["day/good/a.png", "day/b.png"], "day/b.png lies outside the folder 'good'"),
        (["test/good/a.png", "test/dent/b.png"], "test/dent/b.png looks like a test image"),
        (["Good/a.png", "b.png"], "b.png lies outside the folder 'Good'"),
        (["OK/a.png", "scratch/b.png"], "scratch/b.png lies outside the folder 'OK'"),
        (["normal/a.png", "abnormal/b.png"], "abnormal/b.png looks like"),
        (["ok/a.png", "ko/b.png"], "ko/b.png looks like"),
        (["a.png", "a_mask.png"], "a_mask.png may be the mask of a"),
        (["1/b.png", "1/b_GT.bmp"], "1/b_GT.bmp may be the mask of 1/b"),
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
    with pytest.raises(ConfigError, match=r"unknown --format \(expected mvtec \| loco \| visa"):
        open_data(root, format="coco")
    assert tuple(FORMATS) == DATA_FORMATS


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
