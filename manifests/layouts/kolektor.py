"""Kolektor's two data sets of surface defects, in which the masks alone say what is defective."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from manifests.categories import Category, Sample
from manifests.errors import BadImages, DataError, ImageError
from manifests.images import read_mask
from manifests.known_data import KOLEKTOR2_TERMS, KOLEKTOR_TERMS
from manifests.layouts.base import (
    Split,
    by_stem,
    category_name,
    check_trained,
    first_names,
    images_in,
    make_sample,
    names_in,
    ordered,
    subfolders,
)
from manifests.terminal import counted

_PART_FOLDER = re.compile(r"kos[0-9]+", re.IGNORECASE)
# Every third folder is for testing: one of the three folds that its authors cross-validate with.
_FOLDS = 3
_DEFECT = "defective"
_COPY = " (copy)"  # as file managers name one
# The names of the real one, which tell it from anybody's folders with masks called NAME_GT.
_REAL_NAMES = {"train": re.compile("1[0-9]{4}"), "test": re.compile("2[0-9]{4}")}


def find_kolektor(root: Path) -> list[Path]:
    """The root itself."""
    parts = filter(_is_part, subfolders(root))
    return [root] if any(_has_named(part, "_label") for part in parts) else []


def _has_named(folder: Path, ending: str) -> bool:
    return any(os.path.splitext(name)[0].endswith(ending) for name in names_in(folder))


def _is_part(folder: Path) -> bool:
    return _PART_FOLDER.fullmatch(folder.name) is not None


def read_kolektor(root: Path, split: Split) -> Category:
    """KolektorSDD: `kosNN/PartN.jpg` with `PartN_label.bmp`, one folder for each part.

    The part folders are sorted by name; every third one is for testing, the others are for
    training. Defective images of the latter are left out: nothing is learned from them, and tested
    on, their part would be in both.

    Raises:
        DataError: an image without its mask, or no good image in the training parts.
        BadImages: masks that cannot be read.
    """
    images: list[tuple[Path, Path, str]] = []
    for place, folder in enumerate(filter(_is_part, subfolders(root))):
        part = "test" if place % _FOLDS == _FOLDS - 1 else "train"
        images += [(path, mask, part) for path, mask in _pairs(root, folder, "_label")]
    return _category(
        root,
        images,
        "kolektor",
        f"part folders sorted by name: every third for testing ({_FOLDS} folds, the last)",
        KOLEKTOR_TERMS,
        why="of training parts",
        has_parts=True,
    )


def find_kolektor2(root: Path) -> list[Path]:
    """The root itself."""
    train = root / "train"
    if not os.path.isdir(train) or not os.path.isdir(root / "test"):
        return []
    return [root] if _has_named(train, "_GT") else []


def read_kolektor2(root: Path, split: Split) -> Category:
    """KolektorSDD2: `train` and `test`, each with `NAME.png` and its mask `NAME_GT.png`.

    Defective training images are left out.

    Raises:
        DataError: an image without its mask, or no good training image.
        BadImages: masks that cannot be read.
    """
    images = [
        (path, mask, part)
        for part in ("train", "test")
        for path, mask in _pairs(root, root / part, "_GT")
    ]
    is_real = all(
        _REAL_NAMES[part].fullmatch(path.stem.removesuffix(_COPY)) for path, _, part in images
    )
    return _category(
        root,
        images,
        "kolektor2",
        "folders: good images of train for training, test for testing",
        KOLEKTOR2_TERMS if is_real else ("", ""),
        why="in train",
        has_parts=False,
    )


def _pairs(root: Path, folder: Path, ending: str) -> list[tuple[Path, Path]]:
    """Every image of a folder with its mask; a copy of an image has that of the image."""
    named = by_stem(folder, images_in(folder))
    images = {stem: path for stem, path in named.items() if ending not in stem}
    masks = {stem: named.get(_original(stem, images) + ending) for stem in images}
    missing = [images[stem] for stem, mask in masks.items() if mask is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images of {folder.name} have no mask",
            path=root,
            expected=f"NAME{ending} beside each image, black where it is good",
            got=first_names([path.relative_to(root).as_posix() for path in missing]),
            hint="unpack the data set again",
        )
    return [(path, mask) for stem, path in images.items() if (mask := masks[stem]) is not None]


def _original(stem: str, images: Collection[str]) -> str:
    """The name of the image that this one is a copy of, else its own.

    KolektorSDD2's archive holds `10301 (copy).png` and `10301_GT (copy).png`.
    """
    original = stem.removesuffix(_COPY)
    return original if original in images else stem


def _category(
    root: Path,
    images: Sequence[tuple[Path, Path, str]],
    kind: str,
    rule: str,
    terms: tuple[str, str],
    *,
    why: str,
    has_parts: bool,
) -> Category:
    is_defective = _marked([mask for _, mask, _ in images])
    samples: list[Sample] = []
    defective, copies = [], []
    for (path, mask, part), is_bad in zip(images, is_defective, strict=True):
        defect = _DEFECT if is_bad else "good"
        shown = path.parent.name if has_parts else ""
        sample = make_sample(root, path, defect, part, mask if is_bad else None, shown)
        if not mask.stem.startswith(path.stem):  # the mask of the image that it is a copy of
            copies.append(sample.source)
        elif is_bad and part == "train":
            defective.append(sample.source)
        else:
            samples.append(sample)
    check_trained(samples, root, "images whose mask is black")
    notes = []
    if defective:
        notes.append(f"{counted(len(defective), 'defective image')} {why} left out")
    if copies:
        notes.append(f"{len(copies)} named as a copy of another image left out")
    return Category(
        name=category_name(root),
        root=root,
        format=kind,
        samples=ordered(samples),
        mask_binarise_at=1,
        split_rule="; ".join([rule, *notes]),
        licence=terms[0],
        attribution=terms[1],
        notes=tuple(notes),
        left_out=tuple(sorted(defective + copies)),
    )


def _marked(masks: Iterable[Path]) -> list[bool]:
    """Whether anything is marked in each mask."""

    def look(path: Path) -> bool | ImageError:
        try:
            return bool(read_mask(path, binarise_at=1).any())
        except ImageError as error:
            return error

    # Decoding releases the interpreter lock: threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(look, masks))
    errors = [one for one in found if isinstance(one, ImageError)]
    if errors:
        raise BadImages(
            errors,
            what=f"{counted(len(errors), 'mask')} of {len(found)} cannot be read",
            hint="masks say which images are good here: unpack the data set again",
        )
    return [bool(one) for one in found]
