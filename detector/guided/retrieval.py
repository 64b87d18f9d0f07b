"""Which normal image an image is compared with: the one that the backbone finds most similar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from detector.coreset import coreset_rows
from detector.embeddings import CellEmbeddings
from detector.features import valid_cells
from manifests.errors import ModelError
from manifests.images import Geometry

Boxes = Sequence[tuple[int, int, int, int]] | np.ndarray

_QUERY_ROWS = 1024
_REFERENCE_ROWS = 8192
_INDEX_SPAN = 2**32


def embeddings(cells: CellEmbeddings, images: np.ndarray, canvas_boxes: Boxes) -> torch.Tensor:
    """Pooled features of images, of unit length.

    Args:
        cells: of the network as it was before training, which no training moves.
        images: (B, H, W, 3) uint8 RGB.
        canvas_boxes: (B, 4) `y, x, h, w` in px, the part of each canvas that is not padding.

    Returns:
        (B, D) float32 on the device of `cells`, each the mean over the cells of the last feature
        map that show the source, divided by its length; 0 where that is 0.

    Raises:
        ModelError: not one box per image, or features that are not finite.

    Source: NIGSF (IEEE TCSVT 34(6), 2024). Differs: the mean leaves padding out.
    """
    if len(canvas_boxes) != len(images):
        raise ModelError("one canvas box per image", expected=len(images), got=len(canvas_boxes))
    maps = cells(images)  # (B, h, w, D)
    geometry = Geometry(height=images.shape[1], width=images.shape[2])
    grid = (maps.shape[1], maps.shape[2])
    shown = np.stack([valid_cells(grid, geometry, box) for box in canvas_boxes])
    weights = torch.from_numpy(shown).to(maps.device, torch.float64)
    pooled = torch.einsum("bhwd,bhw->bd", maps.double(), weights)
    # The number of cells is part of the length, which is divided by anyway.
    return F.normalize(pooled, dim=1).float()


def nearest(
    queries: torch.Tensor,
    references: torch.Tensor,
    *,
    count: int,
    exclude: torch.Tensor | None = None,
) -> torch.Tensor:
    """The most similar references of every query, the most similar first.

    Similarity is the dot product, in float64 and then rounded to float32, so that copies of an
    image are equally similar wherever they stand; of equals the lower index comes first. Memory
    grows with Q × count and blocks of fixed size, not with Q × N.

    Args:
        queries: (Q, D) float32, as `embeddings` returns them.
        references: (N, D) float32, on the same device.
        count: how many per query, at least 1.
        exclude: (Q,) int64, a reference that each query must not get (a training image's own row),
            or -1 for none; None for none at all.

    Returns:
        (Q, count) int64.

    Raises:
        ModelError: fewer references than that, an excluded one not counted.

    Source: NIGSF (IEEE TCSVT 34(6), 2024), cosine similarity.
    """
    usable = len(references) - (exclude is not None)
    if not 1 <= count <= usable:
        raise ModelError(
            "not as many reference images as are wanted",
            expected=f"1 to {usable}",
            got=count,
        )
    found = [
        _nearest(
            queries[start : start + _QUERY_ROWS],
            references,
            count,
            None if exclude is None else exclude[start : start + _QUERY_ROWS],
        )
        for start in range(0, len(queries), _QUERY_ROWS)
    ]
    if not found:
        return torch.empty((0, count), dtype=torch.int64, device=queries.device)
    return torch.cat(found)


def choose_references(embeddings: torch.Tensor, most: int, seed: int) -> torch.Tensor:
    """Which normal images a model keeps: those that leave no other one far from all of them.

    Args:
        embeddings: (N, D) float32, of unit length: distances then order as cosine similarity does.
        most: how many to keep at most, at least 1.
        seed: of the first pick, and of the projection where D is large (`coreset.k_centre`).

    Returns:
        (min(most, N),) int64 rows, ascending.

    Raises:
        ConfigError: none are to be kept.
        ModelError: embeddings that are not finite.

    Source: ours; NIGSF keeps all.
    """
    return coreset_rows(embeddings, most, rng=np.random.default_rng(seed))


def _nearest(
    queries: torch.Tensor, references: torch.Tensor, count: int, exclude: torch.Tensor | None
) -> torch.Tensor:
    device = queries.device
    best = torch.empty((len(queries), 0), dtype=torch.int64, device=device)
    wide = queries.double()
    for start in range(0, len(references), _REFERENCE_ROWS):
        block = references[start : start + _REFERENCE_ROWS]
        indices = torch.arange(start, start + len(block), device=device)
        keys = _keys((wide @ block.double().T).float(), indices)
        if exclude is not None:
            keys.masked_fill_(indices[None, :] == exclude[:, None], torch.iinfo(torch.int64).min)
        keys = keys.topk(min(count, len(block)), dim=1, sorted=False).values
        best = torch.cat([best, keys], dim=1)
        best = best.topk(min(count, best.shape[1]), dim=1).values
    return _INDEX_SPAN - 1 - best.remainder(_INDEX_SPAN)


def _keys(similarities: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(Q, n) int64, all different, that order by similarity and then by index, lower ones first.

    A float's bits, read as an integer, order like the float where it is positive; the others'
    lower bits are turned over.
    """
    bits = (similarities + 0.0).view(torch.int32).to(torch.int64)  # -0.0 + 0.0 is 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return ordered * _INDEX_SPAN + (_INDEX_SPAN - 1 - indices)
