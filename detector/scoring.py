"""Scores images without labels: verdicts, regions, heat maps and masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np

from detector.detectors import Detector, Scores
from detector.image_stream import ImageStream, LoadedImage
from detector.min_area import ANY_AREA, MinArea
from detector.model import Model, load_model
from detector.model_record import read_record
from detector.score_ahead import score_ahead
from detector.scored_image import ScoredImage, judge
from detector.threshold import relative_to
from manifests.errors import ConfigError, CutswapError, OutputError
from manifests.images import DEFAULT_MAX_PIXELS, list_images, restore_map, write_png


class OriginalScores:
    """How anomalous an image is, and each pixel of the original.

    Attributes:
        image: the image score, a float32 number.
    """

    def __init__(self, loaded: LoadedImage, image: np.float32, canvas_map: np.ndarray) -> None:
        self.loaded = loaded
        self.image = image
        self._canvas_map = canvas_map

    @cached_property
    def map(self) -> np.ndarray:
        """(H0, W0) float32 in the original's pixels; made where it is asked for."""
        return restore_map(self._canvas_map, self.loaded.placement)


def original_scores(model: Model, stream: ImageStream) -> Iterator[list[OriginalScores]]:
    """Yields a stream's batches with their scores; the only step from images to scores.

    Raises:
        BadImages: after the last batch, unless the stream skips them.
    """
    for batch, found in score_stream(model.detector, stream):
        yield [
            OriginalScores(loaded, score, canvas_map)
            for loaded, score, canvas_map in zip(batch, found.image, found.map, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Scorer:
    """A model, and what is wanted of each image.

    Attributes:
        min_area: a defective part shows a region of this area.
        with_regions: describe the regions above the pixel threshold.
        heatmaps, masks: folders for pictures in original pixels.
    """

    model: Model
    model_digest: str
    min_area: MinArea = ANY_AREA
    with_regions: bool = False
    heatmaps: Path | None = None
    masks: Path | None = None

    @classmethod
    def load(
        cls,
        model_folder: str | PathLike[str],
        *,
        device: str = "cpu",
        min_area: MinArea = ANY_AREA,
        with_regions: bool = False,
        heatmaps: Path | None = None,
        masks: Path | None = None,
    ) -> Self:
        """With the model of a folder. Raises ModelError or WeightsError, see `load_model`."""
        model = load_model(model_folder, device=device)
        digest = read_record(Path(model_folder))[1]
        return cls(model, digest, min_area, with_regions, heatmaps, masks)

    def stream(
        self, files: Sequence[Path], *, readers: int, max_pixels: int, skip_bad: bool
    ) -> ImageStream:
        """Files as `score` takes them."""
        return ImageStream(
            files,
            self.model.geometry,
            batch=self.model.config.batch,
            max_pixels=max_pixels,
            skip_bad=skip_bad,
            keep_originals=self.heatmaps is not None,
            readers=readers,
        )

    def score(
        self, stream: ImageStream, names: Mapping[Path, Path]
    ) -> Generator[list[tuple[int, ScoredImage]], None, None]:
        """Yields every batch's verdicts with the images' places in the stream.

        Pictures are written before their verdict is yielded.

        Args:
            names: of the pictures, by path.

        Raises:
            BadImages: after the last batch, unless the stream skips them.
            OutputError: a picture cannot be written.
        """
        for batch in original_scores(self.model, stream):
            rows = []
            for scores in batch:
                self._draw(scores, names)
                rows.append((scores.loaded.index, self._judged(scores)))
            yield rows

    def _judged(self, scores: OriginalScores) -> ScoredImage:
        loaded, model = scores.loaded, self.model
        height, width = loaded.placement.source_height, loaded.placement.source_width
        verdict = judge(
            model,
            scores.image,
            lambda: scores.map,
            height=height,
            width=width,
            min_area=self.min_area,
            with_regions=self.with_regions,
        )
        return ScoredImage(
            path=loaded.path,
            score=float(scores.image),
            normalised=relative_to(model.image_threshold.value, scores.image),
            p_value=float(model.calibration.p_values(np.asarray(scores.image)[None])[0]),
            is_defect=verdict.is_defect,
            height=height,
            width=width,
            file_sha256=loaded.file_sha256,
            min_area_px=verdict.min_area_px,
            regions=verdict.regions if self.with_regions else None,
        )

    def _draw(self, scores: OriginalScores, names: Mapping[Path, Path]) -> None:
        if self.heatmaps is None and self.masks is None:
            return
        from detector.report import heatmap_image

        threshold = self.model.pixel_threshold.value
        is_flagged = scores.map > threshold
        name = names[scores.loaded.path]
        if self.heatmaps is not None and scores.loaded.original is not None:
            picture = heatmap_image(
                scores.loaded.original, scores.map, threshold=threshold, mask=is_flagged
            )
            _write_picture(self.heatmaps / name, picture)
        if self.masks is not None:
            _write_picture(self.masks / name, np.where(is_flagged, 255, 0).astype(np.uint8))


def score_images(
    model_folder: str | PathLike[str],
    paths: Sequence[str | PathLike[str]],
    *,
    heatmaps: Path | None = None,
    masks: Path | None = None,
    min_area: MinArea = ANY_AREA,
    with_regions: bool = False,
    device: str = "cpu",
    readers: int = 2,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[ScoredImage], list[CutswapError]]:
    """Scores images and folders; returns the verdicts in order and the skipped files' errors."""
    scorer = Scorer.load(
        model_folder,
        device=device,
        min_area=min_area,
        with_regions=with_regions,
        heatmaps=heatmaps,
        masks=masks,
    )
    errors: list[CutswapError] = []
    rows = score_each(
        scorer,
        paths,
        errors,
        readers=readers,
        max_pixels=max_pixels,
        skip_bad=skip_bad,
        progress=progress,
    )
    return list(rows), errors


def score_each(
    scorer: Scorer,
    paths: Sequence[str | PathLike[str]],
    errors: list[CutswapError],
    *,
    readers: int = 2,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[ScoredImage]:
    """Yields the verdicts on images and folders in order, each batch as soon as it is scored.

    Args:
        errors: takes those of skipped files, after the last verdict.

    Raises:
        BadImages: images that cannot be used, after what was good before the first of them, unless
            `skip_bad`.
        ConfigError: a picture would replace one of the images, or another picture.
    """
    files = list_images(paths)
    names = _output_names(files, paths)
    _check_pictures(scorer, files, names)
    stream = scorer.stream(files, readers=readers, max_pixels=max_pixels, skip_bad=skip_bad)
    for batch in scorer.score(stream, names):
        yield from (row for _, row in batch)
        if progress is not None:
            progress(batch[-1][0] + 1, len(files))
    errors += stream.errors


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


def _check_pictures(scorer: Scorer, files: Sequence[Path], names: Mapping[Path, Path]) -> None:
    folders = {
        option: folder
        for option, folder in (("--heatmaps", scorer.heatmaps), ("--masks", scorer.masks))
        if folder is not None
    }
    if len({os.path.realpath(folder) for folder in folders.values()}) < len(folders):
        raise ConfigError(
            "--heatmaps and --masks name the same folder",
            path=scorer.masks,
            hint="name another one for the masks",
        )
    images = {os.path.realpath(file): file for file in files}
    for option, folder in folders.items():
        for name in names.values():
            if (image := images.get(os.path.realpath(folder / name))) is not None:
                raise ConfigError(
                    f"{option} would replace this image by a picture of it",
                    path=image,
                    hint="name a folder without images",
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
