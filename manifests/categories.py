"""What a data set consists of: categories of samples."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from manifests.digest import bytes_digest

# The 15 categories of MVTec AD and their defects. The defects tell them from a user's own folder
# that merely is called "cable" too and must not be given somebody else's licence.
MVTEC_AD: dict[str, tuple[str, ...]] = {
    "bottle": ("broken_large", "broken_small", "contamination"),
    "cable": (
        "bent_wire",
        "cable_swap",
        "combined",
        "cut_inner_insulation",
        "cut_outer_insulation",
        "missing_cable",
        "missing_wire",
        "poke_insulation",
    ),
    "capsule": ("crack", "faulty_imprint", "poke", "scratch", "squeeze"),
    "carpet": ("color", "cut", "hole", "metal_contamination", "thread"),
    "grid": ("bent", "broken", "glue", "metal_contamination", "thread"),
    "hazelnut": ("crack", "cut", "hole", "print"),
    "leather": ("color", "cut", "fold", "glue", "poke"),
    "metal_nut": ("bent", "color", "flip", "scratch"),
    "pill": (
        "color",
        "combined",
        "contamination",
        "crack",
        "faulty_imprint",
        "pill_type",
        "scratch",
    ),
    "screw": ("manipulated_front", "scratch_head", "scratch_neck", "thread_side", "thread_top"),
    "tile": ("crack", "glue_strip", "gray_stroke", "oil", "rough"),
    "toothbrush": ("defective",),
    "transistor": ("bent_lead", "cut_lead", "damaged_case", "misplaced"),
    "wood": ("color", "combined", "hole", "liquid", "scratch"),
    "zipper": (
        "broken_teeth",
        "combined",
        "fabric_border",
        "fabric_interior",
        "rough",
        "split_teeth",
        "squeezed_teeth",
    ),
}


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Args:
        path: the file.
        source: the file relative to the category's root, with forward slashes.
        label: 0 good, 1 defective.
        defect: "good" or the kind of defect.
        mask: the defect mask's file; None for good images, and where the data set has no masks for
            this kind of defect.
        split: "train" or "test".
    """

    path: Path
    source: str
    label: int
    defect: str
    mask: Path | None
    split: str


@dataclass(frozen=True)
class Category:
    """One category: a product or surface with its own training and test images.

    Args:
        name: slug, `[a-z0-9_-]`.
        root: the category's folder.
        format: the layout it was read from, a key of `dataset_formats.FORMATS`.
        samples: training images, then test images, each sorted by `source`.
        mask_binarise_at: grey value from which on a mask pixel is defective.
        split_rule: how training and test were told apart; names no path.
        licence, attribution: known for public data sets, else "".
    """

    name: str
    root: Path
    format: str
    samples: tuple[Sample, ...]
    mask_binarise_at: int
    split_rule: str
    licence: str
    attribution: str

    @property
    def train(self) -> tuple[Sample, ...]:
        """The training images, all of them good."""
        return tuple(sample for sample in self.samples if sample.split == "train")

    @property
    def test(self) -> tuple[Sample, ...]:
        """The test images, good and defective; empty where the data set has none."""
        return tuple(sample for sample in self.samples if sample.split == "test")


def slugify(name: str) -> str:
    """A folder name as `[a-z0-9_-]`; "Metal Nut" becomes "metal_nut".

    A name without any such character (in another script, say) gets a digest, so that two of them
    stay apart.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9_-]+", "_", plain).strip("_-")
    return slug or f"category-{bytes_digest(os.fsencode(name))[:8]}"
