"""What one training update sees."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images of one update, normals first, then one kind of negatives after the other.

    Attributes:
        labels: (N,) int64, 0 for normal, then the kinds in the order of the sampler's `labels`.
        rows: (N,) int64, which image of the set each is: normal i is row i, negative j is row
            n_normals + j.
        images: (N, H, W, 3) uint8 RGB; None where they were not asked for.
        masks: (N, H, W) bool, the edited pixels, none in a normal; None where not asked for.
    """

    labels: np.ndarray
    rows: np.ndarray
    images: np.ndarray | None = field(default=None, repr=False)
    masks: np.ndarray | None = field(default=None, repr=False)
