"""The normal images that a model keeps, and which of them is most like another image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Self

import numpy as np
import torch

from detector.guided.retrieval import nearest
from manifests.errors import ModelError

_IMAGE, _BOX, _EMBEDDING = "references/image", "references/canvas_box", "references/embedding"


class References:
    """Normal images with their embeddings.

    Args:
        images: (R, H, W, 3) uint8 on the device.
        boxes: (R, 4) int64, `y, x, h, w` of what is not padding.
        embeddings: (R, D) float32 on the device, of unit length.
        rows: (R,) int64, their numbers among the images that were fitted to; None for a model that
            was loaded.

    Source: ours.
    """

    NAMES: ClassVar[frozenset[str]] = frozenset({_IMAGE, _BOX, _EMBEDDING})

    def __init__(
        self,
        images: torch.Tensor,
        boxes: np.ndarray,
        embeddings: torch.Tensor,
        rows: np.ndarray | None = None,
    ) -> None:
        self._images = images
        self._boxes = boxes
        self._embeddings = embeddings
        self._rows = rows

    def __len__(self) -> int:
        """The number of references."""
        return len(self._boxes)

    @classmethod
    def read(
        cls,
        batches: Iterable[tuple[np.ndarray, object]],
        rows: np.ndarray,
        embeddings: torch.Tensor,
        device: str,
    ) -> Self:
        """The images of these rows, ascending, from batches of all images and boxes."""
        images, boxes, start = [], [], 0
        for batch, batch_boxes in batches:
            inside = rows[(rows >= start) & (rows < start + len(batch))] - start
            images.append(batch[inside])
            boxes.append(np.asarray(batch_boxes, dtype=np.int64).reshape(-1, 4)[inside])
            start += len(batch)
        pixels = torch.from_numpy(np.concatenate(images)).to(device)
        return cls(pixels, np.concatenate(boxes), embeddings.to(device), rows)

    def most_similar(
        self, embeddings: torch.Tensor, *, own_rows: np.ndarray | None = None
    ) -> tuple[torch.Tensor, np.ndarray]:
        """The reference of every image.

        Args:
            embeddings: (B, D) float32 of the images.
            own_rows: (B,) int64, their numbers among the images that were fitted to: an image that
                is a reference gets another one. None for images that are not.

        Returns:
            (B, H, W, 3) uint8 on the device, and boxes (B, 4).

        Raises:
            ModelError: the only reference would be its own.
        """
        exclude = None
        if own_rows is not None and self._rows is not None:
            place = {int(row): number for number, row in enumerate(self._rows)}
            own = [place.get(int(row), -1) for row in own_rows]
            exclude = torch.tensor(own, device=embeddings.device)
        chosen = nearest(embeddings, self._embeddings, count=1, exclude=exclude)[:, 0]
        return self._images[chosen], self._boxes[chosen.cpu().numpy()]

    def ranked(self, embedding: torch.Tensor, *, count: int) -> list[tuple[np.ndarray, float]]:
        """References (H, W, 3) uint8 with their similarity to one (D,) embedding, highest first.

        The first one is what `most_similar` gives.
        """
        rows = nearest(embedding[None], self._embeddings, count=min(count, len(self)))[0]
        similarity = (self._embeddings[rows].double() @ embedding.double()).tolist()
        images = self._images[rows].cpu().numpy()
        return list(zip(images, similarity, strict=True))

    def state(self) -> dict[str, torch.Tensor]:
        """Pixels, boxes (int32) and embeddings by name, on the CPU."""
        return {
            _IMAGE: self._images.cpu().contiguous(),
            _BOX: torch.from_numpy(self._boxes.astype(np.int32)),
            _EMBEDDING: self._embeddings.cpu().contiguous(),
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, torch.Tensor], canvas: tuple[int, int], dim: int, device: str
    ) -> Self:
        """What `state` returned.

        Raises:
            ModelError: missing, or of another network or canvas.
        """
        missing = sorted(cls.NAMES - state.keys())
        if missing:
            raise ModelError("malformed references", expected=", ".join(missing), got="none")
        images, boxes, embeddings = state[_IMAGE], state[_BOX], state[_EMBEDDING]
        count = len(boxes)
        fits = (
            tuple(images.shape) == (count, *canvas, 3)
            and images.dtype == torch.uint8
            and tuple(boxes.shape) == (count, 4)
            and boxes.dtype == torch.int32
            and tuple(embeddings.shape) == (count, dim)
            and embeddings.dtype == torch.float32
            and count > 0
        )
        y, x, h, w = boxes.long().T if boxes.ndim == 2 and boxes.shape[1] == 4 else [boxes] * 4
        is_inside = fits and bool(
            ((y >= 0) & (x >= 0) & (h > 0) & (w > 0)).all()
            and ((y + h <= canvas[0]) & (x + w <= canvas[1])).all()
        )
        if not is_inside:
            raise ModelError(
                "references of another network or another canvas",
                expected=f"images {canvas[0]}x{canvas[1]}, {dim} dimensions",
                got=f"images {tuple(images.shape)}, embeddings {tuple(embeddings.shape)}",
                hint="fit again",
            )
        return cls(images.to(device), boxes.numpy().astype(np.int64), embeddings.to(device))
