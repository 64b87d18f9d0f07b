"""Which normal images a model was fitted to, in the order in which its bank counts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from manifests.errors import ModelError, SetError
from manifests.shard_records import check_source

if TYPE_CHECKING:
    import torch

_DIGEST_BYTES = 32

# Names end to end, as UTF-8, and where each ends: tensors hold no text.
NORMALS_TENSORS = {
    "pixel_digest": ("U8", ("N", str(_DIGEST_BYTES))),
    "file_sha256": ("U8", ("N", str(_DIGEST_BYTES))),
    "canvas_box": ("I32", ("N", "4")),
    "source": ("U8", ("S",)),
    "source_end": ("I64", ("N",)),
}


@dataclass(frozen=True)
class FittedNormal:
    """A normal image by name.

    Attributes:
        source: path of its file below its category's folder, with `/`.
        file_sha256: of that file.
        pixel_digest: of its pixels on the canvas, as `array_digest` gives it.
        canvas_box: `y, x, h, w` in px, the part of the canvas that is not padding.
    """

    source: str
    file_sha256: str
    pixel_digest: str
    canvas_box: tuple[int, int, int, int]


def normals_state(normals: Sequence[FittedNormal]) -> dict[str, torch.Tensor]:
    """Tensors by name, as `normals.safetensors` holds them."""
    import torch

    names = [one.source.encode("utf-8") for one in normals]
    return {
        "pixel_digest": _digests([one.pixel_digest for one in normals]),
        "file_sha256": _digests([one.file_sha256 for one in normals]),
        "canvas_box": torch.tensor([one.canvas_box for one in normals], dtype=torch.int32),
        "source": torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8),
        "source_end": torch.tensor(np.cumsum([len(name) for name in names]), dtype=torch.int64),
    }


def normals_from_state(
    state: Mapping[str, torch.Tensor], *, canvas: tuple[int, int]
) -> tuple[FittedNormal, ...]:
    """What `normals_state` returned, from a stranger; names and shapes are known to be right.

    Args:
        canvas: its height and width in px.

    Raises:
        ModelError: names that are none, or boxes outside the canvas.
    """
    text = bytes(state["source"].numpy())
    ends = state["source_end"].tolist()
    starts = [0, *ends[:-1]]
    boxes = state["canvas_box"].tolist()
    pixels, files = (state[name].numpy() for name in ("pixel_digest", "file_sha256"))
    found = []
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if not 0 <= start < end <= len(text) or (row == len(ends) - 1 and end != len(text)):
            raise ModelError("malformed list of normals: its names do not follow one another")
        y, x, h, w = boxes[row]
        if min(y, x) < 0 or min(h, w) < 1 or y + h > canvas[0] or x + w > canvas[1]:
            raise ModelError("malformed list of normals: a box lies outside the canvas")
        try:
            source = text[start:end].decode("utf-8")
            check_source(source)
        except (UnicodeDecodeError, SetError):
            raise ModelError(
                "malformed list of normals: no path", got=ascii(text[start:end])[:80]
            ) from None
        digest, file = bytes(pixels[row]).hex(), bytes(files[row]).hex()
        found.append(FittedNormal(source, file, digest, (y, x, h, w)))
    return tuple(found)


def _digests(digests: Iterable[str]) -> torch.Tensor:
    """(N, 32) uint8 of hexadecimal digests."""
    import torch

    rows = np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8)
    return torch.from_numpy(rows.reshape(-1, _DIGEST_BYTES).copy())
