"""A thread that loads ahead what is used in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, TypeVar, cast

_POLL_S = 0.1

Item = TypeVar("Item")


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
        return cast(Item, item)  # no error means there is an item

    def _run(self) -> None:
        for key in self._keys:
            entry: tuple[Item | None, BaseException | None]
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
