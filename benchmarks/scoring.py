"""Scoring a folder: cutswap against anomalib's PatchCore, same images, network, size and bank size.

The network is the embedded one, untuned; each side has a bank of its own features with as many
entries, chosen with our coreset (anomalib's takes minutes and is measured in coreset.py). Decoding
is included on both sides. anomalib always reweights its image scores (equation 7), we by option; it
runs as its `Engine.predict` does for a data set (one image at a time) and with batches. Without
anomalib (`pip install '.[peers]'`) only our side is measured.

    python benchmarks/scoring.py DATA [--images N] [--bank N] [--repeats R] [--runs N] [--threads T]
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Timing, interleave, machine, table

from detector.coreset import k_centre
from detector.detectors import PatchCore, PatchCoreConfig
from detector.image_stream import ImageStream
from detector.memory_bank import MemoryBank
from detector.metrics import image_metrics
from detector.scoring import score_stream
from manifests.allocator import keep_freed_memory
from manifests.datasets import open_data
from manifests.images import DEFAULT_MAX_PIXELS, Geometry, fit_image, read_image
from manifests.weights import Network, load_network

os.environ.setdefault("TQDM_DISABLE", "1")
Predict = Callable[[list[Path]], np.ndarray]


def chosen_rows(features: torch.Tensor, entries: int) -> torch.Tensor:
    """Ascending rows of a coreset, the same rule for both sides."""
    picks = k_centre(features, entries, rng=np.random.default_rng(0), projection_dim=10_000)
    return picks.sort().values


def our_detector(network: Network, train: list[Path], entries: int) -> PatchCore:
    """A detector with a bank of `entries` patches of the training images.

    Its image scores are those of equation 7, as anomalib's always are.
    """
    geometry = Geometry()
    detector = PatchCore(network, geometry, PatchCoreConfig(reweight=True))
    features, owners = [], []
    for start in range(0, len(train), 8):
        batch = [fit_image(read_image(path), geometry)[0] for path in train[start : start + 8]]
        patches, valid, _ = detector.patches(np.stack(batch))
        features.append(patches)
        owners.append(np.repeat(np.arange(start, start + len(batch)), valid.sum((1, 2))))
    everything = torch.cat(features)
    rows = chosen_rows(everything, entries)
    owner = torch.from_numpy(np.concatenate(owners).astype(np.int32))
    detector.adopt_bank(MemoryBank(everything[rows], owner[rows]))
    return detector


def our_scores(detector: PatchCore, files: list[Path]) -> np.ndarray:
    """(n,) scores of files, read ahead as `cutswap-det score` reads them."""
    stream = ImageStream(
        files, detector.geometry, batch=detector.config.batch, max_pixels=DEFAULT_MAX_PIXELS
    )
    return np.concatenate([scores.image for _, scores in score_stream(detector, stream)])


def anomalib_scores(
    network: Network, train: list[Path], entries: int, *, threads: int, folder: str
) -> Callable[[int], Predict]:
    """From a batch size to a function of files to their scores.

    Args:
        folder: for what its engine writes.

    Raises:
        ImportError: anomalib is not installed.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    from anomalib.data import ImageBatch, PredictDataset
    from anomalib.engine import Engine
    from anomalib.models import Patchcore
    from anomalib.pre_processing import PreProcessor
    from torch.utils.data import ConcatDataset, DataLoader
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.Resize((256, 256), antialias=True),
            v2.Normalize([m / 255 for m in network.mean], [s / 255 for s in network.std]),
        ]
    )
    model = Patchcore(
        backbone="tf_efficientnet_lite0",
        layers=[network.stages[2], network.stages[3]],
        pre_trained=False,
        pre_processor=PreProcessor(transform=transform),
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    extractor = model.model.feature_extractor.feature_extractor
    weights = network.module.state_dict()
    extractor.load_state_dict({name: weights[name] for name in extractor.state_dict()})
    model.eval()

    def loader(files: list[Path], batch: int) -> DataLoader:
        return DataLoader(
            ConcatDataset([PredictDataset(file, image_size=None) for file in files]),
            batch_size=batch,
            collate_fn=ImageBatch.collate,
        )

    engine = Engine(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        default_root_dir=folder,
    )  # fmt: skip
    with torch.no_grad():
        parts = []
        for batch in loader(train, 1):
            maps = model.model.feature_extractor(transform(batch.image))
            maps = {layer: model.model.feature_pooler(value) for layer, value in maps.items()}
            embedding = model.model.generate_embedding(maps)
            parts.append(model.model.reshape_embedding(embedding))
    features = torch.cat(parts)
    model.model.memory_bank = features[chosen_rows(features, entries)]

    def with_batch(batch: int) -> Predict:
        def predict(files: list[Path]) -> np.ndarray:
            torch.set_num_threads(threads)
            found = engine.predict(model=model, dataloaders=loader(files, batch))
            return np.concatenate([part.pred_score.reshape(-1).numpy() for part in found])

        return predict

    return with_batch


def latencies(detector: PatchCore, image: np.ndarray, runs: int) -> np.ndarray:
    """(runs,) seconds from a camera's array to a verdict, one image at a time."""
    found = np.empty(runs)
    for run in range(runs + 10):
        started = time.perf_counter()
        canvas, placement = fit_image(image, detector.geometry)
        detector.score(canvas[None], [placement.canvas_box])
        found[max(0, run - 10)] = time.perf_counter() - started
    return found


def latency_rows(
    detector: PatchCore, image: np.ndarray, runs: int, entries: list[int]
) -> list[str]:
    """Markdown rows of one image at a time for banks of several sizes."""
    lines = ["| bank | median ms | p99 ms |", "|---|---|---|"]
    source = np.random.default_rng(0)
    for count in entries:
        bank = detector.bank.features
        # Entries beside entries: distances of a larger bank, for speed alone.
        rows = torch.from_numpy(source.integers(len(bank), size=count))
        noise = torch.from_numpy(source.normal(size=(count, bank.shape[1])).astype(np.float32))
        spread = 0.3 * bank.std(0)
        one = PatchCore(detector.network, detector.geometry, detector.config)
        one.adopt_bank(MemoryBank(bank[rows] + noise * spread, torch.zeros(count).int()))
        seconds = latencies(one, image, runs)
        median, high = np.quantile(seconds, [0.5, 0.99]) * 1e3
        lines.append(f"| {count} | {median:.1f} | {high:.1f} |")
    return lines


def search_timings(bank: MemoryBank, patches: torch.Tensor, repeats: int) -> dict[str, Timing]:
    """The nearest entry of every patch: ours, by a whole product, and faiss where it is there."""
    sides: dict[str, Callable[[], object]] = {
        "cutswap": lambda: bank.nearest(patches),
        "torch.cdist": lambda: [torch.cdist(p, bank.features).min(1) for p in patches.split(1024)],
    }
    try:
        import faiss
    except ImportError:
        pass
    else:
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatL2(bank.dim)
        index.add(bank.features.numpy())
        sides["faiss IndexFlatL2"] = lambda: index.search(patches.numpy(), 1)
    return interleave(sides, repeats, warm_up=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="data set with a test split")
    parser.add_argument("--images", type=int, help="test images at most; default: all")
    parser.add_argument("--train", type=int, help="training images at most; default: all")
    parser.add_argument("--bank", type=int, default=7793)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=int, default=200, help="single images timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    category = open_data(arguments.data)[0]
    train = [sample.path for sample in category.train[: arguments.train]]
    tests = list(category.test)
    if arguments.images and arguments.images < len(tests):
        kept = np.random.default_rng(0).choice(len(tests), arguments.images, replace=False)
        tests = [tests[i] for i in sorted(kept)]
    files = [sample.path for sample in tests]
    labels = np.array([sample.label for sample in tests])
    network = load_network()
    detector = our_detector(network, train, arguments.bank)
    plain = PatchCore(network, detector.geometry, PatchCoreConfig())
    plain.adopt_bank(detector.bank)
    found: dict[str, np.ndarray] = {}

    def side(name: str, predict: Predict) -> Callable[[], None]:
        return lambda: found.update({name: predict(files)})

    sides = {
        "cutswap": side("cutswap", lambda files: our_scores(plain, files)),
        "cutswap --reweight": side("cutswap --reweight", lambda files: our_scores(detector, files)),
    }
    missing = ""
    scratch = tempfile.TemporaryDirectory()
    try:
        peer = anomalib_scores(
            network, train, arguments.bank, threads=arguments.threads, folder=scratch.name
        )
        for batch in (1, 8):
            name = f"anomalib, batch {batch}"
            sides[name] = side(name, peer(batch))
    except ImportError as error:
        missing = f"anomalib cannot be imported ({error}): pip install '.[peers]'"
    our_scores(detector, files[:16])
    timings: dict[str, Timing] = interleave(sides, arguments.repeats)
    print(
        f"{len(files)} images of {category.name} at 256 px, banks of {arguments.bank}, "
        f"{arguments.threads} threads, medians of {arguments.repeats}; {machine('anomalib')}\n"
    )
    print("\n".join(table(timings, base="cutswap", per=len(files) / 1000, unit="ms per image")))
    print("\n| | images per second | image AUROC |\n|---|---|---|")
    for name, timing in timings.items():
        rate = len(files) / statistics.median(timing.wall)
        auroc = image_metrics(found[name], labels).auroc
        shown = "one class only" if auroc is None else f"{auroc:.4f}"
        print(f"| {name} | {rate:.1f} | {shown} |")
    canvases = np.stack([fit_image(read_image(file), detector.geometry)[0] for file in files[:8]])
    patches, _, _ = plain.patches(canvases)
    search = search_timings(plain.bank, patches, 3 * arguments.repeats)
    print(f"\nSearch alone, {len(patches)} patches of {len(canvases)} images:\n")
    print("\n".join(table(search, base="cutswap", per=len(canvases) / 1000, unit="ms per image")))
    print(f"\nOne image at a time, array in, verdict out, {arguments.runs} runs:\n")
    sizes = [1000, arguments.bank, 50_000]
    print("\n".join(latency_rows(plain, read_image(files[0]), arguments.runs, sizes)))
    if missing:
        print(f"\n{missing}")


if __name__ == "__main__":
    main()
