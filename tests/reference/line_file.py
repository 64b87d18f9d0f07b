"""Reads a file of lines while another process appends to it."""

from __future__ import annotations

from pathlib import Path


def lines_so_far(path: Path) -> list[bytes]:
    """The lines that have their end.

    What `write` appends across a page's boundary appears to a reader in parts on Linux, so the last
    line may be half there.
    """
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines()
