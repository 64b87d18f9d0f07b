"""The folder that the shards of one run pass through, where its workers may outlive it.

A worker on another machine is not ended with the run that it works for. It writes into a folder of
that run, `.run-<token>`, and moves what is finished out of it. Once that folder is gone, so is its
way into the set, at whatever moment that is: there is no check that something could come after.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from manifests.atomic import output_error, sync_folder
from manifests.errors import OutputError

Written = TypeVar("Written")

_RUN = re.compile(r"\.run-[0-9a-f]{32}(\.ended)?")
# A worker may put a file into a folder that is just being emptied.
_TRIES = 5


@contextlib.contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """A folder for one run's workers inside of `folder`; when the block ends, they are locked out.

    Raises:
        OutputError: it cannot be made.
    """
    path = folder / f".run-{uuid.uuid4().hex}"
    try:
        path.mkdir()
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        yield path
    finally:
        # `end_runs` says what is in the way, where something is.
        with contextlib.suppress(OSError):
            _end(path)


def end_runs(folder: Path) -> None:
    """Locks the workers of all runs out of `folder`. To be called by who holds it.

    Raises:
        OSError: a run's folder cannot be removed.
    """
    for path in list(folder.iterdir()):
        if _RUN.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            _end(path)


def write_through(run: Path, name: str, write: Callable[[Path], Written]) -> Written:
    """Writes a file by way of a run's folder into the one around it, from any machine.

    Args:
        run: as `run_folder` gives it.
        name: of the file.
        write: makes it at the path that it is given.

    Raises:
        OutputError: the run has ended, this machine does not see its folder, or the file cannot be
            put in its place.
        Whatever `write` raises.
    """
    try:
        # A name that no other process has, on whatever machine: several may make the same file.
        own = Path(tempfile.mkdtemp(prefix="worker-", dir=run))
    except FileNotFoundError:
        raise OutputError(
            "is not here: the folder is not the one that the build writes to, or the build is over",
            path=run,
            hint="give a folder that is the same on all machines as --out, or a URL",
        ) from None
    except OSError as error:
        raise output_error(run, error) from error
    try:
        written = write(own / name)
        try:
            os.replace(own / name, run.parent / name)
        except OSError as error:
            raise output_error(run.parent / name, error) from error
    finally:
        shutil.rmtree(own, ignore_errors=True)
    sync_folder(run.parent)
    return written


def _end(path: Path) -> None:
    """Removes a run's folder; under its own name it is gone at once and as a whole."""
    ended = path if path.name.endswith(".ended") else path.with_name(f"{path.name}.ended")
    with contextlib.suppress(FileNotFoundError):
        if ended != path:
            os.rename(path, ended)
    for tries in range(1, _TRIES + 1):
        try:
            shutil.rmtree(ended)
        except FileNotFoundError:
            pass  # a worker tidies up after itself
        except OSError:
            if tries == _TRIES:
                raise
        if not ended.exists():
            return
