"""The floor of a build, in a module of its own so that worker processes can import it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np
import torch

from generator.config import BuildConfig
from manifests.allocator import keep_freed_memory
from manifests.datasets import Category
from manifests.folding import folded_network
from manifests.images import fit_image, read_image
from manifests.weights import Network, load_network


def floor(part: Category, config: BuildConfig, *, is_folded: bool) -> None:
    """Decodes a category's training images and runs the network forward and backward, no more."""
    keep_freed_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    network = _network(config.network, is_folded)
    read_and_use(part, config, lambda images: bare_pass(network, images))


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


@functools.cache
def _network(name: str, is_folded: bool) -> Network:
    network = load_network(name)
    return folded_network(network) if is_folded else network
