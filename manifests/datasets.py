"""Which images exist: a data folder or list opened as categories of training and test images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from manifests.categories import Category, Sample, slugify
from manifests.dataset_formats import FORMATS, Split
from manifests.errors import ConfigError, DataError
from manifests.images import list_images
from manifests.layouts.base import GOOD_NAMES, category_name, masks_beside

__all__ = ["FORMATS", "Category", "Sample", "open_data", "slugify"]

_PathLike = str | os.PathLike[str]

# Folder names, in lower case, that say that not every image inside is good.
_TELLING = {
    "test",
    "ground_truth",
    "mask",
    "masks",
    "bad",
    "defect",
    "defects",
    "defective",
    "anomaly",
    "anomalous",
    "ng",
    "nok",
    "ko",
    "abnormal",
    "fail",
    "failed",
    "faulty",
    "broken",
    "reject",
    "rejects",
    "rejected",
    "scrap",
}


def open_data(
    paths: _PathLike | Sequence[_PathLike],
    *,
    format: str | None = None,
    train_list: _PathLike | None = None,
    seed: int = 0,
    categories: Sequence[str] = (),
) -> list[Category]:
    """Open one or several data folders or lists.

    The layout of each folder is recognised by its marker folders, such as `train/good` (mvtec: one
    category or a root of several) or `MT_Free/Imgs` (mtd); `FORMATS` and docs/data.md have all. A
    folder with none is read as one category of good images (folder), but only if nothing in it
    speaks of test images, masks or defects: training on defects would spoil a model silently. No
    pixels are read, but those of masks where they alone say what is defective (kolektor,
    kolektor2).

    Args:
        paths: data folders; lists, `.csv` or `.parquet`.
        format: key of `FORMATS`, taken instead of recognising the layout.
        train_list: for mtd and labelled, a text file with one file name of a good image per line:
            the training images; the other good images are for testing. Without it 80 % of the good
            images are drawn.
        seed: of that draw, 0 or more.
        categories: names of the categories wanted, all by default.

    Returns:
        The categories, sorted by name; names are distinct.

    Raises:
        DataError: a folder is missing, empty, incomplete or ambiguous, or two categories have the
            same name.
        ConfigError: an unknown format or category, a negative seed, or a training list for data
            that has its own split.
        BadImages: masks that alone say what is defective and cannot be read.

    Source: ours.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise ConfigError("no data folder given")
    if format is not None and format not in FORMATS:
        raise ConfigError("unknown --format", expected=" | ".join(FORMATS), got=repr(format))
    if seed < 0:
        raise ConfigError("--seed cannot be used", expected="0 or more", got=seed)
    roots = list(_roots(given, format))
    if categories:
        roots = _wanted(roots, categories)
    _check_distinct([root for root, _ in roots])
    if train_list is not None and not any(FORMATS[kind].draws_split for _, kind in roots):
        drawn = " and ".join(kind for kind in FORMATS if FORMATS[kind].draws_split)
        raise ConfigError(
            f"--train-list is for data of the formats {drawn} only; others have their own split",
            path=train_list,
            hint="leave it out",
        )
    split = Split(None if train_list is None else Path(train_list), seed)
    found = [FORMATS[kind].read(root, split) for root, kind in roots]
    return sorted(found, key=lambda category: category.name)


def _roots(paths: Sequence[_PathLike], format: str | None) -> Iterator[tuple[Path, str]]:
    """The folder (or the list) and the format of every category."""
    for path in paths:
        # Absolute, so that "." has a name; links are kept, their names are the user's choice.
        root = Path(os.path.abspath(path))
        is_list = bool(FORMATS["list"].find(root))
        if not os.path.isdir(root) and not is_list:
            what = "not a folder" if os.path.exists(root) else "no such folder"
            raise DataError(
                what,
                path=path,
                expected="a data folder, or a list (.csv, .parquet)",
                hint="check the path",
            )
        if is_list and format not in (None, "list"):
            raise DataError(
                f"a list, and no folder as --format {format} has it",
                path=path,
                hint="leave --format out",
            )
        kind = format or ("list" if is_list else _recognised(root))
        inside = FORMATS[kind].find(root)
        if not inside:
            raise DataError(
                f"not laid out as --format {kind} says", path=path, expected=FORMATS[kind].looks_for
            )
        for folder in inside:
            yield folder, kind


def _recognised(root: Path) -> str:
    marked = [kind for kind in FORMATS if kind != "folder" and FORMATS[kind].find(root)]
    if len(marked) > 1:
        raise DataError(
            f"ambiguous: looks like {' and '.join(marked)}",
            path=root,
            hint=f"pass --format {' or --format '.join(marked)}",
        )
    if marked:
        return marked[0]
    images = list_images(root, allow_empty=True)
    if not images:
        is_empty = not any(root.iterdir())
        raise DataError(
            "the folder is empty" if is_empty else "no images and no known layout in this folder",
            path=root,
            expected=_layouts(),
        )
    _check_unlabelled(root, images)
    return "folder"


def _layouts() -> str:
    return "; or ".join(f"{kind}: {form.looks_for}" for kind, form in FORMATS.items())


def _check_unlabelled(root: Path, images: Sequence[Path]) -> None:
    """Refuse to guess that every image is good where names suggest that some are not."""
    sources = [image.relative_to(root) for image in images]
    folders = [tuple(part.lower() for part in source.parts[:-1]) for source in sources]
    good_names = [
        next((part for part in source.parts[:-1] if part.lower() in GOOD_NAMES), None)
        for source in sources
    ]
    good_name = next(filter(None, good_names), None)
    masked = masks_beside(source.with_suffix("").as_posix() for source in sources)
    seen: dict[Path, Path] = {}
    for source, parts, own_name in zip(sources, folders, good_names, strict=True):
        stem = source.with_suffix("")
        reason = None
        if any(part in _TELLING or (part.startswith("mt_") and "imgs" in parts) for part in parts):
            reason = "looks like a test image, a defect or a mask"
        elif good_name is not None and own_name is None:
            reason = f"lies outside the folder {good_name!r} that others lie in"
        elif stem in seen:
            reason = f"has the name of {seen[stem].name} and may be its mask"
        elif stem.as_posix() in masked:
            reason = f"may be the mask of {masked[stem.as_posix()]}"
        if reason is not None:
            raise DataError(
                f"ambiguous: {source.as_posix()} {reason}",
                path=root,
                expected=_layouts(),
                hint="pass the data set's own folder, call the folder of good images 'good', or "
                "pass --format folder to take every image as good",
            )
        seen[stem] = source


def _wanted(roots: Sequence[tuple[Path, str]], names: Sequence[str]) -> list[tuple[Path, str]]:
    known = sorted({category_name(root) for root, _ in roots})
    wanted = {slugify(name): name for name in names}
    unknown = [name for slug, name in wanted.items() if slug not in known]
    if unknown:
        raise ConfigError(
            "unknown --category", expected=" | ".join(known), got=", ".join(map(repr, unknown))
        )
    return [(root, kind) for root, kind in roots if category_name(root) in wanted]


def _check_distinct(roots: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for root in roots:
        name = category_name(root)
        if name in seen:
            raise DataError(
                f"two categories would be named {name!r}",
                path=root,
                got=f"the other is {seen[name]}",
                hint="rename one folder, or pass it once only",
            )
        seen[name] = root
