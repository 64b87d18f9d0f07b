"""What the frozen part of a network makes of every image, kept in memory between updates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
import torch

from manifests.errors import ConfigError, ModelError

_MEMORY_SHARE = 0.5  # of the machine's, for activations at most


class ActivationCache:
    """Activations at the end of the frozen stages, by the number of their image in the set.

    Every image is computed once, by itself, when it is first drawn: what is kept depends neither on
    the order of updates nor on who asked for it. One cache may therefore serve several trainings
    one after the other, with other seeds, kinds or levels of negatives, losses and schedules, as
    long as what shapes the activations is the same; the first training says what that is and later
    ones must agree.

    Kept as float16, half of float32's memory. That rounds to 11 significant bits: by a relative
    2^-11 (0.05 %) at most where a value's size is 6.1e-5 to 65,504, and by 2^-25 (3e-8) at most
    below; larger values are refused. What bf16 networks give is kept exactly in the first range.

    Attributes:
        identity: what shapes the activations, None before the first training.
        bytes_per_image: of memory, 0 before the first image.

    Source: ours.
    """

    def __init__(self) -> None:
        self.identity: tuple[tuple[str, object], ...] | None = None
        self.bytes_per_image = 0
        self._kept: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def n_bytes(self) -> int:
        """Memory that the activations take, in bytes."""
        return self.bytes_per_image * len(self._kept)

    def claim(self, identity: Mapping[str, object]) -> None:
        """Say what shapes the activations that will be asked for.

        Args:
            identity: by name, hashable values; network, set, frozen stages and so on.

        Raises:
            ModelError: the cache holds others; what differs is named.

        Source: ours.
        """
        wanted = tuple(sorted(identity.items()))
        if self.identity is None:
            self.identity = wanted
        if self.identity != wanted:
            held = dict(self.identity)
            names = [
                name
                for name in sorted(held.keys() | identity.keys())
                if held.get(name) != identity.get(name)
            ]
            raise ModelError(
                "the cached activations are of another training",
                expected=", ".join(f"{name}={identity.get(name)}" for name in names),
                got=", ".join(f"{name}={held.get(name)}" for name in names),
                hint="use a cache of its own for this training",
            )

    def reserve(
        self,
        rows: np.ndarray,
        *,
        n_most: int,
        compute: Callable[[int], torch.Tensor],
        n_caches: int = 1,
    ) -> None:
        """Make sure that there is memory for what will be asked for, before any work is done.

        Args:
            rows: (M,) int64, the images that may be drawn.
            n_most: how many draws there will be at most.
            compute: as for `take`; asked for one image, to see how large it is.
            n_caches: of processes on this machine, each as large as this one.

        Raises:
            ConfigError: all of it would take more than half of the machine's memory.

        Source: ours.
        """
        if not len(rows) or not n_most:
            return
        if not self._kept:
            self.take(rows[:1], compute)
        n_images = len(self) + min(n_most, sum(int(row) not in self._kept for row in rows))
        memory = _machine_bytes()
        n_bytes = n_images * self.bytes_per_image * n_caches
        if memory is not None and n_bytes > _MEMORY_SHARE * memory:
            of_each = "" if n_caches == 1 else f" in each of {n_caches} processes"
            raise ConfigError(
                "--cache-activations needs more memory than it may take",
                expected=f"at most {_MEMORY_SHARE * memory / 1e9:.1f} GB, half of this machine's",
                got=f"{n_bytes / 1e9:.1f} GB: {n_images} images of "
                f"{self.bytes_per_image / 1e3:.0f} kB{of_each}",
                hint="pass a higher --freeze-stages, whose activations are smaller, or leave out "
                "--cache-activations",
            )

    def take(self, rows: np.ndarray, compute: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Look up the activations of some images, computing those that are not there yet.

        Args:
            rows: (N,) int64.
            compute: image number -> (1, C, h, w) on any device, the same whenever it is called.

        Returns:
            (N, C, h, w) float16 on the CPU, in channels-last memory format.

        Raises:
            ModelError: an activation is too large for float16, or not finite.

        Source: ours.
        """
        for row in rows.tolist():
            if row not in self._kept:
                self._kept[row] = _rounded(compute(row))
                self.bytes_per_image = self._kept[row].nbytes
        return torch.stack([self._kept[row] for row in rows.tolist()]).permute(0, 3, 1, 2)


def _rounded(activation: torch.Tensor) -> torch.Tensor:
    """(1, C, h, w) as (h, w, C) float16 on the CPU."""
    kept = activation[0].permute(1, 2, 0).to(device="cpu", dtype=torch.float16).contiguous()
    if not torch.isfinite(kept).all():
        raise ModelError(
            "an activation cannot be cached: it is too large for float16, or not finite",
            expected=f"at most {torch.finfo(torch.float16).max:g} in size",
            got=f"{activation.abs().max().item():g}",
            hint="leave out --cache-activations",
        )
    return kept


def _machine_bytes() -> int | None:
    """The machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
