"""A folder of good images, and one with good images beside folders of defects."""

from __future__ import annotations

import os
from pathlib import Path

from manifests.categories import Category, Sample
from manifests.errors import DataError
from manifests.images import list_images
from manifests.layouts.base import (
    Split,
    category_name,
    defective_samples,
    drawn_split,
    folder_like,
    found_in,
    images_in,
    make_sample,
    masks_in,
    ordered,
    subfolders,
)

MASK_FOLDERS = ("masks", "mask", "ground_truth")
"""Names, in any case, of the folder that holds the masks of a `labelled` category."""

# A folder that is called so, or has one that is, belongs to another layout.
_OTHER_LAYOUTS = frozenset(("train", "test", "validation", "val"))


def find_folder(root: Path) -> list[Path]:
    """The root itself."""
    return [root] if os.path.isdir(root) else []


def read_folder(root: Path, split: Split) -> Category:
    """All images at any depth, all of them good. Raises DataError where there are none."""
    return Category(
        name=category_name(root),
        root=root,
        format="folder",
        samples=ordered(make_sample(root, path, "good", "train") for path in list_images(root)),
        mask_binarise_at=1,
        split_rule="all images are good training images",
        licence="",
        attribution="",
    )


def find_labelled(root: Path) -> list[Path]:
    """One category or a root of several.

    The `test` folder of another layout looks the same: one that is called so is not taken.
    """
    return found_in(root, _is_labelled)


def _is_labelled(folder: Path) -> bool:
    if folder.name.lower() in _OTHER_LAYOUTS.union(MASK_FOLDERS):
        return False
    if not os.path.isdir(folder / "good"):
        return False
    inside = subfolders(folder)
    if not _OTHER_LAYOUTS.isdisjoint(one.name.lower() for one in inside):
        return False
    others = [one for one in inside if one.name.lower() not in ("good", *MASK_FOLDERS)]
    return any(images_in(one) for one in others)


def read_labelled(root: Path, split: Split) -> Category:
    """`good`, a folder per kind of defect, and masks in `masks/<defect>/NAME` or `NAME_mask`.

    80 % of the good images are drawn for training, or those that a training list names.

    Raises:
        DataError: no good image, an image of no kind, only some masks of a kind, several folders
            of masks, or a training list that does not fit.
    """
    folder = root / "good"
    good = {path.relative_to(folder).as_posix(): path for path in images_in(folder)}
    if not good:
        raise DataError("no training images", path=root, expected="images in good")
    for path in images_in(root):
        if path.parent == root:
            raise DataError(
                "an image without a label",
                path=path,
                expected="good or a folder per kind of defect",
                hint="move it into the folder of its kind",
            )
    training, rule = drawn_split(
        sorted(good),
        split,
        noun="good images",
        folder=folder,
        name_of=lambda line: line.removeprefix("good/"),
    )
    samples = [
        make_sample(root, path, "good", "train" if name in training else "test")
        for name, path in good.items()
    ]
    mask_folder = _mask_folder(root)
    for kind in subfolders(root):
        if kind.name != "good" and kind != mask_folder:
            samples += _of_kind(root, kind, mask_folder)
    return Category(
        name=category_name(root),
        root=root,
        format="labelled",
        samples=ordered(samples),
        mask_binarise_at=1,
        split_rule=rule,
        is_drawn=split.train_list is None,
        licence="",
        attribution="",
    )


def _mask_folder(root: Path) -> Path | None:
    found = [one for one in subfolders(root) if one.name.lower() in MASK_FOLDERS]
    if len(found) > 1:
        raise DataError(
            "several folders of masks",
            path=root,
            expected=" or ".join(MASK_FOLDERS),
            got=" and ".join(one.name for one in found),
            hint="keep one of them",
        )
    return found[0] if found else None


def _of_kind(root: Path, kind: Path, mask_folder: Path | None) -> list[Sample]:
    images = images_in(kind)
    masks = None if mask_folder is None else masks_in(folder_like(mask_folder, kind.name))
    stems = [path.relative_to(kind).with_suffix("").as_posix() for path in images]
    wanted = [stem if masks and stem in masks else f"{stem}_mask" for stem in stems]
    return defective_samples(root, images, wanted, masks, kind.name)
