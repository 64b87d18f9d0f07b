"""What each system takes on one negative set: fitting, scoring a folder, disk.

Every system is fitted by the real command with few updates; the time of a whole fit is that of all
but the updates, plus the median update times the updates of its schedule. Folders are scored in
turn, so that a noisy machine hits all systems.

    python benchmarks/systems.py SET IMAGES [--updates N] [--count N] [--repeats N]

SET has the kinds saliency-perlin, swap and scar; IMAGES is a folder of any images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common import interleave, machine, table

from detector.model import load_model
from detector.schedules import DEFAULT_SCHEDULE, SCHEDULES
from detector.scoring import score_images
from detector.training_log import TRAINING_CSV, read_training_csv
from manifests.allocator import keep_freed_memory
from manifests.images import list_images

SYSTEMS: dict[str, Sequence[str]] = {
    "untuned, PatchCore": ("--updates", "0"),
    "CutSwap, PatchCore": ("--negatives", "swap,scar"),
    "guided-seg": ("--detector", "guided-seg", "--negatives", "saliency-perlin"),
    "guided-seg, no guidance": (
        *("--detector", "guided-seg", "--no-guidance"),
        *("--negatives", "saliency-perlin"),
    ),
    "cavga": ("--detector", "cavga"),
}


def fit(shards: Path, out: Path, options: Sequence[str], updates: int) -> tuple[float, float]:
    """Seconds of a whole fit as its schedule has it, and of one update."""
    if "--updates" not in options:
        options = (*options, "--updates", str(updates))
    command = [sys.executable, "-m", "detector.cli", "fit", shards, "--out", out, *options]
    started = time.perf_counter()
    subprocess.run([*map(str, command), "--quiet", "--json"], check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - started
    log = out / _only(out).name / TRAINING_CSV
    if not log.exists():
        return seconds, 0.0
    taken = [row["seconds"] for row in read_training_csv(log)]
    # The first update allocates what the others use again.
    one = statistics.median(taken[1:])
    detector = json.loads((_only(out) / "model.json").read_bytes())["config"]["detector"]
    return seconds - sum(taken) + one * SCHEDULES[detector][DEFAULT_SCHEDULE]["updates"], one


def _only(out: Path) -> Path:
    (model,) = (path for path in out.iterdir() if path.is_dir())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--updates", type=int, default=9)
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    files = list_images([options.images])[: options.count]
    with tempfile.TemporaryDirectory() as name:
        sides, fitted = {}, {}
        for number, (system, arguments) in enumerate(SYSTEMS.items()):
            out = Path(name) / str(number)
            fitted[system] = (*fit(options.shards, out, arguments, options.updates), _only(out))
            print(f"{system}: fitted", file=sys.stderr, flush=True)
            sides[system] = partial(score_images, _only(out), files)
        model = load_model(next(iter(fitted.values()))[2])
        timings = interleave(sides, options.repeats, warm_up=True)
        print("| system | fit, s | one update, s | model, MB |\n|---|---|---|---|")
        for system, (seconds, update, folder) in fitted.items():
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6
            print(f"| {system} | {seconds:.0f} | {update:.2f} | {size:.1f} |")
        print(f"\nscoring {len(files)} images at {model.geometry.height} px, loading included\n")
        print("\n".join(table(timings, base=next(iter(SYSTEMS)), per=len(files) / 1e3, unit="ms")))
    print(f"\n{machine('timm')}")


if __name__ == "__main__":
    main()
