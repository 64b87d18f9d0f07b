"""Training checkpoints: one safetensors file, its JSON inside, nothing pickled.

Tensors and JSON share one file, so that one rename replaces both and they can never belong to
different moments. The file is complete and checked by its own digest, or it is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from manifests.atomic import atomic_file
from manifests.digest import bytes_digest
from manifests.errors import ModelError, OutputError

CHECKPOINT_NAME = "checkpoint.safetensors"
CHECKPOINT_VERSION = 1
_FIELD = "cutswap"  # the one entry of the safetensors metadata: several come in no fixed order
_DTYPES = (torch.float32, torch.float64, torch.int64)
_MAX_JSON_BYTES = 1 << 20
_START_AFRESH = "remove the file, or pass --overwrite, to train from the start"

Run = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training between two updates.

    Attributes:
        run: everything the result depends on, in plain JSON types (config, network, set, classes);
            a checkpoint goes on only with the same run.
        update: number of updates done.
        environment: what the last bits may depend on besides (versions, threads, device).
        tensors: weights, statistics, momentum buffers and the log, by name.
    """

    run: Run
    update: int
    environment: Mapping[str, object]
    tensors: Mapping[str, torch.Tensor]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint in place of the one in the folder, if any.

    The same checkpoint gives the same bytes. A kill or a full disk at any moment leaves the old
    file as it was.

    Args:
        folder: made where it is missing.
        checkpoint: tensors are float32, float64 or int64, on any device and of any layout.

    Returns:
        The path of the file.

    Raises:
        OutputError: the folder or the file cannot be written.

    Source: ours.
    """
    from safetensors.torch import save

    # Always copied out of whatever memory format training uses: files hold plain C order.
    tensors = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, tensor in checkpoint.tensors.items()
    }
    header = {
        "version": CHECKPOINT_VERSION,
        "run": dict(checkpoint.run),
        "update": checkpoint.update,
        "environment": dict(checkpoint.environment),
    }
    header["digest"] = _digest(header, tensors)
    data = save(tensors, metadata={_FIELD: _canonical(header)})
    path = Path(folder) / CHECKPOINT_NAME
    with atomic_file(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
    return path


def read_checkpoint(folder: Path, *, run: Run) -> Checkpoint | None:
    """Read the checkpoint of a folder, if it belongs to this run.

    Args:
        folder: need not exist.
        run: of the training that wants to go on.

    Returns:
        The checkpoint with its tensors on the CPU, or None where the folder has none.

    Raises:
        ModelError: the file is damaged, of a newer version, or of another run; the fields in which
            the run differs are named.

    Source: ours.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / CHECKPOINT_NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = _parse_header(path, (file.metadata() or {}).get(_FIELD, ""))
            _check_run(path, header["run"], run)
            # The file's header is checked against its length on opening, so no tensor can ask for
            # more memory than there are bytes on disk.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if any(tensor.dtype not in _DTYPES for tensor in tensors.values()):
        raise _damaged(path, "it holds tensors of unexpected types")
    if header.pop("digest") != _digest(header, tensors):
        raise _damaged(path, "its digest does not match its content")
    return Checkpoint(header["run"], header["update"], header["environment"], tensors)


def checkpoint_to_bytes(checkpoint: Checkpoint) -> bytes:
    """A checkpoint for another process of the same run, which reads it with the next function.

    Source: ours.
    """
    from safetensors.torch import save

    header = {name: getattr(checkpoint, name) for name in ("run", "update", "environment")}
    data = _canonical(header).encode("utf-8")
    return len(data).to_bytes(8, "little") + data + save(dict(checkpoint.tensors))


def checkpoint_from_bytes(data: bytes) -> Checkpoint:
    """What `checkpoint_to_bytes` was given.

    Source: ours.
    """
    from safetensors.torch import load

    end = 8 + int.from_bytes(data[:8], "little")
    return Checkpoint(**json.loads(data[8:end]), tensors=load(data[end:]))


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values.

    Args:
        tensors: on any device and of any layout.

    Source: ours.
    """
    plain = {
        name: tensor.detach().to("cpu").contiguous() for name, tensor in sorted(tensors.items())
    }
    return bytes_digest(_canonical(_content(plain)).encode("utf-8"))


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a folder, if it has one, and what a killed process left of others.

    Args:
        folder: need not exist.

    Raises:
        OutputError: the file cannot be removed.

    Source: ours.
    """
    path = Path(folder) / CHECKPOINT_NAME
    try:
        path.unlink(missing_ok=True)
        for remnant in path.parent.glob(f".{path.name}.tmp-*"):
            remnant.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"the checkpoint cannot be removed: {error.strerror or error}",
            path=path,
            hint="make the folder writable",
        ) from error


def _parse_header(path: Path, text: str) -> dict:
    """The JSON of a checkpoint as `write_checkpoint` wrote it, or ModelError."""
    if not text or len(text) > _MAX_JSON_BYTES:
        raise _damaged(path, "it was not written by cutswap")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its JSON cannot be read") from error
    version = header.get("version") if isinstance(header, dict) else None
    if isinstance(version, int) and version > CHECKPOINT_VERSION:
        raise ModelError(
            "the checkpoint was written by a newer cutswap",
            path=path,
            expected=f"version {CHECKPOINT_VERSION}",
            got=f"version {version}",
            hint=f"update cutswap, or {_START_AFRESH}",
        )
    kinds = {"version": int, "run": dict, "update": int, "environment": dict, "digest": str}
    if (
        not isinstance(header, dict)
        or header.keys() != kinds.keys()
        or any(type(header[name]) is not kind for name, kind in kinds.items())
        or header["version"] != CHECKPOINT_VERSION
        or header["update"] < 0
    ):
        raise _damaged(path, "its fields are not those of a checkpoint")
    return header


def _check_run(path: Path, found: Run, run: Run) -> None:
    wanted = json.loads(_canonical(run))  # as it looks after a round trip: tuples become lists
    if found == wanted:
        return
    names = [
        name for name in sorted(wanted.keys() | found.keys()) if found.get(name) != wanted.get(name)
    ]
    raise ModelError(
        "an unfinished training of another kind is in this folder",
        path=path,
        expected=", ".join(f"{name}={wanted.get(name)}" for name in names),
        got=", ".join(f"{name}={found.get(name)}" for name in names),
        hint=f"use the same options to go on; or {_START_AFRESH}; or choose another --out",
    )


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(f"the checkpoint is damaged: {reason}", path=path, hint=_START_AFRESH)


def _canonical(value: Mapping) -> str:
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"))


def _digest(header: Mapping, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the header (without its digest) and every tensor's name, type and values."""
    content = {"header": dict(header), "tensors": _content(tensors)}
    return bytes_digest(_canonical(content).encode("utf-8"))


def _content(tensors: Mapping[str, torch.Tensor]) -> dict[str, list]:
    return {
        name: [str(tensor.dtype), list(tensor.shape), bytes_digest(_bytes(tensor))]
        for name, tensor in tensors.items()
    }


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
