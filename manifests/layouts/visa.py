"""VisA as it is downloaded: images by label, and the split in a list beside the categories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from manifests.categories import Category, Sample
from manifests.errors import DataError
from manifests.known_data import VISA_DEFECT, known_terms
from manifests.layouts.base import (
    Split,
    category_name,
    check_trained,
    first_names,
    found_in,
    images_in,
    make_sample,
    ordered,
)
from manifests.layouts.table import read_table
from manifests.terminal import counted

_LIST = ("split_csv", "1cls.csv")
_COLUMNS = ("object", "split", "label", "image", "mask")
_LABELS = {"normal": "good", "anomaly": VISA_DEFECT}


def find_visa(root: Path) -> list[Path]:
    """One category or a root of several."""
    return found_in(root, _is_visa)


def _is_visa(folder: Path) -> bool:
    return os.path.isdir(folder / "Data" / "Images" / "Normal")


def read_visa(root: Path, split: Split) -> Category:
    """`Data/Images/{Normal,Anomaly}`, `Data/Masks/Anomaly`, split by `../split_csv/1cls.csv`.

    That list is the authors' one-class split: images that it does not name are left out. Masks hold
    small class numbers. Defects are called "bad", as in the authors' converted layout.

    Raises:
        DataError: no list, a list that names what is not there, or no training image.
    """
    rows = list(_rows(root))
    check_trained([sample for sample, _ in rows], root, f"rows of {root.name} in {_LIST[-1]}")
    samples = [sample for sample, _ in rows]
    wanted = {sample.path for sample in samples}
    present = images_in(root / "Data" / "Images")
    missing = sorted(str(path) for path in wanted - set(present))
    missing += sorted(str(mask) for _, mask in rows if mask and not os.path.isfile(mask))
    if missing:
        raise DataError(
            f"{len(missing)} files of the list are not there",
            path=_list_file(root),
            got=first_names(missing),
            hint="unpack the data set again, or choose other categories with --category",
        )
    left_out = [path for path in present if path not in wanted]
    name = category_name(root)
    licence, attribution = known_terms(name, {VISA_DEFECT})
    note = f"{counted(len(left_out), 'image')} left out that 1cls.csv does not name"
    return Category(
        name=name,
        root=root,
        format="visa",
        samples=ordered(samples),
        mask_binarise_at=1,
        split_rule="list: VisA's split_csv/1cls.csv",
        licence=licence,
        attribution=attribution,
        notes=(note,) if left_out else (),
        left_out=tuple(path.relative_to(root).as_posix() for path in left_out),
    )


def _list_file(root: Path) -> Path:
    return root.parent.joinpath(*_LIST)


def _rows(root: Path) -> Iterator[tuple[Sample, Path | None]]:
    """The samples of a category, each with its mask."""
    path = _list_file(root)
    if not path.is_file():
        raise DataError(
            "VisA's list of the split is missing",
            path=path,
            expected="split_csv/1cls.csv beside the categories",
            hint="unpack it from VisA.tar",
        )
    for row in read_table(path, required=_COLUMNS[:4], optional=_COLUMNS[4:]):
        if row["object"] != root.name:
            continue
        defect = _LABELS.get(row["label"])
        image, mask = _below(root, row["image"]), None
        if row["mask"]:
            mask = _below(root, row["mask"])
        bad_mask = bool(row["mask"]) and mask is None
        if defect is None or image is None or bad_mask or row["split"] not in ("train", "test"):
            raise DataError(
                f"line {row.line} cannot be used",
                path=path,
                expected=f"train or test, normal or anomaly, paths below {root.name}/",
                got=", ".join(row[column] for column in _COLUMNS[1:]),
            )
        if defect != "good" and row["split"] == "train":
            raise DataError(
                f"line {row.line}: an anomaly for training",
                path=path,
                expected="the one-class split 1cls.csv",
                hint="unpack it from VisA.tar again",
            )
        yield make_sample(root, image, defect, row["split"], mask), mask


def _below(root: Path, listed: str) -> Path | None:
    """A listed path, which begins with the category; None if it leads out of it."""
    parts = listed.split("/")
    if len(parts) < 2 or parts[0] != root.name or not set(parts).isdisjoint(("", ".", "..")):
        return None
    return root.joinpath(*parts[1:])
