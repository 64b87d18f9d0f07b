"""The magnetic tiles (MTD): a folder per defect with images and masks beside each other."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from manifests.categories import Category, Sample
from manifests.errors import DataError
from manifests.layouts.base import (
    Split,
    category_name,
    defective_samples,
    drawn_split,
    images_in,
    make_sample,
    masks_in,
    ordered,
    subfolders,
)

_NAME = re.compile(r"exp(?P<exposure>[0-9]{1,3})_num_(?P<number>[0-9]{1,9})")
# Images of one tile are some 20 numbers apart, seldom more than 100; the next tile is thousands on.
_LONGEST_STEP = 200


def find_mtd(root: Path) -> list[Path]:
    """The root itself."""
    return [root] if os.path.isdir(root / "MT_Free" / "Imgs") else []


def read_mtd(root: Path, split: Split) -> Category:
    """`MT_Free/Imgs/*.jpg` and `MT_<Defect>/Imgs/NAME.jpg` with masks `NAME.png` beside them.

    Raises:
        DataError: no free tile, a defect without its folder, or only some of its masks; a training
            list that does not fit.
    """
    folder = root / "MT_Free" / "Imgs"
    free = {path.name: path for path in _tiles(folder)}
    if not free:
        raise DataError("no training images", path=root, expected="*.jpg in MT_Free/Imgs")
    training, rule = drawn_split(sorted(free), split, noun="free tiles", folder=folder)
    samples = [
        make_sample(root, path, "good", "train" if name in training else "test")
        for name, path in free.items()
    ]
    for folder in subfolders(root):
        if not folder.name.startswith("MT_") or folder.name == "MT_Free":
            continue
        inside = folder / "Imgs"
        if not inside.is_dir():
            raise DataError("no images of this defect", path=folder, expected="a folder Imgs")
        images = _tiles(inside)
        masks = masks_in(inside, suffixes=(".png",))
        wanted = [path.relative_to(inside).with_suffix("").as_posix() for path in images]
        samples += defective_samples(root, images, wanted, masks, folder.name[3:].lower())
    return Category(
        name=category_name(root),
        root=root,
        format="mtd",
        samples=ordered(_with_parts(samples)),
        mask_binarise_at=128,
        split_rule=rule,
        is_drawn=split.train_list is None,
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
        match = _NAME.fullmatch(sample.path.stem)
        if match is not None:
            folder = str(PurePosixPath(sample.source).parent)
            named.append((folder, int(match["number"]), int(match["exposure"]), sample.source))
    parts: dict[str, str] = {}
    before: tuple[str, int, int, str] | None = None
    for row in sorted(named):
        folder, number, exposure, source = row
        parts[source] = source
        if (
            before is not None
            and before[0] == folder
            and exposure > before[2]
            and number - before[1] <= _LONGEST_STEP
        ):
            parts[source] = parts[before[3]]
        before = row
    return [replace(sample, part=parts.get(sample.source, "")) for sample in samples]


def _tiles(folder: Path) -> list[Path]:
    """The images of one MTD folder; the PNGs beside them are their masks."""
    return [path for path in images_in(folder) if path.suffix.lower() in (".jpg", ".jpeg")]
