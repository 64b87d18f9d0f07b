"""What `eval` and `score` show: the results table, heat maps and a folder of pictures.

Heat maps of all images share one colour scale: the score relative to the pixel threshold, which
lies in its middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detector.cases import CASE_TILE_PX, HEAT_HIGH, HEAT_LOW, Case, case_sheet, choose_cases
from detector.curves import plot_histograms, plot_roc
from detector.score_bins import relative_scores, relative_values
from detector.score_curves import Curve, roc_of
from manifests.annotate import SKY, fit_tile, outline, overlay
from manifests.canvas import restore_map, restore_mask
from manifests.errors import OutputError
from manifests.geometry import Geometry, place
from manifests.images import read_image

if TYPE_CHECKING:
    from detector.evaluate import Evaluation

METRIC_COLUMNS = (
    ("image_auroc", "image", "AUROC"),
    ("image_ap", "", "AP"),
    ("image_f1_max", "", "F1-max"),
    ("pixel_auroc", "pixel", "AUROC"),
    ("pixel_ap", "", "AP"),
    ("pixel_f1_max", "", "F1-max"),
    ("aupro", "", "AUPRO"),
    ("pixel_iou", "", "IoU"),
)
OPTIONAL_METRICS = ("pixel_iou",)  # a column only where a model has it
_NONE = "—"


def results_table(rows: Sequence[Mapping[str, object]]) -> str:
    """An aligned table: a line per category, then the unweighted mean of two or more.

    Args:
        rows: "category" and any of the metrics image_auroc, image_ap, image_f1_max, pixel_auroc,
            pixel_ap, pixel_f1_max, aupro and pixel_iou, each a float in 0..1 or None. None is shown
            as a dash and left out of its mean.
    """
    chosen = [
        column
        for column in METRIC_COLUMNS
        if column[0] not in OPTIONAL_METRICS or any(column[0] in row for row in rows)
    ]
    lines = [(str(row["category"]), [row.get(key) for key, _, _ in chosen]) for row in rows]
    if len(lines) > 1:
        columns = zip(*(values for _, values in lines), strict=True)
        lines.append(("mean", [mean_metric(column) for column in columns]))
    name_width = max(len("category"), *(len(name) for name, _ in lines), 0)
    gaps = [4 if group else 2 for _, group, _ in chosen]
    above = " " * name_width + "".join(
        " " * gap + f" {group:<5}" for gap, (_, group, _) in zip(gaps, chosen, strict=True)
    )
    table = [above.rstrip(), _line("category", [head for _, _, head in chosen], gaps, name_width)]
    rule = "─" * len(table[1])
    table.append(rule)
    for index, (name, values) in enumerate(lines):
        if index == len(rows):
            table.append(rule)
        cells = [_NONE if value is None else f"{value:.3f}" for value in values]
        table.append(_line(name, cells, gaps, name_width))
    return "\n".join(table)


def heatmap_image(
    original: np.ndarray,
    map: np.ndarray,
    *,
    threshold: float,
    mask: np.ndarray | None = None,
    low: float = HEAT_LOW,
    high: float = HEAT_HIGH,
) -> np.ndarray:
    """A score map over its image, in colours that mean the same for every image of a model.

    Args:
        original: (H, W, 3) uint8.
        map: (H, W) float32 raw scores in the original's pixels.
        threshold: the pixel threshold, in the map's units.
        mask: (H, W) bool region to outline, such as the pixels above the threshold.
        low, high: ends of the colours, in units of the threshold.

    Returns:
        (H, W, 3) uint8.
    """
    picture = overlay(original, relative_values(map, threshold), low=low, high=high)
    if mask is None:
        return picture
    # A line of two pixels cannot be seen in a photo of some megapixels.
    return outline(picture, mask, SKY, width_px=max(2, round(max(mask.shape) / 400)))


def write_category_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    image_threshold: float,
    pixel_threshold: float,
    geometry: Geometry,
    cases: int,
    max_pixels: int,
) -> None:
    """Writes `roc.png`, `histogram.png` and `cases.png` of one category into a folder.

    Without both classes there is no ROC curve; one left from an earlier run is removed.

    Args:
        folder: made if missing; its name is the pictures' heading.
        evaluation: scores, maps and masks of the test images.
        image_threshold, pixel_threshold: on raw scores.
        geometry: of the model, to bring maps back to the original pixels.
        cases: of each kind.
        max_pixels: limit of the images read again for the case sheet.

    Raises:
        OutputError: the folder or a file cannot be written.
        ImageError: an image vanished or changed since it was scored.
    """
    scores, labels = evaluation.scores, evaluation.labels.astype(bool)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "roc.png").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}", path=folder, hint="pass another --out"
        ) from error
    if labels.any() and not labels.all():
        plot_roc(folder / "roc.png", [evaluation_roc(folder.name, evaluation, image_threshold)])
    plot_histograms(
        folder / "histogram.png",
        relative_scores(scores, image_threshold),
        labels,
        called_defective(evaluation, image_threshold),
        title=f"{folder.name}: image scores",
    )
    chosen = choose_cases(scores, labels, per_group=cases)
    loaded = []
    for index in [index for group in chosen.values() for index in group]:
        sample = evaluation.samples[index]
        image = read_image(sample.path, max_pixels=max_pixels)
        placement = place(image.shape[0], image.shape[1], geometry)
        truth = None
        if evaluation.has_truth[index]:
            truth = fit_tile(restore_mask(evaluation.masks[index], placement), CASE_TILE_PX)
        full = restore_map(evaluation.maps[index], placement)
        verdict = None if evaluation.verdicts is None else bool(evaluation.verdicts[index])
        loaded.append(
            Case(  # shrunk at once: the originals of all cases together may not fit in memory
                image=fit_tile(image, CASE_TILE_PX),
                heat=fit_tile(relative_values(full, pixel_threshold), CASE_TILE_PX),
                truth=truth,
                score=float(relative_values(scores[index], image_threshold)),
                label=int(labels[index]),
                defect=sample.defect,
                name=sample.path.name,
                is_called=verdict,
            )
        )
    case_sheet(folder / "cases.png", loaded, per_group=cases, title=f"{folder.name}: cases")


def evaluation_roc(name: str, evaluation: Evaluation, threshold: float) -> Curve:
    """The ROC curve of an evaluation with both classes, and where its verdicts lie on it.

    Args:
        name: of the category.
        threshold: of raw image scores, where the evaluation has no verdicts.
    """
    labels = evaluation.labels.astype(bool)
    return roc_of(name, evaluation.scores, labels, called_defective(evaluation, threshold))


def called_defective(evaluation: Evaluation, threshold: float) -> np.ndarray:
    """(n,) bool, the verdicts, or where there are none the scores above the threshold."""
    if evaluation.verdicts is not None:
        return evaluation.verdicts
    return np.asarray(evaluation.scores > threshold)


def mean_metric(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known; None where none is."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _line(name: str, cells: Sequence[str], gaps: Sequence[int], name_width: int) -> str:
    joined = "".join(" " * gap + f"{cell:>6}" for gap, cell in zip(gaps, cells, strict=True))
    return f"{name:<{name_width}}{joined}"
