"""Named random streams: what is drawn for one purpose never depends on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def random_stream(name: str) -> torch.Generator:
    """Make the generator of one use.

    Args:
        name: ASCII; the same name gives the same draws, different ones do not overlap in practice.

    Returns:
        A CPU generator, seeded with the first 7 bytes of the name's SHA-256.

    Source: ours.
    """
    digest = hashlib.sha256(name.encode("ascii")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
