"""SHA-256 digests of bytes, files and arrays, always as 64 lower-case hex characters."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from os import PathLike

import numpy as np


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
    header = " ".join([_name(array.dtype), *map(str, array.shape)]) + "\n"
    values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    hasher = hashlib.sha256(header.encode("ascii"))
    hasher.update(values.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


@functools.cache  # NumPy puts the name together anew each time, at the price of hashing 8 KB
def _name(dtype: np.dtype) -> str:
    return dtype.name
