"""The header of a `.safetensors` file: what it holds, before memory is taken for any of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manifests.errors import CutswapError

# Ten times what the largest network has: some 100 bytes for each of its tensors.
MAX_HEADER_BYTES = 4 << 20
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A tensor without its values.

    Attributes:
        dtype: as the format names it: "F32", "I64", "BOOL", ...
        shape: its sides.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def read_header(path: Path, *, error: type[CutswapError]) -> dict[str, TensorHeader]:
    """Name -> header of every tensor in a file, in its order.

    The tensors fill the file to the byte, so that they hold no more than it does.

    Args:
        path: the file.
        error: the kind of error to raise.

    Raises:
        error: it cannot be read, is no safetensors file, or has a header of more than 4 MiB.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise error(
                "is not a safetensors file, or names too many tensors",
                path=path,
                expected=f"a header of at most {MAX_HEADER_BYTES} bytes",
                got=header_bytes,
            )
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: TensorHeader(one.get_dtype(), tuple(one.get_shape()))
                for name, one in slices.items()
            }
    except OSError as fault:
        raise error(f"cannot be read ({fault.strerror or str(fault)[:120]})", path=path) from fault
    except (SafetensorError, ValueError, OverflowError) as fault:
        raise error(f"is not a safetensors file ({str(fault)[:120]})", path=path) from fault
