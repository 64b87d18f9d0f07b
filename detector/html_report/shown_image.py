"""One test image as the gallery shows it, and which of them it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from detector.html_report.markup import Markup, element
from detector.html_report.pictures import Picture
from detector.html_report.words import VERDICTS, badge

_BAR_PX = 100


@dataclass(frozen=True)
class ShownImage:
    """One test image.

    Attributes:
        category: its category.
        name: its file below the category's folder.
        defect: its kind, "good" for a good one.
        is_defective: whether it is.
        is_called: whether the model calls it so.
        score: raw.
        relative: the score over the threshold.
        p_value: how rare such a score is among good images.
        pixel_auroc: within the image; None where it has none.
        picture: with its heat map and ground truth.
    """

    category: str
    name: str
    defect: str
    is_defective: bool
    is_called: bool
    score: float
    relative: float
    p_value: float
    pixel_auroc: float | None
    picture: Picture

    @property
    def verdict(self) -> str:
        """A key of `VERDICTS`."""
        return verdict_of(is_called=self.is_called, is_defective=self.is_defective)

    def item(self, number: int, *, with_category: bool) -> Markup:
        """The image as an item of the gallery's list.

        Args:
            number: its place in the order of the page.
            with_category: say its category in its caption.
        """
        verdict = VERDICTS[self.verdict]
        alt = f"{self.name}: {self.defect}, {verdict.word}, {self.relative:.2f} of the threshold"
        kind = f"{self.category} · {self.defect}" if with_category else self.defect
        return element(
            "li",
            {
                "class": "item",
                "data-number": number,
                "data-score": f"{self.relative:.6g}",
                "data-category": self.category,
                "data-defect": self.defect,
                "data-verdict": verdict.group,
                "data-name": self.name,
            },
            element("button", {"type": "button", "class": "open"}, self.picture.layers(alt=alt)),
            element(
                "div",
                {"class": "caption"},
                score_bar(self.relative),
                element(
                    "p",
                    {"class": "facts"},
                    badge(self.verdict),
                    element("span", {"class": "number"}, f"{self.relative:.2f}"),
                ),
                element(
                    "p",
                    {"class": "name", "title": self.name},
                    element("bdi", {}, PurePosixPath(self.name).name),
                ),
                element("p", {"class": "kind"}, element("bdi", {}, kind)),
                element("p", {"class": "more"}, self._more()),
            ),
        )

    def _more(self) -> str:
        """What only the large view says."""
        rare = f"p = {self.p_value:.2g} among good images"
        inside = "" if self.pixel_auroc is None else f" · pixel AUROC {self.pixel_auroc:.3f}"
        return f"score {self.score:.4g} · {rare}{inside}"


def verdict_of(*, is_called: bool, is_defective: bool) -> str:
    """Which of `VERDICTS` an image has."""
    if is_called:
        return "found" if is_defective else "false-alarm"
    return "missed" if is_defective else "passed"


def worst_first(relative: np.ndarray, labels: np.ndarray, called: np.ndarray) -> np.ndarray:
    """The order of the gallery: misses and false alarms, the furthest from the threshold first;
    then the right ones, the nearest to it first.

    Args:
        relative: (n,) scores over the threshold.
        labels: (n,) bool, True for defective.
        called: (n,) bool, True where the model says so.

    Returns:
        (n,) int64 positions.
    """
    wrong_by = np.where(labels, 1 - relative, relative - 1).astype(np.float64)
    is_right = called == labels
    return np.lexsort((-wrong_by, is_right))


def score_bar(relative: float) -> Markup:
    """A score as a bar from 0 to twice the threshold, with a notch at the threshold."""
    length = _BAR_PX * min(max(relative, 0.0) / 2, 1.0)
    bar = {"height": 4}
    return element(
        "svg",
        {"class": "bar", "viewBox": f"0 0 {_BAR_PX} 4", "aria-hidden": "true",
         "preserveAspectRatio": "none"},
        element("rect", {"class": "track", "width": _BAR_PX, **bar}),
        element("rect", {"class": "over" if relative > 1 else "under", "width": f"{length:.1f}",
                         **bar}),
        element("rect", {"class": "notch", "x": _BAR_PX / 2 - 0.6, "width": 1.2, "height": 4}),
    )  # fmt: skip
