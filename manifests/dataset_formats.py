"""The folder layouts that are understood, one reader each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from manifests.categories import Category, Sample, is_visa, known_terms, slugify
from manifests.digest import bytes_digest
from manifests.errors import DataError
from manifests.images import list_images

_MTD_NAME = re.compile(r"exp(?P<exposure>[0-9]{1,3})_num_(?P<number>[0-9]{1,9})")
# Images of one tile are some 20 numbers apart, seldom more than 100; the next tile is thousands on.
_MTD_LONGEST_STEP = 200


@dataclass(frozen=True)
class Split:
    """How to split what comes without a split: by a list of names, else by seed."""

    train_list: Path | None
    seed: int


@dataclass(frozen=True)
class Format:
    """A layout: the category folders it sees in a root, its reader, and its marker in words."""

    find: Callable[[Path], list[Path]]
    read: Callable[[Path, Split], Category]
    looks_for: str


def subfolders(folder: Path) -> list[Path]:
    """The folders directly inside, hidden ones left out, sorted. Raises DataError."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=folder) from error
    return [
        folder / name for name in names if not name.startswith(".") and (folder / name).is_dir()
    ]


def _find_mvtec(root: Path) -> list[Path]:
    if _is_mvtec(root):
        return [root]
    inside = subfolders(root)
    if not any(map(_is_mvtec, inside)):
        return []
    # A half-copied category is found as well, so that reading reports it.
    parts = ("train", "test", "ground_truth")
    return [path for path in inside if any(os.path.isdir(path / part) for part in parts)]


def _is_mvtec(folder: Path) -> bool:
    return os.path.isdir(folder / "train" / "good")


def _read_mvtec(root: Path, split: Split) -> Category:
    good = list_images(root / "train" / "good", allow_empty=True) if _is_mvtec(root) else []
    if not good:
        raise DataError(
            "no training images",
            path=root,
            expected="images in train/good",
            hint="complete the category, or choose others with --category",
        )
    samples = [_sample(root, path, "good", "train") for path in good]
    name = slugify(root.name)
    test = root / "test"
    kinds = subfolders(test) if test.is_dir() else []
    defects = {folder.name for folder in kinds if folder.name.lower() != "good"}
    for path in list_images(test, allow_empty=True) if test.is_dir() else []:
        if path.parent == test:
            raise DataError(
                "a test image without a label",
                path=path,
                expected="test/good or test/<defect>",
                hint="move it into the folder of its kind",
            )
    for folder in kinds:
        images = list_images(folder, allow_empty=True)
        if folder.name.lower() == "good":
            samples += [_sample(root, path, "good", "test") for path in images]
            continue
        masks = _masks(root / "ground_truth" / folder.name)
        wanted = [path.relative_to(folder).with_suffix("").as_posix() for path in images]
        # VisA as its authors convert it calls a mask like its image.
        if not (is_visa(name, defects) and masks and masks.keys() >= set(wanted)):
            wanted = [f"{stem}_mask" for stem in wanted]
        samples += _defective(root, images, wanted, masks, folder.name)
    licence, attribution = known_terms(name, defects)
    return Category(
        name=name,
        root=root,
        format="mvtec",
        samples=_ordered(samples),
        mask_binarise_at=1,
        split_rule="folders: train/good for training, test/* for testing",
        licence=licence,
        attribution=attribution,
    )


def _find_mtd(root: Path) -> list[Path]:
    return [root] if os.path.isdir(root / "MT_Free" / "Imgs") else []


def _read_mtd(root: Path, split: Split) -> Category:
    folder = root / "MT_Free" / "Imgs"
    free = {path.name: path for path in _tiles(folder)} if folder.is_dir() else {}
    if not free:
        raise DataError("no training images", path=root, expected="*.jpg in MT_Free/Imgs")
    names = sorted(free)
    if split.train_list is not None:
        training = _listed(split.train_list, names, root)
        listed = bytes_digest("\n".join(sorted(training)).encode())
        rule = f"list of {len(training)} of {len(names)} free tiles, SHA-256 of its names {listed}"
    else:
        order = np.random.Generator(np.random.PCG64(split.seed)).permutation(len(names))
        training = {names[index] for index in order[: max(1, len(names) * 4 // 5)]}
        rule = f"seed {split.seed}: {len(training)} of {len(names)} free tiles (80 %, PCG64)"
    samples = [
        _sample(root, path, "good", "train" if name in training else "test")
        for name, path in free.items()
    ]
    for folder in subfolders(root):
        if not folder.name.startswith("MT_") or folder.name == "MT_Free":
            continue
        inside = folder / "Imgs"
        if not inside.is_dir():
            raise DataError("no images of this defect", path=folder, expected="a folder Imgs")
        images = _tiles(inside)
        masks = _masks(inside, suffixes=(".png",))
        wanted = [path.relative_to(inside).with_suffix("").as_posix() for path in images]
        samples += _defective(root, images, wanted, masks, folder.name[3:].lower())
    return Category(
        name=slugify(root.name),
        root=root,
        format="mtd",
        samples=_ordered(_with_parts(samples)),
        mask_binarise_at=128,
        split_rule=rule,
        licence="not stated; citation requested",
        attribution=(
            "MTD: Huang, Qiu, Yuan, Surface defect saliency of magnetic tile, "
            "The Visual Computer 36 (2020)"
        ),
    )


def _with_parts(samples: Sequence[Sample]) -> list[Sample]:
    """Samples of the magnetic tiles with the tile that each shows.

    A tile was photographed under up to six exposures, one after the other: `exp2_num_834.jpg`
    follows `exp1_num_824.jpg`. The data set does not say which images belong together; here a new
    tile begins in a folder where the exposure does not rise, or where the number jumps.
    """
    named = []
    for sample in samples:
        match = _MTD_NAME.fullmatch(sample.path.stem)
        if match is not None:
            folder = PurePosixPath(sample.source).parent
            named.append((str(folder), int(match["number"]), int(match["exposure"]), sample.source))
    parts: dict[str, str] = {}
    before = None
    for row in sorted(named):
        folder, number, exposure, source = row
        is_same = (
            before is not None
            and before[0] == folder
            and exposure > before[2]
            and number - before[1] <= _MTD_LONGEST_STEP
        )
        parts[source] = parts[before[3]] if is_same else source
        before = row
    return [replace(sample, part=parts.get(sample.source, "")) for sample in samples]


def _tiles(folder: Path) -> list[Path]:
    """The images of one MTD folder; the PNGs beside them are their masks."""
    paths = list_images(folder, allow_empty=True)
    return [path for path in paths if path.suffix.lower() in (".jpg", ".jpeg")]


def _listed(train_list: Path, names: Sequence[str], root: Path) -> set[str]:
    try:
        lines = train_list.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise DataError(f"the training list cannot be read: {reason}", path=train_list) from error
    wanted = {PurePosixPath(line.strip().replace("\\", "/")).name for line in lines} - {""}
    if not wanted:
        raise DataError("the training list is empty", path=train_list)
    missing = sorted(wanted - set(names))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(wanted)} listed names are not among the free tiles",
            path=train_list,
            expected=f"names of files in {root / 'MT_Free' / 'Imgs'}",
            got=_first(missing),
            hint="pass the list that belongs to this data set, or leave --train-list out",
        )
    return wanted


def _find_folder(root: Path) -> list[Path]:
    return [root]


def _read_folder(root: Path, split: Split) -> Category:
    return Category(
        name=slugify(root.name),
        root=root,
        format="folder",
        samples=_ordered(_sample(root, path, "good", "train") for path in list_images(root)),
        mask_binarise_at=1,
        split_rule="all images are good training images",
        licence="",
        attribution="",
    )


def _masks(folder: Path, suffixes: Sequence[str] | None = None) -> dict[str, Path] | None:
    """Mask files by their path in `folder` without suffix; None where there are none to expect."""
    if not folder.is_dir():
        return None
    paths = list_images(folder, allow_empty=True)
    if suffixes is not None:
        paths = [path for path in paths if path.suffix.lower() in suffixes]
        if not paths:
            return None
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _defective(
    root: Path,
    images: Sequence[Path],
    wanted: Sequence[str],
    masks: Mapping[str, Path] | None,
    defect: str,
) -> list[Sample]:
    if masks is None:
        return [_sample(root, path, defect, "test") for path in images]
    missing = [path for path, name in zip(images, wanted, strict=True) if name not in masks]
    if missing:
        named = _first([path.relative_to(root).as_posix() for path in missing])
        raise DataError(
            f"{len(missing)} of {len(images)} images of the defect {defect!r} have no mask",
            path=root,
            expected=f"a mask for {named}",
            hint="add the masks, or take all masks of this defect away to score images only",
        )
    return [
        _sample(root, path, defect, "test", masks[name])
        for path, name in zip(images, wanted, strict=True)
    ]


def _sample(root: Path, path: Path, defect: str, split: str, mask: Path | None = None) -> Sample:
    source = path.relative_to(root).as_posix()
    try:
        source.encode("utf-8")
    except UnicodeEncodeError:
        readable = os.fsencode(source).decode("utf-8", "backslashreplace")
        raise DataError(
            "the file name is not valid UTF-8", path=readable, hint="rename the file"
        ) from None
    return Sample(path, source, int(defect != "good"), defect, mask, split)


def _ordered(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: (sample.split != "train", sample.source)))


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


FORMATS: dict[str, Format] = {
    "mvtec": Format(_find_mvtec, _read_mvtec, "train/good, in it or in folders inside it"),
    "mtd": Format(_find_mtd, _read_mtd, "MT_Free/Imgs"),
    "folder": Format(_find_folder, _read_folder, "good images only"),
}
