"""The processes that work on one fit together, and what they say to each other.

What is said are tensors and JSON, never pickled objects.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from manifests.errors import DeviceError, ModelError, WorkerError

# An update takes seconds; a process that has not answered for so long hangs, or its machine is
# gone. One that has died is noticed at once, by its closed connection.
UPDATE_TIMEOUT = timedelta(minutes=10)
# The first process may choose a memory bank for hours while the others wait.
PATIENCE = timedelta(hours=24)

_LOST = "run the same command again; it goes on from its last checkpoint"
# Many systems give their host name the address 127.0.1.1, at which no other machine finds them.
_UNREACHED = (
    "machines find each other by the address of their host name; where that is not the one to use, "
    "set GLOO_SOCKET_IFNAME to the network interface, such as eth0"
)


class PeerLost(WorkerError):
    """Another process of the run has ended or does not answer."""


class Processes:
    """One of the processes of a run, and its connection to the others.

    Alone, every method does what one process of one does, without a connection.

    Args:
        rank: which of them this is, from 0.
        count: how many there are.
        rank_here, count_here: the same among those of this machine.

    Source: ours.
    """

    def __init__(
        self, rank: int = 0, count: int = 1, *, rank_here: int = 0, count_here: int = 1
    ) -> None:
        self.rank = rank
        self.count = count
        self.rank_here = rank_here
        self.count_here = count_here
        self._patient: dist.ProcessGroup | None = None
        self._fast: dist.ProcessGroup | None = None  # of the GPUs

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and answers."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.count == 1

    def connect(self) -> None:
        """Join the others, at the address that the environment names, over gloo.

        Raises:
            PeerLost: they do not come.
        """
        with _peers_expected(every=True, hint=_UNREACHED):
            dist.init_process_group(
                "gloo", rank=self.rank, world_size=self.count, timeout=UPDATE_TIMEOUT
            )
            # Of all processes, so this one is in it; for others there is a number in its place.
            group = dist.new_group(backend="gloo", timeout=PATIENCE)
            self._patient = cast(dist.ProcessGroup, group)

    def disconnect(self) -> None:
        """Leave; whoever waits for this one is told by the closed connection."""
        self._patient = self._fast = None
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    def own_device(self, device: str) -> str:
        """The device of this process: "cpu", or a GPU of its own ("cuda:1"), joined over nccl.

        Args:
            device: "cpu" or "cuda".

        Raises:
            DeviceError: there are fewer GPUs here than processes.
            ModelError: other processes have other devices.
        """
        if self.is_alone:
            return device
        n_gpus = torch.cuda.device_count() if device == "cuda" else 0
        if device == "cuda" and self.count_here > n_gpus:
            raise DeviceError(
                "every process needs a GPU of its own",
                expected=f"{self.count_here} GPUs on this machine",
                got=n_gpus,
                hint="start fewer processes, or pass --device cpu",
            )
        self.need_same("the device", lambda: device)
        if device == "cpu":
            return device
        torch.cuda.set_device(self.rank_here)
        with _peers_expected(every=True):
            group = dist.new_group(backend="nccl", timeout=UPDATE_TIMEOUT)
            self._fast = cast(dist.ProcessGroup, group)
        return f"cuda:{self.rank_here}"

    def group_of(self, device: str) -> dist.ProcessGroup | None:
        """The group in which tensors on `device` are summed."""
        return self._fast if torch.device(device).type == "cuda" else None

    def rows(self, n: int) -> range:
        """This process's share of `n` things in a row: all shares together are all, in order."""
        return range(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Put the sum over all processes into `tensor`, the same bits everywhere, and return it.

        Raises:
            PeerLost: another process has gone.
        """
        if not self.is_alone:
            with _peers_expected(every=True):
                dist.all_reduce(tensor, group=self.group_of(tensor.device.type))
        return tensor

    def hear(self, value: Any) -> Any:
        """What the first process passes; what others pass is ignored.

        Args:
            value: plain JSON types.

        Raises:
            PeerLost: another process has gone.
        """
        if self.is_alone:
            return value
        data = self.hear_bytes(json.dumps(value).encode() if self.is_first else b"")
        return json.loads(data)

    def hear_bytes(self, data: bytes) -> bytes:
        """As `hear`, for bytes."""
        if self.is_alone:
            return data
        with _peers_expected(every=True):
            n = torch.tensor([len(data)])
            dist.broadcast(n, src=0, group=self._patient)
            # frombuffer takes neither read-only nor empty memory.
            buffer = torch.empty(int(n), dtype=torch.uint8)
            if self.is_first and data:
                buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            if len(buffer):
                dist.broadcast(buffer, src=0, group=self._patient)
        return bytes(buffer.numpy())

    def hear_tensors(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As `hear`, for tensors on the CPU by name."""
        from safetensors.torch import load, save

        if self.is_alone:
            return dict(tensors)
        return load(self.hear_bytes(save(dict(tensors)) if self.is_first else b""))

    def hear_all(self, value: Any) -> list[Any]:
        """What every process passes, in their order.

        Args:
            value: plain JSON types.

        Raises:
            PeerLost: another process has gone.
        """
        if self.is_alone:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return [json.loads(bytes(part.numpy())) for part in self._all_rows(data)]

    def collect(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The rows of all processes' tensors, in their order, on the first; None on the others.

        Args:
            tensor: (n, ...) on the CPU, contiguous; n may differ, all else may not.

        Raises:
            PeerLost: another process has gone.
        """
        if self.is_alone:
            return tensor
        counts = [int(n) for n in self._lengths(tensor)]
        with _peers_expected(every=True):
            if not self.is_first:
                if len(tensor):
                    dist.send(tensor, dst=0, group=self._patient)
                return None
            parts = [tensor]
            for rank, n in list(enumerate(counts))[1:]:
                part = torch.empty((n, *tensor.shape[1:]), dtype=tensor.dtype)
                if n:
                    dist.recv(part, src=rank, group=self._patient)
                parts.append(part)
        return torch.cat(parts)

    def wait(self) -> None:
        """Wait until all processes are here. Raises PeerLost where one has gone."""
        if not self.is_alone:
            with _peers_expected(every=True):
                dist.barrier(group=self._patient)

    def need_same(self, what: str, value: Callable[[], str]) -> None:
        """Compare a value with those of the other processes.

        Args:
            what: what it is, for the message.
            value: gives a digest, or words; not asked where there are no others.

        Raises:
            ModelError: on all processes, where it is not the same everywhere.
            PeerLost: another process has gone.
        """
        if self.is_alone:
            return
        found = self.hear_all(value())
        others = [rank for rank, one in enumerate(found) if one != found[0]]
        if others:
            raise ModelError(
                f"the processes do not agree on {what}",
                expected=f"{found[0][:16]} as process 0 has it",
                got=f"{found[others[0]][:16]} in process {others[0]} of {self.count}",
                hint="give all of them the same set, options and versions; an unfinished training "
                "goes on from its last checkpoint",
            )

    def _lengths(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        lengths = [torch.empty(1, dtype=torch.int64) for _ in range(self.count)]
        with _peers_expected(every=True):
            dist.all_gather(lengths, torch.tensor([len(tensor)]), group=self._patient)
        return lengths

    def _all_rows(self, data: torch.Tensor) -> list[torch.Tensor]:
        """(n,) of every process, on every process."""
        lengths = [int(n) for n in self._lengths(data)]
        padded = torch.zeros(max(lengths), dtype=data.dtype)
        padded[: len(data)] = data
        parts = [torch.empty_like(padded) for _ in lengths]
        with _peers_expected(every=True):
            dist.all_gather(parts, padded, group=self._patient)
        return [part[:n] for part, n in zip(parts, lengths, strict=True)]


ALONE = Processes()


@contextlib.contextmanager
def peers_expected() -> Iterator[None]:
    """Turns errors of a broken connection into PeerLost, and leaves all others as they are."""
    with _peers_expected(every=False):
        yield


@contextlib.contextmanager
def _peers_expected(*, every: bool, hint: str = _LOST) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no type of their own, but name the file they come from.
        is_connection = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        if not every and not is_connection:
            raise
        raise PeerLost(
            "another process of this run has ended or does not answer",
            hint=hint,
        ) from error
