"""Making five swaps per image: ours against compositions of grad-cam and scikit-learn.

Peers, on the same network, images, precision and one thread: the naive composition, five LayerCAM
objects and `KMeans(4)` as it comes on each full map, one image at a time; and the best one,
channels-last, a batch, all layers from one pass. Each ends with a swap per level. Also: how well
the top clusters agree with those of `KMeans(4, n_init=10)` on unrounded maps of the network as it
was loaded.

    python benchmarks/saliency_peers.py [--data FOLDER] [--images N] [--repeats R]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from common import interleave, machine, table
from sklearn.cluster import KMeans

from generator.anchors import anchor_rng
from generator.config import BuildConfig
from generator.policies import POLICIES
from generator.policies.base import ImageContext
from generator.regions import Regions
from generator.saliency import layer_cam, saliency_maps
from generator.sample_data import render_sample_data
from manifests.allocator import keep_freed_memory
from manifests.datasets import open_data
from manifests.edits import render
from manifests.folding import folded_network
from manifests.images import fit_image, read_image
from manifests.weights import Network, load_network

K = 4
BATCH = 8


def read_canvases(data: Path, count: int) -> np.ndarray:
    """(N, 256, 256, 3) uint8 training images."""
    geometry = BuildConfig().geometry
    samples = open_data(data)[0].train[:count]
    return np.stack([fit_image(read_image(sample.path), geometry)[0] for sample in samples])


def plain_swap(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The swap as anybody writes it: two random pixels of the cluster, two patches exchanged."""
    ys, xs = np.nonzero(labels)
    height, width = image.shape[:2]
    h, w = 48, 48
    picks = rng.integers(len(ys), size=2)
    (y1, y2), (x1, x2) = np.minimum(ys[picks], height - h), np.minimum(xs[picks], width - w)
    swapped = image.copy()
    swapped[y1 : y1 + h, x1 : x1 + w] = image[y2 : y2 + h, x2 : x2 + w]
    swapped[y2 : y2 + h, x2 : x2 + w] = image[y1 : y1 + h, x1 : x1 + w]
    return swapped


def peer_cams(network: Network, layers: list[str]) -> object:
    """grad-cam's LayerCAM of one or several layers."""
    from pytorch_grad_cam import LayerCAM

    module = network.module
    return LayerCAM(model=module, target_layers=[module.get_submodule(path) for path in layers])


def cluster_and_swap(rng: np.random.Generator, cam: np.ndarray, image: np.ndarray) -> None:
    """Top cluster of one full map (256, 256) by scikit-learn, and a swap in it."""
    found = KMeans(K).fit(cam.reshape(-1, 1))
    top = int(found.cluster_centers_[:, 0].argmax())
    plain_swap(rng, image, found.labels_.reshape(cam.shape) == top)


def naive(network: Network, images: np.ndarray, rng: np.random.Generator) -> None:
    """Five objects, five passes, one image at a time."""
    cams = [peer_cams(network, [path]) for path in network.levels.values()]
    for image in images:
        pixels = network.preprocess(image[None]).contiguous()
        for cam in cams:
            cluster_and_swap(rng, cam(input_tensor=pixels, targets=None)[0], image)


def best(network: Network, images: np.ndarray, rng: np.random.Generator) -> None:
    """One object with all layers, one pass per batch, channels-last."""
    cam = peer_cams(network, list(network.levels.values()))
    # What the object returns is the mean over its layers; each layer's map is one step before.
    kept: list[list[np.ndarray]] = []
    joined = cam.aggregate_multi_layers

    def keep(per_layer: list[np.ndarray]) -> np.ndarray:
        kept.append(per_layer)
        return joined(per_layer)

    cam.aggregate_multi_layers = keep
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        # The weights are frozen, so the pass backward needs the image to start from.
        cam(input_tensor=network.preprocess(batch).requires_grad_(), targets=None)
        for maps in kept.pop():
            for one, image in zip(maps, batch, strict=True):
                cluster_and_swap(rng, one[0], image)


def ours(network: Network, images: np.ndarray) -> None:
    """The build's own steps: one pass per batch, exact clusters, anchors, rendered swaps."""
    regions = Regions.of_config(BuildConfig())
    swap = POLICIES["swap"]()
    box = (0, 0, *images.shape[1:3])
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        maps = saliency_maps(network, batch, levels=tuple(network.levels))
        for level, rows in maps.items():
            for number, (saliency, image) in enumerate(zip(rows, batch, strict=True)):
                labels, found = regions.cut(
                    saliency, *image.shape[:2], box, digest="00" * 32, level=level
                )
                context = ImageContext(image, "00" * 32, box, level, labels, found.count)
                drawn = swap.draw(anchor_rng(0, "00" * 32, "swap", level, start + number), context)
                if drawn is not None and drawn.rendered is None:
                    render(image, drawn.edits, {})


def agreement(network: Network, images: np.ndarray) -> list[float]:
    """IoU of our top cluster and that of KMeans(4, n_init=10), per image and level."""
    regions = Regions.of_config(BuildConfig())
    height, width = images.shape[1:3]
    folded = folded_network(network)
    found = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        exact = layer_cam(network, batch, levels=tuple(network.levels))
        rounded = saliency_maps(folded, batch, levels=tuple(network.levels))
        for level, maps in exact.items():
            for one, saliency in zip(maps, rounded[level], strict=True):
                full = cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR)
                peer = KMeans(K, n_init=10, random_state=0).fit(full.reshape(-1, 1))
                theirs = peer.labels_.reshape(full.shape) == peer.cluster_centers_[:, 0].argmax()
                labels, clusters = regions.cut(
                    saliency, height, width, (0, 0, height, width), digest="00" * 32, level=level
                )
                own = labels == clusters.count - 1
                found.append(np.count_nonzero(own & theirs) / np.count_nonzero(own | theirs))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data set; default: our sample data")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        data = arguments.data
        if data is None:
            data = Path(scratch) / "data"
            render_sample_data(data, train=arguments.images, test_good=1, per_defect=1)
        images = read_canvases(data, arguments.images)
    network = load_network()
    contiguous = load_network()
    contiguous.module.to(memory_format=torch.contiguous_format).requires_grad_()  # as models come
    folded = folded_network(network)
    rng = np.random.default_rng(0)
    timings = interleave(
        {
            "cutswap": lambda: ours(folded, images),
            "best composition (one pass, batch of 8, channels-last)": lambda: best(
                network, images, rng
            ),
            "naive composition (five passes, one image at a time)": lambda: naive(
                contiguous, images, rng
            ),
        },
        arguments.repeats,
        warm_up=True,
    )
    print(machine("timm", "grad-cam", "scikit-learn"))
    print(
        f"\n{len(images)} images at 256 px, five levels, a swap per level, fp32, one thread, "
        f"medians of {arguments.repeats}\n"
    )
    print(*table(timings, base="cutswap", per=len(images) / 1000, unit="ms per image"), sep="\n")
    overlaps = agreement(network, images)
    print(
        f"\nIoU of the top cluster with KMeans({K}, n_init=10) on unrounded maps: median "
        f"{statistics.median(overlaps):.4f}, mean {statistics.mean(overlaps):.4f}, lowest "
        f"{min(overlaps):.3f} of {len(overlaps)}"
    )


if __name__ == "__main__":
    main()
