"""Pages of the HTML report of made-up results, and a model's own record, for tests to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detector.defect_results import DefectResult
from detector.html_report.category_report import CategoryReport
from detector.html_report.pictures import picture_of
from detector.html_report.shown_image import ShownImage, worst_first
from detector.model_record import read_record
from detector.results import EvalResult
from detector.score_curves import precision_recall_of, roc_of
from manifests.canvas import fit_image, fit_mask
from manifests.geometry import Geometry

HOSTILE = (
    "</script><script>window.broken=1</script>",
    '"><img src=x onerror="window.broken=2">',
    "' onmouseover='window.broken=3' x='",
    "</style><link rel=stylesheet href=https://example.org/x.css>",
    "<!-- <svg onload=window.broken=4> ]]>",
    "javascript:window.broken=5",
    "&lt;b&gt; \u202egnp.exe\u2066 \x00\x1b[31m \udcff",
    "{{7*7}} ${window.broken=6} `x`",
    "n" * 300,
)
GEOMETRY = Geometry(64, 64, "letterbox")
# Not square, and as wide again as high.
HEIGHT, WIDTH = 60, 90


def photo(seed: int) -> np.ndarray:
    """(60, 90, 3) uint8, blueish, so that grey shows."""
    rng = np.random.default_rng(seed)
    grain = rng.integers(0, 30, (HEIGHT, WIDTH, 1))
    return np.clip(np.array([40, 90, 200]) + grain, 0, 255).astype(np.uint8)


def shown(number: int, relative: float, defect: str, name: str, category: str) -> ShownImage:
    """A test image whose heat and ground truth lie in its upper left quarter."""
    image = photo(number)
    _, placement = fit_image(image, GEOMETRY)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[5:25, 5:40] = defect != "good"
    marked = fit_mask(mask, placement)
    heat = np.where(marked, 1.5, 0.2).astype(np.float32)
    return ShownImage(
        category=category,
        name=name,
        defect=defect,
        is_defective=defect != "good",
        is_called=relative > 1,
        score=2 * relative,
        relative=relative,
        p_value=0.25,
        pixel_auroc=None if defect == "good" else 0.75,
        picture=picture_of(
            image,
            tile_px=90,
            placement=placement,
            heat=heat,
            mask=marked if defect != "good" else None,
        ),
    )


def category(
    model: Path,
    name: str = "part",
    *,
    relative: tuple[float, ...] = (0.4, 1.3, 0.9, 0.6, 1.2, 2.5),
    defects: tuple[str, ...] = ("good", "good", "good", "dent", "dent", "scratch"),
    names: tuple[str, ...] | None = None,
) -> CategoryReport:
    """One category's report; by default a false alarm (1.3) and a miss (0.6) among six images."""
    record = read_record(model)
    scores = np.array(relative)
    labels = np.array([defect != "good" for defect in defects])
    names = names or tuple(
        f"test/{defect}/{number:03}.png" for number, defect in enumerate(defects)
    )
    called = scores > 1
    kinds = sorted(set(defects) - {"good"})
    result = EvalResult(
        category=name,
        metrics={
            "image_auroc": 0.75, "image_ap": 0.5, "image_f1_max": 0.25, "pixel_auroc": 0.125,
            "pixel_ap": None, "pixel_f1_max": 1.0, "aupro": 0.0,
        },
        counts={
            "good": int((~labels).sum()), "defective": int(labels.sum()), "excluded": 0,
            "skipped": 0, "without_mask": 0, "false_alarms": int((called & ~labels).sum()),
            "misses": int((~called & labels).sum()),
        },
        notes=(f"1 test image left out: {names[0]}",),
    )  # fmt: skip
    return CategoryReport(
        result=result,
        record=record[0],
        digest=record[1],
        relative=scores,
        labels=labels,
        roc=roc_of(name, scores, labels, called),
        precision_recall=precision_recall_of(name, scores, labels, called),
        defects=tuple(DefectResult(kind, 2, 1, 0.5, 0.5, None, 2) for kind in kinds),
        images=tuple(
            shown(i, float(scores[i]), defects[i], names[i], name)
            for i in worst_first(scores, labels, called).tolist()
        ),
    )


def hostile(model: Path) -> CategoryReport:
    """A category of hostile names of files, defects and itself."""
    defects = tuple("good" if i == 2 else name for i, name in enumerate(HOSTILE))
    relative = tuple(0.5 + 0.2 * i for i in range(len(HOSTILE)))
    return category(model, HOSTILE[0], relative=relative, defects=defects, names=HOSTILE)
