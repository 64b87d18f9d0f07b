"""MVTec AD's layout, which MPDD and the converted VisA share, and MVTec LOCO AD's beside it."""

from __future__ import annotations

import os
from pathlib import Path

from manifests.categories import Category
from manifests.errors import DataError
from manifests.known_data import is_visa, known_terms, loco_terms
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
from manifests.terminal import counted

_LOCO_KINDS = ("logical_anomalies", "structural_anomalies")
_LOCO_NOTE = (
    "read without masks: LOCO has several per image with a saturation each, which its own metric "
    "(sPRO) takes into account and ours do not; image figures only"
)


def find_mvtec(root: Path) -> list[Path]:
    """One category or a root of several; a half-copied category is found if another is whole."""
    if _is_mvtec(root):
        return [root]
    inside = [path for path in subfolders(root) if not _is_loco(path)]
    if not any(map(_is_mvtec, inside)):
        return []
    # A half-copied category is found as well, so that reading reports it.
    parts = ("train", "test", "ground_truth")
    return [path for path in inside if any(os.path.isdir(path / part) for part in parts)]


def _is_mvtec(folder: Path) -> bool:
    return os.path.isdir(folder / "train" / "good") and not _is_loco(folder)


def read_mvtec(root: Path, split: Split) -> Category:
    """`train/good`, `test/<kind>`, `ground_truth/<kind>/NAME_mask.png`.

    The converted VisA calls masks like their images. A kind of defect without a folder in
    `ground_truth` has no masks.

    Raises:
        DataError: no training image, a test image of no kind, or only some masks of a kind.
    """
    good = images_in(root / "train" / "good")
    samples = [make_sample(root, path, "good", "train") for path in good]
    check_trained(samples, root, "images in train/good")
    name = category_name(root)
    kinds = _test_kinds(root)
    defects = {folder.name for folder in kinds if folder.name.lower() != "good"}
    for folder in kinds:
        images = images_in(folder)
        if folder.name.lower() == "good":
            samples += [make_sample(root, path, "good", "test") for path in images]
            continue
        masks = masks_in(folder_like(folder_like(root, "ground_truth"), folder.name))
        wanted = [path.relative_to(folder).with_suffix("").as_posix() for path in images]
        # VisA as its authors convert it calls a mask like its image.
        if not (is_visa(name, defects) and masks and masks.keys() >= set(wanted)):
            wanted = [f"{stem}_mask" for stem in wanted]
        samples += defective_samples(root, images, wanted, masks, folder.name)
    licence, attribution = known_terms(name, defects)
    return with_leftovers(
        Category(
            name=name,
            root=root,
            format="mvtec",
            samples=ordered(samples),
            mask_binarise_at=1,
            split_rule="folders: train/good for training, test/* for testing",
            licence=licence,
            attribution=attribution,
        )
    )


def find_loco(root: Path) -> list[Path]:
    """One category or a root of several."""
    return found_in(root, _is_loco)


def _is_loco(folder: Path) -> bool:
    return os.path.isdir(folder / "train" / "good") and any(
        os.path.isdir(folder / "test" / kind) for kind in _LOCO_KINDS
    )


def read_loco(root: Path, split: Split) -> Category:
    """`train/good` and `test/{good,logical_anomalies,structural_anomalies}`, without the masks.

    `validation/good` is left out: thresholds come from the training images themselves.

    Raises:
        DataError: no training image, or a test image of no kind.
    """
    samples = [
        make_sample(root, path, "good", "train") for path in images_in(root / "train" / "good")
    ]
    check_trained(samples, root, "images in train/good")
    for folder in _test_kinds(root):
        samples += [make_sample(root, path, folder.name, "test") for path in images_in(folder)]
    validation = images_in(root / "validation")
    notes = [_LOCO_NOTE]
    if validation:
        notes.append(f"{counted(len(validation), 'image')} in validation left out")
    name = category_name(root)
    licence, attribution = loco_terms(name)
    return Category(
        name=name,
        root=root,
        format="loco",
        samples=ordered(samples),
        mask_binarise_at=1,
        split_rule="folders: train/good for training, test/* for testing, validation left out",
        licence=licence,
        attribution=attribution,
        notes=tuple(notes),
        left_out=tuple(path.relative_to(root).as_posix() for path in validation),
    )


def _test_kinds(root: Path) -> list[Path]:
    """The folders of `test`; raises DataError where an image lies beside them."""
    test = root / "test"
    for path in images_in(test):
        if path.parent == test:
            raise DataError(
                "a test image without a label",
                path=path,
                expected="test/good or test/<defect>",
                hint="move it into the folder of its kind",
            )
    return subfolders(test) if test.is_dir() else []
