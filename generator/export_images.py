"""A negative set as a tree of PNG files, for tools that read folders."""

from __future__ import annotations

import csv
import io
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from generator.export_layout import LAYOUTS, ExportUnit, plan_export
from generator.export_tree import check_target, write_record
from generator.policies import POLICIES
from generator.recipe_parts import parts_of
from generator.workers import in_workers
from manifests.atomic import write_atomic
from manifests.confine import category_folder
from manifests.edits import Box
from manifests.errors import ConfigError, OutputError
from manifests.images import write_png
from manifests.licence import pixel_warning
from manifests.lock import folder_lock
from manifests.negative_set import NegativeSet
from manifests.progress import ProgressMaker
from manifests.schema import Manifest
from manifests.terminal import counted

TABLE = "negatives.csv"
NOTICE = "licence.txt"
# What a formula begins with, in East Asian spreadsheets too; and the apostrophe itself, so that who
# takes one off every text that has one gets all of them as they were.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "'")
COLUMNS = ("file", "mask", "normal", "source", "policy", "level", "repeat", "digest")


@dataclass(frozen=True)
class ExportSummary:
    """What an export wrote: images of both kinds into `folder`, each negative with its mask."""

    folder: Path
    layout: str
    set_digest: str
    normals: int
    negatives: int

    def to_json(self) -> dict:
        """Plain JSON types."""
        return vars(self) | {"folder": str(self.folder)}


def export_images(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str = "folder",
    policies: Sequence[str] = (),
    jobs: int = 1,
    overwrite: bool = False,
    make_progress: ProgressMaker | None = None,
) -> ExportSummary:
    """Writes one category's normals, negatives and masks as PNG files to `out/<category>/`.

    Letterbox padding is cropped away. Beside the images lie `negatives.csv`, which says of each
    negative what it was made from, `licence.txt`, and `export.json`, which names all files. There
    are no good test images in the layout "mvtec": a set holds training images only, and anomalib
    then tests on a part of those. The tree takes its name at the end, so that what has the name is
    whole.

    Args:
        folder: the set's folder; stored as pixels or as anchors.
        out: the category's folder is made in it.
        to: a key of `LAYOUTS`: "folder" for anomalib's Folder, "mvtec" for readers of MVTec AD.
        policies: kinds of negatives to export; all by default.
        jobs: worker processes.
        overwrite: replace an earlier export; nothing else is ever replaced, nor an export that
            holds other files than were written.
        make_progress: from a label and a unit to a function of how many are done and of how many.

    Warns:
        UserWarning: the licence of the images binds those who pass on their pixels.

    Raises:
        ConfigError: an unknown layout, or a policy that the set does not have or the layout
            cannot name.
        SetError, DigestError: no set, or a damaged one; every shard's SHA-256 is compared. Or its
            category is no name for a folder.
        OutputError: the category's folder is there, or cannot be written.

    Source: ours.
    """
    if to not in LAYOUTS:
        raise ConfigError("unknown layout", expected=" or ".join(LAYOUTS), got=repr(to))
    with NegativeSet.open(Path(folder)) as negative_set:
        manifest, set_digest = negative_set.manifest, negative_set.digest
        target = category_folder(out, manifest.category, path=negative_set.path)
        check_target(target, overwrite=overwrite)
        units = plan_export(negative_set, LAYOUTS[to], policies)
    warning = pixel_warning(manifest.licence, holder=str(target))
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    making = target.with_name(f".{target.name}.exporting")
    try:
        making.mkdir(parents=True, exist_ok=True)
        with folder_lock(making):
            _clear(making)
            # Named after this process: a worker that outlives a killed run writes elsewhere.
            tree = making / f"tree-{os.getpid()}"
            progress = make_progress and make_progress(f"export {manifest.category}", "images")
            rows = _write_all(Path(folder), units, tree, jobs, progress)
            write_atomic(tree / TABLE, _table(rows))
            notice = _notice(manifest, set_digest, {row[COLUMNS.index("policy")] for row in rows})
            write_atomic(tree / NOTICE, notice.encode("utf-8"))
            files = [file for unit in units for file in unit.files]
            write_record(tree, [*files, TABLE, NOTICE], layout=to, set_digest=set_digest)
            check_target(target, overwrite=overwrite)
            if target.exists():
                os.replace(target, making / "replaced")
            os.replace(tree, target)
            _clear(making)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            path=target,
            hint="check that the folder may be written to and has space, or pass another --out",
        ) from error
    finally:
        # Left alone where another run has it; after an error it holds nothing of worth.
        _remove(making)
    return ExportSummary(
        folder=target,
        layout=to,
        set_digest=set_digest,
        normals=sum(len(unit.normals) for unit in units),
        negatives=len(rows),
    )


def _write_all(
    folder: Path,
    units: Sequence[ExportUnit],
    tree: Path,
    jobs: int,
    progress: Callable[[int, int], None] | None,
) -> list[tuple]:
    for parent in sorted({Path(file).parent for unit in units for file in unit.files}):
        (tree / parent).mkdir(parents=True, exist_ok=True)
    total, done = sum(unit.n_images for unit in units), 0
    workers = min(jobs, max(len(units), 1))
    write = partial(_write_unit, folder, tree)
    rows: list[tuple] = []
    with in_workers(write, units, workers=workers, in_order=True) as results:
        for unit, found in zip(units, results, strict=True):
            rows += found
            done += unit.n_images
            if progress is not None:
                progress(done, total)
    return rows


def _write_unit(folder: Path, tree: Path, unit: ExportUnit) -> list[tuple]:
    """Writes the images of one shard and returns their rows of the table."""
    rows = []
    with NegativeSet.open(folder, check="files") as negative_set:
        boxes: dict[str, Box] = {}
        for i, file in unit.normals:
            normal = negative_set.normal(i)
            boxes[file] = normal.canvas_box
            write_png(tree / file, _cropped(normal.image, normal.canvas_box))
        for j, file, mask_file, of in unit.negatives:
            negative = negative_set[j]
            write_png(tree / file, _cropped(negative.image, boxes[of]))
            mask = np.where(negative.mask, 255, 0).astype(np.uint8)
            write_png(tree / mask_file, _cropped(mask, boxes[of]))
            made_from = (_as_text(negative.source), negative.policy)
            drawn = (negative.level, negative.repeat, negative.digest)
            rows.append((file, mask_file, of, *made_from, *drawn))
    return rows


def _cropped(image: np.ndarray, canvas_box: Box) -> np.ndarray:
    y, x, h, w = canvas_box
    return image[y : y + h, x : x + w]


def _as_text(cell: str) -> str:
    """A stranger's text for the table: spreadsheets take one that begins so for a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _table(rows: Sequence[tuple]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def _notice(manifest: Manifest, set_digest: str, policies: Collection[str]) -> str:
    """What `licence.txt` says of an export with negatives of these policies."""
    has_donors = any("donors" in POLICIES[name].needs for name in policies if name in POLICIES)
    return (
        f"Normal images and synthetic negatives made from them; category {manifest.category}.\n"
        f"Licence of the images: {manifest.licence or 'not stated'}\n"
        f"Attribution: {manifest.attribution or 'not stated'}\n"
        f"{_texture_notice(manifest.recipe) if has_donors else ''}"
        f"Exported from the set with the digest {set_digest}\n"
    )


def _texture_notice(recipe: Mapping[str, Any]) -> str:
    """A line on the textures that negatives hold, where they do."""
    tables = [part.get("donors") for part in parts_of(recipe)]
    found = [one for one in tables if isinstance(one, Mapping) and one.get("kind") == "textures"]
    if not found:
        return ""
    # Each folder once.
    counts: dict[str, Any] = {str(one.get("digest")): one.get("images") for one in found}
    are_numbers = all(type(count) is int for count in counts.values())
    textures = counted(sum(counts.values()), "texture") if are_numbers else "textures"
    return f"Negatives also hold pixels of {textures} under their own licence.\n"


def _clear(making: Path) -> None:
    """Removes what a killed run left, or this one has no more use for."""
    for path in making.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _remove(making: Path) -> None:
    try:
        with folder_lock(making):
            _clear(making)
        making.rmdir()
    except (OSError, OutputError):
        return
