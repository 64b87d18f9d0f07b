"""Public data sets as they are downloaded: VisA, BTAD, MPDD, MVTec LOCO AD."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manifests.datasets import open_data
from manifests.errors import DataError
from reference.data_folders import mvtec, one, sources, tree

# --- VisA -----------------------------------------------------------------------------------------

VISA_LIST = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0001.JPG,
candle,test,normal,candle/Data/Images/Normal/0002.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
pcb1,train,normal,pcb1/Data/Images/Normal/0001.JPG,
"""


def visa(root: Path, text: str = VISA_LIST) -> Path:
    tree(
        root,
        "candle/Data/Images/Normal/0001.JPG",
        "candle/Data/Images/Normal/0002.JPG",
        "candle/Data/Images/Anomaly/000.JPG",
        "candle/Data/Masks/Anomaly/000.png",
        "candle/image_anno.csv",
        "pcb1/Data/Images/Normal/0001.JPG",
        "split_csv/1cls.csv",
    )
    (root / "split_csv/1cls.csv").write_text(text)
    return root


def test_visa_as_it_is_downloaded(tmp_path: Path) -> None:
    candle, pcb = open_data(visa(tmp_path / "VisA"))
    assert (candle.name, candle.format, candle.root) == (
        "candle",
        "visa",
        tmp_path / "VisA" / "candle",
    )
    assert sources(candle.train) == ["Data/Images/Normal/0001.JPG"]
    assert sources(candle.test) == ["Data/Images/Anomaly/000.JPG", "Data/Images/Normal/0002.JPG"]
    bad, good = candle.test
    assert (bad.label, bad.defect) == (1, "bad")
    assert bad.mask == candle.root / "Data/Masks/Anomaly/000.png"
    assert (good.label, good.mask) == (0, None)
    assert candle.mask_binarise_at == 1  # masks hold class numbers
    assert candle.licence == "CC BY 4.0" and "Zou" in candle.attribution
    assert candle.notes == () and candle.left_out == ()
    assert len(pcb.train) == 1 and pcb.test == ()
    assert one(tmp_path / "VisA" / "candle") == candle
    assert one(tmp_path / "VisA", categories=["candle"]) == candle


def test_visa_images_that_the_list_does_not_name_are_left_out(tmp_path: Path) -> None:
    root = tree(visa(tmp_path / "VisA"), "pcb1/Data/Images/Anomaly/7.JPG")
    found = one(root, categories=["pcb1"])
    assert found.left_out == ("Data/Images/Anomaly/7.JPG",)
    assert found.notes == ("1 image left out that 1cls.csv does not name",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("candle,test,normal", "candle,val,normal", r"line 3 cannot be used \(expected train or t"),
        ("candle,test,normal", "candle,test,fine", "line 3 cannot be used"),
        ("candle/Data/Images/Normal/0002", "pcb1/Data/Images/Normal/0002", "line 3 cannot be used"),
        ("candle/Data/Images/Normal/0002", "candle/../x/0002", "line 3 cannot be used"),
        (",candle/Data/Masks/Anomaly/000", ",/etc/000", "line 4 cannot be used"),
        ("test,anomaly", "train,anomaly", "line 4: an anomaly for training"),
        ("Normal/0002", "Normal/0009", r"1 files of the list are not there \(got .*0009\.JPG"),
        ("Masks/Anomaly/000", "Masks/Anomaly/001", r"1 files of the list .*Masks/Anomaly/001\.png"),
        ("candle,train", "other,train", r"no training images \(expected rows of candle in 1cls"),
        ("object,", "thing,", "the list has no column 'object'"),
    ],
)
def test_visa_lists_that_do_not_fit(tmp_path: Path, old: str, new: str, message: str) -> None:
    root = visa(tmp_path / "VisA", VISA_LIST.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        open_data(root / "candle")


def test_visa_without_its_list(tmp_path: Path) -> None:
    root = visa(tmp_path / "VisA")
    os.remove(root / "split_csv/1cls.csv")
    with pytest.raises(DataError, match=r"1cls\.csv: VisA's list .* missing.*unpack it from VisA"):
        open_data(root)


# --- BTAD -----------------------------------------------------------------------------------------


def btad(root: Path) -> Path:
    return tree(
        root,
        "train/ok/0000.bmp",
        "train/ok/0001.bmp",
        "test/ok/0000.bmp",
        "test/ko/0000.bmp",
        "ground_truth/ko/0000.png",
    )


def test_btad(tmp_path: Path) -> None:
    for name in ("01", "02", "03"):
        btad(tmp_path / "BTech_Dataset_transformed" / name)
    first, _, third = open_data(tmp_path / "BTech_Dataset_transformed")
    assert (first.name, first.format, third.name) == ("01", "btad", "03")
    assert sources(first.train) == ["train/ok/0000.bmp", "train/ok/0001.bmp"]
    bad, good = first.test
    assert (bad.source, bad.label, bad.defect) == ("test/ko/0000.bmp", 1, "ko")
    assert bad.mask == first.root / "ground_truth/ko/0000.png"
    assert (good.source, good.label, good.defect) == ("test/ok/0000.bmp", 0, "good")
    assert first.licence == "CC BY-SA" and "beanTech" in first.attribution


def test_a_btad_of_somebodys_own(tmp_path: Path) -> None:
    own = btad(tmp_path / "own" / "01")
    assert (one(own).licence, one(own).attribution) == ("", "")
    tree(own, "test/ko/0001.bmp")
    with pytest.raises(DataError, match=r"1 of 2 images of the defect 'ko' have no mask"):
        open_data(own)
    tree(own, "test/dent/0001.bmp")
    with pytest.raises(DataError, match=r"dent: a folder of no known label"):
        open_data(own)
    (tmp_path / "bare/train/ok").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no training images \(expected images in train/ok"):
        open_data(tmp_path / "bare")
    with pytest.raises(DataError, match=r"ambiguous: looks like mvtec and btad"):
        open_data(mvtec(btad(tmp_path / "both")))


# --- MPDD: MVTec AD's layout ----------------------------------------------------------------------


def test_mpdd_is_read_like_mvtec_ad(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "MPDD" / "bracket_brown",
        "train/good/000.png",
        "test/good/000.png",
        "test/bend_and_parts_mismatch/000.png",
        "test/parts_mismatch/000.png",
        "ground_truth/parts_mismatch/000_mask.png",
        "ground_truth/bend_and_parts_mismatch/000_mask.png",
    )
    found = one(tmp_path / "MPDD")
    assert (found.name, found.format) == ("bracket_brown", "mvtec")
    assert found.test[0].mask == root / "ground_truth/bend_and_parts_mismatch/000_mask.png"
    assert found.licence == "CC BY-NC-SA 4.0" and "Jezek" in found.attribution
    assert one(mvtec(tmp_path / "own" / "tubes", "kink")).licence == ""
    assert one(mvtec(tmp_path / "own" / "metal_plate", "scratches")).licence == ""
    assert one(tree(tmp_path / "bare" / "tubes", "train/good/0.png")).licence == ""


# --- MVTec LOCO AD --------------------------------------------------------------------------------


def loco(root: Path) -> Path:
    return tree(
        root,
        "train/good/000.png",
        "validation/good/000.png",
        "validation/good/001.png",
        "test/good/000.png",
        "test/logical_anomalies/000.png",
        "test/structural_anomalies/000.png",
        "ground_truth/logical_anomalies/000/000.png",
        "ground_truth/logical_anomalies/000/001.png",
        "ground_truth/structural_anomalies/000/000.png",
        "defects_config.json",
    )


def test_loco_is_read_without_masks_and_without_validation(tmp_path: Path) -> None:
    loco(tmp_path / "loco" / "pushpins")
    (found,) = open_data(tmp_path / "loco")
    assert (found.name, found.format) == ("pushpins", "loco")
    assert sources(found.train) == ["train/good/000.png"]
    assert [(sample.defect, sample.label) for sample in found.test] == [
        ("good", 0),
        ("logical_anomalies", 1),
        ("structural_anomalies", 1),
    ]
    assert all(sample.mask is None for sample in found.samples)
    assert found.left_out == ("validation/good/000.png", "validation/good/001.png")
    assert "image figures only" in found.notes[0]
    assert found.notes[1] == "2 images in validation left out"
    assert "LOCO" in found.attribution and found.licence == "CC BY-NC-SA 4.0"
    assert one(loco(tmp_path / "own")).licence == ""


def test_loco_beside_others_and_broken(tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    loco(root / "pushpins"), mvtec(root / "bottle")
    with pytest.raises(DataError, match="ambiguous: looks like mvtec and loco"):
        open_data(root)
    assert one(root, format="loco").name == "pushpins"
    assert one(root, format="mvtec").name == "bottle"
    broken = tree(loco(tmp_path / "broken"), "test/lost.png")
    with pytest.raises(DataError, match=r"lost\.png: a test image without a label"):
        open_data(broken)
    os.remove(broken / "test/lost.png")
    os.remove(broken / "train/good/000.png")
    with pytest.raises(DataError, match="broken: no training images"):
        open_data(broken)
