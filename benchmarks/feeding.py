"""What feeding a training costs: from shards, from memory, and by cutting and swapping online.

Four tables. Samples per second of one loader process, from shards and made online with our own
saliency. A training step fed from shards, and from memory. The step against the bare forward and
backward pass of the same extractor. Random access to a set whose pages are not in memory: bytes
read from the disk per sample, against reading in order.

    python benchmarks/feeding.py [--data FOLDER] [--images N] [--repeats R]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from common import Timing, interleave, machine, table, training_part
from torch import nn
from torch.utils.data import DataLoader, Dataset

from detector.dataset import TripletSampler
from detector.frozen_prefix import pooled_features
from detector.prefetch import Prefetch
from detector.shard_dataset import ShardDataset
from detector.train_config import TrainConfig
from detector.trainee import Trainee
from generator.anchors import anchor_rng
from generator.config import BuildConfig
from generator.pipeline import build_set
from generator.policies import POLICIES
from generator.policies.base import ImageContext
from generator.regions import Regions
from generator.saliency import saliency_maps
from manifests.allocator import keep_freed_memory
from manifests.datasets import Category
from manifests.edits import render
from manifests.folding import folded_network
from manifests.images import fit_image, read_image
from manifests.negative_set import NegativeSet
from manifests.weights import load_network

BATCH = 48
ROUNDS = 3


class OnlineSwaps(Dataset):
    """A swap per sample, made when it is asked for: decode, saliency, clusters, anchors, swap."""

    def __init__(self, category: Category, config: BuildConfig) -> None:
        self.category = category
        self.config = config
        self.network = None

    def __len__(self) -> int:
        return len(self.category.train)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.network is None:
            torch.set_num_threads(1)
            self.network = folded_network(load_network())
        sample = self.category.train[index]
        canvas, placement = fit_image(read_image(sample.path), self.config.geometry)
        level = index % len(self.network.levels)
        maps = saliency_maps(self.network, canvas[None], levels=(level,))
        labels, found = Regions.of_config(self.config).cut(
            maps[level][0], *canvas.shape[:2], placement.canvas_box, digest="00" * 32, level=level
        )
        context = ImageContext(canvas, "00" * 32, placement.canvas_box, level, labels, found.count)
        drawn = POLICIES["swap"]().draw(anchor_rng(0, "00" * 32, "swap", level, index), context)
        if drawn is None:
            return torch.from_numpy(canvas), 0
        image, _ = drawn.rendered or render(canvas, drawn.edits, {})
        return torch.from_numpy(image), 1


def drain(dataset: Dataset, count: int) -> float:
    """Seconds per sample of one loader process that keeps its worker busy, start-up left out."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    order = (order * (1 + (count + BATCH) // len(order)))[: count + BATCH]
    loader = DataLoader(dataset, batch_size=BATCH // 6, sampler=order, num_workers=1)
    taken, started = 0, 0.0
    for images, _ in loader:
        taken += len(images)
        if not started and taken >= BATCH:  # the worker is up and has loaded what it needs
            started, taken = time.perf_counter(), 0
    return (time.perf_counter() - started) / taken


def loaders(category: Category, negative_set: NegativeSet, repeats: int) -> None:
    """Samples per second from one loader process."""
    sides = {
        "from shards": ShardDataset(negative_set),
        "online": OnlineSwaps(category, BuildConfig()),
    }
    counts = {"from shards": 4000, "online": 96}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, dataset in sides.items():
            seconds[name].append(drain(dataset, counts[name]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print("\n| one loader process | ms per sample | samples per s | ratio |\n|---|---|---|---|")
    for name, value in medians.items():
        ratio = medians["online"] / value
        print(f"| {name} | {1000 * value:.3f} | {1 / value:.0f} | {ratio:.1f} |")


def steps(negative_set: NegativeSet, repeats: int) -> None:
    """Updates fed from shards and from memory, and the bare passes of the same extractor."""
    common = {"updates": 1000, "batch": BATCH // 3, "frozen_start": 0}
    step_of("whole network", TrainConfig(**common), negative_set, repeats)
    step_of(
        "stages below 3 and batch norms frozen, the fastest",
        TrainConfig(**common, freeze_stages=3, freeze_bn=True),
        negative_set,
        repeats,
    )


def step_of(title: str, config: TrainConfig, negative_set: NegativeSet, repeats: int) -> None:
    """One schedule's table."""
    sampler = TripletSampler(negative_set, batch=config.batch, seed=config.seed)
    network = load_network()
    trainee = Trainee(network, config, labels=sampler.labels, device="cpu")
    held = [sampler.batch(number) for number in range(ROUNDS)]
    pixels = [network.preprocess(batch.images) for batch in held]
    bare = bare_step(trainee, held[0].labels)

    def from_memory() -> None:
        for number, batch in enumerate(held):
            trainee.update(number, batch)

    def from_shards() -> None:
        with Prefetch(sampler.batch, range(ROUNDS)) as batches:
            for number, batch in enumerate(batches):
                trainee.update(number, batch)

    def passes() -> None:
        for inputs in pixels:
            bare(inputs)

    timings = interleave(
        {"step from memory": from_memory, "step from shards": from_shards, "bare passes": passes},
        repeats,
        warm_up=True,
    )
    print(f"\n{title}: {BATCH} images a step, {torch.get_num_threads()} threads\n")
    print(*table(timings, base="step from memory", per=ROUNDS / 1000, unit="ms per step"), sep="\n")
    ratio = ratio_of_medians(timings, "step from memory", "bare passes")
    fed = ratio_of_medians(timings, "step from memory", "step from shards")
    print(f"\nspeed from shards {fed:.3f} of that from memory; step {ratio:.2f} of bare passes")


def ratio_of_medians(timings: dict[str, Timing], above: str, below: str) -> float:
    return timings[above].median / timings[below].median


def bare_step(trainee: Trainee, labels: np.ndarray) -> Callable[[torch.Tensor], None]:
    """Forward and backward of the network as it is trained, and a head; nothing else."""
    targets = torch.from_numpy(labels)

    def run(pixels: torch.Tensor) -> None:
        logits = trainee.heads["head"](pooled_features(trainee.module, pixels))
        nn.functional.cross_entropy(logits, targets).backward()
        for part in (trainee.module, *trainee.heads.values()):
            part.zero_grad(set_to_none=True)

    return run


def cold_reads(negative_set: NegativeSet, count: int) -> None:
    """Bytes from the disk per sample with nothing in the page cache, at random and in order."""
    dataset = ShardDataset(negative_set)
    image_bytes = dataset[0][0].numel()
    orders = {
        "at random": np.random.default_rng(0).permutation(len(dataset))[:count],
        "in order": np.arange(min(count, len(dataset))),
    }
    print("\n| cold reads | KB from the disk per sample | of the image's bytes | ms per sample |")
    print("|---|---|---|---|")
    for name, order in orders.items():
        forget(negative_set.path)
        before, started = disk_bytes(), time.perf_counter()
        for index in order.tolist():
            dataset[index]
        seconds = time.perf_counter() - started
        per_sample = (disk_bytes() - before) / len(order)
        print(
            f"| {name} | {per_sample / 1000:.0f} | {per_sample / image_bytes:.2f} "
            f"| {1000 * seconds / len(order):.2f} |"
        )


def forget(folder: Path) -> None:
    """Has the system drop a set's pages."""
    for path in folder.glob("shard-*.h5"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_bytes() -> int:
    """Bytes that this process had the disk read."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data set; default: our sample data")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    keep_freed_memory()
    print(machine("timm", "h5py"))
    with tempfile.TemporaryDirectory() as scratch:
        category = training_part(arguments.data, arguments.images, Path(scratch))
        built = build_set(category, BuildConfig(), Path(scratch) / "set", jobs=os.cpu_count() or 1)
        with NegativeSet.open(built.folder) as negative_set:
            print(f"\n{negative_set.n_normals} normals, {len(negative_set)} negatives at 256 px, "
                  f"medians of {arguments.repeats}")  # fmt: skip
            loaders(category, negative_set, arguments.repeats)
            cold_reads(negative_set, 1000)
            steps(negative_set, arguments.repeats)


if __name__ == "__main__":
    main()
