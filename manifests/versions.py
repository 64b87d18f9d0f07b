"""Versions of the libraries that decide pixels and numbers, for manifests and models."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

LIBRARIES = (
    "cutswap",
    "h5py",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "timm",
    "torch",
)
UNKNOWN = "unknown"

_DECODERS = {"pillow": "Pillow", "libjpeg": "libjpeg", "opencv-python-headless": "OpenCV"}


def library_versions() -> dict[str, str]:
    """Distribution name -> version; "unknown" for one that is used without being installed.

    `libjpeg` is the one that Pillow brings along: it decides the pixels of a JPEG file.
    """
    return {**{name: _version(name) for name in LIBRARIES}, "libjpeg": _libjpeg_version()}


def decoder_versions() -> dict[str, str]:
    """What decodes and resizes images here: the part of `library_versions` that decides pixels."""
    versions = {name: _version(name) for name in _DECODERS if name != "libjpeg"}
    if versions["opencv-python-headless"] == UNKNOWN:
        import cv2  # the same library, installed under another name

        versions["opencv-python-headless"] = cv2.__version__
    return {**versions, "libjpeg": _libjpeg_version()}


def decoder_in_words(versions: Mapping[str, str]) -> str:
    """The decoders among `versions`, for messages: `Pillow 11.1.0, libjpeg 3.0.4, OpenCV 4.10`."""
    shown = {title: versions.get(name, UNKNOWN)[:40] for name, title in _DECODERS.items()}
    return ", ".join(f"{title} {version}" for title, version in shown.items())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def _libjpeg_version() -> str:
    from PIL import features

    version = features.version("libjpeg_turbo") or features.version("jpg")
    return str(version or UNKNOWN)
