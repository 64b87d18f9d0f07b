"""Where networks run and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from manifests.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    import numpy as np
    import torch

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16")


def resolve_device(device: str) -> str:
    """Turn "auto", "cpu" or "cuda" into the device to use: "cpu" or "cuda".

    "auto" is CUDA where PyTorch sees a usable one, else the CPU.

    Raises:
        ConfigError: any other name.
        DeviceError: "cuda" without a usable CUDA device.

    Source: ours.
    """
    import torch

    if device not in DEVICES:
        raise ConfigError(f"unknown device {device!r}", expected=", ".join(DEVICES))
    if device == "cpu":
        return device
    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise DeviceError(
            "no CUDA device here",
            expected="a GPU, its driver and a CUDA build of PyTorch",
            got=f"PyTorch {torch.__version__}",
            hint="pass --device cpu or --device auto",
        )
    return "cpu"


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    """Context in which a network's forward pass runs at `precision`.

    Args:
        device: "cpu" or "cuda" (an index such as "cuda:1" is allowed).
        precision: "fp32" or "bf16". "fp32" also switches off a surrounding autocast; whether
            CUDA's convolutions may use TF32 stays as the process has it.

    Raises:
        ConfigError: any other precision.

    Source: ours.
    """
    import torch

    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}", expected=", ".join(PRECISIONS))
    return torch.autocast(
        torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16"
    )


def images_on(device: str, images: np.ndarray) -> torch.Tensor:
    """A batch of images where the network runs.

    They travel as bytes, a quarter of what they would take as float32, and to a GPU by way of
    pinned memory, which it reads by itself.

    Args:
        device: "cpu" or "cuda" (an index is allowed).
        images: (B, H, W, 3) uint8; not modified. On the CPU its memory may be shared.

    Source: ours.
    """
    import numpy as np
    import torch

    # torch cannot take negative strides, and warns about read-only memory.
    is_usable = images.flags.writeable and images.flags.c_contiguous
    batch = torch.from_numpy(images if is_usable else np.array(images, order="C"))
    if torch.device(device).type == "cpu":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)


def has_fast_bf16(device: str) -> bool:
    """Whether bf16 pays on `device` ("cpu" or "cuda").

    CUDA from compute capability 8.0, CPUs with AMX or AVX512-BF16. Elsewhere PyTorch emulates it:
    eight times slower than fp32, measured on a processor with AVX2 only.

    Source: ours.
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8
    return bool(_cpu_flags() & {"amx_bf16", "avx512_bf16"})


def _cpu_flags() -> frozenset[str]:
    """Processor features by their Linux names; empty where the system does not list them."""
    # PyTorch's own queries are private and change names between releases.
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
