"""Saliency maps: LayerCAM at several depths of one network, from one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import cv2
import numpy as np

from manifests.devices import autocast, images_on
from manifests.errors import ConfigError, WeightsError
from manifests.weights import Network

if TYPE_CHECKING:
    import torch

FLAT_RANGE = 1e-6
"""A map whose range is below this part of its largest value is constant but for rounding."""


def layer_cam(
    network: Network,
    images: np.ndarray | torch.Tensor,
    *,
    levels: Sequence[int],
    precision: str = "fp32",
    device: str = "cpu",
) -> dict[int, np.ndarray]:
    """LayerCAM maps of a batch at several levels, from one forward and one backward pass.

    For activation A of a level and the logit y of each image's most probable class:
    `M(i,j) = relu(sum_k relu(dy / dA_k(i,j)) * A_k(i,j))`. The images' logits are summed before
    the one backward pass; as no image influences another's logits, each gets its own gradient.

    Args:
        network: on `device`, in eval mode. Its weights and their gradients are left alone.
        images: (B, H, W, 3) uint8 RGB.
        levels: keys of `network.levels`, in any order.
        precision: "fp32" or "bf16", of the passes through the network; the map itself is summed
            in fp32.
        device: "cpu" or "cuda".

    Returns:
        level -> (B, h, w) float32, 0 and above, not normalised, at the level's own grid; in the
        order of `levels`.

    Raises:
        ConfigError: no levels, or one that the network does not have.
        ImageError: `images` of another dtype or shape.
        WeightsError: logits that are not finite, or a level that is no feature map.

    Source: Jiang et al. 2021 (LayerCAM), equations 5 to 7, for the logit of the argmax class, as
    in the authors' code. Differs: without the tanh scaling, which is for fusing levels.
    """
    import torch

    unknown = [level for level in levels if level not in network.levels]
    if unknown or not levels:
        raise ConfigError(
            f"network {network.name!r} has no saliency level {unknown[0]}"
            if unknown
            else "no saliency level given",
            expected=f"some of {', '.join(map(str, network.levels))}",
            hint="correct --levels",
        )
    if network.module.training:
        raise ValueError("saliency needs the network in eval mode: call network.module.eval()")
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        images = images_on(device, images)
    pixels = network.preprocess(images).to(device)
    paths = {level: network.levels[level] for level in levels}
    with torch.inference_mode(False), torch.enable_grad():
        with _tapped(network.module, paths) as taps, autocast(device, precision):
            logits = network.module(pixels)
        if not torch.isfinite(logits).all():
            raise WeightsError(
                f"network {network.name!r} gives logits that are not finite",
                hint="bring other weights (--weights FILE), or pass --precision fp32",
            )
        # autograd.grad, unlike backward(), writes to no parameter's .grad.
        gradients = torch.autograd.grad(logits.amax(dim=1).sum(), list(taps.values()))
    maps = {
        level: _weighted_sum(activation.detach(), gradient)
        for (level, activation), gradient in zip(taps.items(), gradients, strict=True)
    }
    return {level: maps[level].cpu().numpy() for level in levels}


def saliency_maps(
    network: Network,
    images: np.ndarray,
    *,
    levels: Sequence[int],
    precision: str = "fp32",
    device: str = "cpu",
) -> dict[int, np.ndarray]:
    """8-bit LayerCAM maps of a batch: `layer_cam`, each map quantised by itself.

    Args and Raises: as `layer_cam`.

    Returns:
        level -> (B, h, w) uint8 at the level's own grid. An image of one single colour has zero
        maps: LayerCAM would find nothing in it but the zero padding at the image's border.

    Source: ours. Differs from LayerCAM in that last point.
    """
    maps = layer_cam(network, images, levels=levels, precision=precision, device=device)
    colours = images.reshape(len(images), -1, 3)
    is_plain = (colours == colours[:, :1]).all(axis=(1, 2))
    return {
        level: np.stack(
            [
                np.zeros(values.shape, np.uint8) if plain else quantise(values)
                for values, plain in zip(batch, is_plain, strict=True)
            ]
        )
        for level, batch in maps.items()
    }


def quantise(map: np.ndarray) -> np.ndarray:
    """Stretch a map to 0..255: minimum to 0, maximum to 255, halves rounded up.

    Args:
        map: (h, w) float, finite.

    Returns:
        (h, w) uint8; zeros where the map is constant (see FLAT_RANGE).

    Raises:
        ValueError: values that are not finite.

    Source: ours (methods follow k-means, which no affine scaling changes).
    """
    values = map.astype(np.float64)  # float32 would overflow on the range of a tiny map
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("a saliency map must be finite")
    if high - low <= FLAT_RANGE * max(abs(low), abs(high)):
        return np.zeros(map.shape, np.uint8)
    grey: np.ndarray = np.floor((values - low) * (255.0 / (high - low)) + 0.5)
    return grey.astype(np.uint8)


def upsample(map: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarge an 8-bit map (h, w) bilinearly to (height, width) px, uint8.

    In OpenCV's exact integer arithmetic, which gives the same bytes on every machine.

    Source: ours.
    """
    return cv2.resize(map, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)


def _weighted_sum(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) twice -> (B, h, w) float32."""
    return (gradient.float().relu_() * activation.float()).sum(dim=1).relu_()


@contextmanager
def _tapped(module: torch.nn.Module, paths: Mapping[int, str]) -> Iterator[dict[int, torch.Tensor]]:
    """Record the outputs of some submodules while `module` runs; key -> output, in forward order.

    The first of them starts the autograd graph, so that a backward pass ends there instead of at
    the image. What goes on to the next layer is a copy, so that layers that work in place (ReLU,
    residual sums) do not change what was recorded.
    """
    import torch

    taps: dict[int, torch.Tensor] = {}
    handles = []

    def record(level: int, path: str, output: object) -> torch.Tensor:
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            raise WeightsError(
                f"saliency level {level} ({path}) is no feature map",
                expected="one (B, C, h, w) tensor",
                got=type(output).__name__,
            )
        if not taps or not output.requires_grad:
            output = output.detach().requires_grad_()
        taps[level] = output
        return output.clone()

    try:
        for level, path in paths.items():

            def hook(
                _module: object,
                _inputs: object,
                output: object,
                *,
                level: int = level,
                path: str = path,
            ) -> torch.Tensor:
                return record(level, path, output)

            handles.append(module.get_submodule(path).register_forward_hook(hook))
        yield taps
    finally:
        for handle in handles:
            handle.remove()
