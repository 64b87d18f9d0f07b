"""Scores batches in several threads, in order: network and search of different images overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

import numpy as np
import torch

from detector.detectors.base import Boxes, Detector, Scores
from manifests.errors import CutswapError

# Each holds the activations of a batch, some 300 MB for eight images of 256 px.
_MOST_WORKERS = 4

Batch = TypeVar("Batch")


def score_ahead(
    detector: Detector,
    batches: Iterable[Batch],
    arrays_of: Callable[[Batch], tuple[np.ndarray, Boxes]],
) -> Iterator[tuple[Batch, Scores]]:
    """Yields every batch with its scores, in order, while the next ones are read and scored.

    One thread per batch costs less than several that share one: they wait for each other at every
    layer. The processor's threads, as torch counts them, are shared out among up to four batches; a
    single batch has all of them, and a GPU gets one batch after the other.

    Args:
        batches: what to score; it is read in this thread. What it raises is raised after the scores
            of what it gave before.
        arrays_of: images (B, H, W, 3) uint8 RGB of a batch and their canvas boxes.

    Raises:
        ModelError: images that do not fit the model.
    """

    def score(batch: Batch) -> Scores:
        return detector.score(*arrays_of(batch))

    raised: list[CutswapError] = []
    source = _until_raised(batches, raised)
    begin = list(islice(source, 2))
    source = chain(begin, source)
    threads = torch.get_num_threads()
    workers = min(threads, _MOST_WORKERS) if detector.device == "cpu" else 1
    if workers == 1 or len(begin) == 1:
        yield from ((batch, score(batch)) for batch in source)
    else:
        yield from _in_threads(score, source, workers=workers, threads=threads)
    if raised:
        raise raised[0]


def _until_raised(batches: Iterable[Batch], raised: list[CutswapError]) -> Iterator[Batch]:
    try:
        yield from batches
    except CutswapError as error:
        raised.append(error)


def _in_threads(
    score: Callable[[Batch], Scores], batches: Iterable[Batch], *, workers: int, threads: int
) -> Iterator[tuple[Batch, Scores]]:
    share = threads // workers
    pool = ThreadPoolExecutor(workers, "cutswap-score", torch.set_num_threads, (share,))
    waiting: deque[tuple[Batch, Future[Scores]]] = deque()

    def first() -> tuple[Batch, Scores]:
        batch, found = waiting.popleft()
        return batch, found.result()

    try:
        for batch in batches:
            waiting.append((batch, pool.submit(score, batch)))
            if len(waiting) > workers:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)
        # The number belongs to the process as well as to the thread that sets it.
        torch.set_num_threads(threads)
