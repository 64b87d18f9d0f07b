"""A data set looked at before an hour is spent on it: every file once, nothing written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from generator.duplicate_findings import duplicate_findings
from generator.finding import Finding, worst_first
from generator.image_facts import look_at
from generator.image_findings import image_findings
from generator.mask_findings import mask_findings
from manifests.datasets import Category
from manifests.terminal import counted

# Pictures that nothing here reads, and so passes over without a word.
_FOREIGN = (
    *(".avif", ".exr", ".gif", ".hdr", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".npy"),
    *(".arw", ".cr2", ".dng", ".nef", ".raw"),
    *(".pbm", ".pdf", ".pgm", ".pnm", ".ppm", ".svg", ".tga"),
)


@dataclass(frozen=True)
class DataCheck:
    """What was found in one category, worst first."""

    category: Category
    findings: tuple[Finding, ...]

    @property
    def is_spoilt(self) -> bool:
        """Whether a build or an evaluation would stop or come out wrong."""
        return any(finding.spoils for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """How many images there are of each use."""
        test = Counter(sample.label for sample in self.category.test)
        return {
            "train": len(self.category.train),
            "test_good": test[0],
            "test_defective": test[1],
            "left_out": len(self.category.left_out),
        }

    def to_json(self) -> dict[str, object]:
        """All of it as plain JSON types."""
        return {
            "category": self.category.name,
            "root": str(self.category.root),
            "format": self.category.format,
            "split_rule": self.category.split_rule,
            "licence": self.category.licence,
            "images": self.counts,
            "is_spoilt": self.is_spoilt,
            "findings": [finding.to_json() for finding in self.findings],
            "left_out": list(self.category.left_out),
        }


def check_category(
    category: Category,
    *,
    false_alarm_rate: float,
    max_pixels: int,
    jobs: int,
    progress: Callable[[int, int], None] | None = None,
) -> DataCheck:
    """Looks at every image and mask of a category.

    Args:
        false_alarm_rate: that the thresholds shall promise.
        max_pixels: larger images are not decoded.
        jobs: threads.
        progress: called with images done and images in all.
    """
    from joblib import Parallel, delayed

    samples = category.samples
    # Decoding and hashing release the interpreter lock: threads are enough.
    results = Parallel(n_jobs=jobs, backend="threading", return_as="generator")(
        delayed(look_at)(sample, binarise_at=category.mask_binarise_at, max_pixels=max_pixels)
        for sample in samples
    )
    looks = []
    for look in results:
        looks.append(look)
        if progress is not None:
            progress(len(looks), len(samples))
    found = [
        *duplicate_findings(looks),
        *image_findings(looks, false_alarm_rate=false_alarm_rate),
        *mask_findings(looks, category),
        *_of_layout(category),
    ]
    return DataCheck(category, worst_first(found))


def _of_layout(category: Category) -> Iterator[Finding]:
    for note in category.notes:
        yield Finding("note", False, note)
    if category.format in ("list", "visa"):  # lists say what belongs to them
        return
    names = sorted(
        os.path.relpath(os.path.join(folder, name), category.root)
        for folder, _, files in os.walk(category.root)
        for name in files
        if os.path.splitext(name)[1].lower() in _FOREIGN
    )
    if names:
        kinds = Counter(os.path.splitext(name)[1].lower() for name in names).most_common()
        told = ", ".join(f"{count} {suffix}" for suffix, count in kinds)
        yield Finding(
            "passed-over",
            False,
            f"{counted(len(names), 'file')} of kinds that are not read ({told})",
            "convert them to PNG if they are images of this data set",
            tuple((name, {"path": name}) for name in names),
        )
