"""A data set of our own in MVTec AD's layout: photographs of a bracket that nobody has to license.

`render_sample_data` draws every picture from its own generator, so asking for more pictures never
changes the others, and the same seed gives the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from generator.sample_damage import apply_defect
from generator.sample_defects import DRAW
from generator.sample_part import build_surface
from generator.sample_scene import draw_scene
from generator.sample_shading import expose, shade
from manifests.errors import ConfigError, OutputError
from manifests.images import write_png

DEFAULT_HEIGHT: Final = 288
DEFAULT_WIDTH: Final = 320
MIN_SIDE_PX: Final = 96
MAX_SIDE_PX: Final = 2048
# A name that no project folder has already, since --overwrite replaces it.
LICENSE_NAME: Final = "SAMPLE-DATA-LICENSE.txt"
DEFECTS: Final = tuple(sorted(DRAW))
# A pixel belongs to a defect's mask when any channel changed by more grey levels than this, before
# noise: below it, the change drowns in the sensor's noise.
MASK_TOLERANCE: Final = 3.0
# A defect is drawn again unless it changes at least this part of the picture by at least this many
# grey levels: a scratch along the brushing, say, is one that no inspector could see.
_VISIBLE_FRACTION = 4e-4
_VISIBLE_CHANGE = 16.0
# Each redraw is this much of the way to full severity firmer, so that a visible one is soon found.
_FIRMER_STEP = 0.04
_MAX_DRAWS = 100
_R2_STEPS = (0.5698402909980532, 0.7548776662466927)  # 1/p^2, 1/p where p^3 = p + 1
_LICENSE = """\
Sample data "{category}": synthetic pictures, rendered by cutswap (cutswap-gen sample-data).

Nothing in this folder was photographed or taken from anyone else's data. You may use it under
either of these, as you like:
  CC0 1.0 Universal (public domain dedication), https://creativecommons.org/publicdomain/zero/1.0/
  Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0

Layout as in MVTec AD: train/good, test/good, test/<defect>, ground_truth/<defect>/*_mask.png.
A mask is 255 on the pixels that the defect changed by more than {tolerance:g} of 255 grey levels in
any channel, before the sensor's noise was added, and 0 elsewhere.

seed {seed}, {width} x {height} pixels
"""


def render_sample_data(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    train: int = 60,
    test_good: int = 24,
    per_defect: int = 8,
    height: int = DEFAULT_HEIGHT,
    width: int = DEFAULT_WIDTH,
    category: str = "bracket",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render a whole data set into `folder`/`category` and return the path of `folder`.

    `train` and `test_good` pictures without, and `per_defect` pictures with each of the `DEFECTS`,
    all `height`×`width` RGB PNG files. Everything is rendered into a temporary folder beside
    `folder` and renamed at the end, so an interrupted call leaves nothing behind. `overwrite`
    replaces `folder`/`category` and the licence and leaves other files alone. `progress` is called
    with (pictures done, pictures in all) after each picture.

    Raises:
        ConfigError: a count, side, seed or name that cannot work.
        OutputError: `folder` exists, is not empty and `overwrite` is not given, or the disk fails.

    Source: ours.
    """
    _check(seed, train, test_good, per_defect, height, width, category)
    target = Path(os.path.abspath(folder))
    _check_target(target, overwrite=overwrite)
    jobs = [("train", "good", index) for index in range(train)]
    jobs += [("test", "good", index) for index in range(test_good)]
    jobs += [("test", defect, index) for defect in DEFECTS for index in range(per_defect)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
        try:
            os.chmod(temporary, 0o755)  # mkdtemp's 0700 would stay on the finished folder
            text = _LICENSE.format(
                category=category,
                tolerance=MASK_TOLERANCE,
                seed=seed,
                width=width,
                height=height,
            )
            (temporary / LICENSE_NAME).write_text(text, encoding="utf-8")
            for done, (split, defect, index) in enumerate(jobs, start=1):
                image, mask = render_sample(
                    seed=seed, split=split, defect=defect, index=index, height=height, width=width
                )
                root = temporary / category
                _write(root / split / defect / f"{index:03d}.png", image)
                if defect != "good":
                    values = np.where(mask, 255, 0).astype(np.uint8)
                    _write(root / "ground_truth" / defect / f"{index:03d}_mask.png", values)
                if progress is not None:
                    progress(done, len(jobs))
            _check_target(target, overwrite=overwrite)  # someone may have filled it meanwhile
            _move_into_place(temporary, target, category)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            "cannot write the sample data",
            path=target,
            got=error.strerror or str(error),
            hint="choose another folder or free some space",
        ) from error
    return target


def render_sample(
    *, seed: int, split: str, defect: str, index: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Render one picture: (H, W, 3) uint8 RGB and the (H, W) bool mask of its defect.

    The picture depends on nothing but the arguments. `split` is "train" or "test", `defect` "good"
    or one of `DEFECTS`. The mask is where any channel differs by more than `MASK_TOLERANCE` grey
    levels from the same scene without the defect, both before noise; it is empty for "good".

    Source: ours.
    """
    scene_rng, defect_rng, noise_rng = _generators(seed, split, defect, index)
    scene = draw_scene(scene_rng, height, width)
    surface = build_surface(scene)
    picture = shade(surface, scene)
    mask = np.zeros((height, width), bool)
    if defect != "good":
        clean = picture
        severity, kind = _severity_and_kind(seed, defect, index)
        smallest = max(4, math.ceil(_VISIBLE_FRACTION * height * width))
        for _ in range(_MAX_DRAWS):
            drawn = DRAW[defect](defect_rng, severity, kind)
            picture = shade(apply_defect(drawn, scene, surface), scene)
            change = np.abs(picture - clean).max(axis=-1)
            mask = change > MASK_TOLERANCE
            if np.count_nonzero(change >= _VISIBLE_CHANGE) >= smallest:
                break
            severity += _FIRMER_STEP * (1 - severity)
        else:
            raise ConfigError(
                f"no visible {defect} could be drawn",
                got=f"{width}x{height} pixels",
                hint="render larger images",
            )
    return expose(picture, noise_rng), mask


def _severity_and_kind(seed: int, defect: str, index: int) -> tuple[float, float]:
    """Severity and kind of one defective picture, both in [0, 1), evenly spread over any run.

    A two-dimensional golden-ratio (R2) sequence from a random start, shifted from defect to defect:
    a handful of pictures already covers faint to plain and every kind, which independent draws
    would not.
    """
    digest = hashlib.sha256(f"cutswap severity {seed}".encode("ascii")).digest()
    starts = (int.from_bytes(digest[k : k + 6], "big") / 2**48 for k in (0, 6))
    number = DEFECTS.index(defect)
    # The shifts fill the gaps that the steps leave within a few pictures.
    severity, kind = (
        math.fmod(start + number * shift + index * step, 1.0)
        for start, shift, step in zip(starts, (1 / 4, 1 / 16), _R2_STEPS, strict=True)
    )
    return severity, kind


def _generators(seed: int, split: str, defect: str, index: int) -> list[np.random.Generator]:
    """Three independent generators of one picture: for its scene, its defect and its noise."""
    key = f"cutswap sample {seed}|{split}|{defect}|{index}"
    entropy = int.from_bytes(hashlib.sha256(key.encode("ascii")).digest(), "big")
    children = np.random.SeedSequence(entropy).spawn(3)
    return [np.random.Generator(np.random.PCG64(child)) for child in children]


def _check(
    seed: int,
    train: int,
    test_good: int,
    per_defect: int,
    height: int,
    width: int,
    category: str,
) -> None:
    """Refuse arguments that cannot work. Raises ConfigError."""
    if seed < 0:
        raise ConfigError("seed must not be negative", got=seed, hint="pass --seed 0 or more")
    counts = {"train": (train, 2), "test_good": (test_good, 0), "per_defect": (per_defect, 0)}
    for name, (count, least) in counts.items():
        if not least <= count <= 100_000:
            raise ConfigError(
                f"{name} is out of range", expected=f"{least}..100000 images", got=count
            )
    for name, side in (("height", height), ("width", width)):
        if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
            raise ConfigError(
                f"{name} is out of range", expected=f"{MIN_SIDE_PX}..{MAX_SIDE_PX} px", got=side
            )
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", category):
        raise ConfigError(
            "unusable category name",
            expected="lower-case letters, digits, _ and -",
            got=repr(category),
        )


def _check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a file, and a folder with something in it unless it may go. Raises OutputError."""
    try:
        is_taken = target.exists() or target.is_symlink()
        is_folder = target.is_dir() and not target.is_symlink()
        is_empty = is_folder and not any(target.iterdir())
    except OSError as error:
        raise OutputError("cannot be read", path=target, got=error.strerror) from error
    if is_taken and not is_folder:
        raise OutputError("is not a folder", path=target, hint="choose another folder")
    if is_taken and not is_empty and not overwrite:
        raise OutputError(
            "the folder is not empty",
            path=target,
            hint="choose another folder, or pass --overwrite to replace the category in it",
        )


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, image)


def _move_into_place(temporary: Path, target: Path, category: str) -> None:
    """Rename what is finished to its place; in a folder that has other files, they stay."""
    if not target.exists() or not any(target.iterdir()):
        os.replace(temporary, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{category}.old-", dir=target))
    try:
        if (target / category).exists():
            os.replace(target / category, old / category)
        try:
            os.replace(temporary / category, target / category)
        except OSError:
            if (old / category).exists():
                os.replace(old / category, target / category)
            raise
        os.replace(temporary / LICENSE_NAME, target / LICENSE_NAME)
    finally:
        shutil.rmtree(old, ignore_errors=True)
