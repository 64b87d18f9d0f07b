"""Greedy k-centre: cutswap against anomalib's, a plain one, and the floor of reading the features.

The floor reads the features that the search runs in once per pick: as a sum, the least that can be
done with them, and as a product with one vector. Covering radii are in unprojected features. Two
cases: features of real images, and independent Gaussian ones, where no bound rules anything out.
Without anomalib (`pip install '.[peers]'`) its rows are missing.

    python benchmarks/coreset.py DATA [--features N] [--picks N] [--starts N] [--threads T]
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Timing, machine, memory_given_back, table

from detector.coreset import PROJECTION_DIM, k_centre, project
from detector.features import FeatureExtractor
from detector.memory_bank import MemoryBank
from manifests.allocator import keep_freed_memory
from manifests.datasets import open_data
from manifests.images import Geometry, fit_image, read_image
from manifests.weights import load_network

DIM = 152
os.environ.setdefault("TQDM_DISABLE", "1")
Choose = Callable[[torch.Tensor, int, int], torch.Tensor]


def real_features(data: Path, count: int) -> torch.Tensor:
    """(count, D) float32: patches of training images of the embedded network, drawn at random."""
    extractor, geometry = FeatureExtractor(load_network()), Geometry()
    samples = open_data(data)[0].train
    h, w = extractor.grid(geometry.height, geometry.width)
    drawn = np.random.default_rng(0).permutation(len(samples) * h * w)[:count]
    kept = np.sort(drawn)
    parts = []
    for start in range(0, len(samples), 8):
        batch = [fit_image(read_image(s.path), geometry)[0] for s in samples[start : start + 8]]
        rows = extractor(np.stack(batch)).flatten(0, 2)
        first = start * h * w
        low, high = np.searchsorted(kept, [first, first + len(rows)])
        parts.append(rows[torch.from_numpy(kept[low:high] - first)].clone())
    return torch.cat(parts)


def gaussian_features(count: int) -> torch.Tensor:
    """(count, DIM) float32, independent."""
    values = np.random.default_rng(1).standard_normal((count, DIM), dtype=np.float32)
    return torch.from_numpy(values)


def ours(features: torch.Tensor, picks: int, seed: int) -> torch.Tensor:
    """Our search with the default projection."""
    return k_centre(features, picks, rng=np.random.default_rng(seed))


def plain(features: torch.Tensor, picks: int, seed: int) -> torch.Tensor:
    """One matrix-vector product per pick."""
    rng = np.random.default_rng(seed)
    points = project(features, PROJECTION_DIM, rng=rng)
    half = points.square().sum(1).mul_(0.5)
    nearest = torch.full((len(points),), torch.inf)
    chosen = [int(rng.integers(len(points)))]
    distance = torch.empty(len(points))
    while len(chosen) < picks:
        last = chosen[-1]
        torch.addmv(half, points, points[last], alpha=-1.0, out=distance)
        torch.minimum(nearest, distance.add_(half[last]), out=nearest)
        nearest[last] = -1.0
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def anomalib_greedy(features: torch.Tensor, picks: int, seed: int) -> torch.Tensor:
    """anomalib's search, which draws from the global generators."""
    from anomalib.models.components import KCenterGreedy

    with memory_given_back(), torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        # It keeps int(n * ratio).
        sampler = KCenterGreedy(features, (picks + 0.5) / len(features))
        return torch.tensor(sampler.select_coreset_idxs())


def read_sum(points: torch.Tensor, picks: int) -> None:
    """The floor: every number of (N, D) is read once per pick."""
    for _ in range(picks):
        points.sum()


def read_product(points: torch.Tensor, picks: int) -> None:
    """The same by the product that a plain search needs."""
    vector, out = points[0].clone(), torch.empty(len(points))
    for _ in range(picks):
        torch.mv(points, vector, out=out)


def covering(features: torch.Tensor, picks: torch.Tensor) -> tuple[float, float]:
    """Largest and mean distance of a feature to its nearest pick, unprojected."""
    bank = MemoryBank(features[picks], torch.zeros(len(picks), dtype=torch.int32))
    distance, _ = bank.nearest(features)
    return float(distance.max()), float(distance.mean(dtype=torch.float64))


def compare(name: str, features: torch.Tensor, sides: dict[str, Choose], arguments) -> list[str]:
    """Markdown of one case."""
    timings = {side: Timing() for side in (*sides, "floor: sum", "floor: product")}
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    points = project(features, PROJECTION_DIM, rng=np.random.default_rng(0))
    for start in range(arguments.starts):
        for side, choose in sides.items():
            chosen = timings[side].run(lambda c=choose, s=start: c(features, arguments.picks, s))
            assert len(set(chosen.tolist())) == arguments.picks
            found[side].append(covering(features, chosen))
        timings["floor: sum"].run(lambda: read_sum(points, arguments.picks))
        timings["floor: product"].run(lambda: read_product(points, arguments.picks))
    size = f"{len(features)} × {features.shape[1]}"
    lines = [f"\n{name}: {arguments.picks} of {size}\n"]
    lines += table(timings, base="floor: sum")
    base = found.get("anomalib") or found["plain"]
    against = "anomalib" if "anomalib" in found else "plain"
    lines += [
        f"\n| covering, means of starts | radius | of `{against}` | mean | of `{against}` |",
        "|---|---|---|---|---|",
    ]
    for side, values in found.items():
        radius, mean = (statistics.mean(part) for part in zip(*values, strict=True))
        radius0, mean0 = (statistics.mean(part) for part in zip(*base, strict=True))
        lines.append(
            f"| {side} | {radius:.4g} | {radius / radius0:.3f} | {mean:.4g} | {mean / mean0:.3f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="data set whose training images give features")
    parser.add_argument("--features", type=int, default=100_000)
    parser.add_argument("--picks", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    logging.disable(logging.WARNING)
    sides: dict[str, Choose] = {"cutswap": ours, "plain": plain}
    missing = ""
    try:
        from anomalib.models.components import KCenterGreedy  # noqa: F401
    except ImportError as error:
        missing = f"\nanomalib cannot be imported ({error}): pip install '.[peers]'"
    else:
        sides["anomalib"] = anomalib_greedy
    cases = {
        "real features": real_features(arguments.data, arguments.features),
        "independent Gaussian features": gaussian_features(arguments.features),
    }
    for features in cases.values():
        ours(features[:10_000], 10, 0)
    for name, features in cases.items():
        print("\n".join(compare(name, features, sides, arguments)), flush=True)
    print(
        f"\n{arguments.threads} threads, medians of {arguments.starts}; {machine('anomalib')}"
        f"{missing}"
    )


if __name__ == "__main__":
    main()
