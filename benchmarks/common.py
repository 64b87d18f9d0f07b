"""What the benchmarks share: sides timed in turns, medians, tables and the machine's name."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass
class Timing:
    """Seconds of every repeat of one side."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median_wall(self) -> float:
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)


def in_turns(
    sides: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> dict[str, Timing]:
    """Times every side once per round, so that a noisy machine hits all of them.

    CPU time is that of this process; children that have ended are counted.
    """
    timings = {name: Timing() for name in sides}
    for round_number in range(repeats + warm_up):
        for name, side in sides.items():
            cpu, wall = _cpu_s(), time.perf_counter()
            side()
            if round_number >= warm_up:
                timings[name].wall.append(time.perf_counter() - wall)
                timings[name].cpu.append(_cpu_s() - cpu)
    return timings


def table(timings: Mapping[str, Timing], *, count: int, unit: str, base: str) -> str:
    """A markdown table: milliseconds per unit, and ratios to one side (1.00)."""
    lines = [
        f"| | ms per {unit} | CPU ms | of {base!r} | CPU | {unit}s per s |",
        "|---|---|---|---|---|---|",
    ]
    one = timings[base]
    for name, timing in timings.items():
        wall, cpu = timing.median_wall, timing.median_cpu
        lines.append(
            f"| {name} | {1000 * wall / count:.2f} | {1000 * cpu / count:.2f} "
            f"| {wall / one.median_wall:.2f} | {cpu / one.median_cpu:.2f} | {count / wall:.1f} |"
        )
    return "\n".join(lines)


def machine(packages: Sequence[str] = ()) -> str:
    """One line: processor, cores, system, Python and the versions of packages."""
    parts = [f"{_processor()}, {os.cpu_count()} cores", f"Python {platform.python_version()}"]
    for name in packages:
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"{name} not installed")
    return ", ".join(parts)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
