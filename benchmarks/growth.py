"""How time and memory grow with the number of images and of workers: build, fit, score.

Every row runs the real commands in processes of their own on small images (64 px) that are drawn
for it, and is appended to a CSV file; a second run goes on where the first was interrupted.

    python benchmarks/growth.py [--out FOLDER] [--counts 100,300,...] [--jobs 1,2] [--plot PNG]
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from common import machine

SIDE_PX = 64
COUNTS = (100, 300, 1000, 3000, 10000, 20000)
COLUMNS = ("step", "images", "jobs", "seconds", "cpu_seconds", "peak_mb", "disk_mb")
_POLL_S = 0.1


def draw_images(folder: Path, count: int, *, seed: int = 0) -> None:
    """Small pictures that differ everywhere: soft blobs with grain, PNG."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        blobs = cv2.resize(
            rng.integers(60, 200, (4, 4, 3), dtype=np.uint8),
            (SIDE_PX, SIDE_PX),
            interpolation=cv2.INTER_CUBIC,
        )
        grain = rng.integers(0, 24, (SIDE_PX, SIDE_PX, 1), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:06d}.png"), cv2.add(blobs, np.repeat(grain, 3, axis=2)))


class Memory(threading.Thread):
    """The most memory that a process and all below it held at once, shared pages counted once."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak_bytes = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(_POLL_S):
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss, _family(self.pid))))


def _family(pid: int) -> list[int]:
    """A process and all that it started."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting += map(int, children.read_text().split())
            except OSError:  # it has ended
                continue
    return found


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ProcessLookupError):
        pass
    return 0


def run(module: str, *arguments: object) -> tuple[float, float, float]:
    """Wall and CPU seconds and peak MB of a command."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    before, started = os.times(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    memory = Memory(process.pid)
    memory.start()
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    seconds = time.perf_counter() - started
    memory.is_over.set()
    memory.join()
    after = os.times()
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return seconds, cpu, memory.peak_bytes / 1e6


def measure(count: int, jobs: int, csv_path: Path, *, with_model: bool) -> None:
    """Build of so many images, and fit and score, which no workers help; a row each."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        data = scratch / "part"
        draw_images(data / "good", count)
        shared = ("--image-size", SIDE_PX, "--quiet")
        rows = {}
        rows["build"] = run(
            "generator.cli", "build", data, "--out", scratch / "sets", "--jobs", jobs, *shared
        )
        built = next((scratch / "sets").iterdir())
        disk = sum(path.stat().st_size for path in built.iterdir()) / 1e6
        if with_model:
            rows["fit"] = run(
                "detector.cli", "fit", built, "--out", scratch / "models", "--updates", 0,
                "--coreset-max", 1000, "--quiet",
            )  # fmt: skip
            model = next((scratch / "models").iterdir())
            rows["score"] = run("detector.cli", "score", model, data / "good", "--quiet")
        with open(csv_path, "a", newline="") as file:
            for step, (seconds, cpu, peak_mb) in rows.items():
                size = disk if step == "build" else 0.0
                values = (f"{seconds:.2f}", f"{cpu:.2f}", f"{peak_mb:.0f}", f"{size:.1f}")
                csv.writer(file).writerow([step, count, jobs, *values])


def read_rows(csv_path: Path) -> list[dict[str, float | str]]:
    """What has been measured so far."""
    with open(csv_path, newline="") as file:
        return [
            {key: value if key == "step" else float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def print_table(rows: Sequence[dict]) -> None:
    """Markdown: a line per step, count and number of workers."""
    print("| step | images | workers | s | CPU s | ms per image | peak MB | MB on disk |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["step"], row["jobs"], row["images"])):
        each = 1000 * row["seconds"] / row["images"]
        print(
            f"| {row['step']} | {row['images']:.0f} | {row['jobs']:.0f} | {row['seconds']:.1f} "
            f"| {row['cpu_seconds']:.1f} | {each:.2f} | {row['peak_mb']:.0f} "
            f"| {row['disk_mb'] or '':} |"
        )


def plot(rows: Sequence[dict], path: Path) -> None:
    """Seconds, on a logarithmic axis, and peak memory, on a linear one, against images."""
    from detector.figures import SERIES, figure_of, frame, unit_colour, write_figure

    figure = figure_of(7.2, 3.6)
    panels = figure.subplots(1, 2)
    lines = sorted({(row["step"], row["jobs"]) for row in rows})
    steps = sorted({step for step, _ in lines})
    for key, axes, label in (
        ("seconds", panels[0], "seconds"),
        ("peak_mb", panels[1], "peak memory, MB"),
    ):
        frame(axes)
        for step, jobs in lines:
            own = sorted(
                (row["images"], row[key])
                for row in rows
                if (row["step"], row["jobs"]) == (step, jobs)
            )
            workers = f", {jobs:.0f} workers" if step == "build" and jobs > 1 else ""
            axes.plot(
                *zip(*own, strict=True),
                marker="o",
                markersize=4,
                linestyle="--" if workers else "-",
                color=unit_colour(SERIES[steps.index(step)].colour),
                label=step + workers,
            )
        axes.set_xscale("log")
        if key == "seconds":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("images of 64 px")
        axes.set_ylabel(label)
    panels[0].legend(frameon=False, fontsize=8)
    write_figure(path, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--plot", type=Path, help="PNG file to draw")
    parser.add_argument("--afresh", action="store_true", help="forget what was measured before")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    csv_path = arguments.out / "growth.csv"
    if arguments.afresh:
        csv_path.unlink(missing_ok=True)
    if not csv_path.exists():
        csv_path.write_text(",".join(COLUMNS) + "\n")
    for count in map(int, arguments.counts.split(",")):
        for place, jobs in enumerate(map(int, arguments.jobs.split(","))):
            known = {(row["images"], row["jobs"]) for row in read_rows(csv_path)}
            if (count, jobs) not in known:
                measure(count, jobs, csv_path, with_model=place == 0)
    rows = read_rows(csv_path)
    print(machine("h5py"), end="\n\n")
    print_table(rows)
    if arguments.plot is not None:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
