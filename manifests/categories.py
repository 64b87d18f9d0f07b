"""What a data set consists of: categories of samples."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection
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

# The 12 categories of VisA. Converted to this layout, each has the one defect folder "bad".
VISA: tuple[str, ...] = (
    "candle",
    "capsules",
    "cashew",
    "chewinggum",
    "fryum",
    "macaroni1",
    "macaroni2",
    "pcb1",
    "pcb2",
    "pcb3",
    "pcb4",
    "pipe_fryum",
)
VISA_DEFECT = "bad"


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
        part: what the image shows, where a data set has several images of one part: these are not
            independent of each other. Empty: a part by itself.
    """

    path: Path
    source: str
    label: int
    defect: str
    mask: Path | None
    split: str
    part: str = ""


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


def known_terms(name: str, defects: Collection[str]) -> tuple[str, str]:
    """Licence and attribution of a public data set, recognised by a category and its defects.

    Args:
        name: slug of the category.
        defects: its kinds of defects; none where there are no test images, and then the name alone
            decides.

    Returns:
        Both empty where the category is nobody's known one. "bad" is a name that anybody may
        choose, so a category of VisA has no other defect beside it.
    """
    if name in MVTEC_AD and (not defects or not set(defects).isdisjoint(MVTEC_AD[name])):
        return (
            "CC BY-NC-SA 4.0",
            "MVTec AD: Bergmann, Batzner, Fauser, Sattlegger, Steger, The MVTec Anomaly Detection "
            "Dataset, IJCV 129 (2021)",
        )
    if is_visa(name, defects):
        return (
            "CC BY 4.0",
            "VisA: Zou, Jeong, Pemula, Zhang, Dabeer, SPot-the-Difference Self-Supervised "
            "Pre-training for Anomaly Detection and Segmentation, ECCV 2022",
        )
    return "", ""


def is_visa(name: str, defects: Collection[str]) -> bool:
    """Whether a category of this slug and these kinds of defects is one of VisA."""
    return name in VISA and set(defects) <= {VISA_DEFECT}


def slugify(name: str) -> str:
    """A folder name as `[a-z0-9_-]`; "Metal Nut" becomes "metal_nut".

    A name without any such character (in another script, say) gets a digest, so that two of them
    stay apart.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9_-]+", "_", plain).strip("_-")
    return slug or f"category-{bytes_digest(os.fsencode(name))[:8]}"
