"""What the benchmarks share: interleaved repeats, medians and ratios as Markdown, the machine."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from generator.sample_data import render_sample_data
from manifests.allocator import keep_freed_memory
from manifests.datasets import Category, open_data

# From glibc's malloc.h, with its defaults.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@dataclass
class Timing:
    """Seconds of a side's repeats, by the clock and of the processor."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds by the clock."""
        return statistics.median(self.wall)

    def run(self, side: Callable[[], object]) -> object:
        """Runs a side once and keeps what it took."""
        wall, cpu = time.perf_counter(), _cpu_s()
        found = side()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(_cpu_s() - cpu)
        return found


def interleave(
    sides: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = False
) -> dict[str, Timing]:
    """Timings of all sides in turn, so that a noisy machine hits all of them.

    Args:
        warm_up: run every side once before, and forget what it took.
    """
    if warm_up:
        for side in sides.values():
            side()
    timings = {name: Timing() for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            timings[name].run(side)
    return timings


def table(
    timings: Mapping[str, Timing], *, base: str, per: float = 1.0, unit: str = "s"
) -> list[str]:
    """Markdown rows: medians by the clock and of the processor, and their ratios to `base`.

    Args:
        per: what the seconds are divided by, such as images / 1000 for ms per image.
    """
    lines = [
        f"| | {unit} | of `{base}` | processor {unit} | of `{base}` | fastest, slowest |",
        "|---|---|---|---|---|---|",
    ]
    wall0, cpu0 = (statistics.median(part) for part in (timings[base].wall, timings[base].cpu))
    for name, timing in timings.items():
        wall, cpu = statistics.median(timing.wall), statistics.median(timing.cpu)
        lines.append(
            f"| {name} | {wall / per:.3g} | {wall / wall0:.2f} | {cpu / per:.3g} | "
            f"{cpu / cpu0 if cpu0 else math.nan:.2f} | "
            f"{min(timing.wall) / per:.3g}, {max(timing.wall) / per:.3g} |"
        )
    return lines


def training_part(data: Path | None, count: int, scratch: Path) -> Category:
    """The first training images of a data set; our own, drawn into `scratch`, without one."""
    if data is None:
        data = scratch / "data"
        render_sample_data(data, train=count, test_good=1, per_defect=1)
    category = open_data(data)[0]
    return replace(category, samples=tuple(category.train[:count]))


def machine(*packages: str) -> str:
    """Processor, cores and versions, in one line."""
    name = platform.processor() or platform.machine()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    versions = []
    for package in ("torch", "numpy", *packages):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return f"{name}, {cores} cores{load}; Python {platform.python_version()}, {', '.join(versions)}"


def _cpu_s() -> float:
    """Of this process and of children that have ended; of workers that live on, nothing."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


@contextmanager
def memory_given_back() -> Iterator[None]:
    """glibc's malloc as it comes, for libraries that allocate in a way ours does not.

    With freed memory kept, a search that makes a large temporary and keeps a small result for every
    pick grows by that temporary each time: glibc 2.36 does not fill a hole with an aligned block of
    the hole's size.
    """
    if not keep_freed_memory():
        yield
        return
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    mallopt(_M_MMAP_MAX, 65536)
    mallopt(_M_TRIM_THRESHOLD, 128 * 1024)
    try:
        yield
    finally:
        keep_freed_memory.cache_clear()
        keep_freed_memory()
