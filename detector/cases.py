"""The case sheet: the worst and the best test images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifests.annotate import SKY, colour_bar, fit_tile, mask_image, outline, overlay
from manifests.images import write_png
from manifests.sheet import Tile, sheet, stacked

HEAT_LOW, HEAT_HIGH = 0.5, 1.5
"""Ends of the colour scale, in units of the threshold."""

CASE_TILE_PX = 132


@dataclass(frozen=True, eq=False)
class Case:
    """One test image as the case sheet shows it; all arrays have one shape.

    Attributes:
        image: (H, W, 3) uint8, the original or a smaller copy.
        heat: (H, W) float32 score map over the pixel threshold: above 1 is called defective.
        truth: (H, W) bool ground truth, None where a defective image has none.
        score: the image score over the image threshold.
        label: 0 good, 1 defective.
        defect: its kind, "good" for a good one.
        name: file name.
        is_called: whether the part is called defective; None for a score above 1.
    """

    image: np.ndarray
    heat: np.ndarray
    truth: np.ndarray | None
    score: float
    label: int
    defect: str
    name: str
    is_called: bool | None = None


def choose_cases(
    scores: np.ndarray, labels: np.ndarray, *, per_group: int
) -> dict[str, tuple[int, ...]]:
    """The test images worth a look, as positions, the most telling first.

    Args:
        scores: (n,) image scores.
        labels: (n,) bool or 0/1, 1 = defective.
        per_group: at most this many of each kind. No image is in two groups; where there are too
            few for that, the worst cases come first.

    Returns:
        "highest_good" (false alarms, if any), "calmest_good", "lowest_defective" (misses, if any)
        and "clearest_defective".
    """
    order = np.argsort(scores, kind="stable")
    is_bad = np.asarray(labels).astype(bool)[order]
    good, bad = order[~is_bad].tolist(), order[is_bad].tolist()
    highest = good[::-1][:per_group]
    lowest = bad[:per_group]
    return {
        "highest_good": tuple(highest),
        "calmest_good": tuple(good[: len(good) - len(highest)][:per_group]),
        "lowest_defective": tuple(lowest),
        "clearest_defective": tuple(bad[len(lowest) :][::-1][:per_group]),
    }


def case_sheet(path: Path, cases: Sequence[Case], *, per_group: int = 6, title: str = "") -> None:
    """Writes the worst and the best cases side by side as a PNG.

    Args:
        path: PNG file to write.
        cases: test images, of which `choose_cases` picks.
        per_group: at most this many of each kind.
        title: heading, such as the category.

    Raises:
        OutputError: the file cannot be written.
    """
    chosen = choose_cases(
        np.array([case.score for case in cases], dtype=np.float64),
        np.array([case.label for case in cases], dtype=bool),
        per_group=per_group,
    )
    bands = [
        (("highest_good", "Good, highest scores"), ("calmest_good", "Good, lowest scores")),
        (
            ("lowest_defective", "Defective, lowest scores"),
            ("clearest_defective", "Defective, highest scores"),
        ),
    ]
    bands = [band for band in bands if any(chosen[key] for key, _ in band)]
    pictures = []
    for number, band in enumerate(bands):
        shown = [cases[index] for key, _ in band for index in chosen[key]]
        is_first, is_last = number == 0, number == len(bands) - 1
        pictures.append(
            sheet(
                list(zip(*(_case_tiles(case) for case in shown), strict=True)),
                title=(title or "Cases") if is_first else "",
                notes=(
                    "Scores and maps are relative to their thresholds: above 1 is called "
                    "defective. The ground truth is outlined on the heat map.",
                )
                if is_first
                else (),
                groups=[(heading, len(chosen[key])) for key, heading in band if chosen[key]],
                row_titles=("image", "heat map", "ground truth", "called defective"),
                legend=_legend() if is_last else None,
                tile_px=CASE_TILE_PX,
            )
        )
    write_png(path, stacked(pictures) if pictures else sheet([], title="No cases"))


def _case_tiles(case: Case) -> tuple[Tile, Tile, Tile, Tile]:
    image, heat = fit_tile(case.image, CASE_TILE_PX), fit_tile(case.heat, CASE_TILE_PX)
    is_called = case.score > 1 if case.is_called is None else case.is_called
    verdict = "" if is_called == bool(case.label) else "missed" if case.label else "false alarm"
    facts = [case.defect, f"{case.score:.2f}", verdict]
    picture = overlay(image, heat, low=HEAT_LOW, high=HEAT_HIGH)
    if case.truth is None:
        truth: Tile = (None, "no mask")
    elif not case.truth.any():
        truth = (None, "no defect")
    else:
        marked = fit_tile(case.truth, CASE_TILE_PX)
        truth = (mask_image(marked), "")
        picture = outline(picture, marked, SKY, width_px=1)
    caption = case.name + "\n" + " · ".join(fact for fact in facts if fact)
    return (image, caption), (picture, ""), truth, (mask_image(heat > 1), "")


def _legend() -> np.ndarray:
    label = "pixel score / pixel threshold"
    return colour_bar(low=HEAT_LOW, high=HEAT_HIGH, mark=1.0, label=label)
