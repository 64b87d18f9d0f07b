"""The detectors by name. A new one is a file here, a row below and a row in the shared tests."""

from detector.detectors.base import Detector, Scores
from detector.detectors.patchcore import PatchCore, PatchCoreConfig

DETECTORS: dict[str, type[Detector]] = {
    "patchcore": PatchCore,
}

CONFIGS: dict[str, type] = {
    "patchcore": PatchCoreConfig,
}

__all__ = ["CONFIGS", "DETECTORS", "Detector", "PatchCore", "PatchCoreConfig", "Scores"]
