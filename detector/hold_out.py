"""Good images that training does not see, so that thresholds can come from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from manifests.digest import bytes_digest


def held_out(digests: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which images are held out: the first ones by a digest of seed and pixels.

    Args:
        digests: of all normals' pixels, in their order.
        share: of the images, 0 to 0.5.
        seed: another one holds out others.

    Returns:
        (n,) bool, True for `ceil(share * n)` of them; what is held out follows from the images
        and not from their order or names.

    Source: ours; Vovk et al. 2005 for the calibration set (split conformal prediction).
    """
    # 0.1 * 30 is 3.0000000000000004 in binary.
    count = math.ceil(share * len(digests) - 1e-9)
    keys = [bytes_digest(f"hold-out|{seed}|{digest}".encode("ascii")) for digest in digests]
    found = np.zeros(len(digests), dtype=bool)
    found[np.argsort(keys, kind="stable")[:count]] = True
    return found
