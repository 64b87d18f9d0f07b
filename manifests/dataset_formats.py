"""The layouts that are understood: one row each. `manifests.layouts` has their readers."""

from __future__ import annotations

from manifests.layouts.base import Format, Split, subfolders
from manifests.layouts.btad import find_btad, read_btad
from manifests.layouts.image_list import find_list, read_list
from manifests.layouts.kolektor import (
    find_kolektor,
    find_kolektor2,
    read_kolektor,
    read_kolektor2,
)
from manifests.layouts.mvtec import find_loco, find_mvtec, read_loco, read_mvtec
from manifests.layouts.plain import find_folder, find_labelled, read_folder, read_labelled
from manifests.layouts.tiles import find_mtd, read_mtd
from manifests.layouts.visa import find_visa, read_visa

__all__ = ["FORMATS", "Format", "Split", "subfolders"]

FORMATS: dict[str, Format] = {
    "mvtec": Format(find_mvtec, read_mvtec, "train/good, in it or in folders inside it"),
    "loco": Format(find_loco, read_loco, "train/good and test/logical_anomalies"),
    "visa": Format(find_visa, read_visa, "Data/Images/Normal, and split_csv beside the categories"),
    "btad": Format(find_btad, read_btad, "train/ok"),
    "kolektor": Format(
        find_kolektor, read_kolektor, "kos01/NAME_label.bmp and further part folders"
    ),
    "kolektor2": Format(find_kolektor2, read_kolektor2, "train/NAME_GT.png"),
    "mtd": Format(find_mtd, read_mtd, "MT_Free/Imgs", draws_split=True),
    "labelled": Format(
        find_labelled, read_labelled, "good and a folder per kind of defect", draws_split=True
    ),
    "list": Format(find_list, read_list, "a file .csv or .parquet"),
    "folder": Format(find_folder, read_folder, "good images only"),
}
