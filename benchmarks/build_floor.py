"""How far is `build` from its floor, decoding plus one forward and backward pass?

All sides read the same files with the same number of processes, one thread each, in turns, so that
a noisy machine hits all of them. The floor runs the network as it was loaded, down to the first
saliency level; another side runs it folded, as `build` does.

    python benchmarks/build_floor.py [--data FOLDER] [--images N] [--repeats R] [--jobs J]
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import torch
from common import interleave, machine, table, training_part
from floor import floor

from generator.config import BuildConfig
from generator.pipeline import build_set
from generator.workers import in_workers
from manifests.allocator import keep_freed_memory
from manifests.datasets import Category

FLOOR = "decode + forward + backward"


def floor_of(category: Category, config: BuildConfig, jobs: int, *, is_folded: bool) -> None:
    """The floor in as many processes as `build` takes, this one among them, shard by shard."""
    size = config.shard_images
    parts = [
        replace(category, samples=tuple(category.train[start : start + size]))
        for start in range(0, len(category.train), size)
    ]
    with in_workers(
        partial(floor, config=config, is_folded=is_folded), parts, workers=jobs, take_part=True
    ) as results:
        list(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data set; default: our sample data")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        category = training_part(arguments.data, arguments.images, Path(scratch))
        config = BuildConfig()
        numbers = itertools.count()

        def build() -> None:
            out = Path(scratch) / f"out-{next(numbers)}"
            build_set(category, config, out, jobs=arguments.jobs)
            shutil.rmtree(out)  # or the page cache fills up, and the last sides pay for it

        timings = interleave(
            {
                FLOOR: lambda: floor_of(category, config, arguments.jobs, is_folded=False),
                "the same with the folded network": lambda: floor_of(
                    category, config, arguments.jobs, is_folded=True
                ),
                "cutswap-gen build, writing included": build,
            },
            arguments.repeats,
            warm_up=True,
        )
    print(machine("timm", "opencv-python-headless", "h5py"))
    print(
        f"\n{len(category.train)} images of {category.name} at 256 px, fp32, batches of "
        f"{config.batch}, {arguments.jobs} processes of one thread, medians of "
        f"{arguments.repeats}\n"
    )
    print(
        *table(timings, base=FLOOR, per=len(category.train) / 1000, unit="ms per image"), sep="\n"
    )


if __name__ == "__main__":
    main()
