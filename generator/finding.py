"""One thing that is to be said of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KINDS = (
    "train-test-overlap",
    "label-conflict",
    "few-normals",
    "not-an-image",
    "unreadable",
    "flat-training",
    "mask-unreadable",
    "mask-size",
    "mask-of-good",
    "note",
    "duplicate",
    "mask-empty",
    "mask-large",
    "mask-not-binary",
    "mask-missing",
    "flat-test",
    "sizes",
    "pixels",
    "dark-16-bit",
    "passed-over",
    "test-images",
    "part-overlap",
    "near-duplicate",
)
"""All kinds, worst first."""


Row = tuple[str, dict[str, object]]
"""A line of text on one file or pair, and its fields."""


@dataclass(frozen=True)
class Finding:
    """What was found, once for all files concerned.

    Attributes:
        kind: one of `KINDS`.
        spoils: whether a build or an evaluation would stop at it or come out wrong; else a note.
        title: what it is, with a count.
        advice: the next step, or "".
        rows: one for each file or pair concerned, each a line of text and its fields.
    """

    kind: str
    spoils: bool
    title: str
    advice: str = ""
    rows: tuple[Row, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The fields as plain JSON types, with every row."""
        return {
            "kind": self.kind,
            "spoils": self.spoils,
            "title": self.title,
            "advice": self.advice,
            "rows": [fields for _, fields in self.rows],
        }


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Sorted: what spoils something before what does not, each as `KINDS` has them."""
    return tuple(sorted(findings, key=lambda one: (not one.spoils, KINDS.index(one.kind))))
