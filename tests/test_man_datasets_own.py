"""Data sets of one's own: good images beside folders of defects, and lists."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from manifests.datasets import open_data
from manifests.errors import ConfigError, DataError
from reference.data_folders import mvtec, one, sources, tree

# --- good and a folder per kind of defect ---------------------------------------------------------


def labelled(root: Path, *more: str) -> Path:
    good = [f"good/{number}.png" for number in range(10)]
    return tree(root, *good, "dent/a.jpg", "dent/b.jpg", "Deep Scratch/a.png", *more)


def test_good_and_folders_of_defects(tmp_path: Path) -> None:
    root = labelled(tmp_path / "Gear", "masks/dent/a.png", "masks/dent/b.bmp")
    found = one(root)
    assert (found.name, found.format, found.mask_binarise_at) == ("gear", "labelled", 1)
    assert len(found.train) == 8
    assert sum(sample.label == 0 for sample in found.test) == 2
    bad = {sample.source: sample for sample in found.test if sample.label}
    assert bad.keys() == {"Deep Scratch/a.png", "dent/a.jpg", "dent/b.jpg"}
    assert bad["dent/b.jpg"].mask == root / "masks/dent/b.bmp"
    assert bad["Deep Scratch/a.png"].mask is None
    assert bad["Deep Scratch/a.png"].defect == "Deep Scratch"
    assert (found.licence, found.attribution) == ("", "")


def test_its_split_is_drawn_by_seed_or_listed(tmp_path: Path) -> None:
    root = labelled(tmp_path / "gear", "good/day 2/0.png")
    # The documented rule, literally.
    names = sorted([f"{number}.png" for number in range(10)] + ["day 2/0.png"])
    order = np.random.Generator(np.random.PCG64(3)).permutation(11)
    drawn = one(root, seed=3)
    assert sources(drawn.train) == sorted(f"good/{names[index]}" for index in order[:8])
    assert drawn.split_rule == "seed 3: 8 of 11 good images (80 %, PCG64)"
    listed = tmp_path / "train.txt"
    listed.write_text("good/1.png\nday 2\\0.png\n")
    assert sources(one(root, train_list=listed).train) == ["good/1.png", "good/day 2/0.png"]
    listed.write_text("dent/a.jpg\n")  # a defective image must never be trained on
    with pytest.raises(DataError, match=r"1 of 1 listed names are not among the good images"):
        open_data(root, train_list=listed)


@pytest.mark.parametrize("folder", ["masks", "Mask", "ground_truth"])
@pytest.mark.parametrize("suffix", ["", "_mask"])
def test_its_masks_have_the_image_name_with_or_without_mask(tmp_path, folder, suffix) -> None:
    names = [f"{folder}/dent/{stem}{suffix}.png" for stem in "ab"]
    root = labelled(tmp_path / "gear", *names)
    found = {sample.source: sample.mask for sample in one(root).test}
    assert found["dent/a.jpg"] == root / names[0]


def test_what_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 images of the defect 'dent' have no mask"):
        open_data(labelled(tmp_path / "a", "masks/dent/a.png"))
    with pytest.raises(DataError, match=r"lost\.png: an image without a label"):
        open_data(labelled(tmp_path / "b", "lost.png"))
    with pytest.raises(DataError, match=r"several folders of masks .*got ground_truth and masks"):
        open_data(labelled(tmp_path / "c", "masks/dent/a.png", "ground_truth/dent/a.png"))
    (tmp_path / "d/good").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no training images \(expected images in good"):
        open_data(tree(tmp_path / "d", "dent/a.png"))


def test_names_that_differ_in_case_are_one(tmp_path: Path) -> None:
    root = labelled(tmp_path / "gear", "Masks/Dent/a.png", "Masks/Dent/b.png")
    assert {s.mask for s in one(root).test if s.defect == "dent"} == {
        root / "Masks/Dent/a.png", root / "Masks/Dent/b.png"
    }  # fmt: skip


def test_masks_and_images_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"dent/a_mask\.png: looks like the mask of a\.jpg, and lies"
    ):
        open_data(labelled(tmp_path / "a", "dent/a_mask.png"))
    with pytest.raises(DataError, match=r"masks/dent/a\.png: has the name of a\.bmp"):
        open_data(
            labelled(tmp_path / "b", *(f"masks/dent/{n}" for n in ("a.png", "a.bmp", "b.png")))
        )
    with pytest.raises(DataError, match=r"dent/a\.png: has the mask of a\.jpg, a\.bmp"):
        open_data(labelled(tmp_path / "c", "dent/a.png", "masks/dent/a.bmp", "masks/dent/b.png"))


def test_what_is_not_taken_for_it(tmp_path: Path) -> None:
    assert one(tree(tmp_path / "only", "good/1.png", "notes/plan.txt")).format == "folder"
    assert one(tree(mvtec(tmp_path / "part"), "ground_truth/good/0.png")).format == "mvtec"
    with pytest.raises(DataError, match="ambiguous: "):  # a test folder alone is for testing
        open_data(mvtec(tmp_path / "other") / "test")
    with pytest.raises(DataError, match="not laid out as --format labelled says"):
        open_data(tmp_path / "only", format="labelled")
    first, second = open_data(labelled(labelled(tmp_path / "line" / "a").parent / "b").parent)
    assert (first.name, second.name) == ("a", "b")


# --- lists ----------------------------------------------------------------------------------------

ROWS = [
    ("path", "split", "label", "mask"),
    ("day 1/a.png", "train", "good", ""),
    ("day 1/b.png", "Train", "OK", ""),
    ("c.png", "test", "0", "masks/c.png"),
    ("d.png", "test", "Dent", "masks/d.png"),
    ("e.png", "test", "1", ""),
]


def written(path: Path, rows: list[tuple[str, ...]], separator: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(row) + "\n" for row in rows))
    return path


def check_rows(path: Path) -> None:
    found = one(path)
    assert (found.name, found.format, found.root) == ("line_3", "list", path.parent)
    assert sources(found.train) == ["day 1/a.png", "day 1/b.png"]
    assert [(s.source, s.label, s.defect) for s in found.test] == [
        ("c.png", 0, "good"),
        ("d.png", 1, "Dent"),
        ("e.png", 1, "defective"),
    ]
    assert [sample.mask for sample in found.test] == [
        path.parent / "masks/c.png",
        path.parent / "masks/d.png",
        None,
    ]
    assert found.train[0].path == path.parent / "day 1" / "a.png"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_list(tmp_path: Path, separator: str) -> None:
    check_rows(written(tmp_path / "Line 3.csv", ROWS, separator))


def test_a_list_as_spreadsheets_write_it(tmp_path: Path) -> None:
    rows = [("Index", "Mask", "Label", "Split", "Path")]
    rows += [("7", mask, label, split, path) for path, split, label, mask in ROWS[1:]]
    path = written(tmp_path / "Line 3.CSV", rows)
    text = path.read_text().replace("\n", "\r\n").replace("day 1/b.png", '"day 1\\b.png"')
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b",,,,\r\n\r\n")
    check_rows(path)


def test_a_list_that_says_its_separator_and_numbers_with_a_point(tmp_path: Path) -> None:
    tree(tmp_path, "a.png", "b.png")
    path = tmp_path / "parts.csv"
    path.write_text("sep=;\r\npath;split;label\r\na.png;train;0.0\r\nb.png;test;1.0\r\n")
    assert [sample.defect for sample in one(path).samples] == ["good", "defective"]
    path.write_text("sep=;\npath;split;label\na.png;train;0\nb.png;never;1\n")
    with pytest.raises(DataError, match="line 4 has no known split"):
        open_data(path)


def test_a_list_needs_no_masks(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [row[:3] for row in ROWS])
    assert {sample.mask for sample in one(path).samples} == {None}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a.png", "val", "good"), r"line 3 has no known split \(expected train or test, got 'val"),
        (("a.png", "test", ""), "line 3 has no label"),
        (("a.png", "train", "dent"), "line 3: a defective image for training"),
        (("../a.png", "test", "good"), "line 3: a path that does not lie below"),
        (("/tmp/a.png", "test", "good"), "line 3: a path that does not lie below"),
        (("C:\\a.png", "test", "good"), "line 3: a path that does not lie below"),
        (("", "test", "good"), r"line 3: a path .* got nothing"),
        (("a.png", "test", "dent", "../m.png"), r"line 3: a path .* got \.\./m\.png"),
        (("day 1/a.png", "test", "good"), r"line 3: day 1/a\.png is named twice"),
        (("./day 1//a.png", "test", "good"), r"line 3: day 1/a\.png is named twice"),
        (("x" * 5000, "test", "good"), "line 3: a value of over 4096 characters"),
        (('"a.png', "test", "good"), "is not CSV"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, row: tuple[str, ...], message: str) -> None:
    path = written(tmp_path / "a.csv", [*ROWS[:2], row])
    with pytest.raises(DataError, match=message) as caught:
        open_data(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="the list is empty"):
        open_data(path)
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="not a UTF-8 text file"):
        open_data(path)
    path.write_text("path,label\n")
    with pytest.raises(DataError, match=r"no column 'split' \(expected a header with path, split"):
        open_data(path)
    path.write_text("path,split,label,path\n")
    with pytest.raises(DataError, match="two columns 'path'"):
        open_data(path)
    written(path, [ROWS[0], ROWS[3]])
    with pytest.raises(DataError, match=r"no training images \(expected rows with split train"):
        open_data(path)
    with pytest.raises(DataError, match="a list, and no folder as --format mvtec has it"):
        open_data(path, format="mvtec")
    with pytest.raises(DataError, match="not laid out as --format list says"):
        open_data(tmp_path, format="list")
    written(path, ROWS)
    with pytest.raises(ConfigError, match="--train-list is for data of the formats"):
        open_data(path, train_list=path)


def test_a_parquet_list(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    columns = {name: [row[at] for row in ROWS[1:]] for at, name in enumerate(ROWS[0])}
    columns["mask"] = [mask or None for mask in columns["mask"]]
    path = tmp_path / "Line 3.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    check_rows(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a Parquet file that can be read"):
        open_data(path)


def test_a_parquet_list_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"need pyarrow.*pip install 'cutswap\[parquet\]', or save"):
        open_data(tmp_path / "a.parquet")
