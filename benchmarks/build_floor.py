"""How far is `build` from its floor, decoding plus the one saliency pass?

All sides read the same files in one process with one thread, interleaved, so that a noisy machine
hits all of them. Prints the medians and their ratios.

    python benchmarks/build_floor.py [--data FOLDER] [--images N] [--repeats R]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from generator.config import BuildConfig
from generator.pipeline import build_set
from generator.saliency import saliency_maps
from generator.sample_data import render_sample_data
from manifests.allocator import keep_freed_memory
from manifests.datasets import Category, open_data
from manifests.images import DEFAULT_MAX_PIXELS, fit_image, read_image
from manifests.weights import Network, load_network


def pass_seconds(
    category: Category, config: BuildConfig, use: Callable[[np.ndarray], object]
) -> float:
    """Seconds to read and fit every image and to call `use` on each batch (B, H, W, 3)."""
    samples = category.train
    started = time.perf_counter()
    for start in range(0, len(samples), config.batch):
        batch = samples[start : start + config.batch]
        use(np.stack([fit_image(read_image(s.path), config.geometry)[0] for s in batch]))
    return time.perf_counter() - started


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


def build_seconds(category: Category, config: BuildConfig, folder: Path) -> float:
    """Seconds of the whole `build`: scan, decode, saliency, clusters, anchors, pixels, shards."""
    started = time.perf_counter()
    build_set(category, config, folder, jobs=1, max_pixels=DEFAULT_MAX_PIXELS)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data set; default: our sample data")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
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
        network = load_network(config.network)
        levels = tuple(network.levels)
        sides = {
            "decode + forward + backward, no maps": lambda _: pass_seconds(
                category, config, lambda images: bare_pass(network, images)
            ),
            "floor: decode + the saliency pass": lambda _: pass_seconds(
                category, config, lambda images: saliency_maps(network, images, levels=levels)
            ),
            "cutswap-gen build, writing included": lambda repeat: build_seconds(
                category, config, Path(scratch) / f"out-{repeat}"
            ),
        }
        for side in sides.values():
            side("warm-up")
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for repeat in range(arguments.repeats):
            for name, side in sides.items():
                seconds[name].append(side(repeat))
    count = len(category.train)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor = medians["floor: decode + the saliency pass"]
    print(
        f"{count} images of {category.name} at 256 px, one process, one thread, fp32, "
        f"medians of {arguments.repeats}"
    )
    for name, value in medians.items():
        print(f"  {name:<40} {1000 * value / count:7.1f} ms per image  {value / floor:5.2f}")


if __name__ == "__main__":
    main()
