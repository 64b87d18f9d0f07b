"""SHA-256 digests of bytes, files and arrays, always as 64 lower-case hex characters."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_ROWS_APART = 16


def bytes_digest(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of `data` as hex."""
    return hashlib.sha256(data).hexdigest()


def pieces_digest(pieces: Iterable[bytes | bytearray | memoryview]) -> str:
    """SHA-256 of pieces that follow each other as hex."""
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()


def file_digest(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes as hex. Raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and values as hex.

    The hashed bytes are the ASCII line `"<dtype> <d0> <d1> ...\\n"` (dtype as NumPy names it, e.g.
    `uint8 256 256 3`) followed by the values in C order, little endian. The header keeps arrays of
    equal bytes but other shapes apart.
    """
    hasher = hashlib.sha256(_header(array))
    hasher.update(_values(array))
    return hasher.hexdigest()


class PrefixDigest:
    """`array_digest` of arrays that begin with the same rows as a known one, hashed only once.

    Args:
        array: the known one, of at least one row.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._kind = array.dtype, array.shape
        hasher = hashlib.sha256(_header(array))
        self._states = []
        for start in range(0, len(array), _ROWS_APART):
            self._states.append(hasher.copy())
            hasher.update(_values(array[start : start + _ROWS_APART]))
        self.digest = hasher.hexdigest()

    def of(self, array: np.ndarray, same_rows: int) -> str:
        """`array_digest` of an array whose first `same_rows` rows are those of the known one.

        Raises:
            ValueError: another dtype or shape than the known one's.
        """
        if (array.dtype, array.shape) != self._kind:
            raise ValueError(f"expected {self._kind}, got {array.dtype} {array.shape}")
        index = min(same_rows // _ROWS_APART, len(self._states) - 1)
        hasher = self._states[index].copy()
        hasher.update(_values(array[index * _ROWS_APART :]))
        return hasher.hexdigest()


def _header(array: np.ndarray) -> bytes:
    return (" ".join([_name(array.dtype), *map(str, array.shape)]) + "\n").encode("ascii")


def _values(array: np.ndarray) -> memoryview:
    import numpy as np  # not at the top: `inspect` digests files only, and NumPy takes 0.1 s

    values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return values.reshape(-1).view(np.uint8).data


@functools.cache  # NumPy puts the name together anew each time, at the price of hashing 8 KB
def _name(dtype: np.dtype) -> str:
    return dtype.name
