"""Shard files that lie in an output folder before a run: what each is, and whether it may go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from manifests.errors import OutputError, SetError
from manifests.familiar import is_familiar, remember, shard_files
from manifests.probe import HostileShard, probe_problems
from manifests.schema import ShardEntry
from manifests.shard import Shard
from manifests.shard_entry import is_shard_name

_READ_BYTES = 1 << 20
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Begins what `manifests.shard_layout.read_index` says where libhdf5 itself gave up. It is all that
# comes back from the process that tried.
_NOT_PARSEABLE = "is truncated, damaged or not a shard"


class Planned(Protocol):
    """A shard that is to be there: its file name and the digest of all that decides its bytes."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...


AnyPlanned = TypeVar("AnyPlanned", bound=Planned)
IsWanted = Callable[[AnyPlanned, Shard], bool]
"""Whether a finished shard of the plan is one that this run would make again."""


def lying_shards(folder: Path, *, kept: frozenset[str]) -> list[Path]:
    """What is named like a shard and is not `kept`, sorted.

    Nothing else is ever looked at or removed: it is not ours, whatever its name begins with.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(
        path for path in folder.iterdir() if is_shard_name(path.name) and path.name not in kept
    )


def finished_shards(
    folder: Path,
    units: Sequence[AnyPlanned],
    paths: Iterable[Path],
    *,
    is_wanted: IsWanted[AnyPlanned] | None,
) -> tuple[dict[str, ShardEntry], dict[Path, SetError | None]]:
    """Sorts the shards that lie where those of a plan are to be.

    Each is parsed in a process of its own first, one for all of them, unless this user's programs
    have written or parsed it before and it is unchanged.

    Args:
        folder: the output folder.
        units: the plan.
        paths: of files in it; those that are not called like a unit are passed over.
        is_wanted: what else, beside its unit's digest, makes a finished shard worth keeping.

    Returns:
        The entries of the finished ones by name; and the others, with what speaks against replacing
        them unasked: None for one that is damaged, as a power cut leaves it, and for one of this
        very plan that is not wanted.

    Raises:
        SetError: the process cannot be started.
    """
    by_name = {unit.name: unit for unit in units}
    planned = [path for path in paths if path.name in by_name]
    plain = [path for path in planned if path.is_file() and not path.is_symlink()]
    refused = _parsed_apart(folder, plain)
    done: dict[str, ShardEntry] = {}
    others: dict[Path, SetError | None] = {}
    for path in planned:
        try:
            with Shard(path, refused=refused.get(path)) as shard:
                unit = by_name[path.name]
                if shard.index.unit_digest != unit.digest:
                    others[path] = SetError(
                        "belongs to an unfinished build with other options or images", path=path
                    )
                elif is_wanted is not None and not is_wanted(unit, shard):
                    others[path] = None
                else:
                    done[path.name] = shard.entry(shard.file_sha256())
        except SetError as error:
            others[path] = _reason_to_stay(path, error)
    return done, others


def _parsed_apart(folder: Path, paths: Sequence[Path]) -> dict[Path, SetError]:
    """What a process of its own has against files; those must not be parsed in this one."""
    # A set's shards are remembered together, those of an unfinished run one by one.
    new = [path for path in paths if not is_familiar([path])]
    if not new or is_familiar(shard_files(folder)):
        return {}
    problems = probe_problems(new)
    for path in new:
        if path not in problems:
            remember([path])
    return problems


def _reason_to_stay(path: Path, error: SetError) -> SetError | None:
    """What speaks against replacing a file that is no shard this program reads; None for nothing.

    A power cut leaves a shard without its end, or with zeros where its bytes should be. All else
    is somebody's: of a newer version, of another tool, or out of reach at the moment.
    """
    if path.is_symlink() or not path.is_file():
        return SetError("is in the way, and is no plain file", path=path)
    try:
        start = _readable(path)
    except OSError as fault:
        return SetError(f"is in the way, and cannot be read ({fault.strerror})", path=path)
    if start.strip(b"\0") and not start.startswith(_HDF5_SIGNATURE[: len(start)]):
        return SetError("is in the way, and is no HDF5 file", path=path)
    if isinstance(error, HostileShard) or error.what.startswith(_NOT_PARSEABLE):
        return None
    return SetError(
        f"is in the way: {error.what}", path=path, expected=error.expected, got=error.got
    )


def _readable(path: Path) -> bytes:
    """The first bytes of a file, after all of it has been read. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        start = file.read(len(_HDF5_SIGNATURE))
        # libhdf5 says of a disk that fails for now what it says of a damaged file.
        while file.read(_READ_BYTES):
            pass
    return start


def remove(path: Path) -> None:
    """Removes one file. Raises OutputError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot be removed: {error.strerror or error}",
            path=path,
            hint="move it away, or pass another --out",
        ) from error
