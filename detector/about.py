"""What there is to know of each detector before it is used: for people who choose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """A detector in words.

    Attributes:
        summary: what it does.
        needs: what of a negative set it learns from.
        source: where it comes from.
    """

    summary: str
    needs: str
    source: str


ABOUT: dict[str, About] = {
    "patchcore": About(
        summary="nearest normal patch, with an extractor trained on the negatives or as it is",
        needs="normal images; any negatives for training, none with --updates 0",
        source="Roth et al. 2022 (arXiv 2106.08265); training: CutSwap (arXiv 2311.18332)",
    ),
    "gaussian": About(
        summary="one Gaussian over the pooled features of whole images: CutPaste's own scorer",
        needs="normal images; any negatives for training, none with --updates 0",
        source="Li et al. 2021 (arXiv 2104.04015)",
    ),
    "guided-seg": About(
        summary="segments defects, guided by a similar normal image that the model keeps",
        needs="normal images and negatives with masks, such as --policies saliency-perlin",
        source="SGSF (arXiv 2209.12440), details from NIGSF (IEEE TCSVT 34(6), 2024)",
    ),
    "cavga": About(
        summary="autoencoder that attends to all that is normal; the map is what it leaves out",
        needs="normal images; with --weak the negatives, with --anomalous labelled images",
        source="CAVGA, Venkataramanan et al. 2020 (arXiv 1911.08616)",
    ),
}
