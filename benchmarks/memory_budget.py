"""Banks within a memory budget: peak memory of many images, and covering against the exact bank.

`fit` runs the real command on a set of as many small files as asked, enlarged to the canvas, and
prints its peak memory. `large` streams as many images' features through the code that it uses; they
are drawn as they are read: a random walk within clusters of real spread. `compare` chooses a bank
of real features at once and in blocks, and says how far training patches are from either.

    python benchmarks/memory_budget.py fit [--images N] [--budget BYTES] [--bank N]
    python benchmarks/memory_budget.py large [--images N] [--budget BYTES] [--bank N]
    python benchmarks/memory_budget.py compare DATA [--ratios R,...] [--blocks N,...]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from common import machine
from growth import draw_images, run

from detector import merge_reduce
from detector.coreset import coreset_size, k_centre
from detector.features import FeatureExtractor, cell_origins
from detector.memory_bank import MemoryBank
from detector.memory_budget import DEFAULT_BYTES, FeatureBudget
from detector.merge_reduce import Reduction, choose_bank, reduce_block
from detector.streamed_bank import stream_bank
from manifests.allocator import keep_freed_memory
from manifests.datasets import open_data
from manifests.images import Geometry, fit_image, read_image
from manifests.weights import load_network

CELLS, DIM = 1024, 152


def drawn_features(images: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of eight images' features, clustered, the same each time."""
    source = np.random.default_rng(0)
    centres = source.standard_normal((500, DIM), dtype=np.float32) * 3
    basis = source.standard_normal((24, DIM), dtype=np.float32)
    for start in range(0, images, 8):
        count = min(8, images - start)
        rng = np.random.default_rng([1, start])
        rows = centres[rng.integers(500, size=count * CELLS)]
        inside = rng.standard_normal((count * CELLS, 24), dtype=np.float32) @ basis
        every = np.ones((count, 1, CELLS), dtype=bool)
        yield torch.from_numpy(rows + 0.5 * inside), cell_origins(every, first_image=start)


def peak_bytes() -> int:
    """The largest memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def large(images: int, budget_bytes: int, bank: int) -> None:
    """Prints peak memory and time of one streamed bank and of a second pass against it."""
    keep_freed_memory()
    budget = FeatureBudget(budget_bytes, DIM, 384)
    rows = images * CELLS
    print(
        f"{images} images, {rows} × {DIM} features, {rows * DIM * 4 / 1e9:.2f} GB of them; budget "
        f"{budget_bytes / 1e9:g} GB, which {'holds' if budget.fits(rows) else 'does not hold'} them"
    )
    before = peak_bytes()
    reduction = Reduction(
        bank_rows=bank,
        total_rows=rows,
        capacity_rows=budget.candidate_rows,
        seed=0,
        projection_dim=384,
    )
    started, cpu = time.monotonic(), time.process_time()
    seen = 0

    def watched() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        nonlocal seen
        for features, origins in drawn_features(images):
            yield features, origins
            seen = int(origins[-1, 0]) + 1
            if seen % 1000 < 8:
                note = f"{seen} images, {time.monotonic() - started:.0f} s, peak {peak_bytes()}"
                print(note, file=sys.stderr, flush=True)

    found = stream_bank(watched(), reduction=reduction, budget=budget, size_of=lambda _: bank)
    fit = time.monotonic() - started, time.process_time() - cpu
    nearest = MemoryBank.of(found.features, found.origins)
    radius, step = 0.0, max(1, images // 500)
    for number, (features, _) in enumerate(drawn_features(images)):
        # A sample is enough: the second pass keeps nothing.
        if number % step == 0:
            radius = max(radius, float(nearest.nearest(features)[0].max()))
    print(
        f"bank of {len(found.features)} in {found.blocks} blocks, {found.merges} merges: "
        f"{fit[0]:.0f} s, {fit[1]:.0f} s of the processor; covering radius of a sample "
        f"{radius:.2f}\npeak memory of the process {peak_bytes() / 1e9:.2f} GB, of which "
        f"{before / 1e9:.2f} GB before the first feature; {machine()}"
    )


def whole_fit(images: int, budget_bytes: int, bank: int) -> None:
    """Prints peak memory and time of `fit` on drawn images, untrained, thresholds included."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        draw_images(scratch / "part" / "good", images)
        run(
            "generator.cli", "build", scratch / "part", "--out", scratch / "sets", "--jobs", 2,
            "--policies", "random-swap", "--store", "anchors", "--quiet",
        )  # fmt: skip
        built = next((scratch / "sets").iterdir())
        seconds, cpu, peak_mb = run(
            "detector.cli", "fit", built, "--out", scratch / "models", "--updates", 0,
            "--coreset-max", bank, "--memory-budget", budget_bytes,
        )  # fmt: skip
    size_gb = images * CELLS * DIM * 4 / 1e9
    print(
        f"{images} images at 256 px, {size_gb:.2f} GB of features, budget "
        f"{budget_bytes / 1e9:g} GB, bank of {bank}: {seconds:.0f} s, {cpu:.0f} s of "
        f"the processor, peak memory {peak_mb / 1000:.2f} GB; {machine()}"
    )


def real_features(data: Path) -> torch.Tensor:
    """(N, D) float32 of all training images of the embedded network."""
    extractor, geometry = FeatureExtractor(load_network()), Geometry()
    samples = open_data(data)[0].train
    parts = []
    for start in range(0, len(samples), 8):
        batch = [fit_image(read_image(s.path), geometry)[0] for s in samples[start : start + 8]]
        parts.append(extractor(np.stack(batch)).flatten(0, 2))
    return torch.cat(parts)


def in_blocks(features: torch.Tensor, bank: int, blocks: int, seed: int) -> torch.Tensor:
    """(bank, D), chosen from equal blocks without a merge."""
    reduction = Reduction(
        bank_rows=bank, total_rows=len(features), capacity_rows=len(features), seed=seed,
        projection_dim=384,
    )  # fmt: skip
    parts = []
    for number, block in enumerate(torch.tensor_split(features, blocks)):
        origins = torch.zeros((len(block), 2), dtype=torch.int32)
        parts.append(reduce_block(block, origins, number=number, reduction=reduction))
    return choose_bank(parts, bank, reduction=reduction)[0]


def covering(features: torch.Tensor, bank: torch.Tensor) -> tuple[float, float]:
    """Largest and mean distance of a feature to its nearest entry."""
    entries = MemoryBank(bank, torch.zeros(len(bank), dtype=torch.int32))
    distance, _ = entries.nearest(features)
    return float(distance.max()), float(distance.mean(dtype=torch.float64))


def compare(data: Path, ratios: list[float], blocks: list[int], oversampling: list[int]) -> None:
    """Prints covering of exact and of streamed banks, means of three seeds."""
    keep_freed_memory()
    features = real_features(data)
    print(f"{len(features)} × {features.shape[1]} features of {data.name}; {machine()}\n")
    print("| bank | candidates per entry | blocks | radius | of exact | mean | of exact | s CPU |")
    print("|---|---|---|---|---|---|---|---|")
    seeds = range(3)
    usual = merge_reduce.OVERSAMPLING
    for ratio in ratios:
        bank = coreset_size(len(features), ratio)
        exact: tuple[float, float] | None = None
        for wanted in [1, *(count for count in blocks if count > 1)]:
            for factor in oversampling if wanted > 1 else [0]:
                merge_reduce.OVERSAMPLING = factor or usual
                found, seconds = [], []
                for seed in seeds:
                    started = time.process_time()
                    if wanted == 1:
                        rng = np.random.default_rng(seed)
                        chosen = features[k_centre(features, bank, rng=rng)]
                    else:
                        chosen = in_blocks(features, bank, wanted, seed)
                    seconds.append(time.process_time() - started)
                    found.append(covering(features, chosen))
                radius, mean = (statistics.mean(part) for part in zip(*found, strict=True))
                exact = exact or (radius, mean)
                print(
                    f"| {bank} | {factor or 'all'} | {wanted} | {radius:.2f} | "
                    f"{radius / exact[0]:.3f} | {mean:.2f} | {mean / exact[1]:.3f} | "
                    f"{statistics.median(seconds):.1f} |",
                    flush=True,
                )
    merge_reduce.OVERSAMPLING = usual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawn = [commands.add_parser(name) for name in ("fit", "large")]
    for command in drawn:
        command.add_argument("--images", type=int, default=20_000)
        command.add_argument("--budget", type=int, default=DEFAULT_BYTES)
        command.add_argument("--bank", type=int, default=10_000)
    other = commands.add_parser("compare")
    other.add_argument("data", type=Path)
    other.add_argument("--ratios", default="0.001,0.01")
    other.add_argument("--blocks", default="4,16,64")
    other.add_argument("--oversampling", default="1,2,4")
    for command in (*drawn, other):
        command.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.command != "compare":
        measure = large if arguments.command == "large" else whole_fit
        measure(arguments.images, arguments.budget, arguments.bank)
        return
    compare(
        arguments.data,
        [float(text) for text in arguments.ratios.split(",")],
        [int(text) for text in arguments.blocks.split(",")],
        [int(text) for text in arguments.oversampling.split(",")],
    )


if __name__ == "__main__":
    main()
