"""BTAD's layout: `ok` and `ko` instead of good and a folder per defect."""

from __future__ import annotations

import os
from pathlib import Path

from manifests.categories import Category
from manifests.errors import DataError
from manifests.known_data import BTAD, BTAD_TERMS
from manifests.layouts.base import (
    Split,
    category_name,
    check_trained,
    defective_samples,
    folder_like,
    found_in,
    images_in,
    make_sample,
    masks_in,
    ordered,
    subfolders,
    with_leftovers,
)


def find_btad(root: Path) -> list[Path]:
    """One category or a root of several."""
    return found_in(root, _is_btad)


def _is_btad(folder: Path) -> bool:
    return os.path.isdir(folder / "train" / "ok")


def read_btad(root: Path, split: Split) -> Category:
    """`train/ok`, `test/{ok,ko}`, `ground_truth/ko/NAME`; masks are found by name without suffix.

    Of the three products, two have `.bmp` images and two have `.png` masks.

    Raises:
        DataError: no training image, another folder in `test`, or only some masks.
    """
    samples = [
        make_sample(root, path, "good", "train") for path in images_in(root / "train" / "ok")
    ]
    check_trained(samples, root, "images in train/ok")
    test = root / "test"
    for folder in subfolders(test) if test.is_dir() else []:
        images = images_in(folder)
        if folder.name == "ok":
            samples += [make_sample(root, path, "good", "test") for path in images]
        elif folder.name == "ko":
            masks = masks_in(folder_like(root, "ground_truth") / "ko")
            wanted = [path.relative_to(folder).with_suffix("").as_posix() for path in images]
            samples += defective_samples(root, images, wanted, masks, "ko")
        else:
            raise DataError(
                "a folder of no known label",
                path=folder,
                expected="test/ok and test/ko",
                hint="move its images, or call train/ok train/good to have a folder per defect",
            )
    name = category_name(root)
    licence, attribution = BTAD_TERMS if _is_original(root, name) else ("", "")
    return with_leftovers(
        Category(
            name=name,
            root=root,
            format="btad",
            samples=ordered(samples),
            mask_binarise_at=1,
            split_rule="folders: train/ok for training, test/ok and test/ko for testing",
            licence=licence,
            attribution=attribution,
        )
    )


def _is_original(root: Path, name: str) -> bool:
    """Whether it lies among BTAD's three products: "01" alone may be anybody's folder."""
    return name in BTAD and all(_is_btad(root.parent / one) for one in BTAD)
