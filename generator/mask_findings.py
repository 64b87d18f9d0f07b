"""What is wrong with the masks of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from generator.finding import Finding, Row
from generator.image_facts import ImageFacts, Look, MaskFacts
from manifests.datasets import Category
from manifests.errors import CutswapError
from manifests.terminal import counted

_LARGE_FRAC = 0.5


def mask_findings(looks: Sequence[Look], category: Category) -> Iterator[Finding]:
    """Findings on masks that cannot be read, do not fit their image or mark nothing of use."""
    yield from _unreadable(looks, category)
    masked = [look for look in looks if isinstance(look.mask, MaskFacts)]
    bad = [look for look in masked if look.sample.label]
    yield from _found(
        "mask-size",
        True,
        [look for look in masked if _is_of_another_size(look)],
        category,
        "of another size than its image",
        "of another size than their images",
        "an evaluation stops at them: export the masks at the size of the images",
    )
    yield from _found(
        "mask-of-good",
        True,
        [look for look in masked if not look.sample.label and look.mask_facts.marked_frac > 0],
        category,
        "marks a defect on an image labelled good",
        "mark defects on images labelled good",
        "the label or the mask is wrong: look at them",
    )
    yield from _found(
        "mask-empty",
        False,
        [look for look in bad if look.mask_facts.marked_frac == 0],
        category,
        "of a defective image marks nothing",
        "of defective images mark nothing",
        "these images count for image figures only",
    )
    yield from _found(
        "mask-large",
        False,
        [look for look in bad if look.mask_facts.marked_frac > _LARGE_FRAC],
        category,
        "marks more than half of its image",
        "mark more than half of their images",
        "is black the defect there? Masks mark it white",
    )
    yield from _found(
        "mask-not-binary",
        False,
        [look for look in masked if look.mask_facts.values > 2],
        category,
        "has more than two values",
        "have more than two values",
        f"values from {category.mask_binarise_at} on count as defect"
        + ("; JPEG masks have halos of such values" if category.mask_binarise_at == 1 else ""),
    )
    yield from _missing(looks)


def _found(
    kind: str,
    spoils: bool,
    looks: Sequence[Look],
    category: Category,
    one: str,
    several: str,
    advice: str,
) -> Iterator[Finding]:
    if looks:
        title = f"{counted(len(looks), 'mask')} {one if len(looks) == 1 else several}"
        yield Finding(kind, spoils, title, advice, tuple(_row(look, category) for look in looks))


def _row(look: Look, category: Category) -> Row:
    mask, image = look.mask_facts, look.image
    name = cast(Path, look.sample.mask).relative_to(category.root).as_posix()
    text = f"{name}: {mask.height} x {mask.width} px"
    fields: dict[str, object] = {
        "source": look.sample.source,
        "mask": name,
        "mask_height": mask.height,
        "mask_width": mask.width,
        "values": mask.values,
        "marked_frac": round(mask.marked_frac, 6),
    }
    if isinstance(image, ImageFacts):
        fields |= {"height": image.height, "width": image.width}
        if _is_of_another_size(look):
            text += f", image {image.height} x {image.width} px"
    return f"{text}, {counted(mask.values, 'value')}, {mask.marked_frac:.1%} marked", fields


def _is_of_another_size(look: Look) -> bool:
    image, mask = look.image, look.mask_facts
    return isinstance(image, ImageFacts) and (
        (image.height, image.width) != (mask.height, mask.width)
    )


def _unreadable(looks: Sequence[Look], category: Category) -> Iterator[Finding]:
    rows: tuple[Row, ...] = tuple(
        (str(look.mask), {"source": look.sample.source, **look.mask.to_json()})
        for look in looks
        if isinstance(look.mask, CutswapError)
    )
    if rows:
        reasons = Counter(str(fields["what"]) for _, fields in rows).most_common()
        told = ", ".join(f"{count} {what}" for what, count in reasons)
        yield Finding(
            "mask-unreadable",
            True,
            f"{counted(len(rows), 'mask')} cannot be read ({told})",
            "an evaluation stops at them: repair or remove them, or pass --skip-bad",
            rows,
        )


def _missing(looks: Sequence[Look]) -> Iterator[Finding]:
    bad = [look.sample for look in looks if look.sample.label]
    kinds = Counter(sample.defect for sample in bad if sample.mask is None)
    if kinds:
        count = sum(kinds.values())
        rows = tuple(
            (f"{kind}: {counted(n, 'image')}", {"defect": kind, "images": n})
            for kind, n in sorted(kinds.items())
        )
        yield Finding(
            "mask-missing",
            False,
            f"{count} of {counted(len(bad), 'defective image')} without a mask",
            "they count for image figures only",
            rows,
        )
