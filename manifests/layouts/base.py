"""What the readers of all layouts share: samples, masks found by name, splits that are drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from manifests.categories import Category, Sample, slugify
from manifests.digest import bytes_digest
from manifests.errors import DataError
from manifests.images import list_images

LIST_SUFFIXES = (".csv", ".parquet")
GOOD_NAMES = ("good", "normal", "ok")
"""What people call good images, in lower case."""
MASK_ENDINGS = ("_mask", "-mask", "_gt", "_label")
"""Ends of the names of masks that lie beside their images, in lower case."""


@dataclass(frozen=True)
class Split:
    """How to split what comes without a split: by a list of names, else by seed."""

    train_list: Path | None
    seed: int


@dataclass(frozen=True)
class Format:
    """A layout.

    Args:
        find: the category folders (or lists) that it sees in a root; none where it is another's.
        read: its reader.
        looks_for: its marker in words.
        draws_split: whether the training images are drawn by seed or named by a training list.
    """

    find: Callable[[Path], list[Path]]
    read: Callable[[Path, Split], Category]
    looks_for: str
    draws_split: bool = False


def subfolders(folder: Path) -> list[Path]:
    """The folders directly inside, hidden ones left out, sorted. Raises DataError."""
    return [
        folder / name
        for name in names_in(folder)
        if not name.startswith(".") and (folder / name).is_dir()
    ]


def names_in(folder: Path) -> list[str]:
    """The names of all that is directly inside, sorted. Raises DataError."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=folder) from error


def category_name(root: Path) -> str:
    """The slug of a category that lies in a folder, or of one that a list names."""
    return slugify(root.stem if os.path.isfile(root) else root.name)


def found_in(root: Path, is_category: Callable[[Path], bool]) -> list[Path]:
    """The root itself, or the folders directly inside that are categories."""
    return [root] if is_category(root) else [one for one in subfolders(root) if is_category(one)]


def images_in(folder: Path) -> list[Path]:
    """All images at any depth; none where there is no such folder."""
    return list_images(folder, allow_empty=True) if folder.is_dir() else []


def by_stem(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Files by their path in `folder` without suffix. Raises DataError for two of one name."""
    found: dict[str, Path] = {}
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DataError(
                f"has the name of {found[stem].name}",
                path=path,
                expected="files that differ in more than their suffix",
                hint="keep one of the two, or rename it",
            )
        found[stem] = path
    return found


def masks_beside(stems: Iterable[str]) -> dict[str, str]:
    """Of names without suffix, those that look like a mask of another one, with that one."""
    named = {stem.lower(): stem for stem in stems}
    return {
        stem: named[lower.removesuffix(ending)]
        for lower, stem in named.items()
        for ending in MASK_ENDINGS
        if lower.endswith(ending) and lower.removesuffix(ending) in named
    }


def folder_like(parent: Path, name: str) -> Path:
    """The folder of that name in any case; of several, the one that is spelt so."""
    if (parent / name).is_dir() or not parent.is_dir():
        return parent / name
    alike = [one for one in subfolders(parent) if one.name.lower() == name.lower()]
    return alike[0] if alike else parent / name


def with_leftovers(category: Category) -> Category:
    """With a note on the images below its root that are none of its samples or masks."""
    used: set[Path | None] = {sample.path for sample in category.samples}
    used |= {sample.mask for sample in category.samples}
    left = [path for path in images_in(category.root) if path not in used]
    if not left:
        return category
    names = [
        os.fsencode(path.relative_to(category.root)).decode("utf-8", "replace") for path in left
    ]
    lie = "image lies" if len(left) == 1 else "images lie"
    note = f"{len(left)} {lie} where this layout has none, and left out: {first_names(names)}"
    return replace(category, notes=(*category.notes, note), left_out=(*category.left_out, *names))


def masks_in(folder: Path, suffixes: Sequence[str] | None = None) -> dict[str, Path] | None:
    """Mask files by their path in `folder` without suffix; None where there are none to expect."""
    if not folder.is_dir():
        return None
    paths = list_images(folder, allow_empty=True)
    if suffixes is not None:
        paths = [path for path in paths if path.suffix.lower() in suffixes]
        if not paths:
            return None
    return by_stem(folder, paths)


def defective_samples(
    root: Path,
    images: Sequence[Path],
    wanted: Sequence[str],
    masks: Mapping[str, Path] | None,
    defect: str,
) -> list[Sample]:
    """The test images of one kind of defect with their masks.

    Args:
        wanted: the key in `masks` of each image.
        masks: None where this kind has none.

    Raises:
        DataError: some of them have a mask and others do not, or two have the same, or an image
            looks like the mask of another.
    """
    images_by_stem = {path.relative_to(root).with_suffix("").as_posix(): path for path in images}
    for mask, image in masks_beside(images_by_stem).items():
        raise DataError(
            f"looks like the mask of {images_by_stem[image].name}, and lies among the images",
            path=images_by_stem[mask],
            expected="masks in a folder of their own",
            hint="move the masks away, see docs/data.md",
        )
    if masks is None:
        return [make_sample(root, path, defect, "test") for path in images]
    missing = [path for path, name in zip(images, wanted, strict=True) if name not in masks]
    if missing:
        named = first_names([path.relative_to(root).as_posix() for path in missing])
        raise DataError(
            f"{len(missing)} of {len(images)} images of the defect {defect!r} have no mask",
            path=root,
            expected=f"a mask for {named}",
            hint="add the masks, or take all masks of this defect away to score images only",
        )
    by_mask: dict[str, Path] = {}
    for path, name in zip(images, wanted, strict=True):
        if (other := by_mask.setdefault(name, path)) is not path:
            raise DataError(
                f"has the mask of {other.name}, {masks[name].name}",
                path=path,
                expected="images that differ in more than their suffix",
                hint="keep one of the two, or rename it and its mask",
            )
    return [
        make_sample(root, path, defect, "test", masks[name])
        for path, name in zip(images, wanted, strict=True)
    ]


def make_sample(
    root: Path, path: Path, defect: str, split: str, mask: Path | None = None, part: str = ""
) -> Sample:
    """A sample of a file below `root`. Raises DataError where its name is not valid UTF-8."""
    source = path.relative_to(root).as_posix()
    try:
        source.encode("utf-8")
    except UnicodeEncodeError:
        readable = os.fsencode(source).decode("utf-8", "backslashreplace")
        raise DataError(
            "the file name is not valid UTF-8", path=readable, hint="rename the file"
        ) from None
    return Sample(path, source, int(defect != "good"), defect, mask, split, part)


def ordered(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Training images, then test images, each by source."""
    return tuple(sorted(samples, key=lambda sample: (sample.split != "train", sample.source)))


def check_trained(samples: Iterable[Sample], root: Path, expected: str) -> None:
    """Raises DataError where there is no training image."""
    if not any(sample.split == "train" for sample in samples):
        raise DataError(
            "no training images",
            path=root,
            expected=expected,
            hint="complete the category, or choose others with --category",
        )


def first_names(names: Sequence[str], count: int = 3) -> str:
    """The first few of many names."""
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def drawn_split(
    names: Sequence[str],
    split: Split,
    *,
    noun: str,
    folder: Path,
    name_of: Callable[[str], str] = lambda line: PurePosixPath(line).name,
) -> tuple[set[str], str]:
    """Which of the good images are for training, and the rule in words.

    Without a list, 80 % (at least one) are drawn: the first ones of a permutation by NumPy's PCG64.

    Args:
        names: of all good images, sorted.
        split: the list, or the seed.
        noun: what they are, in the plural.
        folder: where they lie.
        name_of: from a line of the list, with `/`, to a name.

    Raises:
        DataError: a list that cannot be read, is empty, or names what is not there.
    """
    if split.train_list is not None:
        training = _listed(split.train_list, names, noun, folder, name_of)
        listed = bytes_digest("\n".join(sorted(training)).encode())
        return (
            training,
            f"list of {len(training)} of {len(names)} {noun}, SHA-256 of its names {listed}",
        )
    order = np.random.Generator(np.random.PCG64(split.seed)).permutation(len(names))
    training = {names[index] for index in order[: max(1, len(names) * 4 // 5)]}
    return (
        training,
        f"seed {split.seed}: {len(training)} of {len(names)} {noun} (80 %, PCG64)",
    )


def _listed(
    train_list: Path,
    names: Sequence[str],
    noun: str,
    folder: Path,
    name_of: Callable[[str], str],
) -> set[str]:
    try:
        lines = train_list.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise DataError(f"the training list cannot be read: {reason}", path=train_list) from error
    wanted = {name_of(line.strip().replace("\\", "/")) for line in lines} - {""}
    if not wanted:
        raise DataError("the training list is empty", path=train_list)
    missing = sorted(wanted - set(names))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(wanted)} listed names are not among the {noun}",
            path=train_list,
            expected=f"names of files in {folder}",
            got=first_names(missing),
            hint="pass the list that belongs to this data set, or leave --train-list out",
        )
    return wanted
