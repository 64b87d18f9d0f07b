"""What training sees: batches of normals, swaps and scars, and a thread that reads them ahead.

A batch depends on the seed and the number of the update only, never on what was drawn before, so
that an interrupted training goes on with exactly the batches it would have seen.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from manifests.errors import ConfigError, ModelError

CLASSES = ("swap", "scar")
_EPOCH_STREAM, _REPLACEMENT_STREAM, _NEGATIVE_STREAM = 0, 1, 2
_POLL_S = 0.1

Item = TypeVar("Item")


class NegativeSource(Protocol):
    """The part of `manifests.negative_set.NegativeSet` that sampling needs."""

    digest: str
    n_normals: int
    negative_normal: np.ndarray  # (R,) the normal of every negative
    negative_policy: np.ndarray  # (R,) its policy's name, str

    def normal(self, index: int) -> Any: ...  # has .image (H, W, 3) uint8

    def negative_image(self, index: int) -> np.ndarray: ...  # (H, W, 3) uint8


class TripletSampler:
    """Draws batches of equally many normals, swaps and scars from a negative set.

    Every normal comes with one of its own negatives of each class, drawn over all levels and
    repeats. Normals that lack a class altogether are left out. An epoch is a random order of the
    normals cut into whole batches; where there are fewer normals than a batch holds, they are drawn
    with replacement.

    Args:
        negative_set: an open set; it is read, never changed, and stays open.
        batch: normals per batch, at least 1.
        seed: of all draws, at least 0.
        classes: the policies that are the other classes, in the order of their labels from 1 on.

    Attributes:
        labels: the class names by label, `("normal", *classes)`.
        n_usable: normals that have a negative of every class.
        n_skipped: normals that do not.
        is_with_replacement: whether `n_usable < batch`.
        set_digest: the digest of the negative set.

    Raises:
        ConfigError: a batch under 1, a negative seed, no classes or one twice.
        ModelError: the set has no negative of a class, or fewer than two normals have all of them.

    Source: CutSwap (arXiv 2311.18332), three equal parts; the pairing with its own negatives is
    CutPaste's, the deterministic order ours.
    """

    def __init__(
        self,
        negative_set: NegativeSource,
        *,
        batch: int = 32,
        seed: int = 0,
        classes: Sequence[str] = CLASSES,
    ) -> None:
        if batch < 1:
            raise ConfigError("the batch is too small", expected="at least 1", got=batch)
        if seed < 0:
            raise ConfigError("the seed is negative", expected="at least 0", got=seed)
        if not classes or len(set(classes)) != len(classes) or "normal" in classes:
            raise ConfigError(
                "classes must be different policies", got=", ".join(classes) or "nothing"
            )
        self._set = negative_set
        self.normals_per_batch = batch
        self.seed = seed
        self.labels: tuple[str, ...] = ("normal", *classes)
        self.set_digest = negative_set.digest
        n_normals = int(negative_set.n_normals)
        policies = np.asarray(negative_set.negative_policy)
        present = sorted(set(policies.tolist()))
        missing = [name for name in classes if name not in present]
        if missing:
            raise ModelError(
                f"the negative set has no {' and no '.join(missing)} negatives to train on",
                expected=", ".join(classes),
                got=", ".join(present) or "no negatives at all",
                hint=f"build it again with --policies {','.join(classes)}",
            )
        owners = np.asarray(negative_set.negative_normal, dtype=np.int64)
        is_usable = np.ones(n_normals, dtype=bool)
        # Per class: its negatives ordered by normal, and where each normal's run starts and ends.
        self._rows: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        for name in classes:
            rows = np.flatnonzero(policies == name)
            rows = rows[np.argsort(owners[rows], kind="stable")]
            starts = np.searchsorted(owners[rows], np.arange(n_normals + 1))
            is_usable &= np.diff(starts) > 0
            self._rows.append(rows)
            self._starts.append(starts)
        self._usable = np.flatnonzero(is_usable)
        self.n_usable = len(self._usable)
        self.n_skipped = n_normals - self.n_usable
        if self.n_usable < 2:
            raise ModelError(
                f"too few normals with {' and '.join(classes)} negatives to train on",
                expected="at least 2",
                got=f"{self.n_usable} of {n_normals}",
                hint="build the set from more images",
            )
        self.is_with_replacement = self.n_usable < batch

    def draw(self, update: int) -> tuple[np.ndarray, np.ndarray]:
        """Choose the images of one update without reading them.

        Args:
            update: its number, from 0.

        Returns:
            normals (B,) int64, and negatives (C, B) int64, one row per class; column i belongs to
            normal i.

        Source: ours.
        """
        count = self.normals_per_batch
        if self.is_with_replacement:
            rng = np.random.default_rng([self.seed, _REPLACEMENT_STREAM, update])
            normals = self._usable[rng.integers(self.n_usable, size=count)]
        else:
            epoch, part = divmod(update, self.n_usable // count)
            rng = np.random.default_rng([self.seed, _EPOCH_STREAM, epoch])
            order = rng.permutation(self.n_usable)[part * count : (part + 1) * count]
            normals = self._usable[order]
        rng = np.random.default_rng([self.seed, _NEGATIVE_STREAM, update])
        negatives = np.empty((len(self._rows), count), dtype=np.int64)
        for rows, starts, chosen in zip(self._rows, self._starts, negatives, strict=True):
            chosen[:] = rows[rng.integers(starts[normals], starts[normals + 1])]
        return normals, negatives

    def batch(self, update: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the images of one update.

        Args:
            update: its number, from 0.

        Returns:
            images ((1 + C) * B, H, W, 3) uint8 RGB in blocks of B: normals, then each class in the
            order of `labels`; row i of every block belongs to the same normal. Labels
            ((1 + C) * B,) int64, 0 for normal.

        Raises:
            SetError: a shard that cannot be read.

        Source: ours.
        """
        normals, negatives = self.draw(update)
        images = [self._set.normal(int(i)).image for i in normals]
        images += [self._set.negative_image(int(j)) for j in negatives.ravel()]
        labels = np.repeat(np.arange(len(self.labels), dtype=np.int64), self.normals_per_batch)
        return np.stack(images), labels


class Prefetch(Generic[Item]):
    """Loads items in a background thread, in order, a few ahead of where they are used.

    One thread is enough: reading a batch is copying from the page cache, and training needs the
    cores. Use it as a context manager; leaving it stops the thread.

    Args:
        load: called with each key in turn, in the thread; what it raises is raised by the iterator.
        keys: what to load, e.g. `range(start, stop)`.
        depth: items held ready at most, at least 1.

    Source: ours.
    """

    def __init__(self, load: Callable[[int], Item], keys: Sequence[int], *, depth: int = 2) -> None:
        self._load = load
        self._keys = keys
        self._n_left = len(keys)
        self._ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cutswap-prefetch", daemon=True)

    def __enter__(self) -> Prefetch[Item]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_stopped.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """Return the item of the next key, waiting for it where it is not ready yet."""
        if self._n_left == 0:
            raise StopIteration
        item, error = self._ready.get()
        if error is not None:
            self._n_left = 0
            raise error
        self._n_left -= 1
        return item  # type: ignore[return-value]  # no error means there is an item

    def _run(self) -> None:
        for key in self._keys:
            try:
                entry = (self._load(key), None)
            except BaseException as error:  # handed over whole: the consumer raises it
                entry = (None, error)
            while not self._is_stopped.is_set():
                try:
                    self._ready.put(entry, timeout=_POLL_S)
                    break
                except queue.Full:
                    continue
            if entry[1] is not None or self._is_stopped.is_set():
                return
