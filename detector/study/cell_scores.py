"""What statistics need of one cell, per test image: image scores and histograms of pixel scores.

A bootstrap needs the pixel metrics of thousands of reweighted test sets. Score maps of a cell are
hundreds of megabytes and would be sorted anew each time; a histogram per image holds the same
metrics to the fifth digit in about a megabyte.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from detector.metrics import image_metrics, pixel_metrics
from manifests.atomic import atomic_file
from manifests.errors import ModelError

if TYPE_CHECKING:
    from detector.evaluate import Evaluation

CELL_VERSION = 3
_MAX_ARRAY_BYTES = 1 << 32
# Field: (dimensions, dtype kind and bytes per item, None for any).
_LAYOUT = {
    "sources": (1, "U", None),
    "defects": (1, "U", None),
    "labels": (1, "b", 1),
    "image": (1, "f", 4),
    "has_truth": (1, "b", 1),
    "edges": (1, "f", 4),
    "good": (2, "u", 4),
    "bad": (2, "u", 4),
    "overlap": (2, "f", 4),
    "components": (1, "i", 4),
}
_EXTRA = {"version": (0, "i", 8), "exact_names": (1, "U", None), "exact_values": (1, "f", 8)}


@dataclass(frozen=True, eq=False)
class CellScores:
    """Scores of the n test images of one cell: one data set, arm, coreset ratio and seed.

    Attributes:
        sources: (n,) str, distinct.
        defects: (n,) str, "good" where there is none.
        labels: (n,) bool, True for defective.
        image: (n,) float32 raw image scores.
        has_truth: (n,) bool; others have zeros below and count for image metrics only.
        edges: (bins+1,) float32 strictly ascending; bin k holds edges[k] <= score < edges[k+1].
        good: (n, bins) uint32, pixels outside the mask per bin, padding left out.
        bad: (n, bins) uint32, pixels inside the mask per bin, padding left out.
        overlap: (n, bins) float32, per bin the sum over the image's ground-truth components of the
            share of the component's pixels that lie in the bin.
        components: (n,) int32, number of these components.
        exact: metrics over all n images from the full maps, undefined ones left out.

    Raises:
        ValueError: the arrays do not fit each other or the above.
    """

    sources: np.ndarray
    defects: np.ndarray
    labels: np.ndarray
    image: np.ndarray
    has_truth: np.ndarray
    edges: np.ndarray
    good: np.ndarray
    bad: np.ndarray
    overlap: np.ndarray
    components: np.ndarray
    exact: dict[str, float]

    def __post_init__(self) -> None:
        for name, (ndim, kind, width) in _LAYOUT.items():
            _check_type(name, getattr(self, name), ndim, kind, width)
        n, bins = len(self.sources), len(self.edges) - 1
        for name, (ndim, _, _) in _LAYOUT.items():
            shape = getattr(self, name).shape
            expected = (bins + 1,) if name == "edges" else (n, bins)[:ndim]
            if bins < 1 or shape != expected:
                raise ValueError(f"{name} is {shape}, not {expected}")
        if len(set(self.sources.tolist())) != n:
            raise ValueError("two sources of one name")
        if not (np.isfinite(self.edges).all() and (np.diff(self.edges) > 0).all()):
            raise ValueError("edges do not ascend")
        if not (np.isfinite(self.image).all() and np.isfinite(self.overlap).all()):
            raise ValueError("scores or overlaps that are NaN or infinite")
        if (self.components < 0).any() or (self.overlap < 0).any():
            raise ValueError("counts below 0")
        if ((self.components > 0) != self.bad.any(axis=1)).any():
            raise ValueError("components without defective pixels, or the other way")
        if np.asarray(self.good.any(axis=1) | self.bad.any(axis=1))[~self.has_truth].any():
            raise ValueError("pixels of images without ground truth")

    def save(self, path: Path) -> None:
        """Writes an npz file, whole or not at all; the same content gives the same bytes.

        Raises:
            OutputError: the file cannot be written.
        """
        arrays = {name: getattr(self, name) for name in _LAYOUT}
        names = sorted(self.exact)
        arrays["version"] = np.array(CELL_VERSION, dtype=np.int64)
        arrays["exact_names"] = np.array(names, dtype=np.str_)
        arrays["exact_values"] = np.array([self.exact[name] for name in names], dtype=np.float64)
        # A path would make numpy append its own suffix to the temporary name.
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> CellScores:
        """Reads what `save` wrote; nothing is unpickled, and sizes are checked before allocation.

        Raises:
            ModelError: the file is missing, damaged, or of a newer version.
        """
        try:
            arrays = _read(Path(path))
            if (version := int(arrays.pop("version"))) != CELL_VERSION:
                raise ModelError(
                    "cell scores of another version of cutswap",
                    path=path,
                    expected=f"version {CELL_VERSION}",
                    got=version,
                    hint="run this cell again",
                )
            names, values = arrays.pop("exact_names").tolist(), arrays.pop("exact_values").tolist()
            return cls(**arrays, exact=dict(zip(names, values, strict=True)))
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise ModelError(
                f"cell scores that cannot be read ({reason})", path=path, hint="run this cell again"
            ) from error


def cell_scores(evaluation: Evaluation, *, bins: int = 2048) -> CellScores:
    """Condenses a category's scored test images into what statistics need.

    Edges are quantiles of all pixel scores with ground truth, ever finer towards the high scores:
    edge k has the share (1 - k / bins)^3 of the pixels at or above it. With 2048 bins, pixel AUROC,
    AP and AUPRO agree with the exact ones within 2e-4 (1e-5 on the magnetic tiles, each kind of
    defect by itself included).

    Args:
        evaluation: score maps, masks and labels; not changed.
        bins: at most this many, one per score where fewer are distinct; at least 2.

    Raises:
        ModelError: a score is NaN or infinite.
        ValueError: fewer than 2 bins.

    Source: ours; components have 8-connectivity, as in `detector.metrics`.
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, not {bins}")
    known = evaluation.has_truth
    maps, masks, valid = evaluation.maps[known], evaluation.masks[known], evaluation.valid[known]
    exact = _exact(evaluation, maps, masks, valid)  # refuses what is not finite
    edges = _edges(maps[valid], bins)
    n, bins = len(known), len(edges) - 1
    good = np.zeros((n, bins), dtype=np.uint32)
    bad = np.zeros_like(good)
    overlap = np.zeros((n, bins), dtype=np.float32)
    components = np.zeros(n, dtype=np.int32)
    for row, scores, mask, inside in zip(np.flatnonzero(known), maps, masks, valid, strict=True):
        good[row] = _histogram(scores[inside & ~mask], edges)
        marked = inside & mask
        if not marked.any():
            continue
        bad[row] = _histogram(scores[marked], edges)
        count, numbered = cv2.connectedComponents(marked.astype(np.uint8), connectivity=8)
        components[row] = count - 1
        shares = np.zeros(bins)
        for number in range(1, count):
            part = scores[numbered == number]
            shares += _histogram(part, edges) / part.size
        overlap[row] = shares
    return CellScores(
        sources=np.array([sample.source for sample in evaluation.samples], dtype=np.str_),
        defects=np.array([sample.defect for sample in evaluation.samples], dtype=np.str_),
        labels=evaluation.labels.astype(bool),
        image=evaluation.scores.astype(np.float32),
        has_truth=known.astype(bool),
        edges=edges,
        good=good,
        bad=bad,
        overlap=overlap,
        components=components,
        exact=exact,
    )


def _exact(
    evaluation: Evaluation, maps: np.ndarray, masks: np.ndarray, valid: np.ndarray
) -> dict[str, float]:
    image = image_metrics(evaluation.scores, evaluation.labels)
    pixel = pixel_metrics(maps, masks, None if valid.all() else valid)
    found = {
        "image_auroc": image.auroc,
        "image_ap": image.ap,
        "image_f1_max": image.f1_max,
        "pixel_auroc": pixel.auroc,
        "pixel_ap": pixel.ap,
        "pixel_f1_max": pixel.f1_max,
        "aupro": pixel.aupro,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _edges(pixels: np.ndarray, bins: int) -> np.ndarray:
    """(at most bins+1,) float32 edges around all of `pixels`, which are sorted in place."""
    if not pixels.size:
        return np.array([0, 1], dtype=np.float32)
    pixels.sort()
    is_new = np.append(True, pixels[1:] != pixels[:-1])
    if np.count_nonzero(is_new) <= bins:
        edges = pixels[is_new]  # a bin per score: nothing is lost
    else:
        share_above = np.linspace(1, 0, bins + 1)[:-1] ** 3
        places = np.floor((1 - share_above) * pixels.size).astype(np.int64)
        edges = np.unique(pixels[np.minimum(places, pixels.size - 1)])
    return np.append(edges, np.nextafter(pixels[-1], np.float32(np.inf)))


def _histogram(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(bins,) int64; sorting first makes it one search per edge instead of one per pixel."""
    return np.diff(np.searchsorted(np.sort(scores), edges, side="left"))


def _read(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file, each of its declared type and size."""
    layout = _LAYOUT | _EXTRA
    with zipfile.ZipFile(path) as archive:
        found = sorted(archive.namelist())
        if found != sorted(f"{name}.npy" for name in layout):
            raise ValueError("it does not hold the arrays of a cell")
        return {
            name: _read_array(archive, name, ndim, kind, width)
            for name, (ndim, kind, width) in layout.items()
        }


def _read_array(
    archive: zipfile.ZipFile, name: str, ndim: int, kind: str, width: int | None
) -> np.ndarray:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} has another npy version")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        n_bytes = math.prod(shape) * dtype.itemsize
        if is_fortran or min(shape, default=0) < 0 or dtype.hasobject:
            raise ValueError(f"{name} is no plain array")
        if n_bytes > _MAX_ARRAY_BYTES or file.tell() + n_bytes != info.file_size:
            raise ValueError(f"{name} is not as long as it says")
        array = np.frombuffer(file.read(), dtype=dtype).reshape(shape)
    _check_type(name, array, ndim, kind, width)
    return array


def _check_type(name: str, array: np.ndarray, ndim: int, kind: str, width: int | None) -> None:
    fits = array.dtype.kind == kind and array.dtype.isnative
    if array.ndim != ndim or not fits or width not in (None, array.dtype.itemsize):
        raise ValueError(f"{name} is {array.ndim}-dimensional {array.dtype}")
