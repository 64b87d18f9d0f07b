"""A CSV or Parquet list that says which images there are, with their labels and masks."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from manifests.categories import Category, Sample
from manifests.errors import DataError
from manifests.layouts.base import (
    GOOD_NAMES,
    LIST_SUFFIXES,
    Split,
    category_name,
    check_trained,
    make_sample,
    ordered,
)
from manifests.layouts.table import Row, read_table

# Numbers as pandas writes them where a column had a gap.
_GOOD = ("0", "0.0", *GOOD_NAMES)
_DEFECTIVE = ("1", "1.0")


def find_list(path: Path) -> list[Path]:
    """The list itself."""
    return [path] if os.path.isfile(path) and path.suffix.lower() in LIST_SUFFIXES else []


def read_list(path: Path, split: Split) -> Category:
    """Columns `path`, `split`, `label` and, if there are masks, `mask`.

    Paths are relative to the list's folder. `split` is train or test. `label` is good (or normal,
    ok, 0) or the kind of the defect; 1 stands for one of no name. The category is called like the
    file.

    Raises:
        DataError: a list that cannot be read, a row that cannot be used, a defective image for
            training, an image that is named twice, or no training image.
    """
    root = path.parent
    samples: dict[str, Sample] = {}
    for row in read_table(path, required=("path", "split", "label"), optional=("mask",)):
        sample = _sample(row, path)
        if sample.source in samples:
            raise DataError(
                f"line {row.line}: {sample.source} is named twice",
                path=path,
                hint="keep one of the two lines",
            )
        samples[sample.source] = sample
    check_trained(samples.values(), path, "rows with split train and label good")
    return Category(
        name=category_name(path),
        root=root,
        format="list",
        samples=ordered(samples.values()),
        mask_binarise_at=1,
        split_rule="list: its column split",
        licence="",
        attribution="",
    )


def _sample(row: Row, path: Path) -> Sample:
    label, part = row["label"].lower(), row["split"].lower()
    if not label or part not in ("train", "test"):
        raise DataError(
            f"line {row.line} has no {'label' if not label else 'known split'}",
            path=path,
            expected="a label: good or the kind of defect" if not label else "train or test",
            got=repr(row["label" if not label else "split"]),
        )
    defect = "good" if label in _GOOD else "defective" if label in _DEFECTIVE else row["label"]
    if defect != "good" and part == "train":
        raise DataError(
            f"line {row.line}: a defective image for training",
            path=path,
            expected="good images for training",
            got=f"{row['path']}, {row['label']}",
            hint="give it the split test, or take the line out",
        )
    image = _below(path.parent, row["path"])
    mask = _below(path.parent, row["mask"]) if row["mask"] else None
    if image is None or (row["mask"] and mask is None):
        raise DataError(
            f"line {row.line}: a path that does not lie below the list's folder",
            path=path,
            expected="a relative path without ..",
            got=row["path" if image is None else "mask"] or "nothing",
            hint="put the list into the folder that holds all images",
        )
    return make_sample(path.parent, image, defect, part, mask)


def _below(root: Path, listed: str) -> Path | None:
    """A path of the list, with / or \\; None where it leads out of the folder or nowhere."""
    path = PurePosixPath(listed.replace("\\", "/"))
    is_plain = path.parts and not path.is_absolute() and ".." not in path.parts
    is_drive = ":" in path.parts[0] if path.parts else False
    return root / path if is_plain and not is_drive and "\0" not in listed else None
