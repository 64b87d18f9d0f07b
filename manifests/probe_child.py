"""The process that parses unfamiliar shards: a script that `manifests.probe` starts, not a module.

It is told where Python finds its packages, limits itself, and then answers every line of JSON on
its standard input with one on its standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TextIO


def main() -> None:
    """Answer until the questions end."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    # Whatever a library prints must not be taken for an answer.
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.buffer.readline())
    # `-I` leaves out what this Python's user has set up, and so perhaps our own packages. Behind
    # those of the starting process, the folder this file lies in is enough for a plain checkout.
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [*setup["path"], here]

    from manifests import hdf5_plugins

    hdf5_plugins.disable()
    from manifests.errors import SetError
    from manifests.shard import Shard

    limit_memory(setup["max_bytes"])
    answer(answers, {"ready": True})
    for line in sys.stdin.buffer:
        limit_time(setup["timeout_s"])
        path = json.loads(line)["file"]
        try:
            with Shard(path) as shard:
                shard.index  # noqa: B018 (parses and checks the whole structure)
        except SetError as error:
            fields = {"what": error.what, "hint": error.hint}
            for name in ("expected", "got"):
                value = getattr(error, name)
                fields[name] = None if value is None else str(value)
            cut = {name: value and value[:400] for name, value in fields.items()}
            answer(answers, {"error": cut})
        except MemoryError:
            answer(answers, {"memory": True})
            return
        else:
            answer(answers, {"error": None})


def answer(stream: TextIO, message: dict) -> None:
    """Print one line of JSON."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def limit_memory(max_bytes: int) -> None:
    """No more memory than this beyond what is in use now, and no file written at all.

    Where the platform has no such limits, the parent's clock remains.
    """
    try:
        import resource
    except ImportError:
        return
    set_limit(resource.RLIMIT_FSIZE, 0)
    set_limit(resource.RLIMIT_CORE, 0)
    try:
        with open("/proc/self/statm", "rb") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return
    set_limit(resource.RLIMIT_AS, used + max_bytes)


def limit_time(timeout_s: float) -> None:
    """No more processor time than this from now on; the parent may be dead and not look."""
    try:
        import resource
    except ImportError:
        return
    set_limit(resource.RLIMIT_CPU, int(time.process_time() + timeout_s) + 2)


def set_limit(kind: int, value: int) -> None:
    """Lower a soft limit, as far as the hard one allows."""
    import resource

    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (value, hard))


if __name__ == "__main__":
    main()
