"""Saliency-guided synthetic negatives and detectors trained on them for visual inspection.

The small public API; the command lines `cutswap-gen` and `cutswap-det` are built on the same
functions.

    import cutswap

    with cutswap.NegativeSet.open("shards/part") as negatives:
        print(len(negatives), negatives[0].policy, negatives[0].mask.mean())
        loader = DataLoader(cutswap.ShardDataset(negatives), batch_size=32, shuffle=True)

    model = cutswap.load_model("models/part")
    seen = cutswap.inspect_image(model, cutswap.read_image("photo.png"))
    print(seen.is_defect, [region.box for region in seen.regions.described])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from manifests.errors import CutswapError
from manifests.images import Geometry, fit_image, read_image, restore_map, restore_mask
from manifests.negative_set import NegativeSet
from manifests.set_folders import find_sets
from manifests.verify import verify_set

if TYPE_CHECKING:
    from detector.config import FitConfig
    from detector.default_config import default_config
    from detector.inspection import inspect_image
    from detector.min_area import MinArea
    from detector.model import load_model
    from detector.pipeline import evaluate_models, fit_model
    from detector.scoring import score_images
    from detector.shard_dataset import ShardDataset
    from detector.verify_model import verify_model
    from generator.config import BuildConfig
    from generator.export_images import export_images
    from generator.merge import merge_sets
    from generator.pipeline import build_set
    from generator.replay import replay_set
    from generator.set_diff import diff_sets
    from generator.subset import subset_set
    from generator.textures import Textures
    from manifests.datasets import open_data
    from manifests.recipe import read_recipe, write_recipe
    from manifests.remote import pull_set, push_set
    from manifests.roi import read_roi

__version__ = "0.1.0"

# Imported on first use: these bring torch with them, and reading a set does not need it.
_LAZY = {
    "BuildConfig": "generator.config",
    "FitConfig": "detector.config",
    "MinArea": "detector.min_area",
    "ShardDataset": "detector.shard_dataset",
    "Textures": "generator.textures",
    "build_set": "generator.pipeline",
    "default_config": "detector.default_config",
    "diff_sets": "generator.set_diff",
    "evaluate_models": "detector.pipeline",
    "export_images": "generator.export_images",
    "fit_model": "detector.pipeline",
    "inspect_image": "detector.inspection",
    "load_model": "detector.model",
    "merge_sets": "generator.merge",
    "open_data": "manifests.datasets",
    "pull_set": "manifests.remote",
    "push_set": "manifests.remote",
    "read_recipe": "manifests.recipe",
    "read_roi": "manifests.roi",
    "replay_set": "generator.replay",
    "score_images": "detector.scoring",
    "subset_set": "generator.subset",
    "verify_model": "detector.verify_model",
    "write_recipe": "manifests.recipe",
}

__all__ = [
    "BuildConfig",
    "CutswapError",
    "FitConfig",
    "Geometry",
    "MinArea",
    "NegativeSet",
    "ShardDataset",
    "Textures",
    "build_set",
    "default_config",
    "diff_sets",
    "evaluate_models",
    "export_images",
    "find_sets",
    "fit_image",
    "fit_model",
    "inspect_image",
    "load_model",
    "merge_sets",
    "open_data",
    "pull_set",
    "push_set",
    "read_image",
    "read_recipe",
    "read_roi",
    "replay_set",
    "restore_map",
    "restore_mask",
    "score_images",
    "subset_set",
    "verify_model",
    "verify_set",
    "write_recipe",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'cutswap' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
