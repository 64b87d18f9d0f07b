"""The detectors by name. A new one is a file here, a row in each table and one in the tests."""

from detector.detectors.base import Coverage, Detector, NormalBatches, Scores
from detector.detectors.cavga import Cavga, CavgaConfig
from detector.detectors.gaussian import GaussianConfig, GaussianDetector
from detector.detectors.guided_seg import GuidedConfig, GuidedSegmentation
from detector.detectors.patchcore import PatchCore, PatchCoreConfig

DETECTORS: dict[str, type[Detector]] = {
    "patchcore": PatchCore,
    "gaussian": GaussianDetector,
    "guided-seg": GuidedSegmentation,
    "cavga": Cavga,
}

CONFIGS: dict[str, type] = {
    "patchcore": PatchCoreConfig,
    "gaussian": GaussianConfig,
    "guided-seg": GuidedConfig,
    "cavga": CavgaConfig,
}

__all__ = [
    "CONFIGS",
    "DETECTORS",
    "Cavga",
    "CavgaConfig",
    "Coverage",
    "Detector",
    "GaussianConfig",
    "GaussianDetector",
    "GuidedConfig",
    "GuidedSegmentation",
    "NormalBatches",
    "PatchCore",
    "PatchCoreConfig",
    "Scores",
]
