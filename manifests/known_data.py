"""Public data sets, known by their categories and defects, and the terms they come under.

Source: the data sets' own pages, and anomalib's documentation where these say nothing of a licence
(MPDD). docs/data.md names them.
"""

from __future__ import annotations

from collections.abc import Collection

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

# The 6 categories of MPDD and their defects, in MVTec AD's layout.
MPDD: dict[str, tuple[str, ...]] = {
    "bracket_black": ("hole", "scratches"),
    "bracket_brown": ("bend_and_parts_mismatch", "parts_mismatch"),
    "bracket_white": ("defective_painting", "scratches"),
    "connector": ("parts_mismatch",),
    "metal_plate": ("major_rust", "scratches", "total_rust"),
    "tubes": ("flattening",),
}

# The 5 categories of MVTec LOCO AD; its kinds of anomalies belong to the layout.
LOCO: tuple[str, ...] = (
    "breakfast_box",
    "juice_bottle",
    "pushpins",
    "screw_bag",
    "splicing_connectors",
)

# The 3 products of BTAD.
BTAD: tuple[str, ...] = ("01", "02", "03")

# Licence and attribution. Where a data set's page says nothing, what others pass on.
_MVTEC_AD_TERMS = (
    "CC BY-NC-SA 4.0",
    "MVTec AD: Bergmann, Batzner, Fauser, Sattlegger, Steger, The MVTec Anomaly Detection "
    "Dataset, IJCV 129 (2021)",
)
_VISA_TERMS = (
    "CC BY 4.0",
    "VisA: Zou, Jeong, Pemula, Zhang, Dabeer, SPot-the-Difference Self-Supervised "
    "Pre-training for Anomaly Detection and Segmentation, ECCV 2022",
)
_MPDD_TERMS = (
    "CC BY-NC-SA 4.0",
    "MPDD: Jezek, Jonak, Burget, Dvorak, Skotak, Deep learning-based defect detection of metal "
    "parts: evaluating current methods in complex conditions, ICUMT 2021",
)
_LOCO_TERMS = (
    "CC BY-NC-SA 4.0",
    "MVTec LOCO AD: Bergmann, Batzner, Fauser, Sattlegger, Steger, Beyond Dents and Scratches: "
    "Logical Constraints in Unsupervised Anomaly Detection and Localization, IJCV 130 (2022)",
)
BTAD_TERMS = (
    "CC BY-SA",
    "BTAD: Mishra, Verk, Fornasier, Piciarelli, Foresti, VT-ADL: A Vision Transformer Network for "
    "Image Anomaly Detection and Localization, ISIE 2021; images by beanTech srl",
)
KOLEKTOR_TERMS = (
    "CC BY-NC-SA 4.0",
    "KolektorSDD: Tabernik, Sela, Skvarc, Skocaj, Segmentation-based deep-learning approach for "
    "surface-defect detection, Journal of Intelligent Manufacturing 31 (2020)",
)
KOLEKTOR2_TERMS = (
    "CC BY-NC-SA 4.0",
    "KolektorSDD2: Bozic, Tabernik, Skocaj, Mixed supervision for surface-defect detection: from "
    "weakly to fully supervised learning, Computers in Industry 129 (2021)",
)


def known_terms(name: str, defects: Collection[str]) -> tuple[str, str]:
    """Licence and attribution of a public data set, recognised by a category and its defects.

    Args:
        name: slug of the category.
        defects: its kinds of defects; none where there are no test images, and then the name alone
            decides.

    Returns:
        Both empty where the category is nobody's known one. "bad" is a name that anybody may
        choose, so a category of VisA has no other defect beside it; nor is a metal plate with
        scratches anything special, so a category of MPDD has all of its defects and no others.
    """
    if name in MVTEC_AD and (not defects or not set(defects).isdisjoint(MVTEC_AD[name])):
        return _MVTEC_AD_TERMS
    if name in MPDD and set(defects) == set(MPDD[name]):
        return _MPDD_TERMS
    return _VISA_TERMS if is_visa(name, defects) else ("", "")


def loco_terms(name: str) -> tuple[str, str]:
    """Licence and attribution of a category in MVTec LOCO AD's layout; empty if it is not one."""
    return _LOCO_TERMS if name in LOCO else ("", "")


def is_visa(name: str, defects: Collection[str]) -> bool:
    """Whether a category of this slug and these kinds of defects is one of VisA."""
    return name in VISA and set(defects) <= {VISA_DEFECT}
