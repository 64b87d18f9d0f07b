"""New thresholds for a fitted model, from good images that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np

from detector.calibration import OTHERS, Calibration
from detector.derived_model import need_room, save_derived
from detector.image_stream import ImageStream
from detector.model import Model, load_model
from detector.model_folder import models_root
from detector.scoring import score_stream
from detector.threshold import Threshold
from manifests.confine import category_folder
from manifests.errors import ModelError
from manifests.images import DEFAULT_MAX_PIXELS, list_images

FEWEST = 2


@dataclass(frozen=True)
class Recalibrated:
    """What a recalibration did.

    Attributes:
        before, after: thresholds of image scores.
        pixel_before, pixel_after: of score maps.
        exceeding: how many of the images exceeded the image threshold before.
        seen: how many of them the model had seen in its fit, and which therefore do not count.
    """

    folder: Path
    category: str
    model_digest: str
    images: int
    exceeding: int
    seen: int
    before: Threshold
    after: Threshold
    pixel_before: Threshold
    pixel_after: Threshold

    def to_json(self) -> dict:
        """Plain JSON types."""
        thresholds = ("before", "after", "pixel_before", "pixel_after")
        return (
            vars(self)
            | {"folder": str(self.folder)}
            | {name: getattr(self, name).to_json() for name in thresholds}
            | {"false_alarm_interval": list(self.after.rate_interval())}
        )


def recalibrate_model(
    model_folder: str | PathLike[str],
    paths: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    rate: float | None = None,
    device: str = "cpu",
    readers: int = 2,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Recalibrated:
    """Writes the model with thresholds of other good images into `out/<category>/`.

    Network and detector stay as they are. The images count as training files from then on, which
    `eval` leaves out.

    Args:
        paths: good images and folders of them; files that the model has seen in its fit are left
            out, as their scores say nothing of new ones.
        out: another root than the model's own.
        rate: false-alarm rate; None for that of the model.
        overwrite: replace a model that lies there.

    Raises:
        ConfigError: a rate out of range.
        ModelError: no model, too few images that it has not seen, or a model in the way.
        BadImages: images that cannot be read.
        OutputError: the folder cannot be written.
    """
    model = load_model(model_folder, device=device)
    rate = model.config.false_alarm_rate if rate is None else rate
    config = replace(model.config, false_alarm_rate=rate)
    folder = category_folder(models_root(out), model.category, path=model_folder)
    need_room(folder, Path(model_folder), overwrite=overwrite)
    stream = ImageStream(
        list_images(paths),
        model.geometry,
        batch=model.config.batch,
        max_pixels=max_pixels,
        exclude=model.training_files,
        exclude_pixels=model.training_pixels,  # images of the fit in other files
        readers=readers,
    )
    calibration, digests = _calibration(model, stream, progress)
    image_threshold, pixel_threshold = calibration.thresholds(rate)
    changed = replace(
        model,
        config=config,
        calibration=calibration,
        image_threshold=image_threshold,
        pixel_threshold=pixel_threshold,
        training_files=model.training_files | digests,
        score_bounds=0,  # all scores are new
    )
    digest = save_derived(folder, changed, Path(model_folder), overwrite=overwrite)
    return Recalibrated(
        folder=folder,
        category=model.category,
        model_digest=digest,
        images=len(calibration),
        exceeding=int((calibration.image > model.image_threshold.value).sum()),
        seen=len(stream.excluded),
        before=model.image_threshold,
        after=image_threshold,
        pixel_before=model.pixel_threshold,
        pixel_after=pixel_threshold,
    )


def _calibration(
    model: Model, stream: ImageStream, progress: Callable[[int, int], None] | None
) -> tuple[Calibration, frozenset[str]]:
    """Scores of a stream's images, and the digests of their files."""
    image, maxima, digests = [], [], set()
    for batch, scores in score_stream(model.detector, stream):
        image.append(scores.image)
        maxima.append(scores.map.max(axis=(1, 2)))
        digests |= {one.file_sha256 for one in batch}
        if progress is not None:
            progress(batch[-1].index + 1, len(stream.paths))
    if sum(map(len, image)) < FEWEST:
        raise ModelError(
            "too few good images that the model has not seen",
            expected=f"at least {FEWEST}",
            got=f"{sum(map(len, image))} of {len(stream.paths)}",
            hint="give photos that were not in the negative set",
        )
    found = Calibration.of(np.concatenate(image), np.concatenate(maxima), OTHERS)
    return found, frozenset(digests)
