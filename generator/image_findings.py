"""What is wrong with the images of a data set, apart from being there twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from generator.finding import Finding, Row
from generator.image_facts import ImageFacts, Look
from generator.scan import MIN_GREY_RANGE
from manifests.errors import CutswapError
from manifests.terminal import counted

FEW_NORMALS = 32
"""Below this many, training samples with replacement."""

# What `manifests.decoder` says of files that never were images.
_NO_IMAGE = ("not an image", "the file is empty", "a Git LFS pointer")
_LOW_GREY_RANGE = 32
_FEW_SIZES = 10  # of more, every image may have one of its own
_SAME_SHAPE = 1.02  # ratio of aspect ratios: what rounding to whole pixels makes of one shape


def image_findings(looks: Sequence[Look], *, false_alarm_rate: float) -> Iterator[Finding]:
    """Findings on files, sizes, pixels and counts."""
    yield from _unusable(looks)
    usable = [look for look in looks if isinstance(look.image, ImageFacts)]
    yield from _flat(usable)
    yield from _sizes(usable)
    yield from _pixels(usable)
    yield from _counts(usable, false_alarm_rate)


def _unusable(looks: Sequence[Look]) -> Iterator[Finding]:
    errors = [(look.sample, look.image) for look in looks if isinstance(look.image, CutswapError)]
    for kind, noun in (("not-an-image", "that is no image"), ("unreadable", "cannot be read")):
        found = [
            (sample, error)
            for sample, error in errors
            if error.what.startswith(_NO_IMAGE) == (kind == "not-an-image")
        ]
        rows: list[Row] = [
            (str(error), {"source": sample.source, **error.to_json()}) for sample, error in found
        ]
        # Only training images are read by a build.
        stops = {"train": "a build", "test": "an evaluation"}
        stopped = " and ".join(stops[split] for split in sorted({s.split for s, _ in found})[::-1])
        if rows:
            reasons = Counter(str(fields["what"]) for _, fields in rows).most_common()
            told = ", ".join(f"{count} {what}" for what, count in reasons)
            if kind == "not-an-image":
                title = f"{counted(len(rows), 'file')} {'is' if len(rows) == 1 else 'are'} no image"
            else:
                title = f"{counted(len(rows), 'image')} {noun}"
            yield Finding(
                kind,
                True,
                f"{title} ({told})",
                f"{stopped} {'stop' if ' and ' in stopped else 'stops'} at them: repair or remove "
                "them, or pass --skip-bad",
                tuple(rows),
            )


def _flat(looks: Sequence[Look]) -> Iterator[Finding]:
    flat = [look for look in looks if look.facts.grey_range < MIN_GREY_RANGE]
    for split, advice in (
        ("train", "a build stops at them: remove them, or pass --skip-bad"),
        ("test", "nothing is to be seen in them: was the camera off?"),
    ):
        rows: tuple[Row, ...] = tuple(
            (look.sample.source, {"source": look.sample.source, "defect": look.sample.defect})
            for look in flat
            if look.sample.split == split
        )
        if rows:
            noun = "training image" if split == "train" else "test image"
            title = f"{counted(len(rows), noun)} of a single grey value"
            yield Finding(
                f"flat-{'training' if split == 'train' else 'test'}",
                split == "train",
                title,
                advice,
                rows,
            )


def _sizes(looks: Sequence[Look]) -> Iterator[Finding]:
    sizes = Counter((look.facts.height, look.facts.width) for look in looks)
    if len(sizes) < 2:
        return
    ratios = [height / width for height, width in sizes]
    spread = max(ratios) / min(ratios)
    trained = {
        (look.facts.height, look.facts.width) for look in looks if look.sample.split == "train"
    }
    new = sum(count for size, count in sizes.items() if size not in trained)
    title = (
        f"{len(sizes)} sizes, heights {min(h for h, _ in sizes)} to {max(h for h, _ in sizes)} and "
        f"widths {min(w for _, w in sizes)} to {max(w for _, w in sizes)} px, height/width "
        f"{min(ratios):.3g} to {max(ratios):.3g}"
    )
    if new and len(sizes) <= _FEW_SIZES:
        title += f"; {counted(new, 'test image')} of a size that no training image has"
    if spread <= _SAME_SHAPE:
        advice = "all of one shape: --fit stretch (the default) will do"
    else:
        advice = (
            f"--fit stretch (the default) brings shapes onto one canvas that differ by a factor of "
            f"{spread:.2g}: take --fit letterbox, or --fit crop if the edges do not matter"
        )
    rows: tuple[Row, ...] = tuple(
        (f"{h} x {w} px: {counted(count, 'image')}", {"height": h, "width": w, "images": count})
        for (h, w), count in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    )
    yield Finding("sizes", False, title, advice, rows)


def _pixels(looks: Sequence[Look]) -> Iterator[Finding]:
    kinds = Counter((look.facts.pixels, look.sample.defect) for look in looks)
    names = Counter(look.facts.pixels for look in looks)
    if len(names) > 1:
        told = ", ".join(f"{count} {name}" for name, count in names.most_common())
        good = {name for name, defect in kinds if defect == "good"}
        apart = len(good) < len(names) and {name for name, _ in kinds} - good
        title = f"{len(names)} kinds of pixels ({told})"
        if apart:
            title += f"; no good image is {' or '.join(sorted(apart))}"
        rows = tuple(
            (
                f"{name}, {defect}: {counted(count, 'image')}",
                {"pixels": name, "defect": defect, "images": count},
            )
            for (name, defect), count in sorted(kinds.items())
        )
        advice = "save all alike: else a detector may tell cameras or programs apart, not parts"
        yield Finding("pixels", False, title, advice, rows)
    dark = tuple(
        (
            f"{look.sample.source}: {look.facts.grey_range + 1} grey values",
            {"source": look.sample.source, "grey_values": look.facts.grey_range + 1},
        )
        for look in looks
        if look.facts.pixels.endswith(" 16 bit") and look.facts.grey_range < _LOW_GREY_RANGE
    )
    if dark:
        yield Finding(
            "dark-16-bit",
            False,
            f"{counted(len(dark), '16-bit image')} with fewer than {_LOW_GREY_RANGE + 1} of 256 "
            "grey values left: only the high byte of 16 bits is used",
            "cameras of 10 or 12 bits often fill the low bits only: scale the values up to 65535",
            dark,
        )


def _counts(looks: Sequence[Look], false_alarm_rate: float) -> Iterator[Finding]:
    n = len({look.facts.digest for look in looks if look.sample.split == "train"})
    good = sum(look.sample.split == "test" and not look.sample.label for look in looks)
    bad = sum(look.sample.split == "test" and look.sample.label for look in looks)
    if n < 2:
        title = f"{counted(n, 'different good training image')} that can be used, 2 are the least"
        yield Finding("few-normals", True, title, "add good images to the training split")
    elif 1 / (n + 1) > false_alarm_rate:
        needed = math.ceil(1 / false_alarm_rate - 1e-9) - 1
        title = (
            f"{n} different good training images: thresholds can promise a false-alarm rate of "
            f"{1 / (n + 1):.2g} at best, not {false_alarm_rate:g}"
        )
        advice = f"{needed} images promise it; or pass a higher --false-alarm-rate to fit"
        yield Finding("few-normals", False, title, advice)
    elif n < FEW_NORMALS:
        title = (
            f"{n} different good training images: training will see each several times per batch"
        )
        yield Finding("few-normals", False, title, f"{FEW_NORMALS} or more are better")
    missing = [name for name, count in (("good", good), ("defective", bad)) if not count]
    if missing:
        title = f"no {' and no '.join(missing)} test images"
        yield Finding("test-images", False, title, "eval has nothing to tell apart; score works")
