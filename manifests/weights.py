"""Networks: which architecture, whose weights, and where their stages are.

One network serves both stages: its saliency says where the generator cuts, its features are what
the detector compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, cast

from manifests.devices import autocast as autocast
from manifests.devices import has_fast_bf16 as has_fast_bf16
from manifests.devices import resolve_device as resolve_device
from manifests.errors import ImageError, WeightsError
from manifests.stages import find_stages, vgg_pools
from manifests.weights_file import (
    described_state,
    embedded_state,
    from_torchvision_vgg,
    read_state,
)
from manifests.weights_hub import pretrained_module

if TYPE_CHECKING:
    import numpy as np
    import torch

EMBEDDED = "efficientnet_lite0"
MAX_NAMED_KEYS = 3


@dataclass(frozen=True, eq=False)
class Network:
    """A classification network with its weights, ready to run.

    Attributes:
        name: the name it was loaded by.
        module: (B,3,H,W) float32 -> (B, classes) logits; in eval mode, parameters frozen.
        digest: `state_digest` of `module`.
        mean, std: per channel R, G, B, in units of 0..255: the input is (x - mean) / std.
        levels: saliency level -> name of the submodule whose output is tapped, in forward order.
        stages: stage s -> name of the submodule whose output has stride 2^(s+1).
        source: "embedded", "timm", "file" or "random": where the weights came from.
    """

    name: str
    module: torch.nn.Module
    digest: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    levels: dict[int, str]
    stages: dict[int, str]
    source: str

    def preprocess(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Normalise a batch of images to the network's input.

        Args:
            images: (B, H, W, 3) uint8 RGB, NumPy or torch; not modified.

        Returns:
            (B, 3, H, W) float32 in channels-last memory format, on the device of `images`
            (NumPy: the CPU).

        Raises:
            ImageError: another dtype or shape.
        """
        import numpy as np
        import torch

        if isinstance(images, np.ndarray):
            # torch cannot take negative strides, and warns about read-only memory.
            usable = images.flags.writeable and images.flags.c_contiguous
            images = torch.from_numpy(images if usable else images.copy(order="C"))
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ImageError(
                "not a batch of images",
                expected="(B, H, W, 3) uint8",
                got=f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}",
            )
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return pixels.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def load_network(
    name: str = EMBEDDED,
    *,
    weights: str | PathLike[str] | None = None,
    pretrained: bool = True,
    seed: int = 0,
    device: str = "cpu",
) -> Network:
    """Build a network and load its weights.

    Args:
        name: "efficientnet_lite0" (its weights are installed with cutswap), "vgg16", "resnet18",
            "wide_resnet50_2", or any convolutional architecture that timm knows.
        weights: file with the weights (.safetensors, or .pth as torch.save writes a state dict;
            for VGG also torchvision's own); comes before `pretrained`.
        pretrained: the embedded weights, or timm's (downloaded once, then cached); False draws
            random ones.
        seed: of the random weights.
        device: "auto", "cpu" or "cuda".

    Returns:
        The network in eval mode, parameters frozen, in channels-last memory format (2.4 to 3.6
        times faster on CPUs than contiguous). Its saliency levels are its stages, or, for VGG, the
        max-pools of `features` by their index (VGG16: 4, 9, 16, 23, 30). Architectures without a
        stage of stride 2 have four of each, 1..4.

    Raises:
        WeightsError: unknown or unsuitable architecture; weights that are missing, unreadable,
            unsafe, or do not fit; no network to download them.
        DeviceError: "cuda" without a CUDA device.

    No global random state is changed. Source: ours; VGG16's levels are those of the LayerCAM
    authors.
    """
    import torch

    device = resolve_device(device)
    if weights is not None:
        source = "file"
    elif not pretrained:
        source = "random"
    else:
        source = "embedded" if name == EMBEDDED else "timm"
    is_vgg = name.startswith("vgg")
    state = None if weights is None else _state_of(name, weights)
    module = _build(name, seed=seed, pretrained=source == "timm")
    if state is not None:
        _load_state(module, state, path=weights)
    elif source == "embedded":
        _load_state(module, embedded_state(module.state_dict()), path=None)
    module.eval().requires_grad_(False)
    module.to(device).to(memory_format=torch.channels_last)
    mean, std = _normalisation(name, module)
    stages = find_stages(name, module)
    return Network(
        name=name,
        module=module,
        digest=state_digest(module),
        mean=mean,
        std=std,
        levels=vgg_pools(module) if is_vgg else dict(stages),
        stages=stages,
        source=source,
    )


def state_digest(module: torch.nn.Module) -> str:
    """SHA-256 of a module's weights as hex, whatever device and memory format they are in.

    Over the tensors of the state dict sorted by name: the ASCII line
    `"<name> <dtype> <d0> <d1> ...\\n"`, then the values in row-major order (little endian, as all
    supported platforms are). Batch-norm's `num_batches_tracked` is left out: it changes no output.

    Source: ours.
    """
    import torch

    hasher = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        if _is_counter(key):
            continue
        dtype = str(tensor.dtype).removeprefix("torch.")
        hasher.update((" ".join([key, dtype, *map(str, tensor.shape)]) + "\n").encode("utf-8"))
        values = tensor.detach().cpu().contiguous().reshape(-1)
        hasher.update(values.view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _state_of(name: str, weights: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """A file's weights, of which it is sure that they are the network's.

    Both a network's name and a file may come from a stranger. Names and shapes are therefore
    compared before memory is taken: the network's on torch's "meta" device, which has none, and
    those of a `.safetensors` file in its header. What is allocated then has the file's size.

    Raises:
        WeightsError: they do not fit, or the file cannot be read.
    """
    import torch

    def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return from_torchvision_vgg(state) if name.startswith("vgg") else state

    with torch.device("meta"):
        own = _build(name, seed=0, pretrained=False).state_dict()
    described = described_state(weights)
    if described is not None:
        _check_state(own, renamed(described), path=weights)
    state = renamed(read_state(weights))
    _check_state(own, state, path=weights)
    return state


def _build(name: str, *, seed: int, pretrained: bool) -> torch.nn.Module:
    """One of timm's networks, without touching the global random state."""
    import timm
    import torch

    architecture = "tf_efficientnet_lite0" if name == EMBEDDED else name
    # Names with a colon are timm's way to fetch somebody's repository or folder.
    if ":" in architecture or not timm.is_model(architecture):
        raise WeightsError(
            f"unknown network {name!r}",
            expected=f"{EMBEDDED}, vgg16, resnet18, wide_resnet50_2 or another of timm's",
            hint="timm.list_models() lists them",
        )
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the CUDA generators too, which are not restored here.
        torch.random.default_generator.manual_seed(seed)
        if pretrained:
            config = timm.get_pretrained_cfg(architecture)
            return pretrained_module(architecture, config.to_dict() if config else {})
        try:
            return timm.create_model(architecture, pretrained=False)
        except (RuntimeError, ValueError) as error:  # e.g. a tag that timm does not have
            raise WeightsError(f"timm cannot build network {name!r}", got=error) from error


def _check_state(
    own: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    *,
    path: str | PathLike[str] | None,
) -> None:
    """Every name and shape of `state` must be that of `own`, the network's. Raises WeightsError."""
    # Files from before batch-norm counted its batches lack the counter, which changes no output.
    missing = [key for key in own if key not in state and not _is_counter(key)]
    unexpected = [key for key in state if key not in own]
    if missing or unexpected:
        lacking = f"missing {_some(missing)}" if missing else ""
        unknown = f"unknown {_some(unexpected)}" if unexpected else ""
        raise WeightsError(
            "these weights are not this network's",
            path=path,
            got=", ".join(filter(None, [lacking, unknown])),
            hint="bring this network's weights, or name the network that they are of (--network)",
        )
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            raise WeightsError(
                f"weight {key} has another shape",
                path=path,
                expected=tuple(own[key].shape),
                got=tuple(tensor.shape),
                hint="bring this network's weights with its 1,000-class ImageNet classifier",
            )


def _load_state(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    path: str | PathLike[str] | None,
) -> None:
    """Copy `state` into `module`; every tensor must fit before anything is copied."""
    own = module.state_dict()
    _check_state(own, state, path=path)
    for key, tensor in state.items():
        if tensor.layout != own[key].layout or tensor.dtype.is_complex or tensor.is_meta:
            raise WeightsError(
                f"weight {key} is not a plain tensor",
                path=path,
                expected=f"{own[key].layout} on the CPU",
                got=f"{tensor.layout} {tensor.dtype} on {tensor.device}",
            )
    module.load_state_dict(state, strict=False)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - MAX_NAMED_KEYS} more" if len(keys) > MAX_NAMED_KEYS else ""
    return ", ".join(str(key)[:80] for key in keys[:MAX_NAMED_KEYS]) + more


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _normalisation(name: str, module: torch.nn.Module) -> tuple[tuple, tuple]:
    if name == EMBEDDED:
        return (127.0,) * 3, (128.0,) * 3
    settings = cast(Mapping[str, tuple[float, ...]], module.pretrained_cfg)  # timm's own
    mean, std = settings["mean"], settings["std"]
    return tuple(255.0 * value for value in mean), tuple(255.0 * value for value in std)
