"""What is there twice: the same pixels in both splits, under two labels, or merely again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from generator.finding import Finding
from generator.image_facts import ImageFacts, Look
from generator.near_duplicates import MAX_DIFFERENT_BITS, near_pairs
from generator.scan import MIN_GREY_RANGE
from manifests.terminal import counted


def duplicate_findings(looks: Sequence[Look]) -> Iterator[Finding]:
    """Findings on images that are the same, or nearly, in pixels.

    The name of a file says nothing and its bytes little: a PNG and a BMP of one photo are the same.
    Of near-duplicates there are at most notes: what nearly is the same may well be another part.
    """
    groups: dict[str, list[Look]] = {}
    for look in looks:
        if isinstance(look.image, ImageFacts):
            groups.setdefault(look.image.digest, []).append(look)
    several = [group for group in groups.values() if len(group) > 1]
    yield from _overlap(several)
    yield from _conflicts(several)
    yield from _repeated(several)
    yield from _parts(looks)
    yield from _near([group[0] for group in groups.values()])


def _overlap(groups: Iterable[Sequence[Look]]) -> Iterator[Finding]:
    rows = []
    for group in groups:
        training = [look for look in group if look.sample.split == "train"]
        if training:
            rows += [_pair(one, training[0]) for one in group if one.sample.split == "test"]
    if rows:
        bad = sum(fields["defect"] != "good" for _, fields in rows)
        title = f"{_images(len(rows), 'test image')} the pixels of a training image"
        if bad:
            title += f", {bad} of them labelled defective"
        yield Finding(
            "train-test-overlap",
            True,
            title,
            "a model knows them already and scores look too good: keep each in one split",
            tuple(rows),
        )


def _conflicts(groups: Iterable[Sequence[Look]]) -> Iterator[Finding]:
    rows = []
    for group in groups:
        good = [look for look in group if look.sample.label == 0]
        if good:
            rows += [_pair(one, good[0]) for one in group if one.sample.label]
    if rows:
        yield Finding(
            "label-conflict",
            True,
            f"{_images(len(rows), 'defective image')} the pixels of a good image",
            "one of the two labels is wrong: look at them",
            tuple(rows),
        )


def _repeated(groups: Iterable[Sequence[Look]]) -> Iterator[Finding]:
    for split, why in (
        ("train", "a build keeps the first of them and records the others"),
        ("test", "they count twice in every figure"),
    ):
        rows = []
        for group in groups:
            for label in (0, 1):  # under two labels it is a conflict
                alike = [
                    look
                    for look in group
                    if look.sample.split == split and look.sample.label == label
                ]
                rows += [_pair(one, alike[0]) for one in alike[1:]]
        if rows:
            name = "training image" if split == "train" else "test image"
            title = f"{_images(len(rows), name)} the pixels of another one"
            yield Finding("duplicate", False, title, why, tuple(rows))


def _parts(looks: Sequence[Look]) -> Iterator[Finding]:
    splits: dict[str, Counter[str]] = {}
    for look in looks:
        if look.sample.part:
            splits.setdefault(look.sample.part, Counter())[look.sample.split] += 1
    both = {part: count for part, count in splits.items() if len(count) > 1}
    if both:
        tested = sum(count["test"] for count in both.values())
        verb = "shows" if tested == 1 else "show"
        rows = tuple(
            (
                f"{part}: {count['train']} for training, {count['test']} for testing",
                {"part": part, "train": count["train"], "test": count["test"]},
            )
            for part, count in sorted(both.items())
        )
        title = f"{counted(tested, 'test image')} {verb} a part that training images show as well"
        advice = "figures flatter: split by part where you can"
        yield Finding("part-overlap", False, title, advice, rows)


def _near(looks: Sequence[Look]) -> Iterator[Finding]:
    # Every flat image has the same hash.
    looks = [look for look in looks if look.facts.grey_range >= MIN_GREY_RANGE]
    if not looks:
        return
    found = near_pairs(np.stack([look.facts.bits.reshape(-1) for look in looks]))
    if not found.pairs:
        return
    rows, across, apart, alike = [], 0, 0, set()
    for first, second, different in found.pairs:
        one, other = looks[first], looks[second]
        text, fields = _pair(one, other, sign="~")
        across += one.sample.split != other.sample.split
        apart += one.sample.label != other.sample.label
        alike |= {first, second}
        is_known = bool(one.sample.part) and one.sample.part == other.sample.part
        fields |= {"different_bits": different, "is_known_part": is_known}
        rows.append((text, fields))
    # What is under two labels, spans both splits and was not known first: it is what matters.
    rows.sort(
        key=lambda row: (
            (row[1]["defect"] == "good") == (row[1]["other_defect"] == "good"),
            row[1]["split"] == row[1]["other_split"],
            row[1]["is_known_part"],
            row[1]["different_bits"],
        )
    )
    known = sum(bool(fields["is_known_part"]) for _, fields in rows)
    title = (
        f"{'over ' if found.is_cut else ''}{counted(len(rows), 'pair')} of images nearly alike "
        f"(at most {MAX_DIFFERENT_BITS} of 256 bits of a difference hash), {across} of them of a "
        f"training and a test image, {apart} of a good and a defective one"
    )
    if known:
        title += f"; {known} of known parts, photographed several times"
    if found.compared < len(looks):
        title += f"; {found.compared} of {len(looks)} images were compared"
    advice = "look at some: images of one part belong into one split"
    if found.is_cut or len(alike) > found.compared / 2:
        advice = "most images are alike to this hash: it says little of this data set"
    yield Finding("near-duplicate", False, title, advice, tuple(rows))


def _pair(one: Look, other: Look, sign: str = "=") -> tuple[str, dict[str, object]]:
    fields: dict[str, object] = {
        "source": one.sample.source,
        "split": one.sample.split,
        "defect": one.sample.defect,
        "other": other.sample.source,
        "other_split": other.sample.split,
        "other_defect": other.sample.defect,
    }
    return f"{one.sample.source} {sign} {other.sample.source}", fields


def _images(count: int, noun: str) -> str:
    return f"{counted(count, noun)} {'has' if count == 1 else 'have'}"
