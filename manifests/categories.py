"""What a data set consists of: categories of samples."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from manifests.digest import bytes_digest


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Args:
        path: the file.
        source: the file relative to the category's root, with forward slashes.
        label: 0 good, 1 defective.
        defect: "good" or the kind of defect.
        mask: the defect mask's file; None where the data set has no masks for this kind of defect.
            A good image has one only where a list names it, for `cutswap-gen check`; nobody else
            looks at it.
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
        notes: what its reader has to say of it, in words.
        left_out: sources of images that belong to it and are neither trained nor tested on.
        is_drawn: whether the training images were drawn by seed among the good ones.
    """

    name: str
    root: Path
    format: str
    samples: tuple[Sample, ...]
    mask_binarise_at: int
    split_rule: str
    licence: str
    attribution: str
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    is_drawn: bool = False

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
