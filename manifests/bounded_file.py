"""Small files of a stranger, read without trusting their size."""

from __future__ import annotations

from pathlib import Path

from manifests.errors import CutswapError


def read_bounded(path: Path, max_bytes: int, *, error: type[CutswapError]) -> bytes:
    """The bytes of a plain file.

    Args:
        path: is not followed where it is a link.
        max_bytes: that it may have; no more are read.
        error: the kind of error to raise.

    Raises:
        FileNotFoundError: nothing is there.
        error: it is no plain file, is larger, or cannot be read.
    """
    if path.is_symlink() or not path.is_file():
        if not path.exists() and not path.is_symlink():
            raise FileNotFoundError(path)
        raise error("is not a plain file", path=path)
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as fault:
        raise error(f"cannot be read ({fault.strerror or fault})", path=path) from fault
    if len(data) > max_bytes:
        raise error("is too large", path=path, expected=f"at most {max_bytes} bytes")
    return data
