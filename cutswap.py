"""Saliency-guided synthetic negatives and detectors trained on them for visual inspection.

The small public API; the command lines `cutswap-gen` and `cutswap-det` are built on the same
functions.

    import cutswap

    with cutswap.NegativeSet.open("shards/part") as negatives:
        print(len(negatives), negatives[0].policy, negatives[0].mask.mean())

    model = cutswap.load_model("models/part")
    canvas, placement = cutswap.fit_image(cutswap.read_image("photo.png"), model.geometry)
    scores = model.detector.score(canvas[None], [placement.canvas_box])
    is_defect = scores.image[0] > model.image_threshold.value
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from manifests.errors import CutswapError
from manifests.images import Geometry, fit_image, read_image, restore_map, restore_mask
from manifests.negative_set import NegativeSet, find_sets
from manifests.verify import verify_set

if TYPE_CHECKING:
    from detector.config import FitConfig
    from detector.model import load_model
    from detector.pipeline import evaluate_models, fit_model
    from detector.scoring import score_images
    from generator.config import BuildConfig
    from generator.pipeline import build_set
    from manifests.datasets import open_data

__version__ = "0.1.0"

# Imported on first use: these bring torch with them, and reading a set does not need it.
_LAZY = {
    "BuildConfig": "generator.config",
    "FitConfig": "detector.config",
    "build_set": "generator.pipeline",
    "evaluate_models": "detector.pipeline",
    "fit_model": "detector.pipeline",
    "load_model": "detector.model",
    "open_data": "manifests.datasets",
    "score_images": "detector.scoring",
}

__all__ = [
    "BuildConfig",
    "CutswapError",
    "FitConfig",
    "Geometry",
    "NegativeSet",
    "build_set",
    "evaluate_models",
    "find_sets",
    "fit_image",
    "fit_model",
    "load_model",
    "open_data",
    "read_image",
    "restore_map",
    "restore_mask",
    "score_images",
    "verify_set",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'cutswap' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
