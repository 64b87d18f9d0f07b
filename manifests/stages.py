"""The stages of a convolutional network: where its feature maps of stride 2 to 32 are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from manifests.errors import WeightsError

if TYPE_CHECKING:
    import torch

N_STAGES = 5
PROBE_SIDE_PX = 64
HINT = "use efficientnet_lite0, vgg16, resnet18 or wide_resnet50_2"


def find_stages(name: str, module: torch.nn.Module) -> dict[int, str]:
    """Find the submodule of every stage, as timm describes it and a forward pass confirms it.

    Args:
        name: the network's name, for messages.
        module: a timm network in eval mode.

    Returns:
        Stage s -> name of a submodule whose output is (B, C, H / 2^(s+1), W / 2^(s+1)), for s in
        0..4, or in 1..4 for architectures that start with stride 4. Where several have the same
        stride, the deepest.

    Raises:
        WeightsError: no such stages (transformers, inner feature maps in lists), or a network
            that takes images of one size only.

    Source: ours.
    """
    stage_of = {2 ** (stage + 1): stage for stage in range(N_STAGES)}
    stages: dict[int, str] = {}
    for row in getattr(module, "feature_info", None) or ():
        if row["reduction"] in stage_of:
            stages[stage_of[row["reduction"]]] = row["module"]
    stages = dict(sorted(stages.items()))
    grids = _grids(name, module, stages.values())
    wrong = [
        f"{path} gives {grids.get(path, 'no feature map')}"
        for stage, path in stages.items()
        if grids.get(path) != (PROBE_SIDE_PX >> (stage + 1),) * 2
    ]
    if not set(range(1, N_STAGES)) <= set(stages) or wrong:
        raise WeightsError(
            f"network {name!r} has no stages to tap",
            expected="a convolutional network with feature maps of stride 4, 8, 16 and 32",
            got=f"at {PROBE_SIDE_PX} px {', '.join(wrong)}" if wrong else f"stages {list(stages)}",
            hint=HINT,
        )
    return stages


def vgg_pools(module: torch.nn.Module) -> dict[int, str]:
    """Index of every max-pool in a VGG's `features` -> its name (VGG16: 4, 9, 16, 23, 30).

    Source: the layers that the LayerCAM authors show for VGG16.
    """
    import torch

    return {
        index: f"features.{index}"
        for index, layer in enumerate(cast(torch.nn.Sequential, module.features))
        if isinstance(layer, torch.nn.MaxPool2d)
    }


def _grids(name: str, module: torch.nn.Module, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(h, w) of the named submodules' outputs for one blank image; feature maps only."""
    import torch

    grids: dict[str, tuple[int, int]] = {}
    handles = []
    try:
        for path in paths:

            def note(_module: object, _inputs: object, output: object, *, path: str = path) -> None:
                if isinstance(output, torch.Tensor) and output.ndim == 4:
                    grids[path] = (output.shape[2], output.shape[3])

            handles.append(module.get_submodule(path).register_forward_hook(note))
        with torch.no_grad():
            device = next(module.parameters()).device
            module(torch.zeros(1, 3, PROBE_SIDE_PX, PROBE_SIDE_PX, device=device))
    except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"network {name!r} cannot be tapped at {PROBE_SIDE_PX} px",
            got=(str(error).splitlines() or [type(error).__name__])[0],
            hint=HINT,
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return grids
