"""Scores images without labels: verdicts, heat maps and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from detector.detectors import Detector, Scores
from detector.image_stream import ImageStream, LoadedImage
from detector.model import load_model
from detector.score_ahead import score_ahead
from manifests.errors import CutswapError, OutputError
from manifests.images import DEFAULT_MAX_PIXELS, list_images, restore_map, write_png


@dataclass(frozen=True)
class ScoredImage:
    """One image's verdict.

    Attributes:
        normalised: the score over the image threshold.
        p_value: how rare such a score is among good images, see `Calibration.p_values`.
    """

    path: Path
    score: float
    normalised: float
    p_value: float
    is_defect: bool


def score_images(
    model_folder: str | PathLike[str],
    paths: Sequence[str | PathLike[str]],
    *,
    heatmaps: Path | None = None,
    masks: Path | None = None,
    device: str = "cpu",
    readers: int = 2,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[ScoredImage], list[CutswapError]]:
    """Scores images and folders; returns the verdicts in order and the skipped files' errors."""
    from detector.report import heatmap_image

    model = load_model(model_folder, device=device)
    files = list_images(paths)
    names = _output_names(files, paths)
    stream = ImageStream(
        files,
        model.geometry,
        batch=model.config.batch,
        max_pixels=max_pixels,
        skip_bad=skip_bad,
        keep_originals=heatmaps is not None,
        readers=readers,
    )
    rows = []
    for batch, found in score_stream(model.detector, stream):
        rarities = model.calibration.p_values(found.image)
        for loaded, score, rarity, canvas_map in zip(
            batch, found.image, rarities, found.map, strict=True
        ):
            rows.append(
                ScoredImage(
                    path=loaded.path,
                    score=float(score),
                    normalised=float(score / model.image_threshold.value),
                    p_value=float(rarity),
                    is_defect=bool(score > model.image_threshold.value),
                )
            )
            if heatmaps is None and masks is None:
                continue
            full = restore_map(canvas_map, loaded.placement)
            is_flagged = full > model.pixel_threshold.value
            if heatmaps is not None and loaded.original is not None:
                picture = heatmap_image(
                    loaded.original, full, threshold=model.pixel_threshold.value, mask=is_flagged
                )
                _write_picture(heatmaps / names[loaded.path], picture)
            if masks is not None:
                _write_picture(
                    masks / names[loaded.path], np.where(is_flagged, 255, 0).astype(np.uint8)
                )
        if progress is not None:
            progress(batch[-1].index + 1, len(files))
    return rows, stream.errors


def score_stream(
    detector: Detector, stream: ImageStream
) -> Iterator[tuple[list[LoadedImage], Scores]]:
    """Yields every batch of a stream with its scores; the next ones are read and scored meanwhile.

    Raises:
        BadImages: after the last batch, unless the stream skips them.
    """
    return score_ahead(
        detector,
        stream,
        lambda batch: (
            np.stack([loaded.canvas for loaded in batch]),
            [loaded.placement.canvas_box for loaded in batch],
        ),
    )


def _output_names(files: Sequence[Path], paths: Sequence[str | PathLike[str]]) -> dict[Path, Path]:
    """A distinct .png name for every input, with the folders below the argument it came from."""
    roots = [Path(path) for path in paths if Path(path).is_dir()]
    names: dict[Path, Path] = {}
    taken: set[Path] = set()
    for file in files:
        root = next((root for root in roots if file.is_relative_to(root)), file.parent)
        relative = file.relative_to(root)
        name = relative.with_suffix(".png")
        if name in taken:
            name = relative.with_name(relative.name + ".png")
        number = 2
        while name in taken:
            name = relative.with_name(f"{relative.name}-{number}.png")
            number += 1
        taken.add(name)
        names[file] = name
    return names


def _write_picture(path: Path, image: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}", path=path.parent
        ) from error
    write_png(path, image)
