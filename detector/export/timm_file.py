"""The extractor's weights as timm's own architecture takes them."""

from __future__ import annotations

from pathlib import Path

import torch

from detector.model import Model
from manifests.errors import ConfigError, OutputError

_PROBE_PX = 64


def state_bytes(model: Model) -> bytes:
    """Every tensor of the network under timm's names, batch norms and classifier included.

    Raises:
        ConfigError: a detector that looks with two networks, of which one file would hold half.
    """
    from safetensors.torch import save

    if model.detector.untuned is not None:
        raise ConfigError(
            "the detector looks with two networks, and one would not stand for it",
            hint="fit again without --with-untuned"
            if model.config.detector == "patchcore"
            else "export --to onnx, torch-export or openvino",
        )
    if model.config.detector in ("guided-seg", "cavga"):
        raise ConfigError(
            f"the network of {model.config.detector} is of no use without its other parts",
            hint="export --to onnx, torch-export or openvino",
        )
    state = model.detector.network.module.state_dict()
    return save({name: one.contiguous() for name, one in state.items()})


def check_state(path: Path, model: Model, architecture: str) -> float:
    """The largest difference between the logits of timm's network and the model's, of the largest.

    Raises:
        OutputError: timm does not take the file.
    """
    import timm
    from safetensors.torch import load_file

    network = model.detector.network
    classes = network.module.num_classes
    with torch.random.fork_rng(devices=[]):
        other = timm.create_model(architecture, pretrained=False, num_classes=classes)
    try:
        other.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise OutputError("timm does not take what was written", path=path, got=error) from error
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn((1, 3, _PROBE_PX, _PROBE_PX), generator=generator)
    with torch.no_grad():
        wanted, found = network.module(pixels), other.eval()(pixels)
    return float((found - wanted).abs().max() / wanted.abs().max())
