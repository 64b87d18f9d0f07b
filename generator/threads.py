"""Threads of this process that make shards."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from manifests.errors import WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

_SENT_PER_THREAD = 2


@contextmanager
def in_threads(
    make: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Iterator[Result]]:
    """Runs `make` on every item in threads of this process; with one worker, in this thread.

    Yields:
        The results as they are made, or what `make` raised. When the body raises, what has begun
        is waited for, as threads cannot be ended.
    """
    if workers == 1:
        yield map(make, items)
        return
    from joblib import Parallel, delayed

    gate = _Gate(make)
    results = Parallel(
        n_jobs=workers,
        backend="threading",
        batch_size=1,
        pre_dispatch=workers * _SENT_PER_THREAD,
        return_as="generator_unordered",
    )(delayed(gate)(item) for item in items)
    try:
        yield results
    finally:
        gate.shut()
        close_quietly(results)


def close_quietly(results: Generator) -> None:
    """Ends a `joblib.Parallel` before its time without a word of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results.close()


class _Gate(Generic[Item, Result]):
    """A `make` that can be shut, and then waits until all who are at work are done."""

    def __init__(self, make: Callable[[Item], Result]) -> None:
        self._make = make
        self._changed = threading.Condition()
        self._busy, self._is_shut = 0, False

    def __call__(self, item: Item) -> Result:
        with self._changed:
            if self._is_shut:
                raise WorkerError("is not begun any more")
            self._busy += 1
        try:
            return self._make(item)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def shut(self) -> None:
        """Lets nobody in any more, and waits for those inside."""
        with self._changed:
            self._is_shut = True
            while self._busy:
                self._changed.wait()
