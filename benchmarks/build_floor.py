"""How far is `build` from its floor, decoding plus one forward and backward pass?

All sides read the same files with the same number of processes, one thread each, in turns, so that
a noisy machine hits all of them. The floor runs the network as it was loaded, down to the first
saliency level; another side runs it folded, as `build` does.

    python benchmarks/build_floor.py [--data FOLDER] [--images N] [--repeats R] [--jobs J]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from common import interleave, machine, table

from generator.config import BuildConfig
from generator.pipeline import build_set
from generator.sample_data import render_sample_data
from generator.workers import in_workers
from manifests.allocator import keep_freed_memory
from manifests.datasets import Category, open_data
from manifests.folding import folded_network
from manifests.images import fit_image, read_image
from manifests.weights import Network, load_network

FLOOR = "decode + forward + backward"


def read_and_use(
    category: Category, config: BuildConfig, use: Callable[[np.ndarray], object]
) -> None:
    """Reads and fits every image and calls `use` on each batch (B, H, W, 3)."""
    samples = category.train
    for start in range(0, len(samples), config.batch):
        batch = samples[start : start + config.batch]
        use(np.stack([fit_image(read_image(s.path), config.geometry)[0] for s in batch]))


def bare_pass(network: Network, images: np.ndarray) -> None:
    """One forward and one backward pass down to the first saliency level, and nothing else."""
    taps: list[torch.Tensor] = []

    def tap(_module, _inputs, output):
        taps.append(output.detach().requires_grad_())
        return taps[-1]

    first = network.module.get_submodule(next(iter(network.levels.values())))
    handle = first.register_forward_hook(tap)
    try:
        logits = network.module(network.preprocess(images))
    finally:
        handle.remove()
    torch.autograd.grad(logits.max(dim=1).values.sum(), taps)


def floor(part: Category, config: BuildConfig, *, is_folded: bool) -> None:
    """The floor of some images, in a process of its own or in this one."""
    keep_freed_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    network = _network(config.network, is_folded)
    read_and_use(part, config, lambda images: bare_pass(network, images))


@functools.cache
def _network(name: str, is_folded: bool) -> Network:
    network = load_network(name)
    return folded_network(network) if is_folded else network


def floor_of(category: Category, config: BuildConfig, jobs: int, *, is_folded: bool) -> None:
    """The floor in as many processes as `build` takes, started and ended like its own."""
    size = -(-len(category.train) // jobs)
    parts = [
        replace(category, samples=tuple(category.train[start : start + size]))
        for start in range(0, len(category.train), size)
    ]
    with in_workers(
        partial(floor, config=config, is_folded=is_folded), parts, workers=len(parts)
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
        data = arguments.data
        if data is None:
            data = Path(scratch) / "data"
            render_sample_data(data, train=arguments.images, test_good=1, per_defect=1)
        category = open_data(data)[0]
        category = replace(category, samples=tuple(category.train[: arguments.images]))
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
