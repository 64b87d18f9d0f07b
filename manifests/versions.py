"""Versions of the libraries that decide pixels and numbers, for manifests and models."""

from __future__ import annotations

import importlib.metadata

LIBRARIES = (
    "cutswap",
    "h5py",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "timm",
    "torch",
)


def library_versions() -> dict[str, str]:
    """Distribution name -> version; "unknown" for one that is used without being installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions
