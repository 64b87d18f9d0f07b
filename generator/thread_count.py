"""How many threads a saliency pass runs on, where several passes may share one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_changed = threading.Condition()
_passes = 0
_count = 0
_before = 0


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Lets torch use `count` threads until the last of the passes that run now is done.

    The number belongs to the process, and to the thread that sets it as well, and it decides bytes.
    A pass on another number waits for those that run.
    """
    global _passes, _count, _before
    import torch

    with _changed:
        while _passes and _count != count:
            _changed.wait()
        if not _passes:
            _before, _count = torch.get_num_threads(), count
        _passes += 1
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _changed:
            _passes -= 1
            # What was before must not come back under a pass that still runs.
            torch.set_num_threads(count if _passes else _before)
            _changed.notify_all()
