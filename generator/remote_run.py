"""A build behind a URL while it is under way: whose it is, and which shards are finished.

Nothing can be looked into there without fetching it, and nothing can be locked. Beside every
finished shard lies a note of what is in it, `shard-00000.json`, put there after the shard; and
`build.json` says which run is writing. Both are gone when the set is there.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from generator.made_shard import MAX_BYTES, MadeShard
from generator.unit import Unit
from manifests.digest import bytes_digest
from manifests.errors import OutputError, SetError
from manifests.location import Location, RemoteError
from manifests.push import MARKER_NAME, note_name
from manifests.shard_entry import is_digest
from manifests.strict_json import dump_json, load_json
from manifests.transfer import Patience, fetch_bytes, put_bytes

_MAX_MARKER_BYTES = 1024


@dataclass(frozen=True)
class UrlPlace:
    """Where one run's shards go, from any machine.

    Attributes:
        url: of the set's folder, with its secrets.
        run: of the run; a new one replaces it, and this one's workers are then refused.
    """

    url: str
    run: str

    def store(self, name: str, make: Callable[[Path], MadeShard]) -> MadeShard:
        """Makes a shard in a folder of this machine, uploads it, and then the note of it.

        Raises:
            OutputError: another run has taken the place over; or there is no room here.
            RemoteError: the upload fails for good.
        """
        target, patience = Location.of(self.url), Patience()
        shard = target.child(name)
        with tempfile.TemporaryDirectory(prefix="cutswap-", ignore_cleanup_errors=True) as folder:
            path = Path(folder, name)
            made = make(path)
            self.check(target, patience)
            patience.persist(partial(shard.put, path))
        try:
            # An upload takes its time. What came into the way of another run meanwhile is taken
            # out of it again; that run counts its shards at the end.
            self.check(target, patience)
        except OutputError:
            patience.persist(shard.remove)
            raise
        if shard.size() != made.entry.file_bytes:
            raise RemoteError(
                "was not stored as it was sent",
                path=shard.name,
                expected=f"{made.entry.file_bytes} bytes",
                got=shard.size(),
                hint="run again, it goes on where this run stopped",
            )
        put_bytes(target.child(note_name(name)), made.to_bytes(), patience)
        return made

    def check(self, target: Location, patience: Patience) -> None:
        """Raises OutputError where another run has taken over, or this one is over."""
        marker = read_marker(target, patience)
        if marker is None or marker[0] != self.run:
            raise OutputError(
                "another run has begun to write here" if marker else "this build is over",
                path=target.name,
                hint="wait for the other run, or pass another --out",
            )


def plan_digest(units: Sequence[Unit]) -> str:
    """SHA-256 of all that decides the bytes of a plan's shards."""
    return bytes_digest("".join(unit.digest for unit in units).encode("ascii"))


def begin_run(target: Location, units: Sequence[Unit], patience: Patience) -> UrlPlace:
    """Says that a new run writes here; the workers of all others are refused from now on."""
    run = uuid.uuid4().hex
    data = dump_json({"run": run, "plan": plan_digest(units)}, indent=1)
    put_bytes(target.child(MARKER_NAME), data, patience)
    return UrlPlace(target.url, run)


def read_marker(target: Location, patience: Patience) -> tuple[str, str] | None:
    """The run and the plan's digest that `build.json` names; None without one, or without sense.

    Raises:
        RemoteError: it cannot be read.
    """
    try:
        data = fetch_bytes(target.child(MARKER_NAME), _MAX_MARKER_BYTES, patience)
        plain = load_json(data, max_bytes=_MAX_MARKER_BYTES)
    except RemoteError as error:
        if error.is_missing:
            return None
        raise
    except SetError:
        return None
    run, plan = (plain.get(name) for name in ("run", "plan")) if isinstance(plain, dict) else (0, 0)
    return (run, plan) if isinstance(run, str) and is_digest(plan) else None


def read_note(target: Location, name: str, patience: Patience) -> MadeShard | None:
    """What the note beside a shard says; None without one, or without sense. Raises RemoteError."""
    note = target.child(note_name(name))
    try:
        return MadeShard.from_bytes(fetch_bytes(note, MAX_BYTES, patience), path=note.name)
    except RemoteError as error:
        if error.is_missing:
            return None
        raise
    except SetError:
        return None
