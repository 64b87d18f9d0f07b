"""How far is `build` from its floor: decoding plus one forward and one backward pass per batch?

Both sides read the same files and run in one process with one thread, interleaved, so that a noisy
machine hits both. Prints the medians and their ratio.

    python benchmarks/build_floor.py [--data FOLDER] [--images N] [--repeats R]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from generator.config import BuildConfig
from generator.pipeline import build_set
from generator.sample_data import render_sample_data
from manifests.datasets import Category, open_data
from manifests.images import DEFAULT_MAX_PIXELS, Geometry, fit_image, read_image
from manifests.weights import Network, load_network


def floor_seconds(category: Category, network: Network, geometry: Geometry, batch: int) -> float:
    """Reads and fits every image, then one forward and one backward pass per batch, as bare as can
    be: no maps, no clusters, no files. The backward pass reaches the first saliency level."""
    first = network.module.get_submodule(next(iter(network.levels.values())))
    taps: list[torch.Tensor] = []

    def tap(_module, _inputs, output):
        taps.append(output.detach().requires_grad_())
        return taps[-1]

    samples = category.train
    started = time.perf_counter()
    for start in range(0, len(samples), batch):
        images = [
            fit_image(read_image(sample.path), geometry)[0]
            for sample in samples[start : start + batch]
        ]
        handle = first.register_forward_hook(tap)
        try:
            logits = network.module(network.preprocess(np.stack(images)))
        finally:
            handle.remove()
        torch.autograd.grad(logits.max(dim=1).values.sum(), taps.pop())
    return time.perf_counter() - started


def build_seconds(category: Category, config: BuildConfig, folder: Path) -> float:
    """The whole `build`: scan, decode again, saliency, clusters, anchors, pixels, shards."""
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
    with tempfile.TemporaryDirectory() as scratch:
        data = arguments.data
        if data is None:
            data = Path(scratch) / "data"
            render_sample_data(data, train=arguments.images, test_good=1, per_defect=1)
        category = open_data(data)[0]
        category = replace(category, samples=tuple(category.train[: arguments.images]))
        config = BuildConfig()
        network = load_network(config.network)
        floors, builds = [], []
        floor_seconds(category, network, config.geometry, config.batch)  # warm up
        for repeat in range(arguments.repeats):
            floors.append(floor_seconds(category, network, config.geometry, config.batch))
            builds.append(build_seconds(category, config, Path(scratch) / f"out-{repeat}"))
    count = len(category.train)
    floor, build = statistics.median(floors), statistics.median(builds)
    print(
        f"{count} images of {category.name}, one process, one thread, fp32, {len(floors)} repeats"
    )
    print(f"  floor (decode + forward + backward)  {1000 * floor / count:8.1f} ms per image")
    print(f"  cutswap-gen build, writing included  {1000 * build / count:8.1f} ms per image")
    print(f"  ratio                                {build / floor:8.2f}")


if __name__ == "__main__":
    main()
