"""Models made from another one, which stays whole."""

from __future__ import annotations

from pathlib import Path

from detector.model import Model, save_model
from detector.model_folder import MODEL
from detector.model_record import TENSOR_FILES
from manifests.atomic import output_error
from manifests.errors import ModelError
from manifests.lock import folder_lock


def save_derived(folder: Path, model: Model, model_folder: Path, *, overwrite: bool) -> str:
    """Writes a model that was made from another one.

    Args:
        folder: where to; made if missing.
        model_folder: of the other one.
        overwrite: replace a model that lies there.

    Returns:
        The model digest.

    Raises:
        ModelError: a model is in the way.
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    with folder_lock(folder):
        need_room(folder, model_folder, overwrite=overwrite)
        return save_model(folder, model)


def need_room(folder: Path, model_folder: Path, *, overwrite: bool) -> None:
    """Raises ModelError where another model lies; nothing but models is replaced."""
    names = (MODEL, *TENSOR_FILES)
    if not any((folder / name).exists() for name in names):
        return
    if folder.resolve() == model_folder.resolve():
        raise ModelError(
            "is the model itself", path=folder, hint="pass another --out: the old one stays whole"
        )
    if not overwrite:
        raise ModelError(
            "already holds a model", path=folder, hint="pass --overwrite, or another --out"
        )
