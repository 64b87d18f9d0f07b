"""The folder that a fit writes its model into, where another one may lie or a killed fit have been.

A model that is to be replaced stays until the new one is whole: a fit that is refused, fails or is
killed takes nothing away. Which fit is at its replacement stands in a small file beside it, so that
the same fit goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from detector.calibration import OTHERS
from detector.checkpoint import CHECKPOINT_NAME, remove_checkpoint
from detector.config import FitConfig
from detector.model import Model, load_model
from detector.model_folder import MODEL
from detector.training_log import TRAINING_CSV
from manifests.atomic import output_error, write_atomic
from manifests.bounded_file import read_bounded
from manifests.digest import bytes_digest
from manifests.errors import ModelError
from manifests.lock import folder_lock

REPLACEMENT = ".replacement"

Identity = tuple[FitConfig, str, str]
"""What a model is made of: settings, set digest, network digest."""


def take_folder(
    stack: contextlib.ExitStack, folder: Path, identity: Identity, *, overwrite: bool
) -> Model | None:
    """Makes and locks a folder for a fit, unless its model is there already.

    Args:
        stack: holds the lock; when it ends, folders that were made and are still empty are removed.
        overwrite: replace another model, and train from the start unless a killed fit of the same
            identity was at that.

    Returns:
        The model, where there is nothing to do.

    Raises:
        ModelError: another model is there, and is not to be replaced.
        OutputError: the folder cannot be written, or another run is writing there.
    """
    if not overwrite and (model := _finished(folder, identity)):
        return model
    _make(stack, folder)
    stack.enter_context(folder_lock(folder))
    stack.callback(_forget_replacement, folder)
    if not overwrite and (model := _finished(folder, identity)):  # another run has made it since
        return model
    try:
        _prepare(folder, _name(identity), overwrite=overwrite)
    except OSError as error:
        raise output_error(folder, error) from error
    return None


def clear_folder(folder: Path, *, is_trained: bool) -> None:
    """Removes what a fit needed and a model does not.

    Args:
        is_trained: whether the log in the folder is the model's.

    Raises:
        OutputError: it cannot be removed.
    """
    remove_checkpoint(folder)
    try:
        (folder / REPLACEMENT).unlink(missing_ok=True)
        if not is_trained:
            (folder / TRAINING_CSV).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


def _finished(folder: Path, identity: Identity) -> Model | None:
    if not (folder / MODEL).exists():
        return None
    # What lies there may be the reason why it is replaced.
    is_replaced = _replacement(folder) == _name(identity)
    try:
        model = load_model(folder)
        _need_same(model, identity, folder)
    except ModelError:
        if is_replaced:
            return None
        raise
    return model


def _need_same(model: Model, identity: Identity, folder: Path) -> None:
    other = None
    if model.calibration.source == OTHERS:
        other = "a recalibrated model"
    elif model.added_normals:
        other = "a model to which normals were added"
    elif model.config != identity[0]:
        other = "a model of other options"
    elif (model.set_digest, model.initial_digest) != identity[1:]:
        other = "a model of another set or other weights"
    if other is not None:
        raise ModelError(
            f"already holds {other}",
            path=folder,
            hint="pass --overwrite to replace it, or another --out",
        )


def _prepare(folder: Path, name: str, *, overwrite: bool) -> None:
    """Removes what other fits left half written, and notes which model is replaced by which."""
    for path in folder.glob(".*.tmp-*"):
        if not path.is_dir():  # a half-written model is `save_model`'s
            path.unlink(missing_ok=True)
    if _replacement(folder) == name:  # a killed fit, which goes on
        return
    (folder / REPLACEMENT).unlink(missing_ok=True)
    if overwrite:
        remove_checkpoint(folder)
    if (folder / MODEL).exists():
        write_atomic(folder / REPLACEMENT, name.encode("ascii"))


def _forget_replacement(folder: Path) -> None:
    """Of a fit that ended before its first checkpoint nothing is left to go on with."""
    with contextlib.suppress(OSError):
        if not (folder / CHECKPOINT_NAME).exists():
            (folder / REPLACEMENT).unlink(missing_ok=True)


def _replacement(folder: Path) -> str | None:
    """The name of the fit that is at replacing the folder's model; None for none."""
    try:
        return read_bounded(folder / REPLACEMENT, 64, error=ModelError).decode("ascii", "replace")
    except (FileNotFoundError, ModelError):
        return None


def _name(identity: Identity) -> str:
    config, set_digest, network_digest = identity
    return bytes_digest(
        json.dumps([config.to_json(), set_digest, network_digest], sort_keys=True).encode()
    )


def _make(stack: contextlib.ExitStack, folder: Path) -> None:
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    stack.callback(_remove_empty, made)


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # the first one that holds something, and all around it
        for folder in folders:
            folder.rmdir()
